"""Augmentation and normalisation of an image and its label (NOTES 3.4 to 3.10).

Bit-equal to the reference for equal random numbers, which come from a `random.Random` in its order. Sizes are (width,
height). Images are PIL "RGB", labels PIL "L" with label ids. Pillow itself resizes: its filters are part of the result.
"""

import random
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageEnhance

from shared import InputError

from constants import to_train_ids

MEAN = np.array([0.485, 0.456, 0.406], np.float32)[:, None, None]
STD = np.array([0.229, 0.224, 0.225], np.float32)[:, None, None]

JITTER = 0.5  # the reference's strength
_ENHANCERS = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)

Pair = tuple[Image.Image, Image.Image]


def colour_jitter(image: Image.Image, draws: random.Random, strength: float = JITTER) -> Image.Image:
    """Brightness, contrast, saturation, in this order, each by a factor from 1 - strength (at least 0) to 1 + strength.

    All factors are drawn before the first is used (NOTES 3.5).
    """
    factors = [draws.uniform(max(1 - strength, 0), 1 + strength) for _ in _ENHANCERS]
    for enhancer, factor in zip(_ENHANCERS, factors, strict=True):
        image = enhancer(image).enhance(factor)
    return image


def horizontal_flip(image: Image.Image, label: Image.Image, draws: random.Random) -> Pair:
    """Both mirrored left to right, or neither."""
    if draws.random() > 0.5:
        return image, label
    return tuple(part.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for part in (image, label))


def _resize(image: Image.Image, label: Image.Image, size: tuple[int, int]) -> Pair:
    return image.resize(size, Image.Resampling.BILINEAR), label.resize(size, Image.Resampling.NEAREST)


def random_scale(image: Image.Image, label: Image.Image, scales: Sequence[float], draws: random.Random) -> Pair:
    """Both resized by one of `scales`, sizes cut to whole pixels. InputError if no pixel would remain."""
    scale = draws.choice(scales)
    size = tuple(int(side * scale) for side in image.size)
    if 0 in size:
        shapes = f"an image of {image.width}x{image.height} would become {size[0]}x{size[1]}"
        raise InputError(f"--scales {scale}: {shapes}; remove this scale")
    return _resize(image, label, size)


def random_crop(image: Image.Image, label: Image.Image, size: tuple[int, int], draws: random.Random) -> Pair:
    """A random part of exactly `size`. Draws nothing if the image has that size already (NOTES 3.8).

    An image with a side too small is resized first, so that its *shorter* side fits. If the other side is then too
    small, the offset is negative and the outside is 0: black, "unlabeled" (NOTES 3.9).
    """
    width, height = size
    if image.size == (width, height):
        return image, label
    if image.width < width or image.height < height:
        factor = width / image.width if image.width < image.height else height / image.height
        image, label = _resize(image, label, (int(factor * image.width + 1), int(factor * image.height + 1)))
    left = int(draws.random() * (image.width - width))
    top = int(draws.random() * (image.height - height))
    box = (left, top, left + width, top + height)
    return image.crop(box), label.crop(box)


def normalise(array: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 3] -> float32 [3, H, W]: over 255, minus MEAN, over STD, each step rounded to float32."""
    pixels = array.transpose(2, 0, 1).astype(np.float32, order="C")
    pixels /= np.float32(255)
    pixels -= MEAN
    pixels /= STD
    return pixels


class EvalTransform:
    """The whole image, unchanged."""

    def __call__(self, image: Image.Image, label: Image.Image, draws=None) -> tuple[np.ndarray, np.ndarray]:
        """(image float32 [3, H, W], train ids int64 [H, W]); `draws` is not used."""
        return normalise(np.asarray(image)), to_train_ids(np.asarray(label))


class TrainTransform(EvalTransform):
    """Colour jitter, flip, scale and crop, then the same."""

    def __init__(self, scales: Sequence[float], crop_size: tuple[int, int], jitter: float = JITTER):
        """`crop_size` is (width, height), `jitter` the strength of the colour jitter."""
        self.scales, self.crop_size, self.jitter = scales, crop_size, jitter

    def __call__(self, image: Image.Image, label: Image.Image, draws: random.Random) -> tuple[np.ndarray, np.ndarray]:
        """(image float32 [3, H, W], train ids int64 [H, W]) of the crop. InputError as from `random_scale`."""
        image = colour_jitter(image, draws, self.jitter)
        image, label = horizontal_flip(image, label, draws)
        image, label = random_scale(image, label, self.scales, draws)
        image, label = random_crop(image, label, self.crop_size, draws)
        return super().__call__(image, label)
