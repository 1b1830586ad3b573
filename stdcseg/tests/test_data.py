"""Augmentation and labels of both sides, port and torch twin, against the official code's figures and each other.

The committed figures need no Cityscapes frame; the tests on the frame exist beside the full set only.
"""

import argparse
import math
import random
import shutil
from pathlib import Path

import numpy as np
import paddle
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some
from PIL import Image

from shared import InputError

from constants import CLASS_NAMES, IGNORE, LABELS, PALETTE, to_label_ids, to_train_ids
from data_sets import label_picture, one_line, picture
from datasets import CityScapes, EvalTransform, TrainTransform, build_dataset, load_image, transforms
from golden_files import FRAME, cases, files_of, golden
from options import parse_options
from reference import data as twin

TOLERANCE = {"rtol": 1e-6, "atol": 1e-6}
per_file = pytest.mark.parametrize("folder", files_of("data"))
per_side = pytest.mark.parametrize("side", ["port", "twin"])


def frame_test(function):
    """A test that needs the Cityscapes frame: without it there is no such test, rather than one that is skipped."""
    return function if FRAME else None


def formula_label(figures) -> np.ndarray:
    """The label ids that belong to the frame (NOTES 9.6): uint8 [H, W]."""
    width, height = figures["meta/image_size"].tolist()
    block, a, b = figures["meta/label_blocks"].tolist()
    y, x = np.mgrid[:height, :width] // block
    return ((a * x + b * y + x * y) % 34).astype(np.uint8)


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


# What follows gives both sides one form: images in, (stage, pixels uint8 [H, W, 3], ids uint8 [H, W]) out.


def stages(side: str, image: Image.Image, label: Image.Image, opts, draws):
    if side == "twin":
        for stage, pixels, ids in twin.train_stages(twin.to_tensor(image), twin.to_tensor(label), opts, draws):
            yield stage, pixels.numpy(), ids.numpy()
        return
    image = transforms.colour_jitter(image, draws)
    yield "jitter", np.asarray(image), np.asarray(label)
    image, label = transforms.horizontal_flip(image, label, draws)
    yield "flip", np.asarray(image), np.asarray(label)
    image, label = transforms.random_scale(image, label, opts.scales, draws)
    yield "scale", np.asarray(image), np.asarray(label)
    image, label = transforms.random_crop(image, label, opts.crop_size, draws)
    yield "crop", np.asarray(image), np.asarray(label)


def augmented(side: str, image, label, opts, draws):
    if side == "port":
        return TrainTransform(opts.scales, tuple(opts.crop_size))(image, label, draws)
    return [p.numpy() for p in twin.train_sample(twin.to_tensor(image), twin.to_tensor(label), opts, draws)]


def cropped(side: str, image, label, size, draws):
    if side == "port":
        return [np.asarray(part) for part in transforms.random_crop(image, label, size, draws)]
    return [part.numpy() for part in twin.crop(twin.to_tensor(image), twin.to_tensor(label), size, draws)]


def val_sample(side: str, root: Path):
    if side == "port":
        return build_dataset(options(data_path=root), "val")[0]
    return [part.numpy() for part in twin.sample(root, "val", 0, options(), seed=0, epoch=0)]


# ------------------------------------------------------------------------------------------------------------- golden


@per_file
@per_side
def test_golden_train_ids(folder, side):
    ids = np.arange(-1, 256)
    result = to_train_ids(ids) if side == "port" else twin.train_ids(torch.from_numpy(ids)).numpy()
    assert result.dtype == np.int64
    np.testing.assert_array_equal(result, golden(folder, "data")["data/convert_labels"])


@per_file
def test_golden_defaults(folder):
    np.testing.assert_array_equal(options().scales, golden(folder, "data")["meta/scales"])
    np.testing.assert_array_equal(options().crop_size, golden(folder, "data")["meta/crop"])


@per_side
@cases("data", "data/(crop[0-9]+)/image", "folder, case")
def test_golden_crop(folder, case, side):
    figures = golden(folder, "data")
    *_, width, height, seed = figures[f"meta/{case}"].tolist()
    image, label = (Image.fromarray(figures[f"input/{case}/{what}"]) for what in ("image", "label"))
    draws = random.Random(seed)
    pixels, ids = cropped(side, image, label, (width, height), draws)
    np.testing.assert_array_equal(pixels, figures[f"data/{case}/image"])
    np.testing.assert_array_equal(ids, figures[f"data/{case}/label"])
    assert draws.random() == figures[f"data/{case}/next_random"]


