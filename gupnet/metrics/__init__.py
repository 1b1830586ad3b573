"""KITTI's object evaluation: 2D, orientation (AOS), bird's-eye view and 3D; AP11 and AP40 (fact sheet 7.2)."""

from .average_precision import (
    CLASSES,
    DIFFICULTIES,
    LOOSE,
    STRICT,
    average_precisions,
    evaluate_folders,
    precision_curves,
)
from .results import read_folders

__all__ = [
    "CLASSES",
    "DIFFICULTIES",
    "LOOSE",
    "STRICT",
    "average_precisions",
    "evaluate_folders",
    "precision_curves",
    "read_folders",
]
