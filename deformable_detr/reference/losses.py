"""Matching, losses and post-processing in torch (NOTES 5 and 7.1)."""

import argparse
from collections.abc import Mapping, Sequence

import torch
from scipy.optimize import linear_sum_assignment
from torch import nn

from .box_ops import box_cxcywh_to_xyxy, generalized_box_iou

DETECTIONS = 100
GAMMA = 2
MATCHER_ALPHA = 0.25


def focal_loss(logits: torch.Tensor, targets: torch.Tensor, alpha: float) -> torch.Tensor:
    """Sum over all elements of the sigmoid focal loss; targets are 0 or 1."""
    entropy = nn.functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    p = logits.sigmoid()
    error = p * (1 - targets) + (1 - p) * targets  # 1 - p_t
    weight = alpha * targets + (1 - alpha) * (1 - targets)
    return (weight * error**GAMMA * entropy).sum()


class HungarianMatcher:
    """The assignment of targets to queries of least total cost (no gradient)."""

    def __init__(self, options: argparse.Namespace):
        self.weights = (options.set_cost_bbox, options.set_cost_class, options.set_cost_giou)

    @torch.no_grad()
    def cost(self, logits: torch.Tensor, boxes: torch.Tensor, target: Mapping) -> torch.Tensor:
        """One image's costs [Q, n]: logits [Q, classes], boxes [Q, 4]."""
        labels, target_boxes = target["labels"], target["boxes"].to(boxes.dtype)
        p = logits.sigmoid()[:, labels]
        positive = MATCHER_ALPHA * (1 - p) ** GAMMA * -(p + 1e-8).log()
        negative = (1 - MATCHER_ALPHA) * p**GAMMA * -(1 - p + 1e-8).log()
        distance = (boxes[:, None] - target_boxes).abs().sum(-1)
        giou = generalized_box_iou(box_cxcywh_to_xyxy(boxes)[:, None], box_cxcywh_to_xyxy(target_boxes))
        bbox_weight, class_weight, giou_weight = self.weights
        return bbox_weight * distance + class_weight * (positive - negative) - giou_weight * giou

    def __call__(self, outputs: Mapping, targets: Sequence[Mapping]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Of every image the indices of queries, ascending, and of their targets, int64."""
        pairs = zip(outputs["pred_logits"], outputs["pred_boxes"], targets, strict=True)
        solved = [linear_sum_assignment(self.cost(*pair).cpu().numpy()) for pair in pairs]
        return [tuple(torch.as_tensor(index, dtype=torch.int64) for index in match) for match in solved]


class SetCriterion(nn.Module):
    """The network's outputs and a list of {labels int64 [n], boxes [n, 4]} -> the terms, and their weighted sum `loss`.

    Terms: loss_ce, loss_bbox, loss_giou and, for logs, class_error (last layer only) and cardinality_error; of earlier
    layers with `_0`, `_1`...; of the encoder's proposals with `_enc`.
    """

    def __init__(self, options: argparse.Namespace):
        super().__init__()
        self.matcher, self.alpha = HungarianMatcher(options), options.focal_alpha
        self.weights = {
            "loss_ce": options.cls_loss_coef,
            "loss_bbox": options.bbox_loss_coef,
            "loss_giou": options.giou_loss_coef,
        }
        self.aux_loss = options.aux_loss

    def layers(self, outputs: Mapping, targets: Sequence[Mapping]) -> list[tuple[str, Mapping, Sequence[Mapping]]]:
        """(suffix, outputs, targets) of every layer that is matched."""
        layers = [("", outputs, targets)]
        layers += [(f"_{index}", aux, targets) for index, aux in enumerate(outputs.get("aux_outputs", ()))]
        if "enc_outputs" in outputs:
            objects = [target | {"labels": torch.zeros_like(target["labels"])} for target in targets]
            layers.append(("_enc", outputs["enc_outputs"], objects))
        return layers

    def forward(self, outputs: Mapping, targets: Sequence[Mapping], elsewhere: Sequence[int] = ()) -> dict:
        """`elsewhere`: number of targets in each of the other processes."""
        num_boxes = (sum(len(target["labels"]) for target in targets) + sum(elsewhere)) / (1 + len(elsewhere))
        terms = {}
        for suffix, layer, layer_targets in self.layers(outputs, targets):
            layer_terms = self._terms(layer, layer_targets, max(num_boxes, 1))
            if suffix:
                del layer_terms["class_error"]
            terms |= {f"{name}{suffix}": value for name, value in layer_terms.items()}
        weighted = {suffix for suffix, *_ in self.layers(outputs, targets)} if self.aux_loss else {""}
        terms["loss"] = sum(
            weight * terms[f"{name}{suffix}"] for suffix in sorted(weighted) for name, weight in self.weights.items()
        )
        return terms

    def _terms(self, outputs: Mapping, targets: Sequence[Mapping], num_boxes: float) -> dict:
        logits, boxes = outputs["pred_logits"], outputs["pred_boxes"]
        matches = self.matcher(outputs, targets)
        image = torch.cat([torch.full_like(query, index) for index, (query, _) in enumerate(matches)])
        query = torch.cat([query for query, _ in matches])
        pairs = list(zip(targets, matches, strict=True))
        labels = torch.cat([target["labels"][index] for target, (_, index) in pairs])
        target_boxes = torch.cat([target["boxes"][index] for target, (_, index) in pairs]).to(boxes.dtype)
        one_hot = torch.zeros_like(logits)
        one_hot[image, query, labels] = 1
        matched_boxes = boxes[image, query]
        giou = generalized_box_iou(box_cxcywh_to_xyxy(matched_boxes), box_cxcywh_to_xyxy(target_boxes))
        right = (logits[image, query].argmax(-1) == labels).sum()
        objects = (logits.argmax(-1) != logits.shape[-1] - 1).sum(1)
        lengths = torch.tensor([len(target["labels"]) for target in targets])
        return {
            "loss_ce": focal_loss(logits, one_hot, self.alpha) / num_boxes,
            "loss_bbox": (matched_boxes - target_boxes).abs().sum() / num_boxes,
            "loss_giou": (1 - giou).sum() / num_boxes,
            "class_error": 100 - 100 * right.float() / max(len(labels), 1),
            "cardinality_error": (objects - lengths).abs().float().mean(),
        }


def build_criterion(options: argparse.Namespace) -> SetCriterion:
    """The losses for these options."""
    return SetCriterion(options)


def post_process(outputs: Mapping, sizes: torch.Tensor) -> list[dict]:
    """The 100 best pairs of query and class of every image (NOTES 7.1); sizes int64 [N, 2], (height, width) in pixels.

    A list of {scores [100], descending, labels int64 [100], boxes [100, 4], corners in pixels}.
    """
    logits = outputs["pred_logits"]
    scores, indices = logits.sigmoid().flatten(1).topk(DETECTIONS, dim=1)
    query, labels = indices // logits.shape[2], indices % logits.shape[2]
    boxes = box_cxcywh_to_xyxy(outputs["pred_boxes"]).gather(1, query[..., None].expand(-1, -1, 4))
    boxes = boxes * sizes.flip(-1).repeat(1, 2)[:, None]
    return [
        {"scores": score, "labels": label, "boxes": box}
        for score, label, box in zip(scores, labels, boxes, strict=True)
    ]
