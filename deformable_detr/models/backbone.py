"""ResNet feature maps (NOTES 3.3 to 3.5). Tensor names are torchvision's."""

import math

import paddle
from paddle import nn
from paddle.nn import functional as F

from shared.norms import BatchNorm2D

#: blocks in each of the four stages: basic blocks below 50 layers, bottlenecks from there on
BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
EPSILON = 1e-5


class FrozenBatchNorm2D(nn.Layer):
    """A batch norm of constants, in training too: one scale and shift a channel (NOTES 3.5, 8.4)."""

    def __init__(self, channels: int):
        super().__init__()
        for name, value in (("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0)):
            self.register_buffer(name, paddle.full([channels], value))

    def fold_into(self, weight):
        """(weight, bias) of the convolution that equals the one of `weight` [C, ...], without bias, and then this norm.

        Computed in float64 and rounded once: the rounding error of a scale would be shared by its whole channel
        (NOTES 8.11).
        """
        scale = self.weight.astype("float64") / (self.running_var.astype("float64") + EPSILON).sqrt()
        shift = self.bias.astype("float64") - self.running_mean.astype("float64") * scale
        folded = weight.astype("float64") * scale.reshape([-1, 1, 1, 1])
        return folded.astype(weight.dtype), shift.astype(weight.dtype)


def conv_norm(x, convolution: nn.Conv2D, norm: nn.Layer):
    """The convolution, then the norm. A frozen norm is folded into the convolution, which saves memory in backward."""
    if not isinstance(norm, FrozenBatchNorm2D):
        return norm(convolution(x))
    weight, bias = norm.fold_into(convolution.weight)
    return F.conv2d(x, weight, bias, convolution._stride, convolution._padding, convolution._dilation)


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1, dilation: int = 1) -> nn.Conv2D:
    start = nn.initializer.Normal(0.0, math.sqrt(2 / (outputs * kernel * kernel)))
    padding = dilation * (kernel // 2)
    return nn.Conv2D(inputs, outputs, kernel, stride, padding, dilation, weight_attr=start, bias_attr=False)


class BasicBlock(nn.Layer):
    """Two 3x3 convolutions and the shortcut."""

    expansion = 1

    def __init__(self, inputs, planes, stride, dilation, downsample, norm):
        super().__init__()
        self.conv1, self.bn1 = _conv(inputs, planes, 3, stride, dilation), norm(planes)
        self.conv2, self.bn2 = _conv(planes, planes, 3), norm(planes)
        self.downsample = downsample

    def forward(self, x):
        out = F.relu(conv_norm(x, self.conv1, self.bn1))
        out = conv_norm(out, self.conv2, self.bn2)
        return F.relu(out + (conv_norm(x, *self.downsample) if self.downsample else x))


class Bottleneck(nn.Layer):
    """1x1, 3x3 (with the stride and the dilation) and 1x1 convolutions, and the shortcut."""

    expansion = 4

    def __init__(self, inputs, planes, stride, dilation, downsample, norm):
        super().__init__()
        self.conv1, self.bn1 = _conv(inputs, planes, 1), norm(planes)
        self.conv2, self.bn2 = _conv(planes, planes, 3, stride, dilation), norm(planes)
        self.conv3, self.bn3 = _conv(planes, planes * 4, 1), norm(planes * 4)
        self.downsample = downsample

    def forward(self, x):
        out = F.relu(conv_norm(x, self.conv1, self.bn1))
        out = F.relu(conv_norm(out, self.conv2, self.bn2))
        out = conv_norm(out, self.conv3, self.bn3)
        return F.relu(out + (conv_norm(x, *self.downsample) if self.downsample else x))


class ResNet(nn.Layer):
    """torchvision's ResNet without its classifier; forward returns the maps of layer2, layer3 and layer4.

    dilation: the last stage keeps stride 16; its first block is not dilated, the others by 2 (DC5, NOTES 3.4).
    """

    def __init__(self, num_layers: int, norm, dilation: bool = False):
        super().__init__()
        block = BasicBlock if num_layers < 50 else Bottleneck
        self.conv1, self.bn1 = _conv(3, 64, 7, 2), norm(64)
        inputs = 64
        for stage, count in enumerate(BLOCKS[num_layers], start=1):
            planes, dilated, blocks = 32 * 2**stage, dilation and stage == 4, []
            for index in range(count):
                stride = 2 if stage > 1 and index == 0 and not dilated else 1
                outputs = planes * block.expansion
                downsample = None
                if stride != 1 or inputs != outputs:
                    downsample = nn.Sequential(_conv(inputs, outputs, 1, stride), norm(outputs))
                blocks.append(block(inputs, planes, stride, 2 if dilated and index else 1, downsample, norm))
                inputs = outputs
            setattr(self, f"layer{stage}", nn.Sequential(*blocks))
        self.channels = [64 * 2**stage * block.expansion for stage in (1, 2, 3)]

    def forward(self, images) -> list:
        x = F.relu(conv_norm(images, self.conv1, self.bn1))
        x = self.layer1(F.max_pool2d(x, 3, stride=2, padding=1))
        features = []
        for stage in (self.layer2, self.layer3, self.layer4):
            x = stage(x)
            features.append(x)
        return features


class Backbone(nn.Layer):
    """forward(images float [N, 3, H, W], normalised) -> feature maps, each with its channels in `channels`.

    With `multi_scale` those of strides 8, 16 and 32, else the last alone. `norm`: frozen (conv1, layer1 and every norm
    are constants) or batch (everything is trained). With `trained` False nothing is trained.
    """

    def __init__(self, name: str, norm: str, dilation: bool, multi_scale: bool, trained: bool):
        super().__init__()
        kind = FrozenBatchNorm2D if norm == "frozen" else BatchNorm2D
        self.body = ResNet(int(name.removeprefix("resnet")), kind, dilation)
        self.multi_scale = multi_scale
        self.channels = self.body.channels if multi_scale else self.body.channels[-1:]
        for parameter_name, parameter in self.body.named_parameters():
            late = parameter_name.startswith(("layer2", "layer3", "layer4"))
            statistic = parameter_name.endswith(("._mean", "._variance"))  # Paddle lists them among the parameters
            parameter.stop_gradient = statistic or not (trained and (late or norm == "batch"))

    def forward(self, images) -> list:
        features = self.body(images)
        return features if self.multi_scale else features[-1:]
