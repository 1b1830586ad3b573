"""Monodepth2's networks in torch, written from the paper and NOTES 3, with the official tensor names.

They take the place of the authors' code where that is not at hand; the tests compare them with golden figures of the
official code. They share no code with the Paddle networks, so a fault there is not repeated here.
"""

import argparse
from collections.abc import Mapping, Sequence

import torch
from torch import nn
from torch.nn import functional as F

from .geometry import transformation_from_parameters
from .resnet import BLOCKS, ResNet
from options import sources

_MEAN, _DEVIATION = 0.45, 0.225  # of all three channels
_WIDTHS = (16, 32, 64, 128, 256)  # of the depth decoder's levels 0 to 4
_POSE_WIDTH = 256
_POSE_SCALE = 0.01  # keeps the first motions small

Features = list[torch.Tensor]
Motion = tuple[torch.Tensor, torch.Tensor]


class ResnetEncoder(nn.Module):
    """images [N, 3 * num_images, H, W] in [0, 1] -> five features at 1/2 to 1/32 (NOTES 3.1)."""

    def __init__(self, num_layers: int, num_images: int = 1):
        super().__init__()
        self.encoder = ResNet(*BLOCKS[num_layers])
        if num_images > 1:
            self.encoder.conv1 = nn.Conv2d(3 * num_images, 64, 7, 2, 3, bias=False)
            nn.init.kaiming_normal_(self.encoder.conv1.weight, mode="fan_out", nonlinearity="relu")
        expansion = BLOCKS[num_layers][0].expansion
        self.num_images = num_images
        self.num_ch_enc = [64, *(width * expansion for width in (64, 128, 256, 512))]

    def load_imagenet(self, state: Mapping[str, torch.Tensor]) -> None:
        """Load a classifier's state dict; its first convolution is repeated and divided by the number of images."""
        repeated = torch.cat([state["conv1.weight"] / self.num_images] * self.num_images, dim=1)
        self.encoder.load_state_dict({**state, "conv1.weight": repeated})

    def forward(self, images) -> Features:
        net = self.encoder
        features = [net.bn1(net.conv1((images - _MEAN) / _DEVIATION)).relu()]
        x = net.maxpool(features[0])
        for layer in (net.layer1, net.layer2, net.layer3, net.layer4):
            x = layer(x)
            features.append(x)
        return features


class Conv3x3(nn.Module):
    """3x3 convolution with reflection padding."""

    def __init__(self, c_in: int, c_out: int):
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out, 3, padding=1, padding_mode="reflect")

    def forward(self, x):
        return self.conv(x)


class ConvBlock(nn.Module):
    """Conv3x3, then ELU."""

    def __init__(self, c_in: int, c_out: int):
        super().__init__()
        self.conv = Conv3x3(c_in, c_out)

    def forward(self, x):
        return F.elu(self.conv(x))


class DepthDecoder(nn.Module):
    """Five features -> {("disp", s): [N, num_outputs, H / 2^s, W / 2^s]} in (0, 1) of `scales` (NOTES 3.4)."""

    def __init__(self, encoder_widths: Sequence[int], scales: Sequence[int], num_outputs: int = 1):
        super().__init__()
        self.scales = list(scales)
        layers, c_in = [], encoder_widths[-1]
        for level in (4, 3, 2, 1, 0):
            width = _WIDTHS[level]
            skip = encoder_widths[level - 1] if level else 0
            layers += [ConvBlock(c_in, width), ConvBlock(width + skip, width)]
            c_in = width
        layers += [Conv3x3(_WIDTHS[scale], num_outputs) for scale in self.scales]
        self.decoder = nn.ModuleList(layers)

    def forward(self, features: Features) -> dict:
        found = {}
        x = features[-1]
        for step, level in enumerate((4, 3, 2, 1, 0)):
            x = F.interpolate(self.decoder[2 * step](x), scale_factor=2, mode="nearest")
            if level:
                x = torch.cat([x, features[level - 1]], dim=1)
            x = self.decoder[2 * step + 1](x)
            if level in self.scales:
                found["disp", level] = self.decoder[10 + self.scales.index(level)](x).sigmoid()
        return found


def _motions(x: torch.Tensor) -> Motion:
    """[N, 6 n, h, w] -> axis-angle and translation, each [N, n, 1, 3]."""
    values = _POSE_SCALE * x.mean(3).mean(2)
    return values.view(len(x), -1, 1, 6).split(3, dim=-1)


class PoseDecoder(nn.Module):
    """A list of feature lists -> motions [N, num_outputs, 1, 3], from the last feature of each (NOTES 3.5)."""

    def __init__(self, c_in: int, num_inputs: int, num_outputs: int):
        super().__init__()
        width = _POSE_WIDTH
        self.net = nn.ModuleList(
            [
                nn.Conv2d(c_in, width, 1),
                nn.Conv2d(num_inputs * width, width, 3, padding=1),
                nn.Conv2d(width, width, 3, padding=1),
                nn.Conv2d(width, 6 * num_outputs, 1),
            ]
        )

    def forward(self, inputs: list[Features]) -> Motion:
        squeeze, first, second, last = self.net
        x = torch.cat([squeeze(features[-1]).relu() for features in inputs], dim=1)
        return _motions(last(second(first(x).relu()).relu()))


