"""Matching and losses."""

import argparse

from .criterion import NotFinite, SetCriterion
from .matcher import HungarianMatcher

__all__ = ["HungarianMatcher", "NotFinite", "SetCriterion", "build_criterion"]


def build_criterion(options: argparse.Namespace) -> SetCriterion:
    """The matching and losses of `options`."""
    return SetCriterion(options)
