"""Box arithmetic in torch: corners, areas, generalised IoU (fact sheet 5)."""

import torch


def corners(boxes: torch.Tensor) -> torch.Tensor:
    """(cx, cy, w, h) -> (x0, y0, x1, y1), [..., 4]."""
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat([centre - half, centre + half], -1)


def middles(boxes: torch.Tensor) -> torch.Tensor:
    """(x0, y0, x1, y1) -> (cx, cy, w, h), [..., 4]."""
    first, last = boxes[..., :2], boxes[..., 2:]
    return torch.cat([(first + last) / 2, last - first], -1)


def _area(boxes: torch.Tensor) -> torch.Tensor:
    return (boxes[..., 2:] - boxes[..., :2]).prod(-1)


def overlap(a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """IoU and union of corner boxes [..., 4] that broadcast against each other."""
    sides = torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])
    shared = sides.clamp(min=0).prod(-1)
    union = _area(a) + _area(b) - shared
    return shared / union, union


def generalised_iou(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """IoU less the share of the enclosing box that neither covers; corner boxes [..., 4] that broadcast.

    AssertionError where a box ends before it begins, or holds a NaN. Two boxes without area give NaN.
    """
    for boxes in (a, b):
        if not bool((boxes[..., 2:] >= boxes[..., :2]).all()):
            raise AssertionError("boxes that end before they begin, or NaN")
    iou, union = overlap(a, b)
    enclosing = (torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])).clamp(min=0).prod(-1)
    return iou - (enclosing - union) / enclosing
