"""Multi-scale deformable attention from Paddle's own operators: the same figures without a compiler, slower."""

from collections.abc import Sequence

import paddle
from paddle.nn import functional as F

OUTSIDE = -1.0  # a location from which every cell is out of reach, on any level


def ms_deform_attn(value, shapes: Sequence, locations, weights):
    """`ops.ms_deform_attn`, the levels' sizes given as (height, width): numbers, or in a static graph integer tensors.

    One sampling of a picture (grid_sample, zeros outside) for each level; holds all samples of a level at once.
    """
    batch, _, heads, channels = value.shape
    queries, points = locations.shape[1], locations.shape[4]
    if value.stop_gradient and not locations.stop_gradient:
        value = value.detach()  # grid_sample on CPU crashes when it is the grid alone that needs a gradient
        value.stop_gradient = False
    output, start = 0, 0
    for level in range(len(shapes)):
        height, width = shapes[level][0], shapes[level][1]
        end = start + height * width
        maps = value[:, start:end].transpose([0, 2, 3, 1])  # [N, M, D, hw]
        maps = maps.reshape([batch * heads, channels, height, width])
        start = end
        place = locations[:, :, :, level]  # [N, Q, M, P, 2]
        counts = _counts(place, height, width)
        place = paddle.where(counts.unsqueeze(-1), place, paddle.full_like(place, OUTSIDE))
        share = weights[:, :, :, level]
        share = paddle.where(counts, share, paddle.zeros_like(share))
        grid = (2 * place - 1).transpose([0, 2, 1, 3, 4]).reshape([batch * heads, queries, points, 2])
        samples = F.grid_sample(maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        share = share.transpose([0, 2, 1, 3]).reshape([batch * heads, 1, queries, points])
        output = output + (samples * share).sum(-1)  # [NM, D, Q]
    return output.reshape([batch, heads * channels, queries]).transpose([0, 2, 1])


def _counts(place, height, width):
    """[..., 2] -> bool [...]: less than a cell outside; false for NaN. At that line grid_sample has a gradient."""
    if not isinstance(height, int):
        height, width = height.astype(place.dtype), width.astype(place.dtype)
    x, y = place[..., 0] * width - 0.5, place[..., 1] * height - 0.5
    return (x > -1) & (x < width) & (y > -1) & (y < height)
