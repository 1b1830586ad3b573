"""Losses of objects, each as a row of values whose mean over objects is the term (fact sheet 5)."""

import paddle

from constants import HEADING_BINS

#: the code's constant, not the square root of 2
ROOT_2 = 1.4142


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
    # not F.cross_entropy: Paddle's cuts it off at 64
    entropy = paddle.logsumexp(scores, 1) - paddle.take_along_axis(scores, bins.unsqueeze(1), 1).squeeze(1)
    return entropy + (chosen - residuals).abs()
