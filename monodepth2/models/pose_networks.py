"""The pose networks (NOTES 3.5, 3.6). Their outputs are scaled by 0.01, so motions start small."""

from collections.abc import Sequence

import paddle
from paddle import nn
from paddle.nn import functional as F

from .layers import conv

WIDTH = 256
SCALE = 0.01


def _split_motions(x, count: int) -> tuple:
    """[N, 6 * count, h, w] -> (axisangle, translation), each [N, count, 1, 3]."""
    x = SCALE * F.adaptive_avg_pool2d(x, 1).reshape([-1, count, 1, 6])
    return x[..., :3], x[..., 3:]


class PoseDecoder(nn.Layer):
    """forward(list of encoder feature lists) -> (axisangle, translation), each [N, num_outputs, 1, 3].

    Takes `num_inputs` feature lists, of which it uses the last feature; `num_outputs` is num_inputs - 1 by default.
    """

    def __init__(self, num_ch_enc: Sequence[int], num_inputs: int, num_outputs: int | None = None):
        super().__init__()
        self.num_outputs = num_outputs or num_inputs - 1
        # in the official order: squeeze, two 3x3 convolutions, output
        self.net = nn.LayerList(
            [
                conv(num_ch_enc[-1], WIDTH, 1),
                conv(num_inputs * WIDTH, WIDTH, 3, padding=1),
                conv(WIDTH, WIDTH, 3, padding=1),
                conv(WIDTH, 6 * self.num_outputs, 1),
            ]
        )

    def forward(self, inputs: Sequence) -> tuple:
        squeeze, first, second, output = self.net
        x = paddle.concat([F.relu(squeeze(features[-1])) for features in inputs], axis=1)
        return _split_motions(output(F.relu(second(F.relu(first(x))))), self.num_outputs)


class PoseCNN(nn.Layer):
    """forward(frames [N, 3 * num_frames, H, W] in [0, 1]) -> (axisangle, translation), each [N, num_frames - 1, 1, 3].

    Seven convolutions of stride 2. Unlike the ResNets it does not normalise the images.
    """

    def __init__(self, num_frames: int):
        super().__init__()
        self.num_outputs = num_frames - 1
        self.pose_conv = conv(WIDTH, 6 * self.num_outputs, 1)
        inputs, layers = 3 * num_frames, []
        for outputs, kernel in ((16, 7), (32, 5), (64, 3), (128, 3), (256, 3), (256, 3), (256, 3)):
            layers.append(conv(inputs, outputs, kernel, stride=2, padding=kernel // 2))
            inputs = outputs
        self.net = nn.LayerList(layers)

    def forward(self, frames) -> tuple:
        x = frames
        for layer in self.net:
            x = F.relu(layer(x))
        return _split_motions(self.pose_conv(x), self.num_outputs)
