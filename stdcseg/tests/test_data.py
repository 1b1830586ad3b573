"""The data side against the golden figures of the official code, against the torch twin, and against itself."""

import argparse
import gc
import math
import multiprocessing
import os
import random
import re
import shutil
import signal
import struct
import threading
import time
import zlib
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
import paddle
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some
from PIL import Image

from shared import InputError

from datasets import (
    CLASS_NAMES,
    IGNORE,
    LABELS,
    PALETTE,
    CityScapes,
    EpochBatchSampler,
    EvalTransform,
    TrainTransform,
    build_dataset,
    build_loader,
    load_image,
    load_label,
    to_label_ids,
    to_train_ids,
    transforms,
)
from golden_files import FOLDERS, FRAME, golden
from options import parse_options
from reference import data as twin

TOLERANCE = {"rtol": 1e-6, "atol": 1e-6}

# --------------------------------------------------------------------------------------------------------------------
# Golden files: the committed one (what needs no Cityscapes frame), and the full one in $GOLDEN with the frame in
# $FRAME. Everything about a case is read from its file.
# --------------------------------------------------------------------------------------------------------------------

GOLDEN = {name: golden(name, "data") for name in FOLDERS}
files = pytest.mark.parametrize("figures", [pytest.param(figures, id=name) for name, figures in GOLDEN.items()])
sides = pytest.mark.parametrize("side", ["port", "twin"])


def cases(pattern: str) -> list:
    """One (file, group 1 of `pattern`) for each match among the keys of each golden file."""
    found = []
    for name, figures in GOLDEN.items():
        keys = dict.fromkeys(match[1] for key in figures.files if (match := re.fullmatch(pattern, key)))
        found += [pytest.param(figures, key, id=f"{name}-{key}") for key in keys]
    return found


def frame_test(function):
    """A test that needs the Cityscapes frame: without it there is no such test, rather than one that is skipped."""
    return function if FRAME else None


def formula_label(figures) -> np.ndarray:
    """The label ids that belong to the frame (NOTES 9.6): uint8 [H, W]."""
    width, height = figures["meta/image_size"].tolist()
    block, a, b = figures["meta/label_blocks"].tolist()
    y, x = np.mgrid[:height, :width] // block
    return ((a * x + b * y + x * y) % 34).astype(np.uint8)


def official_options(figures, **changes) -> argparse.Namespace:
    settings = {"scales": figures["meta/scales"].tolist(), "crop_size": figures["meta/crop"].tolist()}
    return options(**(settings | changes))


def options(**changes) -> argparse.Namespace:
    return argparse.Namespace(**(vars(parse_options([])) | changes))


class Recorded:
    """Python's draws from a seed, with names and values written down as the official run's were."""

    def __init__(self, seed: int):
        self.source, self.names, self.values = random.Random(seed), [], []

    def __getattr__(self, name: str):
        def draw(*settings):
            self.names.append(name)
            self.values.append(getattr(self.source, name)(*settings))
            return self.values[-1]

        return draw


# What follows gives both sides one form: pictures in, (stage, pixels uint8 [H, W, 3], ids uint8 [H, W]) out.


def port_stages(image: Image.Image, label: Image.Image, opts, draws):
    image = transforms.colour_jitter(image, draws)
    yield "jitter", np.asarray(image), np.asarray(label)
    image, label = transforms.horizontal_flip(image, label, draws)
    yield "flip", np.asarray(image), np.asarray(label)
    image, label = transforms.random_scale(image, label, opts.scales, draws)
    yield "scale", np.asarray(image), np.asarray(label)
    image, label = transforms.random_crop(image, label, opts.crop_size, draws)
    yield "crop", np.asarray(image), np.asarray(label)


def twin_stages(image: Image.Image, label: Image.Image, opts, draws):
    for stage, pixels, ids in twin.train_stages(twin.to_tensor(image), twin.to_tensor(label), opts, draws):
        yield stage, pixels.numpy(), ids.numpy()


def port_train(image, label, opts, draws):
    return TrainTransform(opts.scales, tuple(opts.crop_size))(image, label, draws)


def twin_train(image, label, opts, draws):
    pixels, ids = twin.train_sample(twin.to_tensor(image), twin.to_tensor(label), opts, draws)
    return pixels.numpy(), ids.numpy()


def port_crop(image, label, size, draws):
    return map(np.asarray, transforms.random_crop(image, label, size, draws))


def twin_crop(image, label, size, draws):
    return (part.numpy() for part in twin.crop(twin.to_tensor(image), twin.to_tensor(label), size, draws))


def twin_train_ids(ids):
    return twin.train_ids(torch.from_numpy(ids)).numpy()


def port_val(root, index):
    return build_dataset(options(data_path=root), "val")[index]


def twin_val(root, index):
    return [part.numpy() for part in twin.sample(root, "val", index, options(), seed=0, epoch=0)]


def port_names(root, split):
    return CityScapes(root, split, EvalTransform()).names


