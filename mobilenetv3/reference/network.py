"""MobileNetV3 in torch, written from the paper and NOTES 4, with the official checkpoint's tensor names.

It stands in for the official code where that is not at hand; the tests compare it with golden figures of the official
code. It has tables of its own so that a slip in the Paddle port's tables cannot repeat here.
"""

import argparse

import torch
from torch import nn

# kernel, expansion, output, s = squeeze-and-excitation, activation, stride; tables 1 and 2 of the paper
_BODIES = {
    "mobilenet_v3_large": """
        3  16  16 - RE 1
        3  64  24 - RE 2
        3  72  24 - RE 1
        5  72  40 s RE 2
        5 120  40 s RE 1
        5 120  40 s RE 1
        3 240  80 - HS 2
        3 200  80 - HS 1
        3 184  80 - HS 1
        3 184  80 - HS 1
        3 480 112 s HS 1
        3 672 112 s HS 1
        5 672 160 s HS 2
        5 960 160 s HS 1
        5 960 160 s HS 1""",
    "mobilenet_v3_small": """
        3  16  16 s RE 2
        3  72  24 - RE 2
        3  88  24 - RE 1
        5  96  40 s HS 2
        5 240  40 s HS 1
        5 240  40 s HS 1
        5 120  48 s HS 1
        5 144  48 s HS 1
        5 288  96 s HS 2
        5 576  96 s HS 1
        5 576  96 s HS 1""",
}
_HEAD_WIDTHS = {"mobilenet_v3_large": 1280, "mobilenet_v3_small": 1024}
_ACTIVATIONS = {"RE": nn.ReLU, "HS": nn.Hardswish}


def round_width(width: float) -> int:
    """To a multiple of 8, at least 8, never below 90 % of `width`."""
    multiple = max(int(width + 4) // 8, 1)
    return 8 * (multiple if 8 * multiple >= 0.9 * width else multiple + 1)


def _convolution(c_in, c_out, kernel, act=None, stride=1, groups=1, dilation=1) -> nn.Sequential:
    conv = nn.Conv2d(c_in, c_out, kernel, stride, dilation * (kernel // 2), dilation, groups, bias=False)
    norm = nn.BatchNorm2d(c_out, eps=1e-3, momentum=1e-2)
    return nn.Sequential(conv, norm) if act is None else nn.Sequential(conv, norm, _ACTIVATIONS[act]())


class SqueezeExcitation(nn.Module):
    """x times relu6(y + 3) / 6, y from two 1x1 convolutions of the mean."""

    def __init__(self, width: int, squeezed: int):
        super().__init__()
        self.fc1 = nn.Conv2d(width, squeezed, 1)
        self.fc2 = nn.Conv2d(squeezed, width, 1)

    def forward(self, x):
        mean = nn.functional.adaptive_avg_pool2d(x, 1)
        return x * nn.functional.hardsigmoid(self.fc2(torch.relu(self.fc1(mean))))


class InvertedResidual(nn.Module):
    """One row of the tables."""

    def __init__(self, c_in, c_out, expansion, kernel, act, stride, attention, dilation):
        super().__init__()
        self.skip = stride == 1 and c_in == c_out
        self.block = nn.Sequential()
        if expansion != c_in:
            self.block.append(_convolution(c_in, expansion, 1, act))
        spatial_stride = stride if dilation == 1 else 1
        self.block.append(_convolution(expansion, expansion, kernel, act, spatial_stride, expansion, dilation))
        if attention:
            self.block.append(SqueezeExcitation(expansion, round_width(expansion // 4)))
        self.block.append(_convolution(expansion, c_out, 1))

    def forward(self, x):
        return x + self.block(x) if self.skip else self.block(x)


class ReferenceMobileNetV3(nn.Module):
    """images [N, 3, H, W] -> logits [N, classes]."""

    def __init__(self, model, classes=1000, width=1.0, reduced_tail=False, dilated=False, dropout=0.2):
        super().__init__()
        lines = [line.split() for line in _BODIES[model].split("\n") if line.strip()]
        c_in = round_width(16 * width)
        stages = [_convolution(3, c_in, 3, "HS", stride=2)]
        for index, (kernel, expansion, c_out, attention, act, stride) in enumerate(lines):
            from_end = len(lines) - index  # 3, 2, 1 in the tail
            expansion, c_out = int(expansion), int(c_out)
            if reduced_tail and from_end <= 3:
                c_out //= 2
            if reduced_tail and from_end <= 2:
                expansion //= 2
            expansion, c_out = round_width(expansion * width), round_width(c_out * width)
            dilation = 2 if dilated and from_end <= 3 else 1
            stages.append(
                InvertedResidual(c_in, c_out, expansion, int(kernel), act, int(stride), attention == "s", dilation)
            )
            c_in = c_out
        stages.append(_convolution(c_in, 6 * c_in, 1, "HS"))
        self.features = nn.Sequential(*stages)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        hidden = round_width(_HEAD_WIDTHS[model] // (1 + reduced_tail) * width)
        layers = [nn.Linear(6 * c_in, hidden), nn.Hardswish(), nn.Dropout(dropout), nn.Linear(hidden, classes)]
        self.classifier = nn.Sequential(*layers)
        self._initialise()

    def _initialise(self):
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out")
            elif isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=0.01)
            if getattr(layer, "bias", None) is not None:
                nn.init.zeros_(layer.bias)

    def forward(self, images):
        return self.classifier(self.avgpool(self.features(images)).flatten(1))


def build_reference(options: argparse.Namespace) -> ReferenceMobileNetV3:
    """The torch twin of `models.build_model(options)`."""
    shape = options.num_classes, options.width_mult, options.reduced_tail, options.dilated
    return ReferenceMobileNetV3(options.model, *shape, options.dropout)
