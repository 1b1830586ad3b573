"""STDC backbones: short-term dense concatenate networks (paper section 3.1, table 2; NOTES 4.1 to 4.6)."""

import math

import paddle
from paddle import nn
from paddle.nn import functional as F

from shared.norms import BatchNorm2D

#: blocks of stages 3, 4 and 5; the first of a stage halves the resolution
STAGES = {"STDCNet813": (2, 2, 2), "STDCNet1446": (4, 5, 3)}
SUB_BLOCKS = 4
IMAGENET_CLASSES = 1000


class ConvX(nn.Layer):
    """Convolution, batch norm, ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1):
        super().__init__()
        self.conv = nn.Conv2D(inputs, outputs, kernel, stride, padding=kernel // 2, bias_attr=False)
        self.bn = BatchNorm2D(outputs)

    def forward(self, x):
        return F.relu(self.bn(self.conv(x)))


class CatBottleneck(nn.Layer):
    """The STDC module: four convolutions in a row with fewer and fewer channels, their outputs concatenated.

    With stride 2 a depthwise convolution halves the resolution after the first one, whose own output is average-pooled
    for the concatenation (NOTES 4.2, 4.3).
    """

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        widths = [outputs // 2 ** min(i + 1, SUB_BLOCKS - 1) for i in range(SUB_BLOCKS)]
        self.conv_list = nn.LayerList(
            ConvX(a, b, kernel=1 if i == 0 else 3)
            for i, (a, b) in enumerate(zip([inputs, *widths], widths))  # noqa: B905
        )
        self.halves = stride == 2
        if self.halves:
            half = widths[0]
            down = nn.Conv2D(half, half, 3, stride=2, padding=1, groups=half, bias_attr=False)
            self.avd_layer = nn.Sequential(down, BatchNorm2D(half))

    def forward(self, x):
        first, *others = self.conv_list
        x = first(x)
        outputs = [x]
        if self.halves:
            # exclusive=False: the zeros of the padding count in the mean, as in torch (NOTES 8.1)
            outputs = [F.avg_pool2d(x, 3, stride=2, padding=1, exclusive=False)]
            x = self.avd_layer(x)
        for layer in others:
            x = layer(x)
            outputs.append(x)
        return paddle.concat(outputs, axis=1)


class STDCNet(nn.Layer):
    """STDC1 ("STDCNet813") or STDC2 ("STDCNet1446").

    `forward(images [N, 3, H, W])` gives the features at 1/2, 1/4, 1/8, 1/16 and 1/32 of the size, rounded up at every
    halving; `forward_impl(images)` gives ImageNet logits [N, 1000].
    """

    def __init__(self, name: str, base: int = 64, use_conv_last: bool = False):
        super().__init__()
        self.use_conv_last = use_conv_last
        #: channels of the five features
        self.widths = (base // 2, base, 4 * base, 8 * base, 16 * base)
        blocks = [ConvX(3, self.widths[0], stride=2), ConvX(self.widths[0], self.widths[1], stride=2)]
        ends = [1, 2]  # one past the last block of each feature
        for inputs, outputs, count in zip(self.widths[1:4], self.widths[2:5], STAGES[name], strict=True):
            blocks.append(CatBottleneck(inputs, outputs, stride=2))
            blocks += [CatBottleneck(outputs, outputs, stride=1) for _ in range(count - 1)]
            ends.append(len(blocks))
        self.features = nn.Sequential(*blocks)
        top = self.widths[-1]
        self.conv_last = ConvX(top, top, kernel=1)
        self.fc = nn.Linear(top, top, bias_attr=False)
        self.bn = nn.BatchNorm1D(top)  # in every checkpoint, never applied
        self.dropout = nn.Dropout(0.2)
        self.linear = nn.Linear(top, IMAGENET_CLASSES, bias_attr=False)
        # the official state dict lists the blocks once more under the feature they belong to (NOTES 1.4)
        for stride, start, end in zip((2, 4, 8, 16, 32), [0, *ends], ends):  # noqa: B905
            part = nn.Sequential(*((str(i), blocks[i]) for i in range(start, end)))
            setattr(self, f"x{stride}", nn.Sequential(part))
        self._ends = ends
        self._initialise()

    def _initialise(self) -> None:
        """NOTES 4.13."""
        for layer in self.features.sublayers() + self.conv_last.sublayers():
            if isinstance(layer, nn.Conv2D):
                fan_out = layer.weight.shape[0] * layer.weight.shape[2] * layer.weight.shape[3]
                nn.initializer.Normal(0.0, math.sqrt(2 / fan_out))(layer.weight)
        for layer in (self.fc, self.linear):
            nn.initializer.Normal(0.0, 0.001)(layer.weight)

    def forward(self, images) -> list:
        features, x = [], images
        for index, block in enumerate(self.features):
            x = block(x)
            if index + 1 in self._ends:
                features.append(x)
        if self.use_conv_last:
            features[-1] = self.conv_last(features[-1])
        return features

    def forward_impl(self, images):
        """images [N, 3, H, W] -> ImageNet logits [N, 1000], from averages of squares (NOTES 4.6)."""
        x = self.conv_last(self.features(images))
        x = (x * x).mean([2, 3])
        return self.linear(self.dropout(F.relu(self.fc(x))))


class STDCClassifier(STDCNet):
    """The ImageNet form: the same tensors; forward(images [N, 3, H, W]) -> logits [N, 1000]."""

    def forward(self, images):
        return self.forward_impl(images)
