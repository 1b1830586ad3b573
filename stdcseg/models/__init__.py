"""The Paddle networks."""

import argparse

from .bisenet import DETAIL_STRIDES, BiSeNet
from .layers import fold_norms, resize_bilinear
from .stdcnet import STDCClassifier, STDCNet

__all__ = [
    "BiSeNet",
    "STDCClassifier",
    "STDCNet",
    "build_classifier",
    "build_model",
    "fold_norms",
    "resize_bilinear",
]


def build_model(options: argparse.Namespace) -> BiSeNet:
    """The segmentation network of `options`, freshly initialised as the paper's code does, in train mode."""
    backbone = STDCNet(options.backbone, options.base, options.use_conv_last)
    boundaries = [stride for stride in DETAIL_STRIDES if getattr(options, f"use_boundary_{stride}")]
    return BiSeNet(backbone, options.num_classes, boundaries)


def build_classifier(options: argparse.Namespace) -> STDCClassifier:
    """The ImageNet form of the backbone of `options`: images [N, 3, H, W] -> logits [N, 1000]."""
    return STDCClassifier(options.backbone, options.base)
