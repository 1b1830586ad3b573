"""The seven terms of the loss (NOTES 5)."""

from typing import NamedTuple

import paddle

from constants import HEADING_BINS, TERMS
from models import probabilities
from models.rois import at_cells, target_rois

#: the reference's constant, not the square root of 2 (NOTES 5.3)
ROOT_2 = 1.4142
#: floating-point targets of each object
_OF_SLOTS = ("offset_2d", "size_2d", "depth", "offset_3d", "size_3d", "heading_res")


def focal(probabilities, target):
    """Focal loss of the heatmap, summed over positives and negatives; a scalar (NOTES 5.1).

    probabilities: in (0, 1); target: the same shape; positives are exactly 1, all else are negatives, which weigh the
    less the closer they are to 1.
    """
    positive = (target == 1).astype(probabilities.dtype)
    negative = (target < 1).astype(probabilities.dtype)
    rest = 1 - probabilities
    of_positives = paddle.log(probabilities) * rest**2 * positive
    of_negatives = paddle.log(rest) * probabilities**2 * (1 - target) ** 4 * negative
    return -(of_positives.sum() + of_negatives.sum())


def l1(prediction, target):
    """[M, C] twice -> [M]: mean absolute error of each row."""
    return (prediction - target).abs().mean(1)


def laplace(prediction, target, log_variance):
    """[M] thrice -> [M]: negative log-likelihood of a Laplace distribution with the variance exp(log_variance)."""
    return ROOT_2 * paddle.exp(-0.5 * log_variance) * (prediction - target).abs() + 0.5 * log_variance


def size_3d(prediction, target, height_log_variance):
    """[M, 3] twice, [M] -> [M]: a third for the height, with its uncertainty, two thirds for width and length."""
    return (
        l1(prediction[:, 1:], target[:, 1:]) * 2 / 3 + laplace(prediction[:, 0], target[:, 0], height_log_variance) / 3
    )


def heading(prediction, bins, residuals):
    """[M, 24], [M] int64, [M] -> [M]: cross-entropy of the bins, and absolute error of the true bin's residual."""
    scores, offsets = prediction[:, :HEADING_BINS], prediction[:, HEADING_BINS:]
    chosen = paddle.take_along_axis(offsets, bins.unsqueeze(1), 1).squeeze(1)
    # not F.cross_entropy (NOTES 8.5)
    entropy = paddle.logsumexp(scores, 1) - paddle.take_along_axis(scores, bins.unsqueeze(1), 1).squeeze(1)
    return entropy + (chosen - residuals).abs()


class Counts(NamedTuple):
    """The terms' divisors, scalar tensors: cells of the heatmap that are exactly 1, and objects."""

    positives: paddle.Tensor
    objects: paddle.Tensor


class GupnetLoss:
    """Losses of the network's outputs against the targets of the data set."""

    def counts(self, targets: dict) -> Counts:
        """The divisors of a batch."""
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

        A batch without an object gives NaN for all terms but seg_loss and for their sum, whatever the weights
        (NOTES 5.6). With `counts`, terms are divided by these instead of the batch's own (all processes' together, in
        training), and a term without an object is 0. seg_loss without a positive is a sum.
        """
        dtype = outputs["heatmap"].dtype
        own = counts is None
        positives, objects = self.counts(targets) if own else counts
        objects = objects if own else objects.clip(min=1)
        heat = focal(probabilities(outputs["heatmap"]), targets["heatmap"].astype(dtype))
        terms = {"seg_loss": heat / positives.clip(min=1).astype(dtype)}
        for name, values in self._of_objects(outputs, targets).items():
            terms[name] = values.sum() / objects.astype(dtype)
        weights = weights or {}
        return terms | {"loss": sum(terms[name] * weights.get(name, 1.0) for name in TERMS)}

    def _of_objects(self, outputs: dict, targets: dict) -> dict:
        """{term: one value per object}; without an object, one zero that the outputs still get gradients from.

        The same operations then run on the first slot: the graphs of several processes must be alike.
        """
        objects = target_rois(targets)
        slots = paddle.nonzero(targets["mask_2d"].astype("bool"))
        present = slots.shape[0] > 0
        if not present:
            zero = paddle.zeros([1], "int64")
            objects, slots = objects._replace(images=zero, cells=zero, classes=zero), paddle.zeros([1, 2], "int64")
        true = {name: paddle.gather_nd(targets[name], slots).astype(outputs["heatmap"].dtype) for name in _OF_SLOTS}
        bins = paddle.gather_nd(targets["heading_bin"], slots).astype("int64")
        depth, log_variance = outputs["depth"][:, 0], outputs["depth"][:, 1]
        values = {
            "offset2d_loss": l1(at_cells(outputs["offset_2d"], objects), true["offset_2d"]),
            "size2d_loss": l1(at_cells(outputs["size_2d"], objects), true["size_2d"]),
            "depth_loss": laplace(depth, true["depth"][:, 0], log_variance),
            "offset3d_loss": l1(outputs["offset_3d"], true["offset_3d"]),
            "size3d_loss": size_3d(outputs["size_3d"], true["size_3d"], outputs["h3d_log_variance"][:, 0]),
            "heading_loss": heading(outputs["heading"], bins[:, 0], true["heading_res"][:, 0]),
        }
        return {name: value * float(present) for name, value in values.items()}
