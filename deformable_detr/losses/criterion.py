"""The set losses of all decoder layers and their weighted sum (NOTES 5)."""

import argparse

import numpy as np
import paddle
import paddle.distributed as dist
from paddle.nn import functional as F

from shared import InputError

from .matcher import HungarianMatcher
from models.box_ops import box_cxcywh_to_xyxy, generalized_box_iou

GAMMA = 2.0


class NotFinite(ArithmeticError):
    """A tensor holds NaN or Inf; `name` says which."""

    def __init__(self, name: str):
        super().__init__(f"{name} holds NaN or Inf")
        self.name = name


class SetCriterion:
    """criterion(outputs, targets) -> dict of every term, unweighted, and their weighted sum under `loss`.

    outputs: the network's. targets: for each image a dict with `labels` int64 [n], below num_classes, and `boxes`
    float [n, 4] as centre, width and height in 0 to 1; n may be 0.

    Terms: `loss_ce`, `loss_bbox`, `loss_giou`; for the log alone `class_error` and `cardinality_error`; the same but
    class_error with the suffix `_0`, `_1`, ... of the earlier layers, and `_enc` of the proposals. The losses are
    divided by the number of boxes, which is the mean over all processes and at least 1.

    NotFinite for outputs that hold NaN or Inf, InputError for a label or box that no image can have.
    """

    def __init__(self, options: argparse.Namespace):
        self.num_classes, self.alpha = options.num_classes, options.focal_alpha
        self.matcher = HungarianMatcher((options.set_cost_class, options.set_cost_bbox, options.set_cost_giou))
        self.weights = {
            "loss_ce": options.cls_loss_coef,
            "loss_bbox": options.bbox_loss_coef,
            "loss_giou": options.giou_loss_coef,
        }
        self.aux_loss = options.aux_loss

    def weight_of(self, term: str) -> float:
        """The weight of a term in the sum; 0 for one that is only logged."""
        for name, weight in self.weights.items():
            if term == name or (self.aux_loss and term.startswith(f"{name}_")):
                return weight
        return 0.0

    def __call__(self, outputs: dict, targets: list[dict]) -> dict:
        self._check_targets(targets)
        _check_outputs(outputs)
        num_boxes = self.num_boxes(targets)
        terms = self._layer(outputs, targets, num_boxes, "")
        for index, layer in enumerate(outputs.get("aux_outputs", [])):
            terms |= self._layer(layer, targets, num_boxes, f"_{index}")
        if "enc_outputs" in outputs:
            objects = [target | {"labels": paddle.zeros_like(target["labels"])} for target in targets]
            terms |= self._layer(outputs["enc_outputs"], objects, num_boxes, "_enc")
        weighted = [(self.weight_of(name), value) for name, value in terms.items()]
        terms["loss"] = sum(weight * value for weight, value in weighted if weight)
        return terms

    def num_boxes(self, targets: list[dict]) -> float:
        """Boxes of all images, the mean over the processes, at least 1."""
        count = float(sum(len(target["labels"]) for target in targets))
        if dist.get_world_size() > 1:
            total = paddle.to_tensor([count], "float64")
            dist.all_reduce(total)
            count = total.item() / dist.get_world_size()
        return max(count, 1.0)

    def _check_targets(self, targets: list[dict]) -> None:
        for target in targets:
            labels, boxes = target["labels"].numpy(), target["boxes"].numpy()
            if labels.size and not 0 <= labels.min() <= labels.max() < self.num_classes:
                wrong = labels[(labels < 0) | (labels >= self.num_classes)][0]
                raise InputError(
                    f"a target has the label {wrong}, the network knows 0 to {self.num_classes - 1}; set --num_classes "
                    "to the largest category id + 1"
                )
            if not np.isfinite(boxes).all() or (boxes[:, 2:] < 0).any():
                raise InputError("a target's box has a negative size, NaN or Inf; correct the annotations")

    def _layer(self, outputs: dict, targets: list[dict], num_boxes: float, suffix: str) -> dict:
        """The terms of one layer's `pred_logits` [N, Q, classes] and `pred_boxes` [N, Q, 4]."""
        logits, boxes = outputs["pred_logits"], outputs["pred_boxes"]
        pairs = self.matcher(outputs, targets)
        n, queries, classes = logits.shape
        # indices of the matched queries in [N * Q], and of their targets in all targets one after the other
        starts = np.cumsum([0, *(len(target["labels"]) for target in targets)])
        matched = np.concatenate([image * queries + query for image, (query, _) in enumerate(pairs)])
        chosen = np.concatenate([starts[image] + index for image, (_, index) in enumerate(pairs)])
        labels = np.concatenate([target["labels"].numpy() for target in targets])[chosen]
        terms = {f"loss_ce{suffix}": self._class_loss(logits, matched, labels, num_boxes)}
        if suffix == "":
            terms["class_error"] = _class_error(logits, matched, labels)
        lengths = paddle.to_tensor(np.diff(starts).astype(np.float32))
        objects = (logits.argmax(-1) != classes - 1).astype("float32").sum(1)
        terms[f"cardinality_error{suffix}"] = (objects - lengths).abs().mean()
        # index_select with an empty index gives losses of 0 and gradients of zeros (NOTES 8.6)
        matched_boxes = paddle.index_select(boxes.reshape([n * queries, 4]), paddle.to_tensor(matched), axis=0)
        target_boxes = paddle.concat([target["boxes"].astype(boxes.dtype) for target in targets])
        target_boxes = paddle.index_select(target_boxes, paddle.to_tensor(chosen), axis=0)
        terms[f"loss_bbox{suffix}"] = (matched_boxes - target_boxes).abs().sum() / num_boxes
        giou = generalized_box_iou(box_cxcywh_to_xyxy(matched_boxes), box_cxcywh_to_xyxy(target_boxes))
        terms[f"loss_giou{suffix}"] = (1 - giou).sum() / num_boxes
        return terms

    def _class_loss(self, logits, matched: np.ndarray, labels: np.ndarray, num_boxes: float):
        one_hot = np.zeros([logits.shape[0] * logits.shape[1], logits.shape[2]], np.float32)
        one_hot[matched, labels] = 1
        one_hot = paddle.to_tensor(one_hot).astype(logits.dtype).reshape(logits.shape)
        return F.sigmoid_focal_loss(logits, one_hot, alpha=self.alpha, gamma=GAMMA, reduction="sum") / num_boxes


def _check_outputs(outputs: dict) -> None:
    """NotFinite for the first output that holds NaN or Inf, in the order in which the network computes them."""
    layers = {f"_{index}": layer for index, layer in enumerate(outputs.get("aux_outputs", []))} | {"": outputs}
    if "enc_outputs" in outputs:
        layers = {"_enc": outputs["enc_outputs"]} | layers
    for suffix, layer in layers.items():
        for name in ("pred_logits", "pred_boxes"):
            if not bool(paddle.isfinite(layer[name]).all()):
                raise NotFinite(name + suffix)


@paddle.no_grad()
def _class_error(logits, matched: np.ndarray, labels: np.ndarray):
    """Percent of the matched queries whose largest logit is another class's, float32; 100 where there are none."""
    if len(matched) == 0:
        return paddle.to_tensor(100.0, "float32")
    best = paddle.index_select(logits.flatten(0, 1), paddle.to_tensor(matched), axis=0).argmax(-1).numpy()
    return paddle.to_tensor(100 - 100 * np.float32((best == labels).mean()), "float32")
