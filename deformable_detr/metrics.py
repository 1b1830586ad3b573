"""COCO's detection metrics, computed by pycocotools (NOTES 7.2, 7.3).

Detections are rows, float64 [n, 7]: image id, x, y, width, height in pixels, score, category id.
"""

import contextlib
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from shared import InputError
from shared.files import one_line, read_json

from datasets.annotations import create_index

#: pycocotools' twelve numbers in their order
NUMBERS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")


def detection_rows(image_id: int, scores: np.ndarray, labels: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """One image's detections as rows: scores [n], labels [n], boxes [n, 4] as corners in pixels."""
    rows = np.empty((len(scores), 7))
    rows[:, 0], rows[:, 5], rows[:, 6] = image_id, scores, labels
    rows[:, 1:3] = boxes[:, :2]
    rows[:, 3:5] = boxes[:, 2:] - boxes[:, :2]  # in the boxes' own precision, as the reference
    return rows


def merge(parts: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """One (image ids int64 [m], rows [n, 7]) of several processes' ones, by ascending id.

    Of an image that several processes have evaluated, the first one's detections count.
    """
    seen = np.empty(0, np.int64)
    kept = []
    for ids, rows in parts:
        new = np.setdiff1d(ids, seen)
        kept.append(rows[np.isin(rows[:, 0], new)])
        seen = np.union1d(seen, new)
    rows = np.concatenate(kept)
    return seen, rows[np.argsort(rows[:, 0], kind="stable")]


@dataclass(frozen=True)
class CocoMetrics:
    """The result of one evaluation; -1 where there is no ground truth, as with pycocotools."""

    numbers: dict[str, float]  # the twelve NUMBERS, 0 to 1
    per_category: dict[str, float]  # AP of each category of the annotation file that has a box, by its name
    summary: str  # pycocotools' own twelve lines
    images: int
    rows: np.ndarray  # the detections

    def as_json(self) -> dict:
        """The content of metrics.json."""
        counts = {"images": self.images, "detections": len(self.rows)}
        return self.numbers | {"per_category": self.per_category} | counts

    def table(self) -> str:
        """The twelve lines, and below them the AP of each category, three in a line."""
        entries = [f"{name[:20]:<20} {100 * value:6.2f}" for name, value in self.per_category.items()]
        lines = ["   ".join(entries[start : start + 3]) for start in range(0, len(entries), 3)]
        return "\n".join([self.summary, "", "AP by category, %:", *(f" {line}" for line in lines)])


def evaluate_detections(coco: COCO, rows: np.ndarray, image_ids: Sequence[int] | None = None) -> CocoMetrics:
    """Score rows [n, 7] against the boxes of an annotation file, on these images or on all.

    Rows of categories that the file lacks are ignored. ValueError for rows of images that it lacks.
    """
    image_ids = sorted(coco.imgs) if image_ids is None else sorted(map(int, image_ids))
    unknown = np.setdiff1d(rows[:, 0], list(coco.imgs))
    if len(unknown):
        raise ValueError(f"detections in picture {int(unknown[0])}, which the annotation file does not have")
    with contextlib.redirect_stdout(io.StringIO()):
        # pycocotools cannot load an empty list
        detections = coco.loadRes(rows) if len(rows) else create_index(coco.dataset | {"annotations": []})
        evaluation = COCOeval(coco, detections, "bbox")
        evaluation.params.imgIds = image_ids
        evaluation.evaluate()
        evaluation.accumulate()
    summary = io.StringIO()
    with contextlib.redirect_stdout(summary):
        evaluation.summarize()
    names = {number: category.get("name") or str(number) for number, category in coco.cats.items()}
    per_category = {}
    for column, number in enumerate(evaluation.params.catIds):
        precision = evaluation.eval["precision"][:, :, column, 0, -1]
        if (precision > -1).any():
            per_category[names[number]] = float(precision[precision > -1].mean())
    numbers = dict(zip(NUMBERS, map(float, evaluation.stats), strict=True))
    return CocoMetrics(numbers, per_category, summary.getvalue().rstrip(), len(image_ids), rows)


def to_results(rows: np.ndarray) -> list[dict]:
    """Rows as the entries of a COCO result file."""
    return [
        {"image_id": int(row[0]), "category_id": int(row[6]), "bbox": row[1:5].tolist(), "score": float(row[5])}
        for row in rows
    ]


def read_results(path: str | Path, coco: COCO) -> np.ndarray:
    """The rows [n, 7] of a COCO result file for the images of `coco`.

    InputError for a file that is not such a list, for entries without finite numbers, and for unknown images.
    """
    entries = read_json(path, "COCO results", "give a list of image_id, category_id, bbox, score")
    if not isinstance(entries, list):
        raise InputError(f"{path}: holds a {type(entries).__name__}, not a list of detections; give COCO results")
    rows = np.empty((len(entries), 7))
    for index, entry in enumerate(entries):
        name = f"{path}: detection number {index} (counted from 0)"
        try:
            rows[index] = entry["image_id"], *entry["bbox"], entry["score"], entry["category_id"]
            valid = len(entry["bbox"]) == 4 and all(map(math.isfinite, rows[index]))
        except (KeyError, TypeError, ValueError, OverflowError):
            valid = False
        if not valid:
            raise InputError(f"{name} has no finite image_id, category_id, bbox of four and score; give COCO results")
        if entry["image_id"] not in coco.imgs:
            raise InputError(
                f"{name} is in image {one_line(entry['image_id'])}, which the annotation file lacks; give that split's"
            )
    return rows
