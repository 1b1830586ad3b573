"""Multi-scale deformable attention as a module of torch (NOTES 3.12 and 3.13)."""

import math

import torch
from torch import nn

from .operator import ms_deform_attn_torch


class MSDeformAttn(nn.Module):
    """Every query samples a few points of every level; offsets and weights are linear in the query."""

    def __init__(self, channels: int, levels: int, heads: int, points: int):
        super().__init__()
        self.heads, self.levels, self.points = heads, levels, points
        self.sampling_offsets = nn.Linear(channels, heads * levels * points * 2)
        self.attention_weights = nn.Linear(channels, heads * levels * points)
        self.value_proj = nn.Linear(channels, channels)
        self.output_proj = nn.Linear(channels, channels)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Start values (NOTES 3.25, 3.26): uniform weights, and offsets along one direction a head."""
        for layer in (self.sampling_offsets, self.attention_weights):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        self.sampling_offsets.bias.copy_(initial_offsets(self.heads, self.levels, self.points).flatten())
        for layer in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(
        self,
        query: torch.Tensor,
        reference: torch.Tensor,
        tokens: torch.Tensor,
        spatial_shapes: torch.Tensor,
        padding: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """query [N, Q, C], reference [N, Q, L, 2 or 4] (x, y or cx, cy, w, h), tokens [N, S, C], spatial_shapes int64
        [L, 2] (h, w), padding bool [N, S] -> [N, Q, C]."""
        value = self.value_proj(tokens)
        if padding is not None:
            value = value.masked_fill(padding[..., None], 0)
        value = value.unflatten(-1, (self.heads, -1))
        shape = (self.heads, self.levels, self.points)
        offsets = self.sampling_offsets(query).unflatten(-1, (*shape, 2))
        weights = self.attention_weights(query).unflatten(-1, (self.heads, -1)).softmax(-1).unflatten(-1, shape[1:])
        reference = reference[:, :, None, :, None]  # for all heads and points
        if reference.shape[-1] == 2:
            locations = reference + offsets / spatial_shapes.flip(-1)[:, None]
        else:
            locations = reference[..., :2] + offsets / self.points * reference[..., 2:] * 0.5
        return self.output_proj(ms_deform_attn_torch(value, spatial_shapes, locations, weights))


def initial_offsets(heads: int, levels: int, points: int) -> torch.Tensor:
    """[heads, levels, points, 2]: head m has the angle 2*pi*m/heads, its k-th point lies on a square of radius k + 1
    (NOTES 3.26)."""
    angle = torch.arange(heads, dtype=torch.float32) * (2 * math.pi / heads)
    direction = torch.stack([angle.cos(), angle.sin()], -1)
    direction = direction / direction.abs().amax(-1, keepdim=True)
    distance = torch.arange(1, points + 1, dtype=torch.float32)
    return (direction[:, None, None] * distance[:, None]).expand(-1, levels, -1, -1).clone()
