"""Matching and losses."""

import argparse

from .criterion import Criterion, NotFinite
from .matcher import HungarianMatcher

__all__ = ["Criterion", "HungarianMatcher", "NotFinite", "build_criterion"]


def build_criterion(options: argparse.Namespace) -> Criterion:
    """The matching and losses of `options`."""
    return Criterion(options)
