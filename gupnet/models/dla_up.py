"""The neck: DLAUp aggregates levels 2 to 5 at a quarter of the input's size (NOTES 4.6, 4.7)."""

import math

import numpy as np
import paddle
from paddle import nn

from .layers import ConvNormReLU


def bilinear_kernel(size: int) -> np.ndarray:
    """[size, size] float64: the kernel with which a transposed convolution interpolates bilinearly."""
    factor = math.ceil(size / 2)
    centre = (2 * factor - 1 - factor % 2) / (2 * factor)
    profile = 1 - np.abs(np.arange(size) / factor - centre)
    return np.outer(profile, profile)


def upsampling(channels: int, factor: int) -> nn.Conv2DTranspose:
    """A trained transposed convolution, one group per channel, `factor` 1 or even; bilinear at first (NOTES 4.7)."""
    size = 2 * factor
    kernel = np.tile(bilinear_kernel(size), (channels, 1, 1, 1))
    initial = nn.initializer.Assign(kernel.astype(np.float32))
    return nn.Conv2DTranspose(
        channels, channels, size, factor, factor // 2, groups=channels, weight_attr=initial, bias_attr=False
    )


class IDAUp(nn.Layer):
    """One stage: brings the later maps of a list to the first one's size and channels, and merges neighbours.

    The names `proj_i`, `up_i`, `node_i` (i from 1) are the official ones.
    """

    def __init__(self, outputs: int, inputs: list[int]):
        super().__init__()
        for i, channels in enumerate(inputs[1:], 1):
            self.add_sublayer(f"proj_{i}", ConvNormReLU(channels, outputs, 3))
            self.add_sublayer(f"up_{i}", upsampling(outputs, 2))
            self.add_sublayer(f"node_{i}", ConvNormReLU(2 * outputs, outputs, 3))

    def forward(self, maps: list) -> list:
        """[first [N, outputs, H, W], others [N, inputs[i], H / 2, W / 2]] -> the list, all of the first one's shape."""
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
            self.add_sublayer(f"ida_{stage}", IDAUp(widths[start], widths[start:]))
            widths[start:] = [widths[start]] * (len(widths) - start)

    def forward(self, maps: list):
        """[N, channels[i], H / 2^i, W / 2^i], i = 0.. -> [N, channels[0], H, W]."""
        maps = list(maps)
        for stage, start in enumerate(range(len(maps) - 2, -1, -1)):
            maps[start:] = getattr(self, f"ida_{stage}")(maps[start:])
        return maps[-1]
