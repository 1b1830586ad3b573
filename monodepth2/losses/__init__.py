"""The losses of the paper and their sum."""

import argparse

from .criterion import Criterion
from .photometric import Photometric, smoothness, ssim_loss

__all__ = ["Criterion", "Photometric", "build_criterion", "smoothness", "ssim_loss"]


def build_criterion(options: argparse.Namespace) -> Criterion:
    """The losses of `options`."""
    return Criterion(options)