def check_train(figures, case, side, image) -> tuple[list, np.ndarray]:
    """All figures of one training sample that do not depend on the image; its stages and its tensor image."""
    label, seed = Image.fromarray(formula_label(figures)), int(figures[f"meta/{case}/random_seed"])
    opts = options(scales=figures["meta/scales"].tolist(), crop_size=figures["meta/crop"].tolist())
    draws, seen = Recorded(seed), []
    for stage, pixels, ids in stages(side, image, label, opts, draws):
        assert (pixels.shape[1], pixels.shape[0]) == tuple(figures[f"data/{case}/{stage}_size"])
        assert ids.shape == pixels.shape[:2]
        assert ids.sum(dtype=np.int64) == figures[f"data/{case}/{stage}_label_sum"]
        seen.append((stage, pixels))
    assert [stage for stage, _ in seen] == ["jitter", "flip", "scale", "crop"]
    assert draws.names == figures[f"data/{case}/draw_names"].tolist()
    np.testing.assert_array_equal(draws.values, figures[f"data/{case}/draws"])
    assert draws.random() == figures[f"data/{case}/next_random"]

    draws = random.Random(seed)
    pixels, ids = augmented(side, image, label, opts, draws)
    assert draws.random() == figures[f"data/{case}/next_random"]
    check_label(ids, figures, case)
    np.testing.assert_array_equal(np.bincount(ids.ravel(), minlength=256), figures[f"data/{case}/label_counts"])
    return seen, pixels


def check_label(ids, figures, case) -> None:
    assert ids.dtype == np.int64 and (1, *ids.shape) == tuple(figures[f"meta/shape/{case}/label"])
    steps = figures[f"meta/slice/{case}/label"].tolist()
    np.testing.assert_array_equal(ids[None, :: steps[1], :: steps[2]], figures[f"data/{case}/label"])


def check_image(pixels, figures, case) -> None:
    assert pixels.dtype == np.float32 and pixels.shape == tuple(figures[f"meta/shape/{case}/image"])
    steps = figures[f"meta/slice/{case}/image"].tolist()
    np.testing.assert_allclose(pixels[:, :: steps[1], :: steps[2]], figures[f"data/{case}/image"], **TOLERANCE)
    wide = pixels.astype(np.float64)
    whole = [wide.mean(), wide.std(), np.abs(wide).max()]
    np.testing.assert_allclose(whole, figures[f"data_stats/{case}/image"], **TOLERANCE)


@per_side
@cases("data", "data/(s[0-9]+)/label", "folder, case")
def test_golden_labels_and_draws(folder, case, side):
    """Neither depends on the image: a grey one of the frame's size takes its place."""
    figures = golden(folder, "data")
    check_train(figures, case, side, Image.new("RGB", tuple(figures["meta/image_size"].tolist()), (90, 120, 70)))


