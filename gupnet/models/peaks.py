"""Peaks of the heatmap (fact sheet 4.4)."""

from typing import NamedTuple

import paddle
from paddle.nn import functional as F

#: probabilities are kept this far from 0 and 1
CLAMP = 1e-4


class Peaks(NamedTuple):
    """The best cells of each image, [B, K] each: score, cell (row * width + column, int64) and class (int64)."""

    scores: paddle.Tensor
    cells: paddle.Tensor
    classes: paddle.Tensor


def probabilities(logits):
    """Clamped sigmoid of the heatmap's logits, which stay as they are."""
    return F.sigmoid(logits).clip(CLAMP, 1 - CLAMP)


def local_maxima(heat):
    """[B, classes, H, W] with 0 where one of the eight neighbours is higher."""
    return heat * (heat == F.max_pool2d(heat, 3, 1, 1)).astype(heat.dtype)


def find_peaks(logits, count: int) -> Peaks:
    """The `count` best local maxima over all classes of [B, classes, H, W] logits, best first.

    First the best `count` of each class, then the best of those. Which of equal scores comes first is the operator's
    business, as in the reference.
    """
    scores, cells = paddle.topk(local_maxima(probabilities(logits)).flatten(2), count)
    scores, place = paddle.topk(scores.flatten(1), count)
    return Peaks(scores, paddle.take_along_axis(cells.flatten(1), place, 1), place // count)
