"""Which query answers for which box: the cheapest assignment of one to each (fact sheet section 5)."""

import numpy as np
import paddle
from scipy.optimize import linear_sum_assignment

from models.boxes import cxcywh_to_xyxy, generalized_iou

ALPHA, GAMMA = 0.25, 2.0
EPSILON = 1e-8


def matching_cost(logits, boxes, labels, target_boxes, weights):
    """The cost [Q, n] of giving each query each target of one picture.

    logits float [Q, classes], boxes float [Q, 4] as centre and size; labels int64 [n], target_boxes float [n, 4];
    weights: of the class, L1 and GIoU costs. ValueError for boxes that are no numbers.
    """
    probability = paddle.index_select(logits, labels, axis=1).sigmoid()
    negative = (1 - ALPHA) * probability**GAMMA * -(1 - probability + EPSILON).log()
    positive = ALPHA * (1 - probability) ** GAMMA * -(probability + EPSILON).log()
    distance = (boxes.unsqueeze(1) - target_boxes.unsqueeze(0)).abs().sum(-1)
    corners, target_corners = cxcywh_to_xyxy(boxes), cxcywh_to_xyxy(target_boxes)
    overlap = generalized_iou(corners.unsqueeze(1), target_corners.unsqueeze(0))
    by_class, by_distance, by_overlap = weights
    return by_distance * distance + by_class * (positive - negative) - by_overlap * overlap


class HungarianMatcher:
    """matcher(pred_logits [N, Q, classes], pred_boxes [N, Q, 4], targets) -> [(queries, targets)], int64 arrays.

    For each picture as many pairs as it has boxes (or queries, where those are fewer), in the order of the queries.
    """

    def __init__(self, weights: tuple[float, float, float]):
        self.weights = weights

    @paddle.no_grad()
    def __call__(self, logits, boxes, targets: list[dict]) -> list[tuple[np.ndarray, np.ndarray]]:
        pairs = []
        for index, target in enumerate(targets):
            if len(target["labels"]) == 0:
                pairs.append((np.zeros(0, np.int64), np.zeros(0, np.int64)))
                continue
            target_boxes = target["boxes"].astype(boxes.dtype)
            cost = matching_cost(logits[index], boxes[index], target["labels"], target_boxes, self.weights)
            queries, chosen = linear_sum_assignment(cost.numpy())
            pairs.append((queries.astype(np.int64), chosen.astype(np.int64)))
        return pairs
