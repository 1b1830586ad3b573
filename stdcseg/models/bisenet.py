"""The segmentation network (paper sections 3.2 and 3.3; NOTES 4.7 to 4.13). Tensor names are the official ones."""

import math
from collections.abc import Sequence

import paddle
from paddle import nn
from paddle.nn import functional as F

from .layers import InPlaceABNSync, resize_bilinear, resize_nearest
from .stdcnet import STDCNet

CONTEXT = 128  # channels of the context path
FUSED = 256  # channels of the feature fusion module
DETAIL_STRIDES = (2, 4, 8)


class ConvBNReLU(nn.Layer):
    """Convolution, InPlaceABNSync, ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3):
        super().__init__()
        self.conv = nn.Conv2D(inputs, outputs, kernel, padding=kernel // 2, bias_attr=False)
        self.bn = InPlaceABNSync(outputs)

    def forward(self, x):
        return F.relu(self.bn(self.conv(x)))


class BiSeNetOutput(nn.Layer):
    """A head: a 3x3 ConvBNReLU and a 1x1 convolution to the logits, at the feature's own resolution."""

    def __init__(self, inputs: int, middle: int, outputs: int):
        super().__init__()
        self.conv = ConvBNReLU(inputs, middle)
        self.conv_out = nn.Conv2D(middle, outputs, 1, bias_attr=False)

    def forward(self, x):
        return self.conv_out(self.conv(x))


class AttentionRefinementModule(nn.Layer):
    """Features times the attention of their channels, computed from the global average."""

    def __init__(self, inputs: int, outputs: int = CONTEXT):
        super().__init__()
        self.conv = ConvBNReLU(inputs, outputs)
        self.conv_atten = nn.Conv2D(outputs, outputs, 1, bias_attr=False)
        self.bn_atten = InPlaceABNSync(outputs)

    def forward(self, x):
        feature = self.conv(x)
        attention = self.bn_atten(self.conv_atten(F.adaptive_avg_pool2d(feature, 1)))
        return feature * F.sigmoid(attention)


class ContextPath(nn.Layer):
    """Backbone and context: forward(images) -> (the backbone's five features, cp8, cp16).

    cp8 has the size of the 1/8 feature and cp16 that of the 1/16 feature; both have 128 channels (NOTES 4.8).
    """

    def __init__(self, backbone: STDCNet):
        super().__init__()
        self.backbone = backbone
        self.arm16 = AttentionRefinementModule(backbone.widths[3])
        self.arm32 = AttentionRefinementModule(backbone.widths[4])
        self.conv_head32 = ConvBNReLU(CONTEXT, CONTEXT)
        self.conv_head16 = ConvBNReLU(CONTEXT, CONTEXT)
        self.conv_avg = ConvBNReLU(backbone.widths[4], CONTEXT, kernel=1)

    def forward(self, images):
        features = self.backbone(images)
        _, _, feature8, feature16, feature32 = features
        average = self.conv_avg(F.adaptive_avg_pool2d(feature32, 1))  # broadcast to the size of feature32
        cp16 = self.conv_head32(resize_nearest(self.arm32(feature32) + average, feature16.shape[2:]))
        cp8 = self.conv_head16(resize_nearest(self.arm16(feature16) + cp16, feature8.shape[2:]))
        return features, cp8, cp16


class FeatureFusionModule(nn.Layer):
    """Spatial and context features concatenated, then weighted by channel attention (NOTES 4.9)."""

    def __init__(self, inputs: int, outputs: int = FUSED):
        super().__init__()
        self.convblk = ConvBNReLU(inputs, outputs, kernel=1)
        self.conv1 = nn.Conv2D(outputs, outputs // 4, 1, bias_attr=False)
        self.conv2 = nn.Conv2D(outputs // 4, outputs, 1, bias_attr=False)

    def forward(self, spatial, context):
        feature = self.convblk(paddle.concat([spatial, context], axis=1))
        attention = F.relu(self.conv1(F.adaptive_avg_pool2d(feature, 1)))
        return feature * F.sigmoid(self.conv2(attention)) + feature


class BiSeNet(nn.Layer):
    """STDC-Seg: forward(images [N, 3, H, W]) -> dict of logits.

    `out`, `out16`, `out32`: [N, classes, H, W]; `detail2`, `detail4`, `detail8` for the strides in `boundaries`:
    [N, 1, H/stride, W/stride], rounded up. `segment(images)` computes `out` alone.
    """

    def __init__(self, backbone: STDCNet, num_classes: int = 19, boundaries: Sequence[int] = ()):
        super().__init__()
        self.boundaries = tuple(boundaries)
        width2, width4, width8, width16, _ = backbone.widths
        self.cp = ContextPath(backbone)
        self.ffm = FeatureFusionModule(width8 + CONTEXT)
        self.conv_out = BiSeNetOutput(FUSED, 256, num_classes)
        self.conv_out16 = BiSeNetOutput(CONTEXT, 64, num_classes)
        self.conv_out32 = BiSeNetOutput(CONTEXT, 64, num_classes)
        self.conv_out_sp16 = BiSeNetOutput(width16, 64, 1)
        self.conv_out_sp8 = BiSeNetOutput(width8, 64, 1)
        self.conv_out_sp4 = BiSeNetOutput(width4, 64, 1)
        self.conv_out_sp2 = BiSeNetOutput(width2, 64, 1)
        for part in self.children():
            for name, layer in part.named_sublayers():
                if isinstance(layer, nn.Conv2D) and not name.startswith("backbone."):
                    fan_in = math.prod(layer.weight.shape[1:])
                    nn.initializer.Normal(0.0, 1 / math.sqrt(fan_in))(layer.weight)

    def forward(self, images) -> dict:
        features, cp8, cp16 = self.cp(images)
        details = {2: (self.conv_out_sp2, features[0]), 4: (self.conv_out_sp4, features[1])}
        details |= {8: (self.conv_out_sp8, features[2]), 16: (self.conv_out_sp16, features[3])}
        fused = self.ffm(features[2], cp8)
        size = images.shape[2:]
        outputs = {
            "out": resize_bilinear(self.conv_out(fused), size),
            "out16": resize_bilinear(self.conv_out16(cp8), size),
            "out32": resize_bilinear(self.conv_out32(cp16), size),
        }
        for stride, (head, feature) in details.items():
            if stride in self.boundaries:
                outputs[f"detail{stride}"] = head(feature)
            elif self.training:
                # the reference computes these too and drops them, so their running statistics move (NOTES 4.10)
                with paddle.no_grad():
                    head.conv(feature)
        return outputs

    def idle_layers(self) -> list[nn.Layer]:
        """The layers of the official checkpoint that no loss reaches: the classifier's, and unused detail heads."""
        backbone = self.cp.backbone
        idle = [backbone.fc, backbone.bn, backbone.linear, self.conv_out_sp16]
        if not backbone.use_conv_last:
            idle.append(backbone.conv_last)
        return idle + [getattr(self, f"conv_out_sp{s}") for s in DETAIL_STRIDES if s not in self.boundaries]

    def segment(self, images):
        """images [N, 3, H, W] -> `out` [N, classes, H, W], without the heads that only training needs."""
        features, cp8, _ = self.cp(images)
        return resize_bilinear(self.conv_out(self.ffm(features[2], cp8)), images.shape[2:])
