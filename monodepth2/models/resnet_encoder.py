"""ResNet encoders of one image or of several joined by channels (NOTES 3.1, 3.2). Tensor names are torchvision's."""

import math

import paddle
from paddle import nn
from paddle.nn import functional as F

from shared.norms import BatchNorm2D

#: blocks of the four stages: BasicBlock below 50 layers, Bottleneck from there on
BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
IMAGENET_CLASSES = 1000
# one pair for all channels
MEAN, STD = 0.45, 0.225


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Conv2D:
    start = nn.initializer.Normal(0.0, math.sqrt(2 / (outputs * kernel * kernel)))
    return nn.Conv2D(inputs, outputs, kernel, stride, kernel // 2, weight_attr=start, bias_attr=False)


class BasicBlock(nn.Layer):
    """Two 3x3 convolutions and a shortcut."""

    expansion = 1

    def __init__(self, inputs: int, planes: int, stride: int, downsample: nn.Layer | None):
        super().__init__()
        self.conv1, self.bn1 = _conv(inputs, planes, 3, stride), BatchNorm2D(planes)
        self.conv2, self.bn2 = _conv(planes, planes, 3), BatchNorm2D(planes)
        self.downsample = downsample

    def forward(self, x):
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return F.relu(out + (self.downsample(x) if self.downsample else x))


class Bottleneck(nn.Layer):
    """1x1, 3x3 (with the stride) and 1x1 convolutions, and a shortcut."""

    expansion = 4

    def __init__(self, inputs: int, planes: int, stride: int, downsample: nn.Layer | None):
        super().__init__()
        self.conv1, self.bn1 = _conv(inputs, planes, 1), BatchNorm2D(planes)
        self.conv2, self.bn2 = _conv(planes, planes, 3, stride), BatchNorm2D(planes)
        self.conv3, self.bn3 = _conv(planes, planes * 4, 1), BatchNorm2D(planes * 4)
        self.downsample = downsample

    def forward(self, x):
        out = F.relu(self.bn1(self.conv1(x)))
        out = F.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return F.relu(out + (self.downsample(x) if self.downsample else x))


class ResNet(nn.Layer):
    """torchvision's ResNet on `num_images` images joined by channels -> five features; its classifier is not used."""

    def __init__(self, num_layers: int, num_images: int = 1):
        super().__init__()
        block = BasicBlock if num_layers < 50 else Bottleneck
        self.conv1, self.bn1 = _conv(3 * num_images, 64, 7, 2), BatchNorm2D(64)
        inputs = 64
        for stage, count in enumerate(BLOCKS[num_layers], start=1):
            planes, blocks = 32 * 2**stage, []
            for index in range(count):
                stride = 2 if stage > 1 and index == 0 else 1
                outputs = planes * block.expansion
                downsample = None
                if stride != 1 or inputs != outputs:
                    downsample = nn.Sequential(_conv(inputs, outputs, 1, stride), BatchNorm2D(outputs))
                blocks.append(block(inputs, planes, stride, downsample))
                inputs = outputs
            setattr(self, f"layer{stage}", nn.Sequential(*blocks))
        bound = 1 / math.sqrt(inputs)
        start = nn.initializer.Uniform(-bound, bound)
        self.fc = nn.Linear(inputs, IMAGENET_CLASSES, weight_attr=start, bias_attr=start)

    def forward(self, x) -> list:
        features = [F.relu(self.bn1(self.conv1(x)))]
        x = F.max_pool2d(features[0], 3, stride=2, padding=1)
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
            features.append(x)
        return features


class ResnetEncoder(nn.Layer):
    """forward(images [N, 3 * num_images, H, W] in [0, 1]) -> five features, at 1/2, 1/4, 1/8, 1/16 and 1/32."""

    def __init__(self, num_layers: int, num_images: int = 1):
        super().__init__()
        self.encoder = ResNet(num_layers, num_images)
        expansion = 1 if num_layers < 50 else 4
        self.num_ch_enc = (64, *(64 * 2**stage * expansion for stage in range(4)))

    def forward(self, images) -> list:
        return self.encoder((images - MEAN) / STD)

    def idle_layers(self) -> list[nn.Layer]:
        """The layers of the official checkpoint that are never used: the classifier."""
        return [self.encoder.fc]


def first_convolution(weight, num_images: int):
    """ImageNet's conv1 weight [64, 3, 7, 7] -> [64, 3 * num_images, 7, 7]: repeated and divided by num_images."""
    return paddle.tile(weight, [1, num_images, 1, 1]) / num_images
