"""The neck: DLAUp, which brings levels 2 to 5 to a quarter of the input's size (fact sheet 4.2)."""

import math

import numpy as np
import paddle
from paddle import nn
from paddle.nn import functional as F

from shared.running.norms import BatchNorm2D

from .layers import conv


def bilinear_kernel(size: int) -> np.ndarray:
    """[size, size] float64: the weights with which a transposed convolution of that kernel interpolates bilinearly."""
    factor = math.ceil(size / 2)
    centre = (2 * factor - 1 - factor % 2) / (2 * factor)
    profile = 1 - np.abs(np.arange(size) / factor - centre)
    return np.outer(profile, profile)


def upsampling(channels: int, factor: int) -> nn.Conv2DTranspose:
    """Learned enlargement by an even `factor` (or 1), each channel by itself, which starts as a bilinear one."""
    size = 2 * factor
    kernel = np.tile(bilinear_kernel(size), (channels, 1, 1, 1))
    initial = nn.initializer.Assign(kernel.astype(np.float32))
    return nn.Conv2DTranspose(
        channels, channels, size, factor, factor // 2, groups=channels, weight_attr=initial, bias_attr=False
    )


class ConvNormReLU(nn.Layer):
    """3x3 convolution, norm, ReLU."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.conv = conv(inputs, outputs, 3)
        self.bn = BatchNorm2D(outputs)

    def forward(self, x):
        return F.relu(self.bn(self.conv(x)))


class Aggregation(nn.Layer):
    """One stage: brings the later maps of a list to the first one's size and channels, and merges neighbours.

    The names `proj_i`, `up_i`, `node_i` (i from 1) are the official ones.
    """

    def __init__(self, outputs: int, inputs: list[int]):
        super().__init__()
        for i, channels in enumerate(inputs[1:], 1):
            self.add_sublayer(f"proj_{i}", ConvNormReLU(channels, outputs))
            self.add_sublayer(f"up_{i}", upsampling(outputs, 2))
            self.add_sublayer(f"node_{i}", ConvNormReLU(2 * outputs, outputs))

    def forward(self, maps: list) -> list:
        """[first [N, outputs, H, W], others [N, inputs[i], H / 2, W / 2]] -> the list with all others as the first."""
        merged = [maps[0]]
        for i, x in enumerate(maps[1:], 1):
            x = getattr(self, f"up_{i}")(getattr(self, f"proj_{i}")(x))
            merged.append(getattr(self, f"node_{i}")(paddle.concat([merged[-1], x], 1)))
        return merged


class DLAUp(nn.Layer):
    """Three stages, each over a longer tail of the list of maps."""

    def __init__(self, channels: tuple[int, ...]):
        super().__init__()
        widths = list(channels)
        for stage, start in enumerate(range(len(widths) - 2, -1, -1)):
            self.add_sublayer(f"ida_{stage}", Aggregation(widths[start], widths[start:]))
            widths[start:] = [widths[start]] * (len(widths) - start)

    def forward(self, maps: list):
        """[N, channels[i], H / 2^i, W / 2^i], i = 0.. -> [N, channels[0], H, W]."""
        maps = list(maps)
        for stage, start in enumerate(range(len(maps) - 2, -1, -1)):
            maps[start:] = getattr(self, f"ida_{stage}")(maps[start:])
        return maps[-1]
