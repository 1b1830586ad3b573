"""Box arithmetic, as the reference's util/box_ops.py (NOTES 5.2). Any leading axes, any float dtype."""

import paddle


def box_cxcywh_to_xyxy(boxes):
    """[..., 4] of centre, width and height -> corners."""
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    return paddle.concat([centre - half, centre + half], -1)


def box_area(boxes):
    """[..., 4] of corners -> [...]."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def box_iou(a, b):
    """(IoU, union) of corner boxes [..., 4] that are broadcast against each other."""
    low, high = paddle.maximum(a[..., :2], b[..., :2]), paddle.minimum(a[..., 2:], b[..., 2:])
    intersection = paddle.clip(high - low, min=0).prod(-1)
    union = box_area(a) + box_area(b) - intersection
    return intersection / union, union


def generalized_box_iou(a, b):
    """Generalised IoU of corner boxes [..., 4] that are broadcast against each other: IoU - (C - U) / C.

    No epsilon: two boxes without area give NaN. ValueError for corners in the wrong order and for NaN.
    """
    for boxes in (a, b):
        if not bool((boxes[..., 2:] >= boxes[..., :2]).all()):
            raise ValueError("boxes whose second corner is not below and right of the first, or that hold NaN")
    iou, union = box_iou(a, b)
    low, high = paddle.minimum(a[..., :2], b[..., :2]), paddle.maximum(a[..., 2:], b[..., 2:])
    enclosing = paddle.clip(high - low, min=0).prod(-1)
    return iou - (enclosing - union) / enclosing
