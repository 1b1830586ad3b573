"""The disparity decoder (NOTES 3.4)."""

from collections.abc import Sequence

import paddle
from paddle import nn
from paddle.nn import functional as F

from .layers import Conv3x3, ConvBlock

CHANNELS = (16, 32, 64, 128, 256)  # of levels 0 to 4


class DepthDecoder(nn.Layer):
    """forward(the encoder's five features) -> {("disp", s): [N, num_outputs, H / 2^s, W / 2^s] in (0, 1)} of `scales`.

    `decoder` holds the layers in the official order: ten ConvBlocks from level 4 down to level 0, then one Conv3x3 for
    each scale, in the order of `scales`.
    """

    def __init__(self, num_ch_enc: Sequence[int], scales: Sequence[int] = range(4), num_outputs: int = 1):
        super().__init__()
        self.scales = tuple(scales)
        layers, inputs = [], num_ch_enc[4]
        for level in range(4, -1, -1):
            outputs = CHANNELS[level]
            skip = num_ch_enc[level - 1] if level else 0
            layers += [ConvBlock(inputs, outputs), ConvBlock(outputs + skip, outputs)]
            inputs = outputs
        layers += [Conv3x3(CHANNELS[scale], num_outputs) for scale in self.scales]
        self.decoder = nn.LayerList(layers)

    def forward(self, features) -> dict:
        disparities, x = {}, features[4]
        for level in range(4, -1, -1):
            x = F.interpolate(self.decoder[2 * (4 - level)](x), scale_factor=2, mode="nearest")
            if level:
                x = paddle.concat([x, features[level - 1]], axis=1)
            x = self.decoder[2 * (4 - level) + 1](x)
            if level in self.scales:
                head = self.decoder[10 + self.scales.index(level)]
                disparities["disp", level] = F.sigmoid(head(x))
        return disparities
