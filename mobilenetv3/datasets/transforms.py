"""The reference's evaluation and training presets on PIL images (NOTES 3.5 to 3.11; there `presets.py`).

Equal to the reference bit for bit, given equal draws: sizes are truncated or rounded, and float32 operations ordered,
as there.
"""

import argparse
import math

import numpy as np
from PIL import Image

from .autoaugment import build_policy

MEAN = np.array([0.485, 0.456, 0.406], np.float32)[:, None, None]
STD = np.array([0.229, 0.224, 0.225], np.float32)[:, None, None]

RESAMPLE = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}

CROP_SCALE, CROP_RATIO = (0.08, 1.0), (3 / 4, 4 / 3)
ERASE_SCALE, ERASE_RATIO = (0.02, 0.33), (0.3, 3.3)
FLIP_PROBABILITY = 0.5
ATTEMPTS = 10


class Draws:
    """The random numbers of one sample, from one numpy generator; floats are float32 values, as torch draws them."""

    def __init__(self, generator: np.random.Generator):
        self._generator = generator

    def rand(self) -> float:
        """Uniform in [0, 1)."""
        return float(self._generator.random(dtype=np.float32))

    def uniform(self, low: float, high: float) -> float:
        """Uniform between `low` and `high`, in float32 arithmetic."""
        low, high = np.float32(low), np.float32(high)
        return float(self._generator.random(dtype=np.float32) * (high - low) + low)

    def randint(self, high: int) -> int:
        """Uniform among 0 .. high - 1."""
        return int(self._generator.integers(high))

    def dirichlet(self, size: int) -> np.ndarray:
        """Symmetric Dirichlet draw with concentration 1: float32 [size], sum 1."""
        return self._generator.dirichlet(np.ones(size)).astype(np.float32)


def resize_shorter(image: Image.Image, size: int, resample: Image.Resampling) -> Image.Image:
    """The shorter side to `size`, the longer one in proportion, truncated (NOTES 3.5)."""
    width, height = image.size
    longer = int(size * max(width, height) / min(width, height))
    return image.resize((size, longer) if width <= height else (longer, size), resample)


def centre_crop(image: Image.Image, size: int) -> Image.Image:
    """The middle `size` x `size`; a smaller side is padded with black on both ends, an odd pixel behind (NOTES 3.6)."""

    def start(side: int) -> int:
        return -((size - side) // 2) if side < size else round((side - size) / 2)  # half to even

    left, top = start(image.width), start(image.height)
    return image.crop((left, top, left + size, top + size))  # Pillow fills with black outside the image


def normalise(image: Image.Image) -> np.ndarray:
    """RGB image -> float32 [3, H, W]: divided by 255, minus MEAN, divided by STD, each step rounded to float32."""
    pixels = np.asarray(image).transpose(2, 0, 1).astype(np.float32, order="C")
    pixels /= np.float32(255)
    pixels -= MEAN
    pixels /= STD
    return pixels


def _area_and_aspect(pixels: int, scale: tuple, ratio: tuple, draws) -> tuple[float, float]:
    """Area and log-uniform aspect ratio of one attempt in an image of `pixels`; log and exp rounded to float32."""
    area = pixels * draws.uniform(*scale)
    low, high = (float(np.float32(math.log(np.float32(end)))) for end in ratio)
    return area, float(np.float32(math.exp(draws.uniform(low, high))))


def crop_box(width: int, height: int, draws) -> tuple[int, int, int, int]:
    """Top, left, height, width of a random crop of 8 to 100 % of the area (NOTES 3.9, 3.10)."""
    for _ in range(ATTEMPTS):
        area, aspect = _area_and_aspect(width * height, CROP_SCALE, CROP_RATIO, draws)
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            top = draws.randint(height - h + 1)
            left = draws.randint(width - w + 1)
            return top, left, h, w

    w, h = width, height
    if width / height < CROP_RATIO[0]:
        h = round(width / CROP_RATIO[0])
    elif width / height > CROP_RATIO[1]:
        w = round(height * CROP_RATIO[1])
    return (height - h) // 2, (width - w) // 2, h, w


def erase_box(height: int, width: int, draws) -> tuple[int, int, int, int] | None:
    """Top, left, height, width of the box to erase, 2 to 33 % of the area; None after ten misfits.

    Unlike in the crop, the aspect ratio multiplies the *height* (NOTES 3.11).
    """
    for _ in range(ATTEMPTS):
        area, aspect = _area_and_aspect(height * width, ERASE_SCALE, ERASE_RATIO, draws)
        h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if h < height and w < width:
            top = draws.randint(height - h + 1)
            left = draws.randint(width - w + 1)
            return top, left, h, w
    return None


class ClassificationPresetEval:
    """Resize, centre crop, normalise."""

    def __init__(self, resize_size: int, crop_size: int, resample: Image.Resampling):
        self.resize_size, self.crop_size, self.resample = resize_size, crop_size, resample

    def crop(self, image: Image.Image) -> Image.Image:
        """The part of `image` that the network gets, before normalisation."""
        return centre_crop(resize_shorter(image, self.resize_size, self.resample), self.crop_size)

    def __call__(self, image: Image.Image, draws=None) -> np.ndarray:
        """RGB image of any size -> float32 [3, crop, crop]; `draws` is not used."""
        return normalise(self.crop(image))


class ClassificationPresetTrain:
    """Random crop, flip, augmentation policy, normalisation, erasing; draws in the reference's order (NOTES 3.8)."""

    def __init__(self, crop_size: int, resample: Image.Resampling, policy=None, erase_probability: float = 0.0):
        self.crop_size, self.resample = crop_size, resample
        self.policy, self.erase_probability = policy, np.float32(erase_probability)

    def crop(self, image: Image.Image, draws) -> Image.Image:
        """A random part of `image`, resized to the crop size."""
        top, left, height, width = crop_box(image.width, image.height, draws)
        part = image.crop((left, top, left + width, top + height))
        return part.resize((self.crop_size, self.crop_size), self.resample)

    def augment(self, image: Image.Image, draws) -> Image.Image:
        """Flip, then the policy if there is one."""
        if draws.rand() < FLIP_PROBABILITY:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return self.policy(image, draws) if self.policy else image

    def erase(self, pixels: np.ndarray, draws) -> np.ndarray:
        """Set a random box of normalised `pixels` [3, H, W] to 0, the mean colour, in place."""
        if self.erase_probability > 0 and draws.rand() < self.erase_probability:
            box = erase_box(*pixels.shape[1:], draws)
            if box:
                top, left, height, width = box
                pixels[:, top : top + height, left : left + width] = 0
        return pixels

    def __call__(self, image: Image.Image, draws) -> np.ndarray:
        """RGB image of any size -> float32 [3, crop, crop]."""
        return self.erase(normalise(self.augment(self.crop(image, draws), draws)), draws)


def build_transform(options: argparse.Namespace, train: bool) -> ClassificationPresetEval | ClassificationPresetTrain:
    """The preset of `options`: interpolation; val_resize_size and val_crop_size, or train_crop_size, auto_augment,
    ra_magnitude, augmix_severity and random_erase."""
    resample = RESAMPLE[options.interpolation]
    if not train:
        return ClassificationPresetEval(options.val_resize_size, options.val_crop_size, resample)
    policy = build_policy(options.auto_augment, resample, options.ra_magnitude, options.augmix_severity)
    return ClassificationPresetTrain(options.train_crop_size, resample, policy, options.random_erase)
