"""Assignment of targets to queries of least total cost (NOTES 5.1)."""

import numpy as np
import paddle
from scipy.optimize import linear_sum_assignment

from models.box_ops import box_cxcywh_to_xyxy, generalized_box_iou

ALPHA, GAMMA = 0.25, 2.0
EPSILON = 1e-8


def matching_cost(logits, boxes, labels, target_boxes, weights):
    """The cost [Q, n] of each pair of query and target of one image.

    logits float [Q, classes], boxes float [Q, 4] as centre and size; labels int64 [n], target_boxes float [n, 4];
    weights: of the class, L1 and GIoU costs. ValueError for boxes that hold NaN.
    """
    probability = paddle.index_select(logits, labels, axis=1).sigmoid()
    negative = (1 - ALPHA) * probability**GAMMA * -(1 - probability + EPSILON).log()
    positive = ALPHA * (1 - probability) ** GAMMA * -(probability + EPSILON).log()
    distance = (boxes.unsqueeze(1) - target_boxes.unsqueeze(0)).abs().sum(-1)
    corners, target_corners = box_cxcywh_to_xyxy(boxes), box_cxcywh_to_xyxy(target_boxes)
    giou = generalized_box_iou(corners.unsqueeze(1), target_corners.unsqueeze(0))
    class_weight, bbox_weight, giou_weight = weights
    return bbox_weight * distance + class_weight * (positive - negative) - giou_weight * giou


class HungarianMatcher:
    """matcher(outputs, targets) -> [(query index, target index)] of each image, int64 arrays, by ascending query.

    outputs: `pred_logits` [N, Q, classes] and `pred_boxes` [N, Q, 4]. As many pairs as the image has targets (or
    queries, where those are fewer).
    """

    def __init__(self, weights: tuple[float, float, float]):
        self.weights = weights

    @paddle.no_grad()
    def __call__(self, outputs: dict, targets: list[dict]) -> list[tuple[np.ndarray, np.ndarray]]:
        logits, boxes = outputs["pred_logits"], outputs["pred_boxes"]
        pairs = []
        for index, target in enumerate(targets):
            if len(target["labels"]) == 0:
                pairs.append((np.zeros(0, np.int64), np.zeros(0, np.int64)))
                continue
            target_boxes = target["boxes"].astype(boxes.dtype)
            cost = matching_cost(logits[index], boxes[index], target["labels"], target_boxes, self.weights)
            pairs.append(tuple(part.astype(np.int64) for part in linear_sum_assignment(cost.numpy())))
        return pairs
