"""From logits to mIoU: how images become label maps, and how these are counted."""

from .confusion import ConfusionMatrix
from .protocols import (
    Protocol,
    Segment,
    crop_eval,
    eval_chip,
    predict_scaled,
    scale_crop_eval,
    scaled_probabilities,
)

__all__ = [
    "ConfusionMatrix",
    "Protocol",
    "Segment",
    "crop_eval",
    "eval_chip",
    "predict_scaled",
    "scale_crop_eval",
    "scaled_probabilities",
]
