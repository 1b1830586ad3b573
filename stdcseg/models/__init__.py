"""The Paddle networks."""

import argparse

from .layers import fold_norms, resize_bilinear
from .stdcnet import Classifier, STDCNet
from .stdcseg import DETAIL_STRIDES, STDCSeg

__all__ = [
    "Classifier",
    "STDCNet",
    "STDCSeg",
    "build_classifier",
    "build_model",
    "fold_norms",
    "resize_bilinear",
]


def build_model(options: argparse.Namespace) -> STDCSeg:
    """The segmentation network of `options`, freshly initialised as the paper's code does, in train mode."""
    backbone = STDCNet(options.backbone, options.base, options.use_conv_last)
    boundaries = [stride for stride in DETAIL_STRIDES if getattr(options, f"use_boundary_{stride}")]
    return STDCSeg(backbone, options.num_classes, boundaries)


def build_classifier(options: argparse.Namespace) -> Classifier:
    """The ImageNet form of the backbone of `options`: images [N, 3, H, W] -> logits [N, 1000]."""
    return Classifier(options.backbone, options.base)
