"""MobileNetV3, small and large (Howard et al., ICCV 2019, tables 1 and 2; fact sheet section 4).

Tensor names are the official torch checkpoint's: `features.I`, inside a block `block.J`, and `classifier.0|3`.
"""

from dataclasses import dataclass, replace

from paddle import nn

from shared.running.norms import BatchNorm2D

from .layers import Hardsigmoid

BATCH_NORM_EPSILON = 0.001
BATCH_NORM_MOMENTUM = 0.99  # the share of the old value; torch writes 0.01
DIVISOR = 8


def make_divisible(value: float, divisor: int = DIVISOR) -> int:
    """The multiple of `divisor` nearest to `value`, but never less than 90 % of it (fact sheet 4.1)."""
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded if rounded >= 0.9 * value else rounded + divisor


@dataclass(frozen=True)
class Row:
    """One row of the paper's tables 1 and 2: a bottleneck."""

    kernel: int
    expanded: int
    out: int
    squeeze: bool
    hard_swish: bool
    stride: int
    dilation: int = 1


_RE, _HS = False, True
_ROWS = {
    "mobilenet_v3_small": [
        Row(3, 16, 16, True, _RE, 2),
        Row(3, 72, 24, False, _RE, 2),
        Row(3, 88, 24, False, _RE, 1),
        Row(5, 96, 40, True, _HS, 2),
        Row(5, 240, 40, True, _HS, 1),
        Row(5, 240, 40, True, _HS, 1),
        Row(5, 120, 48, True, _HS, 1),
        Row(5, 144, 48, True, _HS, 1),
        Row(5, 288, 96, True, _HS, 2),
        Row(5, 576, 96, True, _HS, 1),
        Row(5, 576, 96, True, _HS, 1),
    ],
    "mobilenet_v3_large": [
        Row(3, 16, 16, False, _RE, 1),
        Row(3, 64, 24, False, _RE, 2),
        Row(3, 72, 24, False, _RE, 1),
        Row(5, 72, 40, True, _RE, 2),
        Row(5, 120, 40, True, _RE, 1),
        Row(5, 120, 40, True, _RE, 1),
        Row(3, 240, 80, False, _HS, 2),
        Row(3, 200, 80, False, _HS, 1),
        Row(3, 184, 80, False, _HS, 1),
        Row(3, 184, 80, False, _HS, 1),
        Row(3, 480, 112, True, _HS, 1),
        Row(3, 672, 112, True, _HS, 1),
        Row(5, 672, 160, True, _HS, 2),
        Row(5, 960, 160, True, _HS, 1),
        Row(5, 960, 160, True, _HS, 1),
    ],
}
_STEM_WIDTH = 16
_HIDDEN_WIDTH = {"mobilenet_v3_small": 1024, "mobilenet_v3_large": 1280}
_TAIL = 3  # the rows that reduced_tail and dilated change


