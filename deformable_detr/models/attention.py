"""Multi-scale deformable attention (paper, equation 3; NOTES 3.12 and 3.13)."""

import math

import numpy as np
import paddle
from paddle import nn
from paddle.nn import functional as F

from .layers import linear
from ops import ms_deform_attn


def initial_offsets(heads: int, levels: int, points: int) -> np.ndarray:
    """Bias [heads * levels * points * 2] of the sampling offsets (NOTES 3.26).

    Each head has a direction of its own, scaled to the edge of a square; its k-th point lies k + 1 cells away.
    """
    angles = np.arange(heads, dtype=np.float32) * np.float32(2 * math.pi / heads)
    directions = np.stack([np.cos(angles), np.sin(angles)], -1)
    directions /= np.abs(directions).max(-1, keepdims=True)
    distances = np.arange(1, points + 1, dtype=np.float32)
    grid = directions[:, None, None, :] * distances[:, None]
    return np.broadcast_to(grid, (heads, levels, points, 2)).astype(np.float32).reshape(-1)


class MSDeformAttn(nn.Layer):
    """Each query takes a weighted sum of a few samples around its reference point, on every level and for every head.

    Offsets and weights are linear in the query.
    """

    def __init__(self, width: int, levels: int, heads: int, points: int):
        super().__init__()
        self.levels, self.heads, self.points = levels, heads, points
        self.sampling_offsets = linear(width, heads * levels * points * 2, "zero", "zero")
        self.sampling_offsets.bias.set_value(initial_offsets(heads, levels, points))
        self.attention_weights = linear(width, heads * levels * points, "zero", "zero")
        self.value_proj = linear(width, width, "xavier", "zero")
        self.output_proj = linear(width, width, "xavier", "zero")

    def forward(self, query, reference_points, tokens, spatial_shapes, level_start_index, padding):
        """-> float [N, Q, C].

        query float [N, Q, C], position included; tokens float [N, S, C] of all levels, without positions.
        reference_points [N, Q, L, 2] as x and y, or [N, Q, L, 4] as centre, width and height, in 0 to 1 over the padded
        map of each level. spatial_shapes int64 [L, 2], rows of height and width; level_start_index int64 [L]; padding
        bool [N, S], True for padded tokens, whose value is 0.
        """
        n, queries, width = query.shape
        value = self.value_proj(tokens).masked_fill(padding.unsqueeze(-1), 0.0)
        value = value.reshape([n, -1, self.heads, width // self.heads])
        weights = self.attention_weights(query).reshape([n, queries, self.heads, self.levels * self.points])
        weights = F.softmax(weights, -1).reshape([n, queries, self.heads, self.levels, self.points])
        locations = self._sampling_locations(query, reference_points, spatial_shapes)
        dtype = value.dtype if value.dtype in (paddle.float32, paddle.float64) else paddle.float32  # mixed precision
        value, locations, weights = (tensor.astype(dtype) for tensor in (value, locations, weights))
        return self.output_proj(ms_deform_attn(value, spatial_shapes, level_start_index, locations, weights))

    def _sampling_locations(self, query, reference_points, spatial_shapes):
        """[N, Q, M, L, P, 2] as x and y. Offsets are in cells of the level, or relative to the reference box."""
        n, queries, _ = query.shape
        layer, shape = self.sampling_offsets, [self.heads, self.levels, self.points, 2]
        if reference_points.shape[-1] == 2:
            unit = 1 / spatial_shapes.flip(1).astype(layer.weight.dtype)
            unit = unit.reshape([1, -1, 1, 2]).expand(shape).flatten()
            if paddle.in_dynamic_mode():
                # scaling the layer's weights saves the memory of one tensor of all offsets
                offsets = F.linear(query, layer.weight * unit, layer.bias * unit)
            else:  # not in a static graph: there the weights would be scaled in every run (NOTES 8.10)
                offsets = layer(query) * unit
        else:
            offsets = layer(query)
        offsets = offsets.reshape([n, queries, *shape])
        reference = reference_points.astype(offsets.dtype).reshape([n, queries, 1, self.levels, 1, -1])
        if reference_points.shape[-1] == 2:
            return reference + offsets
        return reference[..., :2] + offsets * (reference[..., 2:] * (0.5 / self.points))
