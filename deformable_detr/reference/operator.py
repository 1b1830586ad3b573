"""The sampling operator of multi-scale deformable attention on torch's own `grid_sample` (NOTES 4.1, 4.3)."""

import torch
from torch import nn


def ms_deform_attn_torch(
    value: torch.Tensor,
    spatial_shapes: torch.Tensor,
    sampling_locations: torch.Tensor,
    attention_weights: torch.Tensor,
) -> torch.Tensor:
    """Weighted sum of bilinear samples of every level.

    value [N, S, M, D]: tokens of all levels, level after level, row-major in each; spatial_shapes int64 [L, 2], rows
    (h, w) with sum h*w = S; sampling_locations [N, Q, M, L, P, 2], (x, y), 0 to 1 over a level, outside of which is
    zero; attention_weights [N, Q, M, L, P]. Returns [N, Q, M*D], head after head. All floats of one dtype.
    """
    sizes = [(int(h), int(w)) for h, w in spatial_shapes]
    levels = value.split([h * w for h, w in sizes], dim=1)
    total = None
    for index, (tokens, (h, w)) in enumerate(zip(levels, sizes, strict=True)):
        # the heads become part of the batch
        maps = tokens.permute(0, 2, 3, 1).flatten(0, 1).unflatten(-1, (h, w))  # [N*M, D, h, w]
        points = sampling_locations[:, :, :, index].transpose(1, 2).flatten(0, 1)  # [N*M, Q, P, 2]
        weights = attention_weights[:, :, :, index].transpose(1, 2).flatten(0, 1)  # [N*M, Q, P]
        samples = nn.functional.grid_sample(maps, points * 2 - 1, align_corners=False)  # [N*M, D, Q, P]
        output = torch.einsum("bdqp,bqp->bqd", samples, weights)
        total = output if total is None else total + output
    batch, _, heads, _ = value.shape
    return total.unflatten(0, (batch, heads)).transpose(1, 2).flatten(2)
