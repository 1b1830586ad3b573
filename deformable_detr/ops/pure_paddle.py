"""Multi-scale deformable attention from Paddle's own operators: the same figures without a compiler, slower."""

from collections.abc import Sequence

import paddle
from paddle.nn import functional as F

OUTSIDE = -1.0  # a location more than a cell outside, on any level


def ms_deform_attn(value, shapes: Sequence, locations, weights):
    """`ops.ms_deform_attn`, the levels' sizes given as (height, width): numbers, or in a static graph integer tensors.

    One grid_sample for each level, zeros outside; all samples of a level are in memory at once (NOTES 4.3).
    """
    batch, _, heads, channels = value.shape
    queries, num_points = locations.shape[1], locations.shape[4]
    if value.stop_gradient and not locations.stop_gradient:
        value = value.detach()  # grid_sample on a CPU crashes when only the grid needs a gradient (NOTES 8.7)
        value.stop_gradient = False
    output, start = 0, 0
    for level in range(len(shapes)):
        height, width = shapes[level][0], shapes[level][1]
        end = start + height * width
        maps = value[:, start:end].transpose([0, 2, 3, 1])  # [N, M, D, hw]
        maps = maps.reshape([batch * heads, channels, height, width])
        start = end
        points = locations[:, :, :, level]  # [N, Q, M, P, 2]
        inside = _inside(points, height, width)
        points = paddle.where(inside.unsqueeze(-1), points, paddle.full_like(points, OUTSIDE))
        weight = weights[:, :, :, level]
        weight = paddle.where(inside, weight, paddle.zeros_like(weight))
        grid = (2 * points - 1).transpose([0, 2, 1, 3, 4]).reshape([batch * heads, queries, num_points, 2])
        samples = F.grid_sample(maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        weight = weight.transpose([0, 2, 1, 3]).reshape([batch * heads, 1, queries, num_points])
        output = output + (samples * weight).sum(-1)  # [NM, D, Q]
    return output.reshape([batch, heads * channels, queries]).transpose([0, 2, 1])


def _inside(points, height, width):
    """[..., 2] -> bool [...]: less than a cell outside (NOTES 4.1); grid_sample has a gradient exactly at a cell."""
    if not isinstance(height, int):
        height, width = height.astype(points.dtype), width.astype(points.dtype)
    x, y = points[..., 0] * width - 0.5, points[..., 1] * height - 0.5
    return (x > -1) & (x < width) & (y > -1) & (y < height)
