"""Layers whose torch meaning differs from Paddle's own (NOTES 8)."""

import paddle
from paddle import nn
from paddle.nn import functional as F


class Hardsigmoid(nn.Layer):
    """relu6(x + 3) / 6. Paddle's own keeps its slope as a float32: 1.5e-6 off on float64 logits (NOTES 8.4).

    An exported graph carries Paddle's operator all the same: it is float32 anyway, and the engines know it.
    """

    def forward(self, x):
        if paddle.in_dynamic_mode():
            return F.relu6(x + 3) / 6
        return F.hardsigmoid(x, slope=1 / 6, offset=0.5)
