"""What colour alone, and position alone, tell about the classes of the mini data set."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

from shared.mini import read_record

from constants import CLASS_NAMES, to_train_ids

BINS = 32  # of each colour channel


def samples(root: Path, split: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Every picture of a split, uint8 RGB [H, W, 3], with its train ids, int64 [H, W]."""
    for file in sorted((root / "leftImg8bit" / split).glob("*/*_leftImg8bit.png")):
        name = file.name.replace("_leftImg8bit.png", "_gtFine_labelIds.png")
        labels = Image.open(root / "gtFine" / split / file.parent.name / name)
        yield np.asarray(Image.open(file)), to_train_ids(np.asarray(labels))


def count(root: Path, split: str, size: int, cells: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Pixels of each class that mini.json names in each of `size` cells of a split, float64 [19, size].

    `cells` gives the cell of every pixel [H, W] of a picture [H, W, 3].
    """
    total, classes = 0.0, len(CLASS_NAMES)
    for picture, labels in samples(root, split):
        known = labels < classes
        flat = np.bincount(labels[known] * size + cells(picture)[known], minlength=classes * size)
        total = total + flat.reshape(classes, size).astype(np.float64)
    named = [entry["train_id"] for entry in read_record(root)["classes"]]
    return total * np.isin(np.arange(classes), named)[:, None]


def colours(picture: np.ndarray) -> np.ndarray:
    """The cell of each pixel in the colour space of BINS steps a channel."""
    red, green, blue = np.moveaxis(picture.astype(np.int64) * BINS // 256, 2, 0)
    return (red * BINS + green) * BINS + blue


def positions(picture: np.ndarray) -> np.ndarray:
    """The number of each pixel."""
    height, width = picture.shape[:2]
    return np.arange(height * width).reshape(height, width)


def mean_iou(counts: np.ndarray, chosen: np.ndarray) -> float:
    """mIoU, 0..1, over the classes that `counts` [19, cells] holds, of giving each cell the class `chosen` [cells]."""
    right = np.bincount(chosen, counts[chosen, np.arange(len(chosen))], minlength=len(counts))
    said, there = np.bincount(chosen, counts.sum(0), minlength=len(counts)), counts.sum(1)
    present = there > 0
    return float((right[present] / (said + there - right)[present]).mean())


def best_classes(scores: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The class of each cell, [cells]: the largest of the weighted `scores` [19, cells].

    The weights are those that give the best mIoU on `counts` [19, cells]: between the frequencies of the classes and
    equal footing first, then each class on its own.
    """
    totals = np.maximum(scores.sum(1), 1)

    def value(weights: np.ndarray) -> float:
        return mean_iou(counts, (weights[:, None] * scores).argmax(0))

    weights = max((totals**-power for power in np.linspace(0, 1, 6)), key=value)
    for step in (3.0, 1.5):
        for train_id in np.flatnonzero(counts.sum(1)):
            tries = [weights * np.where(np.arange(len(weights)) == train_id, f, 1) for f in (1, step, 1 / step)]
            weights = max(tries, key=value)
    return (weights[:, None] * scores).argmax(0)


def colour_baseline(root: Path) -> float:
    """mIoU, 0..1, on the val split of the best class for each colour (of 32 steps a channel) in the train split."""
    fitted, checked = (count(root, split, BINS**3, colours) for split in ("train", "val"))
    smooth = [gaussian_filter(row.reshape(BINS, BINS, BINS), 1.0).ravel() for row in fitted]
    return mean_iou(checked, best_classes(np.stack(smooth), fitted))


def position_baseline(root: Path) -> float:
    """mIoU, 0..1, on the val split of the most frequent class at each pixel of the frame in the train split."""
    width, height = read_record(root)["size"]
    fitted, checked = (count(root, split, width * height, positions) for split in ("train", "val"))
    return mean_iou(checked, fitted.argmax(0))
