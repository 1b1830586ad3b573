"""The Paddle network."""

import argparse

from .mobilenetv3 import MobileNetV3


def build_model(options: argparse.Namespace) -> MobileNetV3:
    """The network of `options`, freshly initialised as the reference does (NOTES 4.8), in train mode."""
    return MobileNetV3(
        options.model,
        num_classes=options.num_classes,
        width_mult=options.width_mult,
        reduced_tail=options.reduced_tail,
        dilated=options.dilated,
        dropout=options.dropout,
    )