def twin_names(root, split):
    return [name for name, _, _ in twin.listing(root, split)]


SIDES = {
    "stages": {"port": port_stages, "twin": twin_stages},
    "train": {"port": port_train, "twin": twin_train},
    "crop": {"port": port_crop, "twin": twin_crop},
    "train_ids": {"port": to_train_ids, "twin": twin_train_ids},
    "val": {"port": port_val, "twin": twin_val},
    "names": {"port": port_names, "twin": twin_names},
}


# --------------------------------------------------------------------------------------------------------------------
# Golden
# --------------------------------------------------------------------------------------------------------------------


@files
@sides
def test_golden_train_ids(figures, side):
    result = SIDES["train_ids"][side](np.arange(-1, 256))
    assert result.dtype == np.int64
    np.testing.assert_array_equal(result, figures["data/convert_labels"])


@files
def test_golden_defaults(figures):
    np.testing.assert_array_equal(options().scales, figures["meta/scales"])
    np.testing.assert_array_equal(options().crop_size, figures["meta/crop"])


@sides
@pytest.mark.parametrize("figures, case", cases("data/(crop[0-9]+)/image"))
def test_golden_crop(figures, case, side):
    *_, width, height, seed = figures[f"meta/{case}"].tolist()
    image, label = (Image.fromarray(figures[f"input/{case}/{what}"]) for what in ("image", "label"))
    draws = random.Random(seed)
    pixels, ids = SIDES["crop"][side](image, label, (width, height), draws)
    np.testing.assert_array_equal(pixels, figures[f"data/{case}/image"])
    np.testing.assert_array_equal(ids, figures[f"data/{case}/label"])
    assert draws.random() == figures[f"data/{case}/next_random"]


def check_train(figures, case, side, image) -> tuple[list, np.ndarray]:
    """All figures of one training sample that do not depend on the picture; its stages and its tensor image."""
    label, seed = Image.fromarray(formula_label(figures)), int(figures[f"meta/{case}/random_seed"])
    opts = official_options(figures)

    draws, stages = Recorded(seed), []
    for stage, pixels, ids in SIDES["stages"][side](image, label, opts, draws):
        assert (pixels.shape[1], pixels.shape[0]) == tuple(figures[f"data/{case}/{stage}_size"])
        assert ids.shape == pixels.shape[:2]
        assert ids.sum(dtype=np.int64) == figures[f"data/{case}/{stage}_label_sum"]
        stages.append((stage, pixels))
    assert [stage for stage, _ in stages] == ["jitter", "flip", "scale", "crop"]
    assert draws.names == figures[f"data/{case}/draw_names"].tolist()
    np.testing.assert_array_equal(draws.values, figures[f"data/{case}/draws"])
    assert draws.random() == figures[f"data/{case}/next_random"]

    draws = random.Random(seed)
    pixels, ids = SIDES["train"][side](image, label, opts, draws)
    assert draws.random() == figures[f"data/{case}/next_random"]
    check_label(ids, figures, case)
    np.testing.assert_array_equal(np.bincount(ids.ravel(), minlength=256), figures[f"data/{case}/label_counts"])
    return stages, pixels


def check_label(ids, figures, case) -> None:
    assert ids.dtype == np.int64 and (1, *ids.shape) == tuple(figures[f"meta/shape/{case}/label"])
    steps = figures[f"meta/slice/{case}/label"].tolist()
    np.testing.assert_array_equal(ids[None, :: steps[1], :: steps[2]], figures[f"data/{case}/label"])


def check_image(pixels, figures, case) -> None:
    assert pixels.dtype == np.float32 and pixels.shape == tuple(figures[f"meta/shape/{case}/image"])
    steps = figures[f"meta/slice/{case}/image"].tolist()
    np.testing.assert_allclose(pixels[:, :: steps[1], :: steps[2]], figures[f"data/{case}/image"], **TOLERANCE)
    wide = pixels.astype(np.float64)
    np.testing.assert_allclose(
        [wide.mean(), wide.std(), np.abs(wide).max()], figures[f"data_stats/{case}/image"], **TOLERANCE
    )


@sides
@pytest.mark.parametrize("figures, case", cases("data/(s[0-9]+)/label"))
def test_golden_labels_and_draws(figures, case, side):
    """Neither depends on the picture: a grey one of the frame's size takes its place."""
    check_train(figures, case, side, Image.new("RGB", tuple(figures["meta/image_size"].tolist()), (90, 120, 70)))


