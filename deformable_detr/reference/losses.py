"""Matching, losses and post-processing in torch, from the fact sheet (sections 5 and 7)."""

import argparse
from collections.abc import Mapping, Sequence

import torch
from scipy.optimize import linear_sum_assignment
from torch import nn

from .boxes import corners, generalised_iou

DETECTIONS = 100
GAMMA = 2
MATCHER_ALPHA = 0.25


def focal_loss(logits: torch.Tensor, targets: torch.Tensor, alpha: float) -> torch.Tensor:
    """Sum over all elements of the sigmoid focal loss; targets are 0 or 1."""
    entropy = nn.functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    p = logits.sigmoid()
    missing = p * (1 - targets) + (1 - p) * targets  # what p lacks of the truth
    weight = alpha * targets + (1 - alpha) * (1 - targets)
    return (weight * missing**GAMMA * entropy).sum()


class Matcher:
    """Which query answers for which target: the assignment of least cost (no gradient)."""

    def __init__(self, options: argparse.Namespace):
        self.weights = (options.set_cost_bbox, options.set_cost_class, options.set_cost_giou)

    @torch.no_grad()
    def cost(self, logits: torch.Tensor, boxes: torch.Tensor, target: Mapping) -> torch.Tensor:
        """One picture's costs [Q, n]: logits [Q, classes], boxes [Q, 4]."""
        labels, wanted = target["labels"], target["boxes"].to(boxes.dtype)
        p = logits.sigmoid()[:, labels]
        present = MATCHER_ALPHA * (1 - p) ** GAMMA * -(p + 1e-8).log()
        absent = (1 - MATCHER_ALPHA) * p**GAMMA * -(1 - p + 1e-8).log()
        distance = (boxes[:, None] - wanted).abs().sum(-1)
        overlap = generalised_iou(corners(boxes)[:, None], corners(wanted))
        by_box, by_class, by_overlap = self.weights
        return by_box * distance + by_class * (present - absent) - by_overlap * overlap

    def __call__(self, outputs: Mapping, targets: Sequence[Mapping]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """For every picture: indices of queries, ascending, and of their targets, int64."""
        pairs = zip(outputs["pred_logits"], outputs["pred_boxes"], targets, strict=True)
        solved = [linear_sum_assignment(self.cost(*one).cpu().numpy()) for one in pairs]
        return [tuple(torch.as_tensor(index, dtype=torch.int64) for index in match) for match in solved]


class ReferenceCriterion(nn.Module):
    """outputs of the network and a list of {labels int64 [n], boxes [n, 4]} -> the terms, and their sum `loss`.

    Terms: loss_ce, loss_bbox, loss_giou and, for logs, class_error (last layer only) and cardinality_error; of earlier
    layers with `_0`, `_1`...; of the encoder's proposals with `_enc`. `loss` is the weighted sum.
    """

    def __init__(self, options: argparse.Namespace):
        super().__init__()
        self.matcher, self.alpha = Matcher(options), options.focal_alpha
        self.weights = {
            "loss_ce": options.cls_loss_coef,
            "loss_bbox": options.bbox_loss_coef,
            "loss_giou": options.giou_loss_coef,
        }
        self.aux_loss = options.aux_loss

    def layers(self, outputs: Mapping, targets: Sequence[Mapping]) -> list[tuple[str, Mapping, Sequence[Mapping]]]:
        """(suffix, outputs, targets) of everything that is matched."""
        found = [("", outputs, targets)]
        found += [(f"_{index}", aux, targets) for index, aux in enumerate(outputs.get("aux_outputs", ()))]
        if "enc_outputs" in outputs:
            objects = [one | {"labels": torch.zeros_like(one["labels"])} for one in targets]
            found.append(("_enc", outputs["enc_outputs"], objects))
        return found

    def forward(self, outputs: Mapping, targets: Sequence[Mapping], elsewhere: Sequence[int] = ()) -> dict:
        """`elsewhere`: how many targets each of the other processes holds."""
        count = (sum(len(one["labels"]) for one in targets) + sum(elsewhere)) / (1 + len(elsewhere))
        terms = {}
        for suffix, answers, wanted in self.layers(outputs, targets):
            found = self._terms(answers, wanted, max(count, 1))
            if suffix:
                del found["class_error"]
            terms |= {f"{name}{suffix}": value for name, value in found.items()}
        weighted = {suffix for suffix, *_ in self.layers(outputs, targets)} if self.aux_loss else {""}
        terms["loss"] = sum(
            weight * terms[f"{name}{suffix}"] for suffix in sorted(weighted) for name, weight in self.weights.items()
        )
        return terms

    def _terms(self, outputs: Mapping, targets: Sequence[Mapping], count: float) -> dict:
        logits, boxes = outputs["pred_logits"], outputs["pred_boxes"]
        matches = self.matcher(outputs, targets)
        image = torch.cat([torch.full_like(query, index) for index, (query, _) in enumerate(matches)])
        query = torch.cat([query for query, _ in matches])
        pairs = list(zip(targets, matches, strict=True))
        labels = torch.cat([one["labels"][chosen] for one, (_, chosen) in pairs])
        wanted = torch.cat([one["boxes"][chosen] for one, (_, chosen) in pairs]).to(boxes.dtype)
        truth = torch.zeros_like(logits)
        truth[image, query, labels] = 1
        seen = boxes[image, query]
        overlap = generalised_iou(corners(seen), corners(wanted))
        right = (logits[image, query].argmax(-1) == labels).sum()
        objects = (logits.argmax(-1) != logits.shape[-1] - 1).sum(1)
        held = torch.tensor([len(one["labels"]) for one in targets])
        return {
            "loss_ce": focal_loss(logits, truth, self.alpha) / count,
            "loss_bbox": (seen - wanted).abs().sum() / count,
            "loss_giou": (1 - overlap).sum() / count,
            "class_error": 100 - 100 * right.float() / max(len(labels), 1),
            "cardinality_error": (objects - held).abs().float().mean(),
        }


def build_criterion(options: argparse.Namespace) -> ReferenceCriterion:
    """The losses for these options."""
    return ReferenceCriterion(options)


def post_process(outputs: Mapping, sizes: torch.Tensor) -> list[dict]:
    """The 100 best pairs of query and class of every picture; sizes int64 [N, 2], (height, width) in pixels.

    A list of {scores [100], descending, labels int64 [100], boxes [100, 4], corners in pixels}.
    """
    logits = outputs["pred_logits"]
    scores, places = logits.sigmoid().flatten(1).topk(DETECTIONS, dim=1)
    query, labels = places // logits.shape[2], places % logits.shape[2]
    boxes = corners(outputs["pred_boxes"]).gather(1, query[..., None].expand(-1, -1, 4))
    boxes = boxes * sizes.flip(-1).repeat(1, 2)[:, None]
    return [
        {"scores": one, "labels": label, "boxes": box} for one, label, box in zip(scores, labels, boxes, strict=True)
    ]
