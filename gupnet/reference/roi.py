"""RoIAlign and coordinate maps in torch, from NOTES 4.12 and 4.14."""

import torch

SIZE = 7


def _axis(low: torch.Tensor, high: torch.Tensor, cells: int) -> torch.Tensor:
    """Ends of M boxes along one axis -> [M, SIZE, cells]: the weight of each cell in each bin's average.

    A bin has ceil(bin size) samples; samples beyond [-1, cells] are zero, those before 0 are clamped to 0, and likewise
    at the other end.
    """
    extent = (high - low).clamp(min=1)
    samples = (extent / SIZE).ceil()
    most = int(samples.max())
    number = torch.arange(most, dtype=low.dtype)
    inside_bin = (number + 0.5) * (extent / SIZE / samples)[:, None]  # [M, most]
    starts = low[:, None] + torch.arange(SIZE, dtype=low.dtype) * (extent / SIZE)[:, None]
    at = starts[:, :, None] + inside_bin[:, None]
    within = (number < samples[:, None])[:, None] & (at >= -1) & (at <= cells)
    at = at.clamp(0, cells - 1)
    below = at.floor().clamp(max=max(cells - 2, 0))
    part = at - below
    weight = within / samples[:, None, None]
    weights = low.new_zeros(len(low), SIZE, max(cells, 2))
    weights.scatter_add_(2, below.long(), (1 - part) * weight)
    weights.scatter_add_(2, below.long() + 1, part * weight)
    return weights[..., :cells]


def roi_align(features: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
    """features [B, C, h, w], boxes [M, 5] (image, x1, y1, x2, y2 in cells), in any order -> [M, C, SIZE, SIZE].

    The mean of bilinear samples is a product of two means, one per axis. Boxes get no gradient.
    """
    boxes = boxes.detach()
    x1, y1, x2, y2 = boxes[:, 1:].unbind(1)
    across, down = _axis(x1, x2, features.shape[3]), _axis(y1, y2, features.shape[2])
    pooled = features.new_zeros(len(boxes), features.shape[1], SIZE, SIZE)
    for image, feature in enumerate(features):
        (rows,) = torch.where(boxes[:, 0] == image)
        if len(rows):
            columns = torch.einsum("chw,mqw->mchq", feature, across[rows])
            pooled = pooled.index_put((rows,), torch.einsum("mchq,mph->mcpq", columns, down[rows]))
    return pooled


def to_image(boxes: torch.Tensor, ranges: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Boxes [M, 4] in cells of a height x width map -> pixels of the original image, over ranges [M, 2, 2]."""
    start, end = ranges[:, 0].repeat(1, 2), ranges[:, 1].repeat(1, 2)
    return boxes / boxes.new_tensor([width, height, width, height]) * (end - start) + start


def coordinate_maps(boxes: torch.Tensor, calibs: torch.Tensor) -> torch.Tensor:
    """Boxes [M, 4] in pixels, calibs [M, 3, 4] -> X and Y on the plane at depth 1, [M, 2, SIZE, SIZE]."""
    focal = torch.stack([calibs[:, 0, 0], calibs[:, 1, 1]], 1).repeat(1, 2)
    centre, shift = calibs[:, :2, 2].repeat(1, 2), calibs[:, :2, 3].repeat(1, 2)
    x1, y1, x2, y2 = ((boxes - centre) / focal - shift / focal)[..., None].unbind(1)
    steps = torch.arange(SIZE, dtype=boxes.dtype)
    xs = (x1 + steps * (x2 - x1) / (SIZE - 1))[:, None, :].expand(-1, SIZE, -1)
    ys = (y1 + steps * (y2 - y1) / (SIZE - 1))[:, :, None].expand(-1, -1, SIZE)
    return torch.stack([xs, ys], 1)
