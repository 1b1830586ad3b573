"""COCO's twelve numbers by a plain implementation of its rules, without pycocotools (NOTES 7.3)."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0, 1, 101)
AREAS = {"all": (0, 1e10), "small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, 1e10)}
LIMITS = (1, 10, 100)
#: the twelve in COCO's order: what is averaged, IoU threshold (None: all), area, detections an image
NUMBERS = (
    ("precision", None, "all", 100),
    ("precision", 0.5, "all", 100),
    ("precision", 0.75, "all", 100),
    ("precision", None, "small", 100),
    ("precision", None, "medium", 100),
    ("precision", None, "large", 100),
    ("recall", None, "all", 1),
    ("recall", None, "all", 10),
    ("recall", None, "all", 100),
    ("recall", None, "small", 100),
    ("recall", None, "medium", 100),
    ("recall", None, "large", 100),
)


def box_iou(detections: np.ndarray, truth: np.ndarray, crowd: np.ndarray) -> np.ndarray:
    """IoU [n, m] of boxes (x, y, w, h); for a crowd, the part of the detection that it covers."""
    a, b = detections[:, None], truth[None]
    sides = np.minimum(a[..., :2] + a[..., 2:], b[..., :2] + b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    intersection = np.clip(sides, 0, None).prod(-1)
    own = a[..., 2:].prod(-1)
    return intersection / np.where(crowd, own, own + b[..., 2:].prod(-1) - intersection)


def match(iou: np.ndarray, ignored: np.ndarray, crowd: np.ndarray, threshold: float) -> np.ndarray:
    """For each detection, best first, the index of the object it is matched to, or -1; ignored objects come last.

    An object is matched once, a crowd any number of times; an ignored one only where no other can be matched.
    """
    free, matches = np.ones(len(ignored), bool), np.full(len(iou), -1)
    for index, row in enumerate(iou):
        for rank in (False, True):
            open_ = (free | crowd) & (ignored == rank) & (row >= min(threshold, 1 - 1e-10))
            if open_.any():
                # of equals the last one
                best = len(row) - 1 - np.argmax(np.where(open_, row, -1)[::-1])
                matches[index], free[best] = best, False
                break
    return matches


def curve(hits: np.ndarray, count: int) -> tuple[np.ndarray, float]:
    """Precision at 101 recalls, made monotonic, and the last recall; hits bool [n], best detection first."""
    true, false = np.cumsum(hits), np.cumsum(~hits)
    recall, precision = true / count, true / (true + false + np.spacing(1))
    monotonic = np.maximum.accumulate(precision[::-1])[::-1]
    indices = np.searchsorted(recall, RECALLS, side="left")
    return np.append(monotonic, 0)[indices], float(recall[-1]) if len(recall) else 0.0


def coco_numbers(ground_truth: Mapping, detections: Sequence[Mapping]) -> np.ndarray:
    """The twelve numbers [12] of detections {image_id, category_id, bbox (x, y, w, h), score}.

    `ground_truth` is an annotation file's content. -1 where there is no ground truth.
    """
    truth, answers = defaultdict(list), defaultdict(list)
    for entries, lists in ((ground_truth["annotations"], truth), (detections, answers)):
        for entry in entries:
            lists[entry["category_id"], entry["image_id"]].append(entry)
    images = sorted({entry["id"] for entry in ground_truth["images"]})
    table = {}
    for category in sorted({entry["id"] for entry in ground_truth["categories"]}):
        pairs = [(truth[category, image], answers[category, image]) for image in images]
        for area in AREAS:
            for limit in LIMITS if area == "all" else LIMITS[-1:]:
                table[category, area, limit] = _category(pairs, AREAS[area], limit)
    numbers = []
    for what, threshold, area, limit in NUMBERS:
        chosen = [value[what] for (_, a, m), value in table.items() if (a, m) == (area, limit) and value]
        if not chosen:
            numbers.append(-1.0)
            continue
        values = np.stack(chosen)
        if threshold is not None:
            values = values[:, np.isclose(THRESHOLDS, threshold)]
        numbers.append(values.mean())
    return np.array(numbers)


def _category(pairs: Sequence[tuple[list, list]], bounds: tuple[float, float], limit: int) -> dict | None:
    """precision [10, 101] and recall [10] of one category; None where all its objects are ignored."""
    scores, hits, kept, count = [], [], [], 0
    for objects, answers in pairs:
        order = np.argsort([-answer["score"] for answer in answers], kind="stable")[:limit]
        answers = [answers[index] for index in order]
        ignored = np.array([_ignored(entry, bounds) for entry in objects], bool)
        order = np.argsort(ignored, kind="stable")
        objects, ignored = [objects[index] for index in order], ignored[order]
        crowd = np.array([bool(entry.get("iscrowd", 0)) for entry in objects], bool)
        boxes, truth = (
            np.array([entry["bbox"] for entry in entries], float).reshape(-1, 4) for entries in (answers, objects)
        )
        sizes = boxes[:, 2:].prod(-1)
        outside = (sizes < bounds[0]) | (sizes > bounds[1])
        iou = box_iou(boxes, truth, crowd)
        matches = np.stack([match(iou, ignored, crowd, threshold) for threshold in THRESHOLDS])
        none = matches < 0
        drops = np.where(none, outside, np.append(ignored, False)[matches])
        count += np.count_nonzero(~ignored)
        scores += [answer["score"] for answer in answers]
        hits.append(~none)
        kept.append(~drops)
    if not count:
        return None
    order = np.argsort(-np.array(scores), kind="stable")
    hits, kept = np.concatenate(hits, 1)[:, order], np.concatenate(kept, 1)[:, order]
    curves = [curve(hit[keep], count) for hit, keep in zip(hits, kept, strict=True)]
    return {
        "precision": np.stack([precision for precision, _ in curves]),
        "recall": np.array([recall for _, recall in curves]),
    }


def _ignored(entry: Mapping, bounds: tuple[float, float]) -> bool:
    return bool(entry.get("iscrowd", 0)) or not bounds[0] <= entry["area"] <= bounds[1]
