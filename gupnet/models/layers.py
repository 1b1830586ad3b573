"""Convolutions whose start in torch differs from Paddle's own (fact sheet 4 and 8)."""

import math

from paddle import nn


def conv(inputs: int, outputs: int, kernel: int, stride: int = 1, initial=None, bias=False) -> nn.Conv2D:
    """A convolution that keeps the size (but for its stride).

    `initial`: the weights' initialiser, by default the backbone's and the neck's N(0, sqrt(2 / (k k out))).
    `bias`: the bias' initialiser, or False for none.
    """
    initial = initial or nn.initializer.Normal(0.0, math.sqrt(2 / (kernel * kernel * outputs)))
    return nn.Conv2D(inputs, outputs, kernel, stride, kernel // 2, weight_attr=initial, bias_attr=bias)


def torch_default(inputs: int, kernel: int) -> nn.initializer.Uniform:
    """What torch starts a convolution's weight and bias with: U(-1, 1) / sqrt(fan_in)."""
    bound = 1 / math.sqrt(inputs * kernel * kernel)
    return nn.initializer.Uniform(-bound, bound)
