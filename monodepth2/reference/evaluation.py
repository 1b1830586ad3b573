"""The twin's evaluation in torch: errors, training monitor, scoring, flip post-processing (NOTES 5.8, 7).

It shares no code with `metrics.py`. Resizing to the ground truth's size is OpenCV's, as in the reference.
"""

import cv2
import numpy as np
import torch

from .geometry import resize

_NEAR, _FAR = 1e-3, 80.0  # metres
_MONITOR_SIZE = (375, 1242)
_GARG = (0.40810811, 0.99189189, 0.03594771, 0.96405229)  # top, bottom, left, right, as fractions


def depth_errors(truth: torch.Tensor, predicted: torch.Tensor) -> torch.Tensor:
    """Two depths in metres of one shape -> [7]: abs_rel, sq_rel, rmse, rmse_log, a1, a2, a3 (NOTES 7.4).

    All NaN where there is no value.
    """
    difference = truth - predicted
    worse = torch.maximum(truth / predicted, predicted / truth)
    errors = [
        (difference.abs() / truth).mean(),
        (difference**2 / truth).mean(),
        (difference**2).mean().sqrt(),
        ((truth.log() - predicted.log()) ** 2).mean().sqrt(),
        *((worse < 1.25**power).to(truth.dtype).mean() for power in (1, 2, 3)),
    ]
    return torch.stack(errors)


def monitor(depth: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Depth [B, 1, H, W], ground truth [B, 1, 375, 1242] in metres -> the monitor's errors [7] (NOTES 5.8)."""
    predicted = resize(depth, _MONITOR_SIZE).clamp(_NEAR, _FAR)
    crop = (..., slice(153, 371), slice(44, 1197))
    predicted, truth = predicted[crop], truth[crop]
    known = truth > 0
    predicted, truth = predicted[known], truth[known]
    predicted = predicted * (truth.median() / predicted.median())  # torch's median: the lower middle value
    return depth_errors(truth, predicted.clamp(_NEAR, _FAR))


def median(values: torch.Tensor) -> torch.Tensor:
    """numpy's median: the mean of the two middle values of an even number."""
    ordered = values.flatten().sort().values
    middle = len(ordered) // 2
    return ordered[middle - 1 : middle + 1].mean() if len(ordered) % 2 == 0 else ordered[middle]


def score(
    disparity: np.ndarray, truth: np.ndarray, split: str, factor: float, median_scaling: bool
) -> tuple[torch.Tensor, float]:
    """(errors [7] of one image, ratio of the medians) (NOTES 7.3).

    disparity: 1 / depth [h, w]; truth: metres [H, W], 0 where unknown; split "eigen" has its crop and range. The ratio
    is 1 without median scaling.
    """
    h, w = truth.shape
    predicted = 1 / torch.from_numpy(cv2.resize(disparity, (w, h)))
    truth = torch.from_numpy(truth)
    kept = truth > 0
    if split == "eigen":
        top, bottom, left, right = (int(part * side) for part, side in zip(_GARG, (h, h, w, w), strict=True))
        inside = torch.zeros_like(kept)
        inside[top:bottom, left:right] = True
        kept = (truth > _NEAR) & (truth < _FAR) & inside
    predicted, truth = predicted[kept] * factor, truth[kept]
    ratio = median(truth) / median(predicted) if median_scaling else torch.tensor(1.0).to(predicted)
    return depth_errors(truth, (predicted * ratio).clamp(_NEAR, _FAR)), float(ratio)


def flip_mean(plain: torch.Tensor, mirrored: torch.Tensor) -> torch.Tensor:
    """Disparities [N, h, w] of an image and of its mirror image, mirrored back -> their blend, float64 (NOTES 7.7)."""
    plain, mirrored = plain.double(), mirrored.double()
    x = torch.linspace(0, 1, plain.shape[-1], dtype=torch.float64)
    left = 1 - (20 * (x - 0.05)).clamp(0, 1)
    right = left.flip(0)
    return right * plain + left * mirrored + (1 - left - right) * (plain + mirrored) / 2
