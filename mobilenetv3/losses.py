"""Cross-entropy with label smoothing, on class indices or on soft targets (fact sheet section 5)."""

import argparse

import paddle
from paddle import nn

IGNORE_INDEX = -100


class Criterion(nn.Layer):
    """criterion(logits [N, K], targets int64 [N] or float [N, K]) -> {"cross_entropy": scalar, "loss": scalar}.

    -sum_k t_k log p_k with the target t smoothed to (1 - e) t + e / K, soft targets included; mean over the batch. As
    in torch, rows whose index is -100 count neither above nor below the line, and a batch of nothing else gives NaN.
    """

    def __init__(self, label_smoothing: float = 0.0):
        super().__init__()
        self.label_smoothing = label_smoothing

    def forward(self, outputs, targets) -> dict:
        # F.log_softmax and F.cross_entropy cut log p off at -64 on CPU; torch does not
        log_p = outputs - paddle.logsumexp(outputs, axis=-1, keepdim=True)
        if targets.ndim == outputs.ndim:
            valid = paddle.ones(outputs.shape[:1], "bool")
            picked = (targets.astype(log_p.dtype) * log_p).sum(-1)
        else:
            valid = targets != IGNORE_INDEX
            index = paddle.where(valid, targets, paddle.zeros_like(targets))
            picked = paddle.take_along_axis(log_p, index.unsqueeze(-1), axis=-1).squeeze(-1)
        if self.label_smoothing:
            picked = (1 - self.label_smoothing) * picked + self.label_smoothing * log_p.mean(-1)
        # chosen, not multiplied: where nothing is valid the loss is NaN but its gradient 0, as in torch
        picked = paddle.where(valid, picked, paddle.zeros_like(picked))
        cross_entropy = -picked.sum() / valid.astype(picked.dtype).sum()
        return {"cross_entropy": cross_entropy, "loss": cross_entropy}


def build_criterion(options: argparse.Namespace) -> Criterion:
    """The loss of `options.label_smoothing`."""
    return Criterion(options.label_smoothing)
