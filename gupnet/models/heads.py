"""The heads: three on the dense map, four on the regions of interest (fact sheet 4.3 and 4.4)."""

import paddle
from paddle import nn
from paddle.nn import functional as F

from shared.running.norms import BatchNorm2D

from .layers import conv, torch_default

WIDTH = 256
_ZERO = nn.initializer.Constant(0.0)


def dense_head(inputs: int, outputs: int) -> nn.Sequential:
    """3x3 convolution, ReLU, 1x1 convolution; starts near zero."""
    small = nn.initializer.Normal(0.0, 0.001)
    return nn.Sequential(
        conv(inputs, WIDTH, 3, initial=small, bias=_ZERO),
        nn.ReLU(),
        conv(WIDTH, outputs, 1, initial=small, bias=_ZERO),
    )


def heatmap_head(inputs: int, classes: int) -> nn.Sequential:
    """The same, started as torch does by default; its last bias stands for a probability of 0.1."""
    first, last = torch_default(inputs, 3), torch_default(WIDTH, 1)
    return nn.Sequential(
        conv(inputs, WIDTH, 3, initial=first, bias=first),
        nn.ReLU(),
        conv(WIDTH, classes, 1, initial=last, bias=nn.initializer.Constant(-2.19)),
    )


class RoIHead(nn.Sequential):
    """3x3 convolution, norm, ReLU, mean over the region, 1x1 convolution."""

    def __init__(self, inputs: int, outputs: int):
        xavier = nn.initializer.XavierUniform()
        super().__init__(
            conv(inputs, WIDTH, 3, initial=xavier, bias=_ZERO),
            BatchNorm2D(WIDTH),
            nn.ReLU(),
            nn.AdaptiveAvgPool2D(1),
            conv(WIDTH, outputs, 1, initial=xavier, bias=_ZERO),
        )

    def forward(self, regions, share: float = 1.0):
        """[M, inputs, 7, 7] -> [M, outputs]. `share`: as BatchNorm2D has it."""
        x = F.relu(self[1](self[0](regions), share))
        return paddle.flatten(self[4](self[3](x)), 1)
