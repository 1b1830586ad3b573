"""KITTI's object evaluation: 2D, orientation (AOS), bird's-eye view and 3D; AP11 and AP40 (NOTES 7.4 to 7.11)."""

from .average_precision import (
    CLASSES,
    DIFFICULTIES,
    LOOSE,
    STRICT,
    Metrics,
    average_precisions,
    evaluate_folders,
    precision_curves,
)
from .results import read_folders

__all__ = [
    "CLASSES",
    "DIFFICULTIES",
    "LOOSE",
    "Metrics",
    "STRICT",
    "average_precisions",
    "evaluate_folders",
    "precision_curves",
    "read_folders",
]
