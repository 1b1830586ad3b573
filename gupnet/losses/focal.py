"""Focal loss of the heatmap (fact sheet 5)."""

import paddle


def focal_sums(probabilities, target):
    """(sum over positives and negatives, number of positives, as a scalar tensor each).

    probabilities: in (0, 1); target: the same shape; positives are exactly 1, everything below is a negative whose
    weight falls to it.
    """
    positive = (target == 1).astype(probabilities.dtype)
    negative = (target < 1).astype(probabilities.dtype)
    rest = 1 - probabilities
    of_positives = paddle.log(probabilities) * rest**2 * positive
    of_negatives = paddle.log(rest) * probabilities**2 * (1 - target) ** 4 * negative
    return -(of_positives.sum() + of_negatives.sum()), positive.sum()


def focal_loss(probabilities, target, positives=None):
    """The mean over positives; without any, the sum. `positives`: their number, if not that of this batch alone."""
    total, count = focal_sums(probabilities, target)
    return total / (count if positives is None else positives).clip(min=1)
