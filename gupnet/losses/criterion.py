"""The seven terms of the loss (fact sheet 5)."""

from typing import NamedTuple

import paddle

from . import regions
from .focal import focal_sums
from models import probabilities
from models.regions import at_cells, labelled_objects

TERMS = (
    "seg_loss",
    "offset2d_loss",
    "size2d_loss",
    "depth_loss",
    "offset3d_loss",
    "size3d_loss",
    "heading_loss",
)
#: targets that each object has as floating-point numbers
_OF_SLOTS = ("offset_2d", "size_2d", "depth", "offset_3d", "size_3d", "heading_res")


class Counts(NamedTuple):
    """What the terms are divided by, scalar tensors: cells of the heatmap that are exactly 1, and objects."""

    positives: paddle.Tensor
    objects: paddle.Tensor


class Criterion:
    """Losses of the network's outputs against the targets of the data set."""

    def counts(self, targets: dict) -> Counts:
        """The normalisers of a batch."""
        return Counts(
            (targets["heatmap"] == 1).astype("float32").sum(),
            targets["mask_2d"].astype("bool").astype("float32").sum(),
        )

    def __call__(
        self,
        outputs: dict,
        targets: dict,
        weights: dict[str, float] | None = None,
        counts: Counts | None = None,
    ) -> dict:
        """{each of TERMS, unweighted, and `loss`, their sum with `weights` (all 1 if None)}, scalar tensors.

        outputs: of the mode "train". targets: heatmap [B, 3, h, w]; mask_2d, indices, cls_ids [B, slots]; offset_2d,
        size_2d, offset_3d [B, slots, 2], depth, heading_bin, heading_res [B, slots, 1], size_3d [B, slots, 3].

        A batch without any object gives NaN for all terms but seg_loss, as means of nothing are in the reference, and
        a NaN total even where their weights are 0. With `counts`, terms are divided by these instead of the batch's
        own (all processes' together, in training) and a term of no object is 0. seg_loss of no positive is a sum.
        """
        dtype = outputs["heatmap"].dtype
        own = counts is None
        positives, objects = self.counts(targets) if own else counts
        objects = objects if own else objects.clip(min=1)
        heat, _ = focal_sums(probabilities(outputs["heatmap"]), targets["heatmap"].astype(dtype))
        terms = {"seg_loss": heat / positives.clip(min=1).astype(dtype)}
        for name, values in self._of_objects(outputs, targets).items():
            terms[name] = values.sum() / objects.astype(dtype)
        weights = weights or {}
        return terms | {"loss": sum(terms[name] * weights.get(name, 1.0) for name in TERMS)}

    def _of_objects(self, outputs: dict, targets: dict) -> dict:
        """{term: one value for each object}; where there is none, one zero that the outputs' gradients still reach.

        The same operations then run on the first slot: with several processes their graphs must be alike.
        """
        objects = labelled_objects(targets)
        slots = paddle.nonzero(targets["mask_2d"].astype("bool"))
        found = slots.shape[0] > 0
        if not found:
            one = paddle.zeros([1], "int64")
            objects, slots = objects._replace(images=one, cells=one, classes=one), paddle.zeros([1, 2], "int64")
        true = {name: paddle.gather_nd(targets[name], slots).astype(outputs["heatmap"].dtype) for name in _OF_SLOTS}
        bins = paddle.gather_nd(targets["heading_bin"], slots).astype("int64")
        depth, log_variance = outputs["depth"][:, 0], outputs["depth"][:, 1]
        values = {
            "offset2d_loss": regions.l1(at_cells(outputs["offset_2d"], objects), true["offset_2d"]),
            "size2d_loss": regions.l1(at_cells(outputs["size_2d"], objects), true["size_2d"]),
            "depth_loss": regions.laplace(depth, true["depth"][:, 0], log_variance),
            "offset3d_loss": regions.l1(outputs["offset_3d"], true["offset_3d"]),
            "size3d_loss": regions.size_3d(outputs["size_3d"], true["size_3d"], outputs["h3d_log_variance"][:, 0]),
            "heading_loss": regions.heading(outputs["heading"], bins[:, 0], true["heading_res"][:, 0]),
        }
        return {name: value * float(found) for name, value in values.items()}
