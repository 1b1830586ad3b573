"""STDC-Seg in torch, written from the paper and NOTES 4, with the official tensor names.

It replaces the authors' code where that is not at hand; tests compare it with golden figures of the official code. It
shares no code with the Paddle network, so that a mistake there does not repeat here.
"""

import argparse

import torch
from torch import nn
from torch.nn import functional as F

# blocks of the stages at 1/8, 1/16, 1/32 (NOTES 4.4)
_BLOCKS = {"STDCNet813": (2, 2, 2), "STDCNet1446": (4, 5, 3)}
_CONTEXT = 128  # channels of the context path
_CLASSES_OF_IMAGENET = 1000


class ConvX(nn.Module):
    """Convolution, batch norm, ReLU: the backbone's unit (NOTES 4.1)."""

    def __init__(self, c_in: int, c_out: int, kernel: int = 3, stride: int = 1):
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(c_out)

    def forward(self, x):
        return self.bn(self.conv(x)).relu()


class CatBottleneck(nn.Module):
    """Short-term dense concatenate block of four units (paper figure 3; NOTES 4.2, 4.3)."""

    def __init__(self, c_in: int, c_out: int, stride: int):
        super().__init__()
        self.conv_list = nn.ModuleList(
            [
                ConvX(c_in, c_out // 2, kernel=1),
                ConvX(c_out // 2, c_out // 4),
                ConvX(c_out // 4, c_out // 8),
                ConvX(c_out // 8, c_out // 8),
            ]
        )
        self.halves = stride == 2
        if self.halves:
            half = c_out // 2
            depthwise = nn.Conv2d(half, half, 3, 2, 1, groups=half, bias=False)
            self.avd_layer = nn.Sequential(depthwise, nn.BatchNorm2d(half))

    def forward(self, x):
        first, *rest = self.conv_list
        x = first(x)
        parts = [F.avg_pool2d(x, 3, 2, 1) if self.halves else x]
        if self.halves:
            x = self.avd_layer(x)
        for unit in rest:
            x = unit(x)
            parts.append(x)
        return torch.cat(parts, dim=1)


class STDCNet(nn.Module):
    """The backbone, which is a whole ImageNet classifier: images [N, 3, H, W] -> logits [N, 1000] (NOTES 4.4, 4.6)."""

    def __init__(self, backbone: str, base: int, use_conv_last: bool):
        super().__init__()
        layers = [ConvX(3, base // 2, stride=2), ConvX(base // 2, base, stride=2)]
        ends = [1, 2]  # one past the last layer of each stride
        c_in = base
        for factor, blocks in zip((4, 8, 16), _BLOCKS[backbone], strict=True):
            for stride in [2] + [1] * (blocks - 1):
                layers.append(CatBottleneck(c_in, factor * base, stride))
                c_in = factor * base
            ends.append(len(layers))
        self.features = nn.Sequential(*layers)
        self.conv_last = ConvX(c_in, c_in, kernel=1)
        self.fc = nn.Linear(c_in, c_in, bias=False)
        self.bn = nn.BatchNorm1d(c_in)  # in every checkpoint, never applied
        self.dropout = nn.Dropout(0.2)
        self.linear = nn.Linear(c_in, _CLASSES_OF_IMAGENET, bias=False)
        self.use_conv_last = use_conv_last
        # the same layers once more under other names, as in the official checkpoints (NOTES 1.4)
        for index, (start, end) in enumerate(zip([0, *ends], ends, strict=False)):
            self.add_module(f"x{2 ** (index + 1)}", nn.Sequential(self.features[start:end]))
        self._initialise()

    def _initialise(self):
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.001)

    def features_at(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """feat2 ... feat32: the last feature of each stride, [N, C, ceil(H / stride), ceil(W / stride)]."""
        features, x = {}, images
        for stride in (2, 4, 8, 16, 32):
            x = getattr(self, f"x{stride}")(x)
            features[f"feat{stride}"] = x
        if self.use_conv_last:
            features["feat32"] = self.conv_last(x)
        return features

    def forward(self, images):
        x = self.conv_last(self.features(images)).square().mean(dim=(2, 3))
        return self.linear(self.dropout(self.fc(x).relu()))


class InPlaceABN(nn.Module):
    """The norm outside the backbone, without activation and not in place; its scale is |weight| + eps (NOTES 4.11).

    [N, C, H, W] -> the same shape. No counter of batches, and the unbiased running variance.
    """

    def __init__(self, channels: int, eps: float = 1e-5, momentum: float = 0.1):
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x):
        scale = self.weight.abs() + self.eps
        running = (self.running_mean, self.running_var)
        return F.batch_norm(x, *running, scale, self.bias, self.training, self.momentum, self.eps)


def _conv(c_in: int, c_out: int, kernel: int = 1) -> nn.Conv2d:
    return nn.Conv2d(c_in, c_out, kernel, padding=kernel // 2, bias=False)


class ConvBNReLU(nn.Module):
    """Convolution, InPlaceABN, ReLU: the unit outside the backbone (NOTES 4.7)."""

    def __init__(self, c_in: int, c_out: int, kernel: int = 3):
        super().__init__()
        self.conv = _conv(c_in, c_out, kernel)
        self.bn = InPlaceABN(c_out)

    def forward(self, x):
        return self.bn(self.conv(x)).relu()


def _global_mean(x: torch.Tensor) -> torch.Tensor:
    return x.mean(dim=(2, 3), keepdim=True)


class AttentionRefinementModule(nn.Module):
    """[N, C, h, w] -> [N, 128, h, w] (NOTES 4.7)."""

    def __init__(self, c_in: int, c_out: int):
        super().__init__()
        self.conv = ConvBNReLU(c_in, c_out)
        self.conv_atten = _conv(c_out, c_out)
        self.bn_atten = InPlaceABN(c_out)

    def forward(self, x):
        x = self.conv(x)
        return x * self.bn_atten(self.conv_atten(_global_mean(x))).sigmoid()


class ContextPath(nn.Module):
    """Backbone, attention and the two steps back up: images -> (backbone features, cp8, cp16) (NOTES 4.8)."""

    def __init__(self, options: argparse.Namespace):
        super().__init__()
        base = options.base
        self.backbone = STDCNet(options.backbone, base, options.use_conv_last)
        self.arm16 = AttentionRefinementModule(8 * base, _CONTEXT)
        self.arm32 = AttentionRefinementModule(16 * base, _CONTEXT)
        self.conv_head32 = ConvBNReLU(_CONTEXT, _CONTEXT)
        self.conv_head16 = ConvBNReLU(_CONTEXT, _CONTEXT)
        self.conv_avg = ConvBNReLU(16 * base, _CONTEXT, kernel=1)

    def forward(self, images):
        features = self.backbone.features_at(images)
        x = self.arm32(features["feat32"]) + self.conv_avg(_global_mean(features["feat32"]))
        cp16 = self.conv_head32(F.interpolate(x, features["feat16"].shape[2:], mode="nearest"))
        x = self.arm16(features["feat16"]) + cp16
        cp8 = self.conv_head16(F.interpolate(x, features["feat8"].shape[2:], mode="nearest"))
        return features, cp8, cp16


class FeatureFusionModule(nn.Module):
    """Spatial and context feature at 1/8 -> [N, 256, h, w] (NOTES 4.9)."""

    def __init__(self, c_in: int, c_out: int = 256):
        super().__init__()
        self.convblk = ConvBNReLU(c_in, c_out, kernel=1)
        self.conv1 = _conv(c_out, c_out // 4)
        self.conv2 = _conv(c_out // 4, c_out)

    def forward(self, spatial, context):
        x = self.convblk(torch.cat([spatial, context], dim=1))
        return x + x * self.conv2(self.conv1(_global_mean(x)).relu()).sigmoid()


class BiSeNetOutput(nn.Module):
    """3x3 unit, then 1x1 to the classes, at the feature's own resolution (NOTES 4.10)."""

    def __init__(self, c_in: int, c_mid: int, classes: int):
        super().__init__()
        self.conv = ConvBNReLU(c_in, c_mid)
        self.conv_out = _conv(c_mid, classes)

    def forward(self, x):
        return self.conv_out(self.conv(x))


def resize(x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """[N, C, h, w] -> [N, C, *size], bilinear with aligned corners."""
    return F.interpolate(x, size, mode="bilinear", align_corners=True)


class ReferenceBiSeNet(nn.Module):
    """images [N, 3, H, W] -> {"out", "out16", "out32": [N, classes, H, W], "detailS": [N, 1, H/S, W/S]}.

    The detail outputs are those of the use_boundary options, in any combination and in either mode. All seven heads
    run in every pass, also those whose output is dropped: in training their running statistics move (NOTES 4.10).
    """

    def __init__(self, options: argparse.Namespace):
        super().__init__()
        base, classes = options.base, options.num_classes
        self.cp = ContextPath(options)
        self.ffm = FeatureFusionModule(4 * base + _CONTEXT)
        self.conv_out = BiSeNetOutput(256, 256, classes)
        self.conv_out16 = BiSeNetOutput(_CONTEXT, 64, classes)
        self.conv_out32 = BiSeNetOutput(_CONTEXT, 64, classes)
        self.conv_out_sp16 = BiSeNetOutput(8 * base, 64, 1)
        self.conv_out_sp8 = BiSeNetOutput(4 * base, 64, 1)
        self.conv_out_sp4 = BiSeNetOutput(base, 64, 1)
        self.conv_out_sp2 = BiSeNetOutput(base // 2, 64, 1)
        details = [f"detail{stride}" for stride in (2, 4, 8) if getattr(options, f"use_boundary_{stride}")]
        self.outputs = ("out", "out16", "out32", *details)
        for name, module in self.named_modules():
            if isinstance(module, nn.Conv2d) and not name.startswith("cp.backbone."):
                nn.init.kaiming_normal_(module.weight, a=1)

    def segment(self, images: torch.Tensor) -> torch.Tensor:
        """`out` alone, without the heads that only training needs: for measuring speed."""
        features, cp8, _ = self.cp(images)
        return resize(self.conv_out(self.ffm(features["feat8"], cp8)), images.shape[2:])

    def forward(self, images):
        features, cp8, cp16 = self.cp(images)
        fused, size = self.ffm(features["feat8"], cp8), images.shape[2:]
        values = {
            "out": resize(self.conv_out(fused), size),
            "out16": resize(self.conv_out16(cp8), size),
            "out32": resize(self.conv_out32(cp16), size),
        }
        for stride in (2, 4, 8, 16):
            values[f"detail{stride}"] = getattr(self, f"conv_out_sp{stride}")(features[f"feat{stride}"])
        return {name: values[name] for name in self.outputs}


def build_reference(options: argparse.Namespace) -> ReferenceBiSeNet:
    """The torch twin of `models.build_model(options)`, freshly initialised (NOTES 4.13), in train mode."""
    return ReferenceBiSeNet(options)


def build_reference_classifier(options: argparse.Namespace) -> STDCNet:
    """The torch twin of `models.build_classifier(options)`. Its dropout is `.dropout.p`."""
    return STDCNet(options.backbone, options.base, options.use_conv_last)
