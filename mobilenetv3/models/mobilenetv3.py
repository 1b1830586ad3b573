"""MobileNetV3, small and large (Howard et al., ICCV 2019, tables 1 and 2; NOTES 4).

Class names are torchvision's, tensor names those of the official checkpoints: `features.I`, inside a block `block.J`,
and `classifier.0|3`.
"""

from dataclasses import dataclass, replace

from paddle import nn

from shared.norms import BatchNorm2D

from .layers import Hardsigmoid

BATCH_NORM_EPSILON = 0.001
BATCH_NORM_MOMENTUM = 0.99  # the share of the old value; torch writes 0.01 (NOTES 8.1)


def make_divisible(value: float) -> int:
    """The multiple of 8 nearest to `value`, but never less than 90 % of it (NOTES 4.1)."""
    rounded = max(8, int(value + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * value else rounded + 8


@dataclass(frozen=True)
class InvertedResidualConfig:
    """One row of the paper's tables 1 and 2."""

    kernel: int
    expanded_channels: int
    out_channels: int
    use_se: bool
    activation: str  # "RE" or "HS"
    stride: int
    dilation: int = 1


_ROWS = {
    "mobilenet_v3_small": [
        (3, 16, 16, True, "RE", 2),
        (3, 72, 24, False, "RE", 2),
        (3, 88, 24, False, "RE", 1),
        (5, 96, 40, True, "HS", 2),
        (5, 240, 40, True, "HS", 1),
        (5, 240, 40, True, "HS", 1),
        (5, 120, 48, True, "HS", 1),
        (5, 144, 48, True, "HS", 1),
        (5, 288, 96, True, "HS", 2),
        (5, 576, 96, True, "HS", 1),
        (5, 576, 96, True, "HS", 1),
    ],
    "mobilenet_v3_large": [
        (3, 16, 16, False, "RE", 1),
        (3, 64, 24, False, "RE", 2),
        (3, 72, 24, False, "RE", 1),
        (5, 72, 40, True, "RE", 2),
        (5, 120, 40, True, "RE", 1),
        (5, 120, 40, True, "RE", 1),
        (3, 240, 80, False, "HS", 2),
        (3, 200, 80, False, "HS", 1),
        (3, 184, 80, False, "HS", 1),
        (3, 184, 80, False, "HS", 1),
        (3, 480, 112, True, "HS", 1),
        (3, 672, 112, True, "HS", 1),
        (5, 672, 160, True, "HS", 2),
        (5, 960, 160, True, "HS", 1),
        (5, 960, 160, True, "HS", 1),
    ],
}
_STEM_CHANNELS = 16
_LAST_CHANNELS = {"mobilenet_v3_small": 1024, "mobilenet_v3_large": 1280}
_ACTIVATIONS = {"RE": nn.ReLU, "HS": nn.Hardswish}
_TAIL = 3  # the rows that reduced_tail and dilated change


def block_configs(
    model: str, width_mult: float = 1.0, reduced_tail: bool = False, dilated: bool = False
) -> list[InvertedResidualConfig]:
    """The rows of `model` with width_mult, reduced_tail and dilated applied (NOTES 4.1, 4.6, 4.7)."""
    rows = [InvertedResidualConfig(*row) for row in _ROWS[model]]
    for index, row in enumerate(rows):
        expanded, out, tail = row.expanded_channels, row.out_channels, index - len(rows) + _TAIL  # 0, 1, 2 in the tail
        if reduced_tail and tail >= 0:
            out //= 2
            expanded //= 1 if tail == 0 else 2  # the first row of the tail still reads the untouched body
        rows[index] = replace(
            row,
            expanded_channels=make_divisible(expanded * width_mult),
            out_channels=make_divisible(out * width_mult),
            dilation=2 if dilated and tail >= 0 else 1,
        )
    return rows


def _conv(in_channels: int, out_channels: int, kernel: int, bias: bool, **settings) -> nn.Conv2D:
    """A convolution initialised as the reference does (NOTES 4.8)."""
    bias_attr = nn.initializer.Constant(0.0) if bias else False
    weight_attr = nn.initializer.KaimingNormal(mode="fan_out")
    return nn.Conv2D(in_channels, out_channels, kernel, weight_attr=weight_attr, bias_attr=bias_attr, **settings)


def _linear(in_features: int, out_features: int) -> nn.Linear:
    weight_attr, bias_attr = nn.initializer.Normal(0.0, 0.01), nn.initializer.Constant(0.0)
    return nn.Linear(in_features, out_features, weight_attr=weight_attr, bias_attr=bias_attr)


class Conv2dNormActivation(nn.Sequential):
    """Convolution without bias, batch norm, and the activation ("RE" or "HS") if there is one (NOTES 4.3)."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        stride: int = 1,
        groups: int = 1,
        dilation: int = 1,
        activation: str | None = None,
    ):
        padding = (kernel - 1) // 2 * dilation
        settings = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
        layers = [
            _conv(in_channels, out_channels, kernel, bias=False, **settings),
            BatchNorm2D(out_channels, momentum=BATCH_NORM_MOMENTUM, epsilon=BATCH_NORM_EPSILON),
        ]
        super().__init__(*layers, *([_ACTIVATIONS[activation]()] if activation else []))


class SqueezeExcitation(nn.Layer):
    """Channel attention (paper section 5.3; NOTES 4.4). [N, C, H, W] in and out."""

    def __init__(self, channels: int, squeeze_channels: int):
        super().__init__()
        self.avgpool = nn.AdaptiveAvgPool2D(1)
        self.fc1 = _conv(channels, squeeze_channels, 1, bias=True)
        self.activation = nn.ReLU()
        self.fc2 = _conv(squeeze_channels, channels, 1, bias=True)
        self.scale_activation = Hardsigmoid()

    def forward(self, x):
        scale = self.fc2(self.activation(self.fc1(self.avgpool(x))))  # [N, C, 1, 1]
        return self.scale_activation(scale) * x


class InvertedResidual(nn.Layer):
    """Expand, filter depthwise, attend, project (NOTES 4.2). [N, in, H, W] -> [N, out, H / stride, W / stride]."""

    def __init__(self, in_channels: int, config: InvertedResidualConfig):
        super().__init__()
        expanded, out, activation = config.expanded_channels, config.out_channels, config.activation
        layers = []
        if expanded != in_channels:
            layers.append(Conv2dNormActivation(in_channels, expanded, 1, activation=activation))
        stride = 1 if config.dilation > 1 else config.stride
        layers.append(
            Conv2dNormActivation(expanded, expanded, config.kernel, stride, expanded, config.dilation, activation)
        )
        if config.use_se:
            layers.append(SqueezeExcitation(expanded, make_divisible(expanded // 4)))
        layers.append(Conv2dNormActivation(expanded, out, 1))
        self.block = nn.Sequential(*layers)
        # the table's stride: a dilated block of stride 2 adds no input, although it keeps the size (NOTES 4.7)
        self.use_res_connect = config.stride == 1 and in_channels == out

    def forward(self, x):
        out = self.block(x)
        return out + x if self.use_res_connect else out


class MobileNetV3(nn.Layer):
    """images float [N, 3, H, W] -> logits [N, num_classes]; any H, W."""

    def __init__(
        self,
        model: str = "mobilenet_v3_small",
        num_classes: int = 1000,
        width_mult: float = 1.0,
        reduced_tail: bool = False,
        dilated: bool = False,
        dropout: float = 0.2,
    ):
        super().__init__()
        in_channels = make_divisible(_STEM_CHANNELS * width_mult)
        stages = [Conv2dNormActivation(3, in_channels, 3, stride=2, activation="HS")]
        for config in block_configs(model, width_mult, reduced_tail, dilated):
            stages.append(InvertedResidual(in_channels, config))
            in_channels = config.out_channels
        features = 6 * in_channels
        stages.append(Conv2dNormActivation(in_channels, features, 1, activation="HS"))
        self.features = nn.Sequential(*stages)
        self.avgpool = nn.AdaptiveAvgPool2D(1)
        hidden = make_divisible(_LAST_CHANNELS[model] // (2 if reduced_tail else 1) * width_mult)
        self.classifier = nn.Sequential(
            _linear(features, hidden), nn.Hardswish(), nn.Dropout(dropout), _linear(hidden, num_classes)
        )

    def forward(self, images):
        pooled = self.avgpool(self.features(images)).flatten(1)  # [N, 6 * channels of the last row]
        return self.classifier(pooled)
