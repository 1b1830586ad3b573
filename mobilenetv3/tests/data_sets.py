"""What the tests of the data side share: golden cases, both sides in one form, drawn pictures and folders."""

import argparse
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from shared.pictures import read_picture

from datasets import autoaugment, build_transform, transforms
from datasets.folder import ImageFolder
from golden_files import PHOTOS, files_of
from options import parse_options
from reference import data as twin

TOLERANCE = {"rtol": 1e-6, "atol": 1e-6}

# --------------------------------------------------------------------------------------------------------------------
# Golden files: the committed one (what needs no photographs), and the full one in $GOLDEN with the photographs in
# $PHOTOS. Everything about a case is read from its file.
# --------------------------------------------------------------------------------------------------------------------

GOLDEN = files_of("data")


def cases(pattern: str) -> list:
    """One (file, group 1 of `pattern`) for each match among the keys of each golden file."""
    found = []
    for name, golden in GOLDEN.items():
        keys = dict.fromkeys(match[1] for key in golden.files if (match := re.fullmatch(pattern, key)))
        found += [pytest.param(golden, key, id=f"{name}-{key}") for key in keys]
    return found


def photo_test(function):
    """A test that needs photographs: without them there is no such test, rather than one that is skipped."""
    return function if PHOTOS else None


def photo(golden, index: int) -> Image.Image:
    images = golden["meta/images"]
    return read_picture(PHOTOS / str(images[index % len(images)]))


def options(**changes) -> argparse.Namespace:
    """The defaults, with these changes."""
    return argparse.Namespace(**(vars(parse_options([])) | changes))


class Recorded:
    """Draws that replay recorded rows (kind, low, high, value) and refuse any other request."""

    def __init__(self, rows: np.ndarray):
        self.rows = [tuple(row) for row in rows]

    def _next(self, kind: int, low: float, high: float) -> float:
        recorded_kind, recorded_low, recorded_high, value = self.rows.pop(0)
        assert kind == recorded_kind
        assert (low, high) == pytest.approx((recorded_low, recorded_high), rel=1e-6)
        return value

    def uniform(self, low: float, high: float) -> float:
        return self._next(0, low, high)

    def rand(self) -> float:
        return self._next(1, 0, 1)

    def randint(self, high: int) -> int:
        return int(self._next(2, 0, high))


def check_normalised(pixels, golden, key: str) -> None:
    pixels = np.asarray(pixels)
    assert pixels.dtype == np.float32
    np.testing.assert_allclose(pixels[..., ::7, ::7], golden[f"{key}/normalised/slice"], **TOLERANCE)
    stats = pixels.astype(np.float64)
    stats = [stats.mean(), stats.std(ddof=1), np.abs(stats).max()]
    np.testing.assert_allclose(stats, golden[f"{key}/normalised/stats"], **TOLERANCE)


# What follows gives both sides one form: PIL or torch in, numpy out.


def port_eval_pixels(image, opts):
    return np.asarray(build_transform(opts, train=False).crop(image))


def twin_eval_pixels(image, opts):
    sizes = opts.val_resize_size, opts.val_crop_size
    return twin.eval_pixels(image, *sizes, opts.interpolation).permute(1, 2, 0).numpy()


def port_eval(image, opts):
    return build_transform(opts, train=False)(image, None)


def twin_eval(image, opts):
    return twin.eval_tensor(image, opts).numpy()


def port_train(image, opts, draws):
    return build_transform(opts, train=True)(image, draws)


def twin_train(image, opts, draws):
    return twin.train_tensor(image, opts, draws).numpy()


def port_crop_box(width, height, draws):
    top, left, h, w = transforms.crop_box(width, height, draws)
    return left, top, left + w, top + h


def port_erase(pixels, probability, draws):
    return transforms.ClassificationPresetTrain(1, None, None, probability).erase(pixels, draws)


def twin_erase(pixels, probability, draws):
    return twin.erase(torch.from_numpy(pixels), probability, draws).numpy()


def port_augment(image, opts, draws):
    return np.asarray(build_transform(opts, train=True).augment(image, draws))


def twin_augment(image, opts, draws):
    """The twin's flip and policy on an image that is already cropped."""
    if draws.rand() < 0.5:
        image = Image.fromarray(np.asarray(image)[:, ::-1].copy())
    return np.asarray(twin.auto_augment(image, opts.interpolation, draws))


def port_operation(image, name, magnitude, interpolation):
    return autoaugment.OPERATIONS[name](image, magnitude, transforms.RESAMPLE[interpolation])


def port_listing(root):
    folder = ImageFolder(root, transform=None)
    return folder.classes, folder.samples


sides = pytest.mark.parametrize("side", ["port", "twin"])
SIDES = {
    "eval_pixels": {"port": port_eval_pixels, "twin": twin_eval_pixels},
    "eval": {"port": port_eval, "twin": twin_eval},
    "train": {"port": port_train, "twin": twin_train},
    "crop_box": {"port": port_crop_box, "twin": twin.crop_box},
    "erase": {"port": port_erase, "twin": twin_erase},
    "augment": {"port": port_augment, "twin": twin_augment},
    "operation": {"port": port_operation, "twin": twin.apply_operation},
    "listing": {"port": port_listing, "twin": twin.listing},
}


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    """A drawn RGB picture with smooth areas, edges and noise."""
    rng = np.random.default_rng([seed, width, height])
    blobs = Image.fromarray(rng.integers(0, 256, (5, 4, 3), np.uint8)).resize((width, height), Image.BICUBIC)
    noise = rng.integers(-12, 13, (height, width, 3))
    return Image.fromarray((np.asarray(blobs).astype(int) + noise).clip(0, 255).astype(np.uint8))


def write_images(root: Path, layout: dict[str, int], size=(50, 40)) -> Path:
    """`layout[class folder]` small pictures: JPEG, PNG, grey in turn."""
    for folder, count in layout.items():
        (root / folder).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            image = picture(*size, seed=number)
            image = image.convert("L") if number % 3 == 2 else image
            image.save(root / folder / f"{number:03d}{('.JPEG', '.png', '.jpg')[number % 3]}")
    return root


def one_line(caught, *parts) -> None:
    text = str(caught.value)
    assert "\n" not in text
    for part in parts:
        assert str(part) in text
