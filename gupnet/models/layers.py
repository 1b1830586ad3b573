"""Convolutions that are initialised as the reference's are (NOTES 4.8, 8.3)."""

import math

from paddle import nn
from paddle.nn import functional as F

from shared.norms import BatchNorm2D


def conv(inputs: int, outputs: int, kernel: int, stride: int = 1, initial=None, bias=False) -> nn.Conv2D:
    """A convolution that keeps the size, but for its stride.

    `initial`: the weight's initialiser, by default the backbone's and the neck's N(0, sqrt(2 / (k k out))).
    `bias`: the bias's initialiser, or False for no bias.
    """
    initial = initial or nn.initializer.Normal(0.0, math.sqrt(2 / (kernel * kernel * outputs)))
    return nn.Conv2D(inputs, outputs, kernel, stride, kernel // 2, weight_attr=initial, bias_attr=bias)


def torch_default(inputs: int, kernel: int) -> nn.initializer.Uniform:
    """torch's default for a convolution's weight and bias: U(-1, 1) / sqrt(fan_in)."""
    bound = 1 / math.sqrt(inputs * kernel * kernel)
    return nn.initializer.Uniform(-bound, bound)


class ConvNormReLU(nn.Layer):
    """Convolution without bias, batch norm, ReLU: `conv` and `bn` in the official files."""

    def __init__(self, inputs: int, outputs: int, kernel: int):
        super().__init__()
        self.conv = conv(inputs, outputs, kernel)
        self.bn = BatchNorm2D(outputs)

    def forward(self, x):
        return F.relu(self.bn(self.conv(x)))
