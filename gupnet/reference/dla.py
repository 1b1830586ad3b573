"""DLA-34 and its upward aggregation in torch, from NOTES 4.2 to 4.8, with the official tensor names."""

import math
from collections.abc import Iterable, Sequence

import torch
from torch import nn
from torch.nn import functional as F

WIDTHS = (16, 32, 64, 128, 256, 512)
FIRST_LEVEL = 2  # level2 has a quarter of the input's size
IMAGENET_CLASSES = 1000


def fan_out(modules: Iterable[nn.Module]) -> None:
    """Initialise every convolution among them with N(0, sqrt(2 / (k k out)))."""
    for module in modules:
        if isinstance(module, nn.Conv2d):
            height, width = module.kernel_size
            nn.init.normal_(module.weight, 0, math.sqrt(2 / (height * width * module.out_channels)))


def _conv_norm(c_in: int, c_out: int, kernel: int, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(c_out))


class Stem(nn.Sequential):
    """Convolution, batch norm, ReLU."""

    def __init__(self, c_in: int, c_out: int, kernel: int, stride: int = 1):
        super().__init__(*_conv_norm(c_in, c_out, kernel, stride), nn.ReLU())


class BasicBlock(nn.Module):
    """(x [N, c_in, h, w], shortcut [N, c_out, h / stride, w / stride]) -> the shortcut's shape."""

    def __init__(self, c_in: int, c_out: int, stride: int):
        super().__init__()
        self.conv1, self.bn1 = _conv_norm(c_in, c_out, 3, stride)
        self.conv2, self.bn2 = _conv_norm(c_out, c_out, 3)

    def forward(self, x, shortcut):
        inner = self.bn1(self.conv1(x)).relu()
        return (self.bn2(self.conv2(inner)) + shortcut).relu()


class ConvNormReLU(nn.Module):
    """Root of a tree (1x1, on the concatenation of its inputs) and projection or node of the neck (3x3)."""

    def __init__(self, c_in: int, c_out: int, kernel: int):
        super().__init__()
        self.conv, self.bn = _conv_norm(c_in, c_out, kernel)

    def forward(self, *parts):
        return self.bn(self.conv(torch.cat(parts, 1))).relu()


class Tree(nn.Module):
    """(x, further inputs of the root) -> [N, c_out, h / stride, w / stride].

    Depth 1: two blocks and a root over [second, first, *further]. Depth 2: two trees of depth 1; the first one's output
    is a further input of the second, and so is a level root's pooled input. The outer tree's own projection is run for
    its statistics only (NOTES 4.4).
    """

    def __init__(self, depth: int, c_in: int, c_out: int, stride: int, further: int = 0, level_root: bool = False):
        super().__init__()
        self.pool = nn.MaxPool2d(stride) if stride > 1 else nn.Identity()
        self.depth, self.level_root = depth, level_root
        further += c_in if level_root else 0
        if depth == 1:
            self.tree1 = BasicBlock(c_in, c_out, stride)
            self.tree2 = BasicBlock(c_out, c_out, 1)
            self.root = ConvNormReLU(2 * c_out + further, c_out, 1)
        else:
            self.tree1 = Tree(depth - 1, c_in, c_out, stride)
            self.tree2 = Tree(depth - 1, c_out, c_out, 1, further + c_out)
        if c_in != c_out:
            self.project = _conv_norm(c_in, c_out, 1)

    def forward(self, x, further: Sequence[torch.Tensor] = ()):
        pooled = self.pool(x)
        shortcut = self.project(pooled) if hasattr(self, "project") else pooled
        if self.level_root:
            further = (*further, pooled)
        if self.depth == 1:
            first = self.tree1(x, shortcut)
            return self.root(self.tree2(first, first), first, *further)
        first = self.tree1(x)
        return self.tree2(first, (*further, first))


class DLA34(nn.Module):
    """images [N, 3, H, W] -> six features, [N, WIDTHS[i], H / 2^i, W / 2^i]."""

    def __init__(self):
        super().__init__()
        self.base_layer = Stem(3, WIDTHS[0], 7)
        self.level0 = Stem(WIDTHS[0], WIDTHS[0], 3)
        self.level1 = Stem(WIDTHS[0], WIDTHS[1], 3, 2)
        self.level2 = Tree(1, WIDTHS[1], WIDTHS[2], 2)
        self.level3 = Tree(2, WIDTHS[2], WIDTHS[3], 2, level_root=True)
        self.level4 = Tree(2, WIDTHS[3], WIDTHS[4], 2, level_root=True)
        self.level5 = Tree(1, WIDTHS[4], WIDTHS[5], 2, level_root=True)
        self.fc = nn.Conv2d(WIDTHS[5], IMAGENET_CLASSES, 1)  # the ImageNet classifier: in the files, not used
        fan_out(module for name, module in self.named_modules() if name != "fc")

    def forward(self, images) -> list[torch.Tensor]:
        x, levels = self.base_layer(images), []
        for index in range(len(WIDTHS)):
            x = getattr(self, f"level{index}")(x)
            levels.append(x)
        return levels


class Doubling(nn.ConvTranspose2d):
    """Doubles the size with a trained kernel per channel, bilinear at first."""

    def __init__(self, width: int):
        super().__init__(width, width, 4, 2, 1, groups=width, bias=False)
        half = math.ceil(4 / 2)
        centre = (2 * half - 1 - half % 2) / (2 * half)
        profile = torch.tensor([1 - abs(index / half - centre) for index in range(4)])
        self.weight.data.copy_(torch.outer(profile, profile).expand_as(self.weight))


class IDAUp(nn.Module):
    """Features of `widths`, each half as large as the one before -> a list, all of `width` and of the first's size."""

    def __init__(self, widths: Sequence[int], width: int):
        super().__init__()
        for index, c_in in enumerate(widths[1:], 1):
            setattr(self, f"proj_{index}", ConvNormReLU(c_in, width, 3))
            setattr(self, f"up_{index}", Doubling(width))
            setattr(self, f"node_{index}", ConvNormReLU(2 * width, width, 3))
        fan_out(self.modules())

    def forward(self, features: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        merged = [features[0]]
        for index, feature in enumerate(features[1:], 1):
            proj, up, node = (getattr(self, f"{part}_{index}") for part in ("proj", "up", "node"))
            merged.append(node(merged[-1], up(proj(feature))))
        return merged


class DLAUp(nn.Module):
    """Levels 2 to 5 of DLA34 -> [N, 64, H / 4, W / 4]."""

    def __init__(self):
        super().__init__()
        widths = list(WIDTHS[FIRST_LEVEL:])
        for stage in range(len(widths) - 1):
            start = len(widths) - 2 - stage
            self.add_module(f"ida_{stage}", IDAUp(widths[start:], widths[start]))
            widths[start + 1 :] = [widths[start]] * (len(widths) - start - 1)

    def forward(self, features: Sequence[torch.Tensor]) -> torch.Tensor:
        features = list(features)
        for stage in range(len(features) - 1):
            start = len(features) - 2 - stage
            features[start:] = getattr(self, f"ida_{stage}")(features[start:])
        return features[-1]


def peaks(scores: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The k highest local maxima of scores [B, C, h, w]: (value, cell, class), each [B, k], best first (NOTES 4.10).

    A cell is a maximum when none of its eight neighbours is higher; k of each class are taken before k of all.
    """
    maxima = torch.where(F.max_pool2d(scores, 3, 1, 1) == scores, scores, 0).flatten(2)
    best, cells = maxima.topk(k)
    value, position = best.flatten(1).topk(k)
    return value, cells.flatten(1).gather(1, position), position // k