class PoseCNN(nn.Module):
    """images [N, 3 * num_frames, H, W] in [0, 1] -> motions [N, num_frames - 1, 1, 3] (NOTES 3.6)."""

    def __init__(self, num_frames: int):
        super().__init__()
        widths, kernels = [3 * num_frames, 16, 32, 64, 128, 256, 256, 256], [7, 5, 3, 3, 3, 3, 3]
        self.pose_conv = nn.Conv2d(widths[-1], 6 * (num_frames - 1), 1)
        self.net = nn.ModuleList(
            nn.Conv2d(c_in, c_out, kernel, stride=2, padding=kernel // 2)
            for c_in, c_out, kernel in zip(widths[:-1], widths[1:], kernels, strict=True)
        )

    def forward(self, images) -> Motion:
        x = images
        for layer in self.net:
            x = layer(x).relu()
        return _motions(self.pose_conv(x))


class ReferenceMonodepth2(nn.Module):
    """The networks of one configuration (NOTES 3.7 to 3.9): encoder, depth, pose_encoder, pose, predictive_mask.

    inputs: {("color_aug", f, 0): [N, 3, H, W] in [0, 1]} of all frames -> ("disp", s), and, where a pose network
    exists, ("axisangle", 0, f) and ("translation", 0, f) [N, n, 1, 3] and ("cam_T_cam", 0, f) [N, 4, 4] of each
    integer source frame; with a predictive mask ("predictive_mask", s) [N, number of sources, H / 2^s, W / 2^s].
    """

    def __init__(self, options: argparse.Namespace):
        super().__init__()
        self.frames = [0, *sources(options)]
        self.moving = [f for f in sources(options) if f != "s"]
        self.pose_type, self.pairs = options.pose_model_type, options.pose_model_input == "pairs"
        frames_seen = 2 if self.pairs else 1 + len(self.moving)
        self.encoder = ResnetEncoder(options.num_layers)
        widths = self.encoder.num_ch_enc
        self.depth = DepthDecoder(widths, options.scales)
        if self.moving and self.pose_type == "posecnn":
            self.pose = PoseCNN(frames_seen)
        elif self.moving and self.pose_type == "shared":
            self.pose = PoseDecoder(widths[-1], frames_seen, frames_seen - 1)
        elif self.moving:
            self.pose_encoder = ResnetEncoder(options.num_layers, frames_seen)
            # at least two motions; pairs use the first only
            self.pose = PoseDecoder(widths[-1], 1, max(2, frames_seen - 1))
        if options.predictive_mask:
            self.predictive_mask = DepthDecoder(widths, options.scales, len(sources(options)))

    def predict_disparity(self, images: torch.Tensor) -> dict:
        """images [N, 3, H, W] in [0, 1] -> {("disp", s): [N, 1, H / 2^s, W / 2^s]}."""
        return self.depth(self.encoder(images))

    def predict_pose(self, images: torch.Tensor) -> Motion:
        """Frames [N, 3 n, H, W], n = 2 for pairs, in order of time -> motions."""
        frames = images.split(3, dim=1)
        return self._pose(self._features(frames) if self.pose_type == "shared" else list(frames))

    def _features(self, images: Sequence[torch.Tensor]) -> list[Features]:
        """The features of each image, all from one pass: in training they share the batch norms' statistics."""
        joined = self.encoder(torch.cat(list(images)))
        return [list(features) for features in zip(*(x.split(len(images[0])) for x in joined), strict=True)]

    def _pose(self, frames: list) -> Motion:
        """The motions of `frames`: images, or with a shared encoder their features."""
        if self.pose_type == "shared":
            return self.pose(frames)
        images = torch.cat(frames, dim=1)
        return self.pose(images) if self.pose_type == "posecnn" else self.pose([self.pose_encoder(images)])

    def _poses(self, frames: dict) -> dict:
        found = {}
        if not self.pairs:
            axisangle, translation = self._pose([frames[f] for f in (0, *self.moving)])
        for index, f in enumerate(self.moving):
            if self.pairs:  # in order of time: of an earlier frame the motion is inverted
                index = 0
                axisangle, translation = self._pose([frames[f], frames[0]] if f < 0 else [frames[0], frames[f]])
            found["axisangle", 0, f], found["translation", 0, f] = axisangle, translation
            found["cam_T_cam", 0, f] = transformation_from_parameters(
                axisangle[:, index], translation[:, index], invert=self.pairs and f < 0
            )
        return found

    def forward(self, inputs: Mapping) -> dict:
        frames = {f: inputs["color_aug", f, 0] for f in self.frames}
        if self.pose_type == "shared":
            frames = dict(zip(self.frames, self._features(list(frames.values())), strict=True))
            features = frames[0]
        else:
            features = self.encoder(frames[0])
        found = self.depth(features)
        if hasattr(self, "predictive_mask"):
            masks = self.predictive_mask(features)
            found |= {("predictive_mask", scale): mask for (_, scale), mask in masks.items()}
        return found | (self._poses(frames) if self.moving else {})


def build_reference(options: argparse.Namespace) -> ReferenceMonodepth2:
    """The torch twin of `models.build_model(options)`, freshly initialised, in train mode."""
    return ReferenceMonodepth2(options)
