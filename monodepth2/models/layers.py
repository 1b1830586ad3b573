"""Layers whose initialisation or padding is torch's, not Paddle's default (NOTES 3.3, 3.4)."""

import math

from paddle import nn
from paddle.nn import functional as F


def conv(inputs: int, outputs: int, kernel: int, stride: int = 1, padding: int = 0) -> nn.Conv2D:
    """A convolution with bias, initialised as torch does: weight and bias uniform in +-1 / sqrt(fan_in)."""
    bound = 1 / math.sqrt(inputs * kernel * kernel)
    weight, bias = (nn.initializer.Uniform(-bound, bound) for _ in range(2))
    return nn.Conv2D(inputs, outputs, kernel, stride, padding, weight_attr=weight, bias_attr=bias)


class Conv3x3(nn.Layer):
    """3x3 convolution of an input whose border is mirrored by one pixel."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.conv = conv(inputs, outputs, 3)

    def forward(self, x):
        return self.conv(F.pad(x, [1, 1, 1, 1], mode="reflect"))


class ConvBlock(nn.Layer):
    """Conv3x3, then ELU."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.conv = Conv3x3(inputs, outputs)

    def forward(self, x):
        return F.elu(self.conv(x))