@frame_test
@per_side
@cases("data", "data/(s[0-9]+)/image", "folder, case")
def test_golden_train(folder, case, side):
    figures = golden(folder, "data")
    seen, pixels = check_train(figures, case, side, load_image(FRAME))
    for stage, bytes_ in seen:
        np.testing.assert_array_equal(bytes_.sum((0, 1), dtype=np.int64), figures[f"data/{case}/{stage}_sum"])
        height, width = bytes_.shape[:2]
        np.testing.assert_array_equal(bytes_[height // 3, :: width // 64], figures[f"data/{case}/{stage}_row"])
    check_image(pixels, figures, case)


def lay_out(root: Path, figures, image: Image.Image | Path) -> Path:
    """The folders of one val image under the golden file's name, with its formula label."""
    [name] = figures["data/names"].tolist()
    images, labels = (root / part / "val" / "demo" for part in ("leftImg8bit", "gtFine"))
    images.mkdir(parents=True), labels.mkdir(parents=True)
    path = images / f"{name}_leftImg8bit.png"
    shutil.copyfile(image, path) if isinstance(image, Path) else image.save(path)
    Image.fromarray(formula_label(figures)).save(labels / f"{name}_gtFine_labelIds.png")
    return root


@per_side
@cases("data", "data/(val)/label", "folder, case")
def test_golden_val_label(folder, case, side, tmp_path):
    figures = golden(folder, "data")
    root = lay_out(tmp_path, figures, Image.new("RGB", tuple(figures["meta/image_size"].tolist())))
    listed = [name for name, _, _ in twin.listing(root, "val")]
    names = CityScapes(root, "val", EvalTransform()).names if side == "port" else listed
    assert names == figures["data/names"].tolist()
    image, label = val_sample(side, root)
    assert image.shape == (3, *label.shape)
    assert [f"torch.{image.dtype}", str(label.dtype)] == figures["meta/val/dtypes"].tolist()
    check_label(label, figures, case)


@frame_test
@per_side
@cases("data", "data/(val)/image", "folder, case")
def test_golden_val(folder, case, side, tmp_path):
    figures = golden(folder, "data")
    image, label = val_sample(side, lay_out(tmp_path, figures, FRAME))
    check_image(image, figures, case)
    check_label(label, figures, case)


# ------------------------------------------------------------------------------------------------------------- labels


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


# --------------------------------------------------------- augmentation: port against twin, and what must always hold


def test_jitter_is_the_closed_form():
    """All brightness levels, all constants, many factors: Pillow's enhancers against the formula (NOTES 3.5)."""
    rng = np.random.default_rng(0)
    levels = np.stack(np.meshgrid(np.arange(0, 256, 5), np.arange(0, 256, 5)), -1).reshape(52, 52, 2)
    levels = np.concatenate([levels, rng.integers(0, 256, (52, 52, 1))], -1).astype(np.uint8)
    ramp = np.broadcast_to(np.arange(256, dtype=np.uint8)[:, None], (3, 256, 3)).copy()
    images = [Image.fromarray(levels), Image.fromarray(ramp), picture(40, 30), Image.new("RGB", (3, 2), (255, 0, 9))]
    factors = [(0.5, 0.5, 0.5), (1.5, 1.5, 1.5), (1.0, 1.0, 1.0), *rng.uniform(0.5, 1.5, (60, 3)).tolist()]
    for image in images:
        for three in factors:
            values = iter(three)
            draws = argparse.Namespace(uniform=lambda low, high, v=values: next(v) if (low, high) == (0.5, 1.5) else 1)
            result = transforms.colour_jitter(image, draws)
            np.testing.assert_array_equal(np.asarray(result), twin.jitter(twin.to_tensor(image), *three).numpy())
            assert not list(values)


def test_flip_keeps_above_a_half():
    pair = picture(7, 4), label_picture(7, 4)
    for value, flipped in [(0.0, True), (0.5, True), (math.nextafter(0.5, 1), False), (0.99, False)]:
        draws = argparse.Namespace(random=lambda value=value: value)
        for before, after in zip(pair, transforms.horizontal_flip(*pair, draws), strict=True):
            np.testing.assert_array_equal(np.asarray(after), np.asarray(before)[:, :: -1 if flipped else 1])


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
    """Exact size, two draws or none, image and label cut alike, black where a negative offset reaches outside."""
    size = (crop_width, crop_height)
    image, label = picture(width, height), label_picture(width, height)
    draws = Recorded(seed)
    part, ids = transforms.random_crop(image, label, size, draws)
    assert part.size == ids.size == size and (part.mode, ids.mode) == ("RGB", "L")
    twin_part, twin_ids = cropped("twin", image, label, size, random.Random(seed))
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
    part, ids = transforms.random_crop(image, label, crop_size, argparse.Namespace(random=lambda: 0.5))
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
        port, reference = (augmented(side, image, label, opts, random.Random(seed)) for side in ("port", "twin"))
        for port_part, twin_part in zip(port, reference, strict=True):
            np.testing.assert_array_equal(port_part, twin_part, strict=True)
        assert port[0].shape == (3, 24, 48) and port[1].shape == (24, 48)
        assert set(np.unique(port[1])) <= {*range(19), IGNORE}
    assert (image.tobytes(), label.tobytes()) == before


def test_normalise():
    pixels = np.asarray(picture(9, 5))
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    result = transforms.normalise(pixels)
    assert result.dtype == np.float32 and result.flags.c_contiguous
    np.testing.assert_allclose(result, ((pixels / 255 - mean) / std).transpose(2, 0, 1), **TOLERANCE)
    theirs = paddle.vision.transforms
    expected = theirs.Normalize(mean.tolist(), std.tolist())(theirs.ToTensor()(Image.fromarray(pixels)))
    np.testing.assert_allclose(result, expected.numpy(), **TOLERANCE)