def table(model: str, width_mult: float = 1.0, reduced_tail: bool = False, dilated: bool = False) -> list[Row]:
    """The rows of `model` with the options of fact sheet 4.6 applied."""
    rows = list(_ROWS[model])
    for position in range(len(rows) - _TAIL, len(rows)):
        row = rows[position]
        if reduced_tail:
            # the first row of the tail keeps its expansion: it still reads the untouched body
            first = position == len(rows) - _TAIL
            row = replace(row, out=row.out // 2, expanded=row.expanded if first else row.expanded // 2)
        if dilated:
            row = replace(row, dilation=2)
        rows[position] = row
    return [
        replace(row, expanded=make_divisible(row.expanded * width_mult), out=make_divisible(row.out * width_mult))
        for row in rows
    ]


def conv_bn_act(inputs: int, outputs: int, kernel: int, stride=1, groups=1, dilation=1, activation=None):
    """Convolution without bias, batch norm, and the activation if there is one."""
    layers = [
        nn.Conv2D(
            inputs,
            outputs,
            kernel,
            stride=stride,
            padding=(kernel - 1) // 2 * dilation,
            dilation=dilation,
            groups=groups,
            weight_attr=nn.initializer.KaimingNormal(mode="fan_out"),
            bias_attr=False,
        ),
        BatchNorm2D(outputs, momentum=BATCH_NORM_MOMENTUM, epsilon=BATCH_NORM_EPSILON),
    ]
    if activation is not None:
        layers.append(activation())
    return nn.Sequential(*layers)


class SqueezeExcitation(nn.Layer):
    """Channel attention (paper section 5.3; fact sheet 4.3). [N, C, H, W] in and out."""

    def __init__(self, channels: int, squeezed: int):
        super().__init__()
        self.avgpool = nn.AdaptiveAvgPool2D(1)
        self.fc1 = _pointwise_with_bias(channels, squeezed)
        self.activation = nn.ReLU()
        self.fc2 = _pointwise_with_bias(squeezed, channels)
        self.scale_activation = Hardsigmoid()

    def forward(self, x):
        scale = self.fc2(self.activation(self.fc1(self.avgpool(x))))  # [N, C, 1, 1]
        return self.scale_activation(scale) * x


def _pointwise_with_bias(inputs: int, outputs: int) -> nn.Conv2D:
    return nn.Conv2D(
        inputs,
        outputs,
        1,
        weight_attr=nn.initializer.KaimingNormal(mode="fan_out"),
        bias_attr=nn.initializer.Constant(0.0),
    )


class InvertedResidual(nn.Layer):
    """Expand, filter depthwise, attend, project (fact sheet 4.2). [N, inputs, H, W] -> [N, row.out, H', W']."""

    def __init__(self, inputs: int, row: Row):
        super().__init__()
        activation = nn.Hardswish if row.hard_swish else nn.ReLU
        layers = []
        if row.expanded != inputs:
            layers.append(conv_bn_act(inputs, row.expanded, 1, activation=activation))
        layers.append(
            conv_bn_act(
                row.expanded,
                row.expanded,
                row.kernel,
                stride=1 if row.dilation > 1 else row.stride,
                groups=row.expanded,
                dilation=row.dilation,
                activation=activation,
            )
        )
        if row.squeeze:
            layers.append(SqueezeExcitation(row.expanded, make_divisible(row.expanded // 4)))
        layers.append(conv_bn_act(row.expanded, row.out, 1))
        self.block = nn.Sequential(*layers)
        # the stride as the table has it: a dilated block never adds its input, though it keeps the size
        self.residual = row.stride == 1 and inputs == row.out

    def forward(self, x):
        out = self.block(x)
        return out + x if self.residual else out


class MobileNetV3(nn.Layer):
    """images [N, 3, H, W] -> logits [N, num_classes]; any H, W."""

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
        rows = table(model, width_mult, reduced_tail, dilated)
        stem = make_divisible(_STEM_WIDTH * width_mult)
        last = 6 * rows[-1].out
        hidden = make_divisible(_HIDDEN_WIDTH[model] // (2 if reduced_tail else 1) * width_mult)

        stages = [conv_bn_act(3, stem, 3, stride=2, activation=nn.Hardswish)]
        inputs = stem
        for row in rows:
            stages.append(InvertedResidual(inputs, row))
            inputs = row.out
        stages.append(conv_bn_act(inputs, last, 1, activation=nn.Hardswish))
        self.features = nn.Sequential(*stages)
        self.avgpool = nn.AdaptiveAvgPool2D(1)
        self.classifier = nn.Sequential(
            _linear(last, hidden), nn.Hardswish(), nn.Dropout(dropout), _linear(hidden, num_classes)
        )

    def forward(self, images):
        pooled = self.avgpool(self.features(images)).flatten(1)  # [N, last]
        return self.classifier(pooled)


def _linear(inputs: int, outputs: int) -> nn.Linear:
    return nn.Linear(
        inputs, outputs, weight_attr=nn.initializer.Normal(0.0, 0.01), bias_attr=nn.initializer.Constant(0.0)
    )
