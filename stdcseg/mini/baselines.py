"""What colour alone, and position alone, tell about the classes of the mini data set."""

import os
from collections.abc import Iterator
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


def count(cells: np.ndarray, labels: np.ndarray, size: int) -> np.ndarray:
    """How often each class falls into each cell, float64 [19, size]; pixels of no class are left out."""
    known = labels < len(CLASS_NAMES)
    flat = np.bincount(labels[known] * size + cells[known], minlength=len(CLASS_NAMES) * size)
    return flat.reshape(len(CLASS_NAMES), size).astype(np.float64)


def count_colours(root: Path, split: str) -> np.ndarray:
    """Pixels of each class in each cell of colour space, float64 [19, 32768]."""
    total = 0.0
    for picture, labels in samples(root, split):
        red, green, blue = np.moveaxis(picture.astype(np.int64) * BINS // 256, 2, 0)
        total = total + count((red * BINS + green) * BINS + blue, labels, BINS**3)
    return total


def count_places(root: Path, split: str) -> np.ndarray:
    """Pixels of each class at each place of the frame, float64 [19, H * W]."""
    total = 0.0
    for _, labels in samples(root, split):
        total = total + count(np.arange(labels.size).reshape(labels.shape), labels, labels.size)
    return total


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


def counted(root: Path, counts: np.ndarray) -> np.ndarray:
    """`counts` [19, cells] with the classes emptied that mini.json does not name."""
    named = [entry["train_id"] for entry in read_record(root)["classes"]]
    return counts * np.isin(np.arange(len(counts)), named)[:, None]


def colour_baseline(root: str | os.PathLike) -> float:
    """mIoU, 0..1, on the val split of the best class for each colour (of 32 steps a channel) in the train split."""
    root = Path(root)
    fitted = counted(root, count_colours(root, "train"))
    smooth = [gaussian_filter(one.reshape(BINS, BINS, BINS), 1.0).ravel() for one in fitted]
    return mean_iou(counted(root, count_colours(root, "val")), best_classes(np.stack(smooth), fitted))


def position_baseline(root: str | os.PathLike) -> float:
    """mIoU, 0..1, on the val split of the most frequent class at each place of the frame in the train split."""
    root = Path(root)
    fitted = counted(root, count_places(root, "train"))
    return mean_iou(counted(root, count_places(root, "val")), fitted.argmax(0))
