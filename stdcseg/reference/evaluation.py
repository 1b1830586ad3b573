"""The torch twin's evaluation: from logits to label maps, histogram and IoU (NOTES 7.1, 7.3).

It shares no code with the package `metrics` and computes differently where it can: one-hot products instead
of bin counts, windows by negative padding.
"""

from collections.abc import Callable, Sequence

import torch
from torch.nn import functional as F

Network = Callable[[torch.Tensor], torch.Tensor]


def histogram(predictions: torch.Tensor, labels: torch.Tensor, classes: int, ignore: int = 255) -> torch.Tensor:
    """Integer tensors of one shape -> int64 [K, K], row = label, column = prediction."""
    keep = labels.flatten() != ignore
    # exact: a product of ones counts up to 2^53 in float64
    sides = [F.one_hot(x.flatten()[keep].long(), classes).to(torch.float64) for x in (labels, predictions)]
    return (sides[0].T @ sides[1]).round().long()


def iou(counts: torch.Tensor) -> torch.Tensor:
    """Histogram [K, K] -> float64 [K], 0/0 = NaN for a class that does not occur."""
    counts = counts.to(torch.float64)
    union = torch.stack([counts[k].sum() + counts[:, k].sum() - counts[k, k] for k in range(len(counts))])
    return counts.diagonal() / union


def mean_iou(counts: torch.Tensor) -> float:
    """The plain mean over all classes, NaN included."""
    return iou(counts).mean().item()


def resize(x: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """[N, C, h, w] -> [N, C, *size], bilinear, align_corners=True."""
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=True)


def shrink(images: torch.Tensor, scale: float) -> torch.Tensor:
    """Images at int(side * scale) a side."""
    return resize(images, [int(side * scale) for side in images.shape[-2:]])


def predict_at(network: Network, images: torch.Tensor, scale: float, size: Sequence[int]) -> torch.Tensor:
    """Label maps int64 [N, *size]: resize, network, resize, softmax, argmax."""
    return resize(network(shrink(images, scale)), size).softmax(1).argmax(1)


def predict_summed(
    network: Network, images: torch.Tensor, scales: Sequence[float], size: Sequence[int], flip: bool
) -> torch.Tensor:
    """Label maps int64 [N, *size] of the softmaxes summed over scales and, with `flip`, mirrored images."""
    views = []
    for scaled in (shrink(images, scale) for scale in scales):
        views.append(resize(network(scaled), size).softmax(1))
        if flip:
            views.append(resize(network(scaled.flip(-1)), size).softmax(1).flip(-1))
    return torch.stack(views).sum(0).argmax(1)


def chip_scores(network: Network, chip: torch.Tensor, flip: bool) -> torch.Tensor:
    """exp(softmax), or exp(softmax + mirrored softmax)."""
    views = [network(chip).softmax(1)]
    if flip:
        views.append(network(chip.flip(-1)).softmax(1).flip(-1))
    return sum(views).exp()


def windows(side: int, crop: int) -> list[int]:
    """Starts of the windows along a side; the only window of a short side starts before its first pixel."""
    if side < crop:
        return [-((crop - side) // 2)]
    stride = -(-5 * crop // 6)
    return [*range(0, side - crop, stride), side - crop]


def window_scores(network: Network, images: torch.Tensor, crop: int, flip: bool) -> torch.Tensor:
    """Scores [N, K, H, W] summed over all windows; zeros outside the image."""
    height, width = images.shape[-2:]
    total = 0
    for top in windows(height, crop):
        for left in windows(width, crop):
            # negative padding crops: from the image to the window, and back
            before = (-left, left + crop - width, -top, top + crop - height)
            scores = chip_scores(network, F.pad(images, before), flip)
            total = total + F.pad(scores, [-side for side in before])
    return total


def scaled_window_scores(network: Network, images: torch.Tensor, scale: float, crop: int, flip: bool) -> torch.Tensor:
    """`window_scores` of the images at `scale`, at the images' size."""
    return resize(window_scores(network, shrink(images, scale), crop, flip), images.shape[-2:])
