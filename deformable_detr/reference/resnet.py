"""ResNet in torch with torchvision's names and calls, on which the official backbone builds (official.py).

Bottlenecks have their stride on the 3x3 convolution (NOTES 3.3).
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import nn


def _conv(c_in: int, c_out: int, kernel: int, stride: int = 1, dilation: int = 1) -> nn.Conv2d:
    return nn.Conv2d(c_in, c_out, kernel, stride, dilation * (kernel // 2), dilation, bias=False)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and the shortcut."""

    expansion = 1

    def __init__(self, c_in: int, width: int, stride: int, dilation: int, downsample: nn.Module | None, norm: Callable):
        super().__init__()
        if dilation > 1:
            raise NotImplementedError("ResNets of basic blocks have no dilated form")
        self.conv1, self.bn1 = _conv(c_in, width, 3, stride), norm(width)
        self.conv2, self.bn2 = _conv(width, width, 3), norm(width)
        self.downsample = downsample

    def forward(self, x):
        shortcut = self.downsample(x) if self.downsample else x
        x = self.bn1(self.conv1(x)).relu()
        return (self.bn2(self.conv2(x)) + shortcut).relu()


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolution, four times as wide at the end, and the shortcut."""

    expansion = 4

    def __init__(self, c_in: int, width: int, stride: int, dilation: int, downsample: nn.Module | None, norm: Callable):
        super().__init__()
        self.conv1, self.bn1 = _conv(c_in, width, 1), norm(width)
        self.conv2, self.bn2 = _conv(width, width, 3, stride, dilation), norm(width)
        self.conv3, self.bn3 = _conv(width, 4 * width, 1), norm(4 * width)
        self.downsample = downsample

    def forward(self, x):
        shortcut = self.downsample(x) if self.downsample else x
        x = self.bn1(self.conv1(x)).relu()
        x = self.bn2(self.conv2(x)).relu()
        return (self.bn3(self.conv3(x)) + shortcut).relu()


class ResNet(nn.Module):
    """images [N, 3, H, W], normalised -> logits [N, 1000].

    Freshly initialised: convolutions Kaiming normal by their outputs, norms 1 and 0. `replace_stride_with_dilation`
    for layer2, layer3, layer4: the layer's first block keeps the dilation that came before, the others have the new
    one (NOTES 3.4).
    """

    def __init__(
        self,
        block: type[nn.Module],
        blocks: Sequence[int],
        replace_stride_with_dilation: Sequence[bool] = (False, False, False),
        norm_layer: Callable = nn.BatchNorm2d,
    ):
        super().__init__()
        self.conv1 = _conv(3, 64, 7, 2)
        self.bn1 = norm_layer(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        channels, dilation = 64, 1
        for index, count in enumerate(blocks):
            width, stride, before = 64 << index, 2 if index else 1, dilation
            if index and replace_stride_with_dilation[index - 1]:
                dilation, stride = dilation * stride, 1
            outputs, downsample = width * block.expansion, None
            if stride != 1 or channels != outputs:
                downsample = nn.Sequential(_conv(channels, outputs, 1, stride), norm_layer(outputs))
            layer = [block(channels, width, stride, before, downsample, norm_layer)]
            layer += [block(outputs, width, 1, dilation, None, norm_layer) for _ in range(count - 1)]
            self.add_module(f"layer{index + 1}", nn.Sequential(*layer))
            channels = outputs
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, 1000)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(self.avgpool(x).flatten(1))


#: name: constructor, for every depth that torchvision calls by a plain name
RESNETS = {
    "resnet18": partial(ResNet, BasicBlock, (2, 2, 2, 2)),
    "resnet34": partial(ResNet, BasicBlock, (3, 4, 6, 3)),
    "resnet50": partial(ResNet, Bottleneck, (3, 4, 6, 3)),
    "resnet101": partial(ResNet, Bottleneck, (3, 4, 23, 3)),
    "resnet152": partial(ResNet, Bottleneck, (3, 8, 36, 3)),
}
