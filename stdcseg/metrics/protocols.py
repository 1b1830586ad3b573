"""Label maps of whole images: at one scale, summed over scales and flips, in sliding windows (NOTES 7.1, 7.3).

Every function takes a `segment` function, images [N, 3, H, W] -> logits [N, K, H, W], both of one size: the network's
`segment`, an exported graph, or any other. Results have the dtype of the images.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import paddle
from paddle.nn import functional as F

from shared import InputError

from models import resize_bilinear

Segment = Callable[[paddle.Tensor], paddle.Tensor]
Size = tuple[int, int]


def _resize(x: paddle.Tensor, size: Size) -> paddle.Tensor:
    return x if tuple(x.shape[2:]) == tuple(size) else resize_bilinear(x, tuple(size))


def _scaled(images: paddle.Tensor, scale: float) -> paddle.Tensor:
    """The images at int(side * scale) a side. InputError if nothing is left."""
    height, width = images.shape[2:]
    size = (int(height * scale), int(width * scale))
    if min(size) < 1:
        raise InputError(f"scale {scale:g} leaves nothing of an image of {width}x{height}; give a larger scale")
    return _resize(images, size)


def predict_scaled(segment: Segment, images: paddle.Tensor, scale: float, size: Size) -> np.ndarray:
    """The most likely class of each pixel, int64 [N, *size]: the argmax of the logits at `size`, the first of equals.

    Class by class, so that the logits never exist at full size (NOTES 8.12). The reference's softmax before the argmax
    changes nothing.
    """
    logits = segment(_scaled(images, scale))
    best = _resize(logits[:, :1], size)
    labels = paddle.zeros(best.shape, "int64")
    for number in range(1, logits.shape[1]):
        rival = _resize(logits[:, number : number + 1], size)
        labels = paddle.where(rival > best, number, labels)
        best = paddle.maximum(rival, best)
    return labels[:, 0].numpy()


def scaled_probabilities(
    segment: Segment, images: paddle.Tensor, scale: float, size: Size, flip: bool = False
) -> paddle.Tensor:
    """Softmax [N, K, *size] of the images at `scale`; with `flip` the softmax of the mirrored images is added."""
    images = _scaled(images, scale)
    total = F.softmax(_resize(segment(images), size), axis=1)
    if flip:
        total += F.softmax(_resize(segment(images.flip(3)), size), axis=1).flip(3)
    return total


def eval_chip(segment: Segment, chip: paddle.Tensor, flip: bool = False) -> paddle.Tensor:
    """Scores [N, K, H, W] of one window: e to the power of the softmax, or of both softmaxes with `flip`."""
    return paddle.exp(scaled_probabilities(segment, chip, 1.0, chip.shape[2:], flip))


def crop_eval(segment: Segment, images: paddle.Tensor, crop: int, flip: bool = False) -> paddle.Tensor:
    """Scores [N, K, H, W], summed over windows of `crop` x `crop` that overlap by a sixth.

    A side shorter than the window is padded with zeros, the image in the middle.
    """
    height, width = images.shape[2:]
    top, bottom = _margins(height, crop)
    left, right = _margins(width, crop)
    padded = F.pad(images, [left, right, top, bottom])
    scores = None
    for y in _window_starts(height + top + bottom, crop):
        for x in _window_starts(width + left + right, crop):
            chip = eval_chip(segment, padded[:, :, y : y + crop, x : x + crop], flip)
            if scores is None:
                scores = paddle.zeros([*chip.shape[:2], *padded.shape[2:]], chip.dtype)
            scores[:, :, y : y + crop, x : x + crop] += chip
    return scores[:, :, top : top + height, left : left + width]


def _margins(side: int, crop: int) -> tuple[int, int]:
    """Padding before and after a side; the odd pixel comes after."""
    missing = max(crop - side, 0)
    return missing // 2, missing - missing // 2


def _window_starts(side: int, crop: int) -> list[int]:
    """Every five sixths of a window; the last window ends at the border."""
    stride = math.ceil(crop * 5 / 6)
    return [min(number * stride, side - crop) for number in range(math.ceil((side - crop) / stride) + 1)]


def scale_crop_eval(
    segment: Segment, images: paddle.Tensor, scale: float, crop: int, flip: bool = False
) -> paddle.Tensor:
    """`crop_eval` of the images at `scale`, resized to the size of the images: [N, K, H, W]."""
    return _resize(crop_eval(segment, _scaled(images, scale), crop, flip), images.shape[2:])


@dataclass(frozen=True)
class Protocol:
    """How images become label maps: at which scales, mirrored too or not, whole or in windows.

    Several scales are summed: their softmaxes, or with `crop` their windows' scores. The reference's own sum over
    scales takes the unscaled image every time (NOTES 7.4); here each scale is used.
    """

    scales: tuple[float, ...]
    flip: bool = False
    crop: int | None = None

    @property
    def name(self) -> str:
        """For example scale_0.5, or scales_0.5_1_flip_crop_512."""
        name = "_".join(["scale" if len(self.scales) == 1 else "scales", *(f"{scale:g}" for scale in self.scales)])
        return name + ("_flip" if self.flip else "") + (f"_crop_{self.crop}" if self.crop else "")

    def predict(self, segment: Segment, images: paddle.Tensor, size: Size) -> np.ndarray:
        """Label maps int64 [N, *size] of images [N, 3, H, W]. InputError if a scale leaves nothing of them."""
        if len(self.scales) == 1 and not self.flip and not self.crop:
            return predict_scaled(segment, images, self.scales[0], size)
        total = self._scores(segment, images, self.scales[0], size)
        for scale in self.scales[1:]:
            total += self._scores(segment, images, scale, size)
        return total.argmax(1).numpy()

    def _scores(self, segment: Segment, images: paddle.Tensor, scale: float, size: Size) -> paddle.Tensor:
        if self.crop:
            return _resize(scale_crop_eval(segment, images, scale, self.crop, self.flip), size)
        return scaled_probabilities(segment, images, scale, size, self.flip)
