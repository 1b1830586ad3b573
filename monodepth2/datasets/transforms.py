"""Resizing, colour jitter and intrinsics (NOTES 2.4 to 2.6).

Bit-equal to the reference for equal draws, which come from a `random.Random` in its order. Pillow resizes and adjusts:
its filters and its 8-bit rounding are part of the result.
"""

import random
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageEnhance

SCALES = (0, 1, 2, 3)
RESIZE = {"lanczos": Image.Resampling.LANCZOS, "nearest": Image.Resampling.NEAREST}
_ENHANCERS = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)


class JitterDraw(NamedTuple):
    """Factors of brightness, contrast, saturation, and the hue shift in turns; `order`: the sequence of the four."""

    factors: tuple[float, float, float, float]
    order: tuple[int, int, int, int]


def _draw_factors(rng: random.Random) -> tuple[float, float, float, float]:
    return (*(rng.uniform(0.8, 1.2) for _ in range(3)), rng.uniform(-0.1, 0.1))


def _draw_order(rng: random.Random) -> tuple[int, int, int, int]:
    order = [0, 1, 2, 3]
    rng.shuffle(order)
    return tuple(order)


def draw_jitter(rng: random.Random) -> JitterDraw:
    """The reference's draw: brightness, contrast, saturation, hue, then the order of the four."""
    factors = _draw_factors(rng)
    return JitterDraw(factors, _draw_order(rng))


def draw_jitters(rng: random.Random, frame_ids: Sequence, how: str) -> dict[tuple, JitterDraw]:
    """{(frame, scale): draw} of one item, for all four scales, used or not.

    how: "per_item", the reference's one draw for all; or "per_image", as in the earlier Paddle port (NOTES 1.4): one
    order, then factors for each frame and scale.
    """
    images = [(frame, scale) for frame in frame_ids for scale in SCALES]
    if how == "per_item":
        return dict.fromkeys(images, draw_jitter(rng))
    order = _draw_order(rng)
    return {image: JitterDraw(_draw_factors(rng), order) for image in images}


def _shift_hue(image: Image.Image, shift: float) -> Image.Image:
    """The hue shifted by `shift` turns: trunc(shift * 255) steps of a circle of 256, as torchvision does."""
    hsv = np.array(image.convert("HSV"))
    hsv[..., 0] += np.uint8(int(shift * 255) & 255)
    return Image.fromarray(hsv, "HSV").convert("RGB")


def adjust(image: Image.Image, draw: JitterDraw) -> Image.Image:
    """The RGB image with its colours changed by `draw`."""
    for operation in draw.order:
        factor = draw.factors[operation]
        image = _ENHANCERS[operation](image).enhance(factor) if operation < 3 else _shift_hue(image, factor)
    return image


def pyramid(image: Image.Image, height: int, width: int, deepest: int, resize: str) -> list[Image.Image]:
    """Scales 0 to `deepest` of sizes (height, width) // 2^s, each resized from the previous; `resize` of RESIZE."""
    levels = []
    for scale in range(deepest + 1):
        image = image.resize((width >> scale, height >> scale), RESIZE[resize])
        levels.append(image)
    return levels


def to_array(image: Image.Image) -> np.ndarray:
    """RGB image -> float32 [3, H, W] in [0, 1]."""
    pixels = np.asarray(image).transpose(2, 0, 1).astype(np.float32, order="C")
    pixels /= np.float32(255)
    return pixels


def intrinsics(height: int, width: int, scale: int) -> tuple[np.ndarray, np.ndarray]:
    """K and its inverse, float32 [4, 4], at (height, width) // 2^scale: one camera for all images (NOTES 2.6)."""
    matrix = np.array([[0.58, 0, 0.5, 0], [0, 1.92, 0.5, 0], [0, 0, 1, 0], [0, 0, 0, 1]], np.float32)
    matrix[0] *= width >> scale
    matrix[1] *= height >> scale
    return matrix, np.linalg.pinv(matrix)
