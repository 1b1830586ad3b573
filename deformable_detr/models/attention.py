"""Multi-scale deformable attention (paper equation 3; fact sheet 4.6)."""

import math

import numpy as np
import paddle
from paddle import nn
from paddle.nn import functional as F

from .layers import linear
from ops import ms_deform_attn


def initial_offsets(heads: int, levels: int, points: int) -> np.ndarray:
    """Bias [heads * levels * points * 2] of the sampling offsets (fact sheet 4.12).

    Each head looks in its own direction, which reaches the edge of a square; its k-th point lies k + 1 cells away.
    """
    angles = np.arange(heads, dtype=np.float32) * np.float32(2 * math.pi / heads)
    directions = np.stack([np.cos(angles), np.sin(angles)], -1)
    directions /= np.abs(directions).max(-1, keepdims=True)
    distances = np.arange(1, points + 1, dtype=np.float32)
    grid = directions[:, None, None, :] * distances[:, None]
    return np.broadcast_to(grid, (heads, levels, points, 2)).astype(np.float32).reshape(-1)


class MSDeformAttn(nn.Layer):
    """Each query samples a few points around its reference, on every level, and weighs what it finds there."""

    def __init__(self, width: int, levels: int, heads: int, points: int):
        super().__init__()
        self.levels, self.heads, self.points = levels, heads, points
        self.sampling_offsets = linear(width, heads * levels * points * 2, "zero", "zero")
        self.sampling_offsets.bias.set_value(initial_offsets(heads, levels, points))
        self.attention_weights = linear(width, heads * levels * points, "zero", "zero")
        self.value_proj = linear(width, width, "xavier", "zero")
        self.output_proj = linear(width, width, "xavier", "zero")

    def forward(self, query, reference_points, source, spatial_shapes, level_start_index, padding):
        """-> float [N, Q, C].

        query float [N, Q, C], position included; source float [N, S, C], the tokens of all levels, without positions.
        reference_points [N, Q, L, 2] as x and y, or [N, Q, L, 4] as centre, width and height, in 0 to 1 over the padded
        map of each level. spatial_shapes int64 [L, 2], rows of height and width; level_start_index int64 [L]; padding
        bool [N, S], True for tokens of no picture, which are never sampled.
        """
        n, queries, width = query.shape
        value = self.value_proj(source).masked_fill(padding.unsqueeze(-1), 0.0)
        value = value.reshape([n, -1, self.heads, width // self.heads])
        weights = self.attention_weights(query).reshape([n, queries, self.heads, self.levels * self.points])
        weights = F.softmax(weights, -1).reshape([n, queries, self.heads, self.levels, self.points])
        locations = self._locations(query, reference_points, spatial_shapes)
        dtype = value.dtype if value.dtype in (paddle.float32, paddle.float64) else paddle.float32  # mixed precision
        inputs = [tensor.astype(dtype) for tensor in (value, locations, weights)]
        return self.output_proj(ms_deform_attn(inputs[0], spatial_shapes, level_start_index, *inputs[1:]))

    def _locations(self, query, reference_points, spatial_shapes):
        """Sampling locations [N, Q, M, L, P, 2] as x and y. The offsets' unit is a cell, or a share of the box."""
        n, queries, _ = query.shape
        layer, shape = self.sampling_offsets, [self.heads, self.levels, self.points, 2]
        if reference_points.shape[-1] == 2:
            unit = 1 / spatial_shapes.flip(1).astype(layer.weight.dtype)
            unit = unit.reshape([1, -1, 1, 2]).expand(shape).flatten()
            if paddle.in_dynamic_mode():
                # into the layer's weights, where the division costs no map of all offsets
                offsets = F.linear(query, layer.weight * unit, layer.bias * unit)
            else:  # not in an exported graph: Paddle Inference (3.3.1) would scale the stored weights in every run anew
                offsets = layer(query) * unit
        else:
            offsets = layer(query)
        offsets = offsets.reshape([n, queries, *shape])
        reference = reference_points.astype(offsets.dtype).reshape([n, queries, 1, self.levels, 1, -1])
        if reference_points.shape[-1] == 2:
            return reference + offsets
        return reference[..., :2] + offsets * (reference[..., 2:] * (0.5 / self.points))
