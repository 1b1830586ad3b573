"""Cross-entropy with label smoothing, on class indices or on soft targets (NOTES 5)."""

import argparse

import paddle
from paddle import nn

IGNORE_INDEX = -100


class CrossEntropyLoss(nn.Layer):
    """criterion(logits [N, K], targets int64 [N] or float [N, K]) -> {"cross_entropy": scalar, "loss": scalar}.

    -sum_k t_k log p_k, mean over the batch, where the target t is smoothed to (1 - e) t + e / K, soft targets included
    (NOTES 5.1). As in torch, rows of index -100 are left out of the mean; a batch of only such rows gives NaN.
    """

    def __init__(self, label_smoothing: float = 0.0):
        super().__init__()
        self.label_smoothing = label_smoothing

    def forward(self, outputs, targets) -> dict:
        # F.log_softmax and F.cross_entropy cut log p off at -64 on the CPU; torch does not (NOTES 5.3)
        log_p = outputs - paddle.logsumexp(outputs, axis=-1, keepdim=True)
        if targets.ndim == outputs.ndim:
            valid = paddle.ones(outputs.shape[:1], "bool")
            target_log_p = (targets.astype(log_p.dtype) * log_p).sum(-1)
        else:
            valid = targets != IGNORE_INDEX
            index = paddle.where(valid, targets, paddle.zeros_like(targets))
            target_log_p = paddle.take_along_axis(log_p, index.unsqueeze(-1), axis=-1).squeeze(-1)
        if self.label_smoothing:
            target_log_p = (1 - self.label_smoothing) * target_log_p + self.label_smoothing * log_p.mean(-1)
        # where, not a product with the mask: without a valid row the loss is NaN but its gradient 0, as in torch
        target_log_p = paddle.where(valid, target_log_p, paddle.zeros_like(target_log_p))
        cross_entropy = -target_log_p.sum() / valid.astype(target_log_p.dtype).sum()
        return {"cross_entropy": cross_entropy, "loss": cross_entropy}


def build_criterion(options: argparse.Namespace) -> CrossEntropyLoss:
    """The loss of `options.label_smoothing`."""
    return CrossEntropyLoss(options.label_smoothing)
