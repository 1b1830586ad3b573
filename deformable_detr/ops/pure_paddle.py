"""Multi-scale deformable attention from Paddle's own operators: the same figures without a compiler, slower."""

from collections.abc import Sequence

import paddle
from paddle.nn import functional as F

OUTSIDE = -1.0  # a location from which every cell is out of reach, on any level


def ms_deform_attn(value, shapes: Sequence[tuple[int, int]], locations, weights):
    """`ops.ms_deform_attn`, the levels' sizes given as numbers (height, width). float32 or float64.

    One sampling of a picture (grid_sample, zeros outside) for each level; holds all samples of a level at once.
    """
    batch, _, heads, channels = value.shape
    queries, points = locations.shape[1], locations.shape[4]
    if value.stop_gradient and not locations.stop_gradient:
        value = value.detach()  # grid_sample on CPU crashes when it is the grid alone that needs a gradient
        value.stop_gradient = False
    output, start = 0, 0
    for level, (height, width) in enumerate(shapes):
        pixels = value[:, start : start + height * width]
        start += height * width
        # [N, hw, M, D] -> [NM, D, h, w]
        maps = pixels.transpose([0, 2, 3, 1]).reshape([-1, channels, height, width])
        place = locations[:, :, :, level]  # [N, Q, M, P, 2]
        counts = _counts(place, height, width)
        place = paddle.where(counts.unsqueeze(-1), place, paddle.full_like(place, OUTSIDE))
        share = weights[:, :, :, level]
        share = paddle.where(counts, share, paddle.zeros_like(share))
        grid = (2 * place - 1).transpose([0, 2, 1, 3, 4]).reshape([-1, queries, points, 2])
        samples = F.grid_sample(maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        share = share.transpose([0, 2, 1, 3]).reshape([-1, 1, queries, points])
        output = output + (samples * share).sum(-1)  # [NM, D, Q]
    return output.reshape([batch, heads * channels, queries]).transpose([0, 2, 1])


def _counts(place, height: int, width: int):
    """[..., 2] -> bool [...]: less than a cell outside; false for NaN. At that line grid_sample has a gradient."""
    x, y = place[..., 0] * width - 0.5, place[..., 1] * height - 0.5
    return (x > -1) & (x < width) & (y > -1) & (y < height)
