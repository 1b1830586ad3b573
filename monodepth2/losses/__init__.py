"""The losses of the paper and their sum."""

import argparse

from .criterion import Criterion


def build_criterion(options: argparse.Namespace) -> Criterion:
    """The losses of `options`."""
    return Criterion(options)
