"""Box arithmetic in torch (NOTES 5.2)."""

import torch


def box_cxcywh_to_xyxy(boxes: torch.Tensor) -> torch.Tensor:
    """(cx, cy, w, h) -> (x0, y0, x1, y1), [..., 4]."""
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat([centre - half, centre + half], -1)


def box_area(boxes: torch.Tensor) -> torch.Tensor:
    return (boxes[..., 2:] - boxes[..., :2]).prod(-1)


def box_iou(a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """IoU and union of corner boxes [..., 4] that broadcast against each other."""
    sides = torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])
    intersection = sides.clamp(min=0).prod(-1)
    union = box_area(a) + box_area(b) - intersection
    return intersection / union, union


def generalized_box_iou(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """IoU - (C - U) / C with the enclosing box C; corner boxes [..., 4] that broadcast against each other.

    AssertionError for corners in the wrong order and for NaN. Two boxes without area give NaN.
    """
    for boxes in (a, b):
        if not bool((boxes[..., 2:] >= boxes[..., :2]).all()):
            raise AssertionError("corners in the wrong order, or NaN")
    iou, union = box_iou(a, b)
    enclosing = (torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])).clamp(min=0).prod(-1)
    return iou - (enclosing - union) / enclosing
