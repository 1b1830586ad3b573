"""Folders and files of Cityscapes: what is listed, read, refused, and loaded in batches."""

import argparse
import random
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from shared import InputError
from shared.running.sampling import EpochBatchSampler
from shared.tests.fuzz import fuzz_reader

from constants import IGNORE, LABELS
from data_sets import draw_split, label_picture, one_line, picture
from datasets import CityScapes, EvalTransform, build_dataset, build_loader, load_image, load_label
from options import parse_options
from reference import data as twin


def options(**changes) -> argparse.Namespace:
    return argparse.Namespace(**(vars(parse_options([])) | changes))


def whole(root: Path, split: str = "val") -> CityScapes:
    return CityScapes(root, split, EvalTransform())


def files_of(root: Path, index: int, split: str = "val") -> tuple[Path, Path]:
    dataset = whole(root, split)
    return dataset.image_path(index), dataset.label_path(index)


# ------------------------------------------------------------------------------------------------------------ listing


@pytest.mark.parametrize("split", ["train", "val", "trainval"])
def test_samples_equal_twin(tmp_path, split):
    opts = options(data_path=str(tmp_path), crop_size=[32, 24], seed=5, mode="trainval" if split != "train" else split)
    which = "val" if split == "val" else "train"
    draw_split(tmp_path, split, {"ulm": 3, "aachen": 4})
    dataset = build_dataset(opts, which)
    names = [f"aachen_{n:06d}_000019" for n in range(4)] + [f"ulm_{n:06d}_000019" for n in range(3)]
    assert dataset.names == names and len(dataset) == 7
    listed = twin.listing(tmp_path, split)
    assert [name for name, _, _ in listed] == names
    for epoch in (0, 3):
        dataset.set_epoch(epoch)
        for index, (_, image_path, label_path) in enumerate(listed):
            assert str(dataset.image_path(index)) == image_path and str(dataset.label_path(index)) == label_path
            image, label = dataset[index]
            assert image.dtype == np.float32 and label.dtype == np.int64
            expected, ids = twin.sample(tmp_path, which, index, opts, seed=5, epoch=epoch)
            np.testing.assert_array_equal(image, expected.numpy())
            np.testing.assert_array_equal(label, ids.numpy())
    with pytest.raises(IndexError):
        dataset[7]


def test_draws_are_of_seed_epoch_and_index(tmp_path):
    draw_split(tmp_path, "train", {"ulm": 3})

    def first(seed, epoch, index):
        dataset = CityScapes(tmp_path, "train", EvalTransform(), seed=seed)
        dataset.set_epoch(epoch)
        value = dataset.draws(index).random()
        random.seed(1)
        dataset[0]
        assert dataset.draws(index).random() == value
        assert twin.draws(seed, epoch, index).random() == value
        return value

    values = {first(*keys) for keys in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 1, 1), (1, 1, 0), (0, 11, 1)]}
    assert len(values) == 7
    state = random.getstate()
    build_dataset(options(data_path=tmp_path), "train")[1]
    assert random.getstate() == state  # the global generator is left alone


def test_other_files_are_ignored(tmp_path):
    draw_split(tmp_path, "val", {"lindau": 2})
    expected = whole(tmp_path).names
    images, labels = tmp_path / "leftImg8bit/val/lindau", tmp_path / "gtFine/val/lindau"
    for stray in ("Thumbs.db", "._lindau_000000_000019_leftImg8bit.png", "x_leftImg8bit.png~", "x.png", ".x.swp"):
        (images / stray).touch()
    for folder in ("lindau/folder_leftImg8bit.png", "empty", ".hidden"):
        (images.parent / folder).mkdir()
    (images.parent / "license.txt").touch()
    (images.parent / ".hidden/y_leftImg8bit.png").touch()
    label_picture(4, 4).save(labels / "without_an_image_gtFine_labelIds.png")
    (images.parent / "linked").symlink_to(images)
    (labels.parent / "linked").symlink_to(labels)
    listed = [name for name, _, _ in twin.listing(tmp_path, "val")]
    assert whole(tmp_path).names == sorted(expected * 2) == listed


def test_missing_folders(tmp_path):
    (tmp_path / "file").touch()
    for part in ("bare", "half/leftImg8bit/val", "half/gtFine", "images only/leftImg8bit/val"):
        (tmp_path / part).mkdir(parents=True)
    for data_path, words in [
        (None, "--data_path is missing"),
        (tmp_path / "nowhere", "no such folder"),
        (tmp_path / "file", "not a folder"),
        (tmp_path / "bare", "has no folder leftImg8bit/val"),
        (tmp_path / "half", "has no folder gtFine/val"),
        (tmp_path / "images only", "has no folder gtFine/val"),
    ]:
        with pytest.raises(InputError) as caught:
            build_dataset(options(data_path=data_path), "val")
        one_line(caught, words, "leftImg8bit/", "gtFine/", "python stdcseg/draw_mini.py")
    draw_split(tmp_path / "whole", "train", {"ulm": 1})
    with pytest.raises(InputError) as caught:
        build_dataset(options(data_path=tmp_path / "whole", mode="trainval"), "train")
    one_line(caught, "has no folder leftImg8bit/trainval", tmp_path / "whole")


