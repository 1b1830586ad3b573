"""The losses of the paper and their sum."""

import argparse

from .criterion import Criterion
from .photometric import ReprojectionLoss, get_smooth_loss, ssim_loss

__all__ = ["Criterion", "ReprojectionLoss", "build_criterion", "get_smooth_loss", "ssim_loss"]


def build_criterion(options: argparse.Namespace) -> Criterion:
    """The losses of `options`."""
    return Criterion(options)