@frame_test
@sides
@pytest.mark.parametrize("figures, case", cases("data/(s[0-9]+)/image"))
def test_golden_train(figures, case, side):
    stages, pixels = check_train(figures, case, side, load_image(FRAME))
    for stage, bytes_ in stages:
        np.testing.assert_array_equal(bytes_.sum((0, 1), dtype=np.int64), figures[f"data/{case}/{stage}_sum"])
        height, width = bytes_.shape[:2]
        np.testing.assert_array_equal(bytes_[height // 3, :: width // 64], figures[f"data/{case}/{stage}_row"])
    check_image(pixels, figures, case)


def lay_out(root: Path, figures, split: str, image: Image.Image | Path) -> Path:
    """The folders of one picture under the golden file's name, with its formula label."""
    [name] = figures["data/names"].tolist()
    places = [root / "leftImg8bit" / split / "demo", root / "gtFine" / split / "demo"]
    for place in places:
        place.mkdir(parents=True)
    if isinstance(image, Path):
        shutil.copyfile(image, places[0] / f"{name}_leftImg8bit.png")
    else:
        image.save(places[0] / f"{name}_leftImg8bit.png")
    Image.fromarray(formula_label(figures)).save(places[1] / f"{name}_gtFine_labelIds.png")
    return root


@sides
@pytest.mark.parametrize("figures, case", cases("data/(val)/label"))
def test_golden_val_label(figures, case, side, tmp_path):
    root = lay_out(tmp_path, figures, "val", Image.new("RGB", tuple(figures["meta/image_size"].tolist())))
    assert SIDES["names"][side](root, "val") == figures["data/names"].tolist()
    image, label = SIDES["val"][side](root, 0)
    assert image.shape == (3, *label.shape)
    assert [f"torch.{image.dtype}", str(label.dtype)] == figures["meta/val/dtypes"].tolist()
    check_label(label, figures, case)


@frame_test
@sides
@pytest.mark.parametrize("figures, case", cases("data/(val)/image"))
def test_golden_val(figures, case, side, tmp_path):
    image, label = SIDES["val"][side](lay_out(tmp_path, figures, "val", FRAME), 0)
    check_image(image, figures, case)
    check_label(label, figures, case)


# --------------------------------------------------------------------------------------------------------------------
# Labels
# --------------------------------------------------------------------------------------------------------------------


def test_label_table():
    assert [label.id for label in LABELS] == [*range(34), -1]
    assert len({label.name for label in LABELS}) == 35
    evaluated = [label for label in LABELS if label.train_id not in (IGNORE, -1)]
    assert [label.train_id for label in evaluated] == list(range(19))
    assert [label.name for label in evaluated] == list(CLASS_NAMES)
    assert (CLASS_NAMES[0], CLASS_NAMES[13], CLASS_NAMES[18]) == ("road", "car", "bicycle")
    assert PALETTE.dtype == np.uint8 and PALETTE.tolist() == [list(label.colour) for label in evaluated]
    assert PALETTE[[0, 10, 18]].tolist() == [[128, 64, 128], [70, 130, 180], [119, 11, 32]]
    assert {label.category for label in evaluated} == set("flat construction object nature sky human vehicle".split())


def test_train_ids_and_back():
    ids = np.arange(34, dtype=np.uint8).reshape(2, 17)
    train_ids = to_train_ids(ids)
    assert train_ids.shape == ids.shape and train_ids.dtype == np.int64
    back = to_label_ids(train_ids)
    assert back.dtype == np.uint8
    np.testing.assert_array_equal(back, np.where(train_ids == IGNORE, 0, ids))
    np.testing.assert_array_equal(to_train_ids(to_label_ids(np.arange(19))), np.arange(19))


# --------------------------------------------------------------------------------------------------------------------
# Augmentation on drawn pictures: port against twin, and what must always hold
# --------------------------------------------------------------------------------------------------------------------


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    """A drawn RGB picture with smooth areas, edges and noise."""
    rng = np.random.default_rng([seed, width, height])
    blobs = Image.fromarray(rng.integers(0, 256, (5, 4, 3), np.uint8)).resize((width, height), Image.BICUBIC)
    noise = rng.integers(-12, 13, (height, width, 3))
    return Image.fromarray((np.asarray(blobs).astype(int) + noise).clip(0, 255).astype(np.uint8))


def label_picture(width: int, height: int, seed: int = 0) -> Image.Image:
    rng = np.random.default_rng([seed, height, width])
    return Image.fromarray(rng.integers(0, 34, (height, width), np.uint8))


class Fixed:
    """Uniform draws of given values."""

    def __init__(self, *values: float):
        self.values = list(values)

    def uniform(self, low: float, high: float) -> float:
        assert (low, high) == (0.5, 1.5)
        return self.values.pop(0)


def test_jitter_is_the_closed_form():
    """All brightness levels, all constants, many factors: Pillow's enhancers against the formula (NOTES 3.5)."""
    rng = np.random.default_rng(0)
    levels = np.stack(np.meshgrid(np.arange(0, 256, 5), np.arange(0, 256, 5)), -1).reshape(52, 52, 2)
    levels = np.concatenate([levels, rng.integers(0, 256, (52, 52, 1))], -1).astype(np.uint8)
    ramp = np.broadcast_to(np.arange(256, dtype=np.uint8)[:, None], (3, 256, 3)).copy()
    pictures = [Image.fromarray(levels), Image.fromarray(ramp), picture(40, 30), Image.new("RGB", (3, 2), (255, 0, 9))]
    factors = [(0.5, 0.5, 0.5), (1.5, 1.5, 1.5), (1.0, 1.0, 1.0), *rng.uniform(0.5, 1.5, (60, 3)).tolist()]
    for image in pictures:
        for three in factors:
            expected = twin.jitter(twin.to_tensor(image), *three)
            result = transforms.colour_jitter(image, Fixed(*three))
            np.testing.assert_array_equal(np.asarray(result), expected.numpy())


def test_flip_keeps_above_a_half():
    image, label = picture(7, 4), label_picture(7, 4)
    for value, flipped in [(0.0, True), (0.5, True), (math.nextafter(0.5, 1), False), (0.99, False)]:
        draws = argparse.Namespace(random=lambda value=value: value)
        for given_, result in zip((image, label), transforms.horizontal_flip(image, label, draws), strict=True):
            step = -1 if flipped else 1
            np.testing.assert_array_equal(np.asarray(result), np.asarray(given_)[:, ::step])


def test_scale_cuts_sizes_and_invents_no_ids():
    image, label = picture(37, 23), Image.fromarray(np.full((23, 37), 7, np.uint8))
    for scale in options().scales:
        scaled, ids = transforms.random_scale(image, label, [scale], random.Random(0))
        assert scaled.size == ids.size == (int(37 * scale), int(23 * scale))
        assert set(np.unique(ids)) == {7}
    with pytest.raises(InputError) as caught:
        transforms.random_scale(image, label, [0.02], random.Random(0))
    one_line(caught, "--scales 0.02", "37x23", "0x0")


SIDE = some.integers(1, 48)


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(SIDE, SIDE, SIDE, SIDE, some.integers(0, 2**32))
def test_crop_of_any_size(width, height, crop_width, crop_height, seed):
    """Exact size, two draws or none, picture and label cut alike, black where a negative offset reaches outside."""
    size = (crop_width, crop_height)
    image, label = picture(width, height), label_picture(width, height)
    draws = Recorded(seed)
    part, ids = transforms.random_crop(image, label, size, draws)
    assert part.size == ids.size == size and (part.mode, ids.mode) == ("RGB", "L")
    twin_part, twin_ids = SIDES["crop"]["twin"](image, label, size, random.Random(seed))
    np.testing.assert_array_equal(part, twin_part)
    np.testing.assert_array_equal(ids, twin_ids)
    if (width, height) == size:
        assert draws.names == [] and part == image and ids == label
        return
    assert draws.names == ["random", "random"]
    if width >= crop_width and height >= crop_height:
        left, top = int(draws.values[0] * (width - crop_width)), int(draws.values[1] * (height - crop_height))
        box = (left, top, left + crop_width, top + crop_height)
        assert part == image.crop(box) and ids == label.crop(box)
        return
    factor = crop_width / width if width < height else crop_height / height
    resized = [int(side * factor + 1) for side in (width, height)]
    assert resized[0] >= crop_width if width < height else resized[1] >= crop_height
    for axis, value, side, wanted in zip((1, 0), draws.values, resized, size, strict=True):
        drawn = np.asarray(ids).any(axis=1 - axis)  # columns, then rows
        first = -int(value * (side - wanted))
        assert not drawn[: max(first, 0)].any() and not drawn[first + side :].any()


@pytest.mark.parametrize(
    "size, crop_size, resized",
    [
        ((20, 21), (32, 100), (33, 34)),  # rows are missing
        ((20, 20), (100, 32), (33, 33)),  # columns: a square is enlarged by what its height lacks
        ((40, 50), (32, 64), (33, 41)),  # its width fits, and it even shrinks
    ],
)
def test_a_negative_offset_is_filled_with_black_and_ignored(size, crop_size, resized):
    image, label = Image.new("RGB", size, (200, 200, 200)), Image.new("L", size, 7)
    draws = argparse.Namespace(random=lambda: 0.5)
    part, ids = transforms.random_crop(image, label, crop_size, draws)
    expected = np.full(crop_size[::-1], IGNORE)
    left, top = (-int(0.5 * (side - wanted)) for side, wanted in zip(resized, crop_size, strict=True))
    assert left > 0 or top > 0
    expected[max(top, 0) : top + resized[1], max(left, 0) : left + resized[0]] = 0
    np.testing.assert_array_equal(to_train_ids(np.asarray(ids)), expected)
    np.testing.assert_array_equal(np.asarray(part), np.where(expected == 0, 200, 0)[..., None].repeat(3, -1))


@pytest.mark.parametrize("size", [(96, 48), (61, 83), (40, 20), (33, 200)])
def test_train_equals_twin(size):
    opts = options(crop_size=[48, 24])
    image, label = picture(*size), label_picture(*size)
    before = image.tobytes(), label.tobytes()
    for seed in range(40):
        results = [SIDES["train"][side](image, label, opts, random.Random(seed)) for side in ("port", "twin")]
        for port_part, twin_part in zip(*results, strict=True):
            np.testing.assert_array_equal(port_part, twin_part)
            assert port_part.dtype == twin_part.dtype
        assert results[0][0].shape == (3, 24, 48) and results[0][1].shape == (24, 48)
        assert set(np.unique(results[0][1])) <= {*range(19), IGNORE}
    assert (image.tobytes(), label.tobytes()) == before


def test_normalise():
    pixels = np.asarray(picture(9, 5))
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    result = transforms.normalise(pixels)
    assert result.dtype == np.float32 and result.flags.c_contiguous
    np.testing.assert_allclose(result, ((pixels / 255 - mean) / std).transpose(2, 0, 1), **TOLERANCE)
    official = paddle.vision.transforms
    expected = official.Normalize(mean.tolist(), std.tolist())(official.ToTensor()(Image.fromarray(pixels)))
    np.testing.assert_allclose(result, expected.numpy(), **TOLERANCE)


# --------------------------------------------------------------------------------------------------------------------
# Folders and files
# --------------------------------------------------------------------------------------------------------------------


def draw_split(root: Path, split: str, layout: dict[str, int], size=(64, 32)) -> Path:
    """`layout[city]` small pictures with their labels and what else lies beside them in Cityscapes."""
    for city, count in layout.items():
        images, labels = root / "leftImg8bit" / split / city, root / "gtFine" / split / city
        images.mkdir(parents=True, exist_ok=True)
        labels.mkdir(parents=True, exist_ok=True)
        for number in range(count):
            name = f"{city}_{number:06d}_000019"
            picture(*size, seed=number).save(images / f"{name}_leftImg8bit.png")
            label = label_picture(*size, seed=number)
            label.save(labels / f"{name}_gtFine_labelIds.png")
            for other in ("color", "instanceIds", "labelTrainIds"):
                Image.new("RGBA", (2, 2)).save(labels / f"{name}_gtFine_{other}.png")
            (labels / f"{name}_gtFine_polygons.json").write_text("{}")
    return root


def files_of(root: Path, split: str, index: int) -> tuple[Path, Path]:
    dataset = CityScapes(root, split, EvalTransform())
    return dataset.image_path(index), dataset.label_path(index)


def one_line(caught, *parts) -> None:
    text = str(caught.value)
    assert "\n" not in text
    for part in parts:
        assert str(part) in text


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


def test_other_files_are_passed_over(tmp_path):
    draw_split(tmp_path, "val", {"lindau": 2})
    expected = port_names(tmp_path, "val")
    images, labels = tmp_path / "leftImg8bit/val/lindau", tmp_path / "gtFine/val/lindau"
    for stray in ("Thumbs.db", "._lindau_000000_000019_leftImg8bit.png", "x_leftImg8bit.png~", "x.png", ".x.swp"):
        (images / stray).touch()
    (images / "folder_leftImg8bit.png").mkdir()
    (images.parent / "license.txt").touch()
    (images.parent / "empty").mkdir()
    hidden = images.parent / ".hidden"
    hidden.mkdir()
    (hidden / "y_leftImg8bit.png").touch()
    label_picture(4, 4).save(labels / "without_a_picture_gtFine_labelIds.png")
    (images.parent / "linked").symlink_to(images)
    (labels.parent / "linked").symlink_to(labels)
    assert port_names(tmp_path, "val") == sorted(expected * 2) == twin_names(tmp_path, "val")


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


def test_no_pictures(tmp_path):
    draw_split(tmp_path, "val", {"ulm": 0, "lindau": 0})
    (tmp_path / "leftImg8bit/val/ulm/picture.png").touch()
    with pytest.raises(InputError) as caught:
        CityScapes(tmp_path, "val", EvalTransform())
    one_line(caught, tmp_path / "leftImg8bit/val", "no image", "_leftImg8bit.png")


def test_unlistable_folder(tmp_path):
    folder = draw_split(tmp_path, "val", {"ulm": 1}) / "leftImg8bit/val"
    (folder / "loop").symlink_to(folder / "loop")
    with pytest.raises(InputError) as caught:
        CityScapes(tmp_path, "val", EvalTransform())
    one_line(caught, folder, "cannot be listed")


def test_missing_labels(tmp_path):
    draw_split(tmp_path, "val", {"ulm": 3, "lindau": 2})
    image, label = files_of(tmp_path, "val", 1)
    label.unlink()
    with pytest.raises(InputError) as caught:
        CityScapes(tmp_path, "val", EvalTransform())
    one_line(caught, image, label)
    assert "more" not in str(caught.value)
    shutil.rmtree(tmp_path / "gtFine/val/ulm")
    with pytest.raises(InputError) as caught:
        CityScapes(tmp_path, "val", EvalTransform())
    one_line(caught, image, label, "3 more")


def spoil(path: Path, how: str) -> None:
    data = path.read_bytes()
    if how == "truncated":
        path.write_bytes(data[: len(data) // 2])
    elif how == "without its end":
        path.write_bytes(data[:-12])
    elif how == "header only":
        path.write_bytes(data[:20])
    elif how == "one bit":
        data = bytearray(data)
        data[len(data) // 2] ^= 4
        path.write_bytes(bytes(data))
    elif how == "text":
        path.write_text("this is not a picture\n")
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "missing":
        path.unlink()
    elif how == "folder":
        path.unlink()
        path.mkdir()


SPOILT = ["truncated", "without its end", "header only", "one bit", "text", "empty", "missing", "folder"]


@pytest.mark.parametrize("how", SPOILT)
@pytest.mark.parametrize("which", [0, 1])
def test_unreadable_file(tmp_path, how, which):
    dataset = build_dataset(options(data_path=draw_split(tmp_path, "val", {"ulm": 2})), "val")
    path = files_of(tmp_path, "val", 1)[which]
    spoil(path, how)
    dataset[0]
    with pytest.raises(InputError) as caught:
        dataset[1]
    one_line(caught, path, "cannot be read as an image", "replace or remove it")


def test_every_flipped_bit_of_a_label_is_noticed(tmp_path):
    """Without checksums a third of them would train on wrong labels: Pillow decodes what it can."""
    path = tmp_path / "label.png"
    Image.fromarray(np.kron(np.arange(30, dtype=np.uint8).reshape(5, 6), np.ones((9, 9), np.uint8))).save(path)
    data = path.read_bytes()
    for place in range(41, len(data) - 16):
        path.write_bytes(data[:place] + bytes([data[place] ^ 1 << place % 8]) + data[place + 1 :])
        with pytest.raises(InputError):
            load_label(path)


def test_picture_beyond_pillows_limit(tmp_path, monkeypatch):
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
    """A PNG with so many bits a sample, which Pillow writes not in all ways that it reads."""

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
    _, path = files_of(root, "val", 0)
    if kind.endswith("bit"):  # Pillow reads 4 bits as L, with every value times 17
        write_png(path, int(kind.split("-")[0]), GREY)
    else:
        label_picture(64, 32).convert(kind).save(path)
    with pytest.raises(InputError) as caught:
        CityScapes(root, "val", EvalTransform())[0]
    one_line(caught, path, "single-channel 8-bit", "labelIds")


def test_label_of_another_size(tmp_path):
    root = draw_split(tmp_path, "val", {"ulm": 1})
    image, label = files_of(root, "val", 0)
    label_picture(32, 64).save(label)
    with pytest.raises(InputError) as caught:
        CityScapes(root, "val", EvalTransform())[0]
    one_line(caught, image, label, "64x32", "32x64")


def test_label_ids_out_of_range(tmp_path):
    root = draw_split(tmp_path, "val", {"ulm": 1})
    _, label = files_of(root, "val", 0)
    ids = np.asarray(label_picture(64, 32)).copy()
    ids[0, :5] = 255  # licence plates are stored so
    Image.fromarray(ids).save(label)
    dataset = CityScapes(root, "val", EvalTransform())
    assert (dataset[0][1][0, :5] == IGNORE).all()
    ids[3, 4:6] = 34, 254
    Image.fromarray(ids).save(label)
    with pytest.raises(InputError) as caught:
        dataset[0]
    one_line(caught, label, "34, 254", "labelIds", "labelTrainIds")
    ids[:, :] = np.arange(64) + 100
    Image.fromarray(ids).save(label)
    with pytest.raises(InputError) as caught:
        dataset[0]
    one_line(caught, label, "100, 101", "and 59 more")


def test_index_beyond_the_end(tmp_path):
    dataset = CityScapes(draw_split(tmp_path, "val", {"ulm": 2}), "val", EvalTransform())
    with pytest.raises(IndexError):
        dataset[2]


# --------------------------------------------------------------------------------------------------------------------
# Loading in batches
# --------------------------------------------------------------------------------------------------------------------


def train_set(root: Path, count: int = 7, **changes) -> CityScapes:
    draw_split(root, "train", {"ulm": count})
    return build_dataset(options(data_path=root, crop_size=[32, 24], seed=3, **changes), "train")


def val_set(root: Path, count: int = 6) -> CityScapes:
    return build_dataset(options(data_path=draw_split(root, "val", {"ulm": count})), "val")


def batches(dataset, workers=0, epoch=2, **settings) -> list:
    loader = build_loader(dataset, EpochBatchSampler(len(dataset), **settings), workers)
    loader.set_epoch(epoch)
    found = [(images.numpy(), labels.numpy()) for images, labels in loader]
    assert len(found) == len(loader)
    return found


def test_workers_change_nothing(tmp_path):
    dataset = train_set(tmp_path)
    runs = []
    for workers in (0, 1, 2):
        random.seed(workers), np.random.seed(workers), paddle.seed(workers)  # global generators must not matter
        runs.append(batches(dataset, workers, batch_size=3, seed=3))
    for run in runs:
        assert [images.shape for images, _ in run] == [(3, 3, 24, 32)] * 2 + [(1, 3, 24, 32)]
        assert [labels.shape for _, labels in run] == [(3, 24, 32)] * 2 + [(1, 24, 32)]
        for (images, labels), (first_images, first_labels) in zip(run, runs[0], strict=True):
            assert images.dtype == np.float32 and labels.dtype == np.int64
            np.testing.assert_array_equal(images, first_images)
            np.testing.assert_array_equal(labels, first_labels)


@pytest.mark.parametrize("workers", [0, 2])
def test_batch_size_changes_nothing_in_the_samples(tmp_path, workers):
    dataset = train_set(tmp_path)
    runs = [batches(dataset, workers, batch_size=size, seed=3) for size in (1, 2, 7, 9)]
    for run in runs:
        for part in (0, 1):
            whole, first = (np.concatenate([batch[part] for batch in some_run]) for some_run in (run, runs[0]))
            np.testing.assert_array_equal(whole, first)


def test_epochs_differ_and_return(tmp_path):
    dataset = train_set(tmp_path, 4)
    loader = build_loader(dataset, EpochBatchSampler(len(dataset), 4, shuffle=False), 0)
    seen = {}
    for epoch in (0, 1, 0):
        loader.set_epoch(epoch)
        [(images, _)] = loader
        seen.setdefault(epoch, []).append(images.numpy())
    np.testing.assert_array_equal(*seen[0])
    for sample in range(4):
        assert not np.array_equal(seen[0][0][sample], seen[1][0][sample])


@pytest.mark.parametrize("workers", [0, 2])
def test_resume_in_the_middle_of_an_epoch(tmp_path, workers):
    dataset = train_set(tmp_path)
    whole = batches(dataset, epoch=4, batch_size=2, drop_last=True)
    loader = build_loader(dataset, EpochBatchSampler(len(dataset), 2, drop_last=True), workers)
    for start in range(4):
        loader.set_epoch(4, start)
        rest = list(loader)
        assert len(rest) == len(loader) == 3 - start
        for (images, labels), (expected, ids) in zip(rest, whole[start:], strict=True):
            np.testing.assert_array_equal(images.numpy(), expected)
            np.testing.assert_array_equal(labels.numpy(), ids)


def test_batches_survive_the_next_ones(tmp_path):
    """Shared memory is used again: what was handed out must be a copy."""
    dataset = val_set(tmp_path, 12)
    kept = list(build_loader(dataset, EpochBatchSampler(12, 1, shuffle=False), 2))
    for index, (images, labels) in enumerate(kept):
        np.testing.assert_array_equal(images.numpy()[0], dataset[index][0])
        np.testing.assert_array_equal(labels.numpy()[0], dataset[index][1])


@pytest.mark.parametrize("workers", [0, 2])
def test_pictures_of_different_sizes(tmp_path, workers):
    for city, size in {"a": (64, 32), "b": (40, 24), "c": (72, 30)}.items():
        draw_split(tmp_path, "val", {city: 2}, size)
    dataset = build_dataset(options(data_path=tmp_path), "val")
    single = batches(dataset, workers, batch_size=1, shuffle=False)
    for index, (images, labels) in enumerate(single):
        np.testing.assert_array_equal(images[0], dataset[index][0])
        np.testing.assert_array_equal(labels[0], dataset[index][1])
        assert labels.dtype == np.int64
    pairs = batches(dataset, workers, batch_size=2, shuffle=False)  # each of one size
    assert [labels.shape for _, labels in pairs] == [(2, 32, 64), (2, 24, 40), (2, 30, 72)]
    np.testing.assert_array_equal(pairs[2][0], np.stack([dataset[4][0], dataset[5][0]]))
    with pytest.raises(InputError) as caught:
        batches(dataset, workers, batch_size=3, shuffle=False)
    one_line(caught, "64x32", "40x24", "--n_img_per_gpu 1", dataset.image_path(1), dataset.image_path(2))


def test_a_killed_worker_is_an_error(tmp_path):
    dataset, parent = val_set(tmp_path), os.getpid()

    def deadly(image, label, draws):
        if os.getpid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)
        return np.zeros((3, 2, 2), np.float32), np.zeros((2, 2), np.int64)

    dataset.transform = deadly
    with pytest.raises(BrokenProcessPool):
        list(build_loader(dataset, EpochBatchSampler(6, 2), 2))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("how", ["truncated", "text", "missing"])
def test_unreadable_file_through_the_loader(tmp_path, how, workers):
    dataset = val_set(tmp_path)
    path = dataset.label_path(3)
    spoil(path, how)
    seen = 0
    with pytest.raises(InputError) as caught:
        for _ in build_loader(dataset, EpochBatchSampler(6, 2, shuffle=False), workers):
            seen += 1
    one_line(caught, path, "cannot be read as an image")
    assert seen == 1
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bug_in_the_data_set_is_raised_too(tmp_path, workers):
    dataset = val_set(tmp_path, 3)

    def broken(image, label, draws):
        raise KeyError("a bug")

    dataset.transform = broken
    with pytest.raises(KeyError, match="a bug"):
        list(build_loader(dataset, EpochBatchSampler(3, 2), workers))


def test_workers_leave_their_parents_garbage_alone(tmp_path):
    dataset, parent = val_set(tmp_path, 4), os.getpid()

    class Garbage:
        def __init__(self):
            self.cycle = self

        def __del__(self):
            if os.getpid() != parent:
                (tmp_path / "collected").touch()

    def collecting(image, label, draws):
        if os.getpid() != parent:
            gc.collect()
        return np.zeros((3, 2, 2), np.float32), np.zeros((2, 2), np.int64)

    dataset.transform = collecting
    gc.disable()
    try:
        loader = build_loader(dataset, EpochBatchSampler(4, 2), 2)
        Garbage()
        assert len(list(loader)) == 2
    finally:
        gc.enable()
    assert not (tmp_path / "collected").exists()


@pytest.mark.parametrize("workers", [0, 2])
def test_leaving_a_loop_early_leaves_nothing_behind(tmp_path, workers):
    loader = build_loader(val_set(tmp_path, 30), EpochBatchSampler(30, 2), workers)
    threads = threading.active_count()
    for _ in loader:
        break
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and (multiprocessing.active_children() or threading.active_count() > threads):
        time.sleep(0.05)
    assert not multiprocessing.active_children()
    assert threading.active_count() <= threads


# --------------------------------------------------------------------------------------------------------------------
# Sampling
# --------------------------------------------------------------------------------------------------------------------


def keys(**settings) -> list:
    epoch, start = settings.pop("epoch", 0), settings.pop("start_step", 0)
    sampler = EpochBatchSampler(**settings)
    sampler.set_epoch(epoch, start)
    found = list(sampler)
    assert len(found) == len(sampler)
    return found


def flat(groups: list) -> list:
    return [key for group in groups for key in group]


def test_order_is_a_permutation_of_seed_and_epoch():
    orders = [tuple(flat(keys(length=23, batch_size=4, seed=seed, epoch=e))) for seed in (0, 1) for e in (0, 1)]
    assert len(set(orders)) == 4 and all(sorted(order) == list(range(23)) for order in orders)
    assert orders[3] == tuple(np.random.default_rng([1, 1]).permutation(23))
    assert [len(batch) for batch in keys(length=23, batch_size=4)] == [4, 4, 4, 4, 4, 3]
    assert flat(keys(length=5, batch_size=2, shuffle=False)) == [0, 1, 2, 3, 4]


def test_the_official_epoch():
    """NOTES 3.11: on 3 processes 992 samples each, 62 batches of 16."""
    sampler = EpochBatchSampler(2975, 16, world=3, drop_last=True)
    assert (sampler.samples_per_epoch, sampler.steps_per_epoch, len(sampler)) == (992, 62, 62)
    assert EpochBatchSampler(2975, 16, drop_last=True).steps_per_epoch == 185
    assert EpochBatchSampler(500, 5).steps_per_epoch == 100


@pytest.mark.parametrize("length, world", [(23, 1), (23, 4), (24, 4), (3, 8), (1, 3)])
@pytest.mark.parametrize("shuffle", [True, False])
def test_ranks_partition_the_epoch(length, world, shuffle):
    ranks = [
        flat(keys(length=length, batch_size=3, shuffle=shuffle, rank=rank, world=world, epoch=2))
        for rank in range(world)
    ]
    assert {len(rank) for rank in ranks} == {-(-length // world)}
    whole = [key for group in zip(*ranks, strict=True) for key in group]
    order = np.random.default_rng([0, 2]).permutation(length) if shuffle else np.arange(length)
    assert whole == [order[place % length] for place in range(len(whole))]  # the padding repeats the head
    if not shuffle:
        for rank in range(world):
            torchs = torch.utils.data.DistributedSampler(range(length), world, rank, shuffle=False)
            assert ranks[rank] == list(torchs)


@pytest.mark.parametrize("drop_last", [True, False])
def test_sampler_resumes(drop_last):
    settings = {"length": 31, "batch_size": 4, "rank": 1, "world": 2, "epoch": 3, "drop_last": drop_last}
    whole = keys(**settings)
    assert [len(batch) for batch in whole] == [4] * 4  # 16 samples
    for start in range(len(whole) + 2):
        assert keys(**settings, start_step=start) == whole[start:]


def test_drop_last():
    assert [len(batch) for batch in keys(length=23, batch_size=4, drop_last=True)] == [4] * 5
    assert keys(length=23, batch_size=4, drop_last=True) == keys(length=23, batch_size=4)[:5]
    with pytest.raises(InputError) as caught:
        EpochBatchSampler(7, 4, world=2, rank=1, drop_last=True) and EpochBatchSampler(7, 5, world=2, drop_last=True)
    one_line(caught, "7 pictures", "2 processes", "--n_img_per_gpu 4")


def test_bad_rank():
    with pytest.raises(ValueError, match="rank 2 of 2"):
        EpochBatchSampler(4, 2, rank=2, world=2)