def test_images_or_labels_that_are_not_there(tmp_path):
    folder = draw_split(tmp_path, "val", {"ulm": 0, "lindau": 0}) / "leftImg8bit/val"
    (folder / "ulm/picture.png").touch()
    with pytest.raises(InputError) as caught:
        whole(tmp_path)
    one_line(caught, folder, "no image", "_leftImg8bit.png")
    draw_split(tmp_path, "val", {"ulm": 3, "lindau": 2})
    image, label = files_of(tmp_path, 1)
    label.unlink()
    with pytest.raises(InputError) as caught:
        whole(tmp_path)
    one_line(caught, image, label)
    assert "more" not in str(caught.value)
    shutil.rmtree(tmp_path / "gtFine/val/ulm")
    with pytest.raises(InputError) as caught:
        whole(tmp_path)
    one_line(caught, image, label, "3 more")
    (folder / "loop").symlink_to(folder / "loop")
    with pytest.raises(InputError) as caught:
        whole(tmp_path)
    one_line(caught, folder, "cannot be listed")


# ------------------------------------------------------------------------------------------------------------ reading


def spoil(path: Path, how: str) -> None:
    data = path.read_bytes()
    if how in ("missing", "folder"):
        path.unlink()
        path.mkdir() if how == "folder" else None
        return
    flipped = bytearray(data)
    flipped[len(data) // 2] ^= 4
    cut = {"truncated": data[: len(data) // 2], "without its end": data[:-12], "header only": data[:20]}
    path.write_bytes((cut | {"one bit": bytes(flipped), "text": b"this is not a picture\n", "empty": b""})[how])


SPOILT = ["truncated", "without its end", "header only", "one bit", "text", "empty", "missing", "folder"]


@pytest.mark.parametrize("how", SPOILT)
@pytest.mark.parametrize("which", [0, 1])
def test_unreadable_file(tmp_path, how, which):
    dataset = build_dataset(options(data_path=draw_split(tmp_path, "val", {"ulm": 2})), "val")
    path = files_of(tmp_path, 1)[which]
    spoil(path, how)
    dataset[0]
    with pytest.raises(InputError) as caught:
        dataset[1]
    one_line(caught, path, "cannot be read as a picture", "replace or remove it")


def test_every_flipped_bit_of_a_label_is_noticed(tmp_path):
    """Without checksums a third of them would train on wrong labels: Pillow decodes what it can."""
    path = tmp_path / "label.png"
    Image.fromarray(np.kron(np.arange(30, dtype=np.uint8).reshape(5, 6), np.ones((9, 9), np.uint8))).save(path)
    data = path.read_bytes()
    for position in range(41, len(data) - 16):
        flipped = bytes([data[position] ^ 1 << position % 8])
        path.write_bytes(data[:position] + flipped + data[position + 1 :])
        with pytest.raises(InputError):
            load_label(path)


@pytest.mark.parametrize("kind, end", [("picture", ".png"), ("picture", ".jpg"), ("label", ".png")])
def test_damaged_files(kind, end, tmp_path):
    """Each is read right or refused with one line."""
    path = tmp_path / f"city_000000_000019_{kind}{end}"
    (label_picture if kind == "label" else picture)(24, 16).save(path)

    def read(path):
        image = (load_label if kind == "label" else load_image)(path)
        assert np.asarray(image).dtype == np.uint8

    assert fuzz_reader(read, path, path.read_bytes(), 400) > 40


def test_image_beyond_pillows_limit(tmp_path, monkeypatch):
    path = tmp_path / "x.png"
    picture(50, 40).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 900)
    with pytest.raises(InputError) as caught:
        load_image(path)
    one_line(caught, path)


@pytest.mark.parametrize("mode", ["L", "P", "1", "LA", "RGBA", "RGB"])
def test_modes_that_become_rgb_without_loss(tmp_path, mode):
    image = picture(20, 10).convert(mode)
    image.save(tmp_path / "x.png")
    result = load_image(tmp_path / "x.png")
    assert result.mode == "RGB"
    np.testing.assert_array_equal(result, image.convert("RGB"))


GREY, RGB, RGBA = 0, 2, 6


def write_png(path: Path, bits: int, colour: int, size=(64, 32)) -> None:
    """A PNG with so many bits a sample; Pillow reads kinds that it does not write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    channels = {GREY: 1, RGB: 3, RGBA: 4}[colour]
    rows = (b"\0" + b"\x11" * (size[0] * channels * bits // 8)) * size[1]
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", *size, bits, colour, 0, 0, 0)), (b"IDAT", zlib.compress(rows))]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*both) for both in [*chunks, (b"IEND", b"")]))


@pytest.mark.parametrize("kind", ["16-bit grey", "16-bit RGB", "16-bit RGBA", "CMYK", "F", "I", "see-through", "key"])
def test_modes_that_would_lose(tmp_path, kind):
    path = tmp_path / "x.png"
    if kind.startswith("16-bit"):
        write_png(path, 16, {"grey": GREY, "RGB": RGB, "RGBA": RGBA}[kind.split()[1]])
    elif kind == "see-through":
        image = picture(5, 4).convert("RGBA")
        image.putpixel((1, 1), (1, 2, 3, 254))
        image.save(path)
    elif kind == "key":  # a palette entry stands for "nothing"
        picture(5, 4).convert("P").save(path, transparency=picture(5, 4).convert("P").getpixel((0, 0)))
    else:
        path = tmp_path / "x.tif"
        (picture(5, 4).convert("L") if kind in "FI" else picture(5, 4)).convert(kind).save(path)
    with pytest.raises(InputError) as caught:
        load_image(path)
    one_line(caught, path, "save it as 8-bit RGB")


@pytest.mark.parametrize("kind", ["RGB", "RGBA", "P", "1", "LA", "16-bit", "4-bit"])
def test_labels_of_another_kind(tmp_path, kind):
    root = draw_split(tmp_path, "val", {"ulm": 1})
    _, path = files_of(root, 0)
    if kind.endswith("bit"):  # Pillow reads 4 bits as L, with every value times 17
        write_png(path, int(kind.split("-")[0]), GREY)
    else:
        label_picture(64, 32).convert(kind).save(path)
    with pytest.raises(InputError) as caught:
        whole(root)[0]
    one_line(caught, path, "single-channel 8-bit", "labelIds")


def test_labels_of_another_size_or_with_other_values(tmp_path):
    root = draw_split(tmp_path, "val", {"ulm": 1})
    image, label = files_of(root, 0)
    label_picture(32, 64).save(label)
    with pytest.raises(InputError) as caught:
        whole(root)[0]
    one_line(caught, image, label, "64x32", "32x64")
    ids = np.asarray(label_picture(64, 32)).copy()
    ids[0, :5] = 255  # licence plates are stored so
    Image.fromarray(ids).save(label)
    assert (whole(root)[0][1][0, :5] == IGNORE).all()
    ids[3, 4:6] = 34, 254
    Image.fromarray(ids).save(label)
    with pytest.raises(InputError) as caught:
        whole(root)[0]
    one_line(caught, label, "34, 254", "labelIds", "labelTrainIds")
    ids[:, :] = np.arange(64) + 100
    Image.fromarray(ids).save(label)
    with pytest.raises(InputError) as caught:
        whole(root)[0]
    one_line(caught, label, "100, 101", "and 59 more")
    assert max(row.id for row in LABELS) == 33


# ------------------------------------------------------------------------------------------------------------ batches


@pytest.mark.parametrize("workers", [0, 2])
def test_batches(tmp_path, workers):
    """Of one size in training, one by one and of any size in evaluation; an unreadable file ends them by its name."""
    draw_split(tmp_path, "train", {"ulm": 5})
    train_set = build_dataset(options(data_path=tmp_path, crop_size=[32, 24], seed=3), "train")
    loader = build_loader(train_set, EpochBatchSampler(5, 2, drop_last=True), workers)
    loader.set_epoch(2)
    for keys, (images, labels) in zip(loader.sampler, loader, strict=True):
        assert str(images.dtype) == "paddle.float32" and str(labels.dtype) == "paddle.int64"
        samples = [train_set[key] for key in keys]
        np.testing.assert_array_equal(images, np.stack([image for image, _ in samples]))
        np.testing.assert_array_equal(labels, np.stack([label for _, label in samples]))
    for city, size in {"a": (64, 32), "b": (40, 24), "c": (72, 30)}.items():
        draw_split(tmp_path, "val", {city: 1}, size)
    val_set = build_dataset(options(data_path=tmp_path), "val")
    loader = build_loader(val_set, EpochBatchSampler(3, 1, shuffle=False), workers)
    for index, (images, labels) in enumerate(loader):
        np.testing.assert_array_equal(images[0], val_set[index][0])
        np.testing.assert_array_equal(labels[0], val_set[index][1])
    val_set.label_path(2).write_text("no image")
    seen = 0
    with pytest.raises(InputError) as caught:
        for _ in loader:
            seen += 1
    one_line(caught, val_set.label_path(2), "cannot be read as a picture")
    assert seen == 2
