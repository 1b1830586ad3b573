"""Average precision as KITTI's official program computes it (NOTES 7.4 to 7.11)."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from .matching import METRICS, Pairs, find_pairs, label_classes, match
from .results import Objects, read_folders

CLASSES = ("Car", "Pedestrian", "Cyclist")
DIFFICULTIES = ("easy", "moderate", "hard")
#: {class: {metric: what an overlap must exceed}}: KITTI's, and the looser ones of the paper's further tables
STRICT = {name: dict.fromkeys(METRICS, limit) for name, limit in zip(CLASSES, (0.7, 0.5, 0.5), strict=True)}
LOOSE = {
    "Car": {"2d": 0.7, "bev": 0.5, "3d": 0.5},
    "Pedestrian": {"2d": 0.5, "bev": 0.25, "3d": 0.25},
    "Cyclist": {"2d": 0.5, "bev": 0.25, "3d": 0.25},
}
_MIN_HEIGHT = (40, 25, 25)  # pixels
_MAX_OCCLUSION = (0, 1, 2)
_MAX_TRUNCATION = (0.15, 0.3, 0.5)
_POSITIONS = 41  # of recall: 0, 1/40, ... 1
_NO_ALPHA = -10
_NO_POSITION = -1000

Overlaps = Mapping[str, Mapping[str, float]]
#: {class: {"2d" | "aos" | "bev" | "3d": float64 [3 difficulties, 41 positions]}}
Curves = dict[str, dict[str, np.ndarray]]
#: {class: {"2d" | "aos" | "bev" | "3d": {"AP11" | "AP40": [easy, moderate, hard] in %}}}
Metrics = dict[str, dict[str, dict[str, list[float | None]]]]


def score_thresholds(scores: np.ndarray, valid: int) -> np.ndarray:
    """The scores float64 [at most 41] at which the recall is closest to 0, 1/40, 2/40, ... (NOTES 7.9).

    scores [m]: of the true positives, in any order; `valid`: the number of valid labels, at least m.
    """
    scores = np.sort(scores)[::-1]
    left = np.arange(1, len(scores) + 1) / max(valid, 1)
    right = np.append(left[1:], left[-1:])
    chosen, recall, begin = [], 0.0, 0
    while begin < len(scores):
        skipped = right[begin:] - recall < recall - left[begin:]
        skipped[-1] = False
        begin += int(np.argmin(skipped))
        chosen.append(scores[begin])
        recall += 1 / (_POSITIONS - 1)
        begin += 1
    return np.array(chosen)


def _never_rising(values: np.ndarray) -> np.ndarray:
    """[41] entries, each the largest of itself and the later ones; undefined ones (0 / 0) stay undefined."""
    curve = np.zeros(_POSITIONS)
    curve[: len(values)] = values
    return np.where(np.isnan(curve), np.nan, np.fmax.accumulate(curve[::-1])[::-1])


def _curves(
    number: int, level: int, labels: Objects, results: Objects, pairs: Pairs, excused: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(precision [41], orientation similarity [41]) of one class, difficulty and metric."""
    box = labels.box
    outside = (
        (box[:, 3] - box[:, 1] < _MIN_HEIGHT[level])
        | (labels.occlusion > _MAX_OCCLUSION[level])
        | (labels.truncation > _MAX_TRUNCATION[level])
    )
    valid_label = (labels.kind == number) & ~outside
    box = results.box
    too_small = np.abs(box[:, 1] - box[:, 3]) < _MIN_HEIGHT[level]  # of any class, as in the official program
    valid = (results.kind == number) & ~too_small
    rows = np.flatnonzero(valid | too_small)
    present = np.isin(pairs.detection, rows)
    compact = np.searchsorted(rows, pairs.detection[present])
    pairs = Pairs(compact, pairs.label[present], pairs.overlap[present])
    found, valid, excused = results[rows], valid[rows], excused[rows]

    # pass A, for the thresholds: labels take the highest score (NOTES 7.8)
    best = match(pairs, -found.score[pairs.detection], found, np.array([-np.inf]))
    counted = valid_label[best.label] & valid[best.detection]
    thresholds = score_thresholds(found.score[best.detection[counted]], int(valid_label.sum()))

    # pass B, for the curve: the largest overlap, too small detections last (NOTES 7.10)
    preference = np.where(valid[pairs.detection], -pairs.overlap, 0.0)
    matches = match(pairs, preference, found, thresholds)
    counted = valid_label[matches.label] & valid[matches.detection]
    detection, label, threshold = (values[counted] for values in (matches.detection, matches.label, matches.threshold))
    true = np.bincount(threshold, minlength=len(thresholds))
    similarity = (1 + np.cos(labels.alpha[label] - found.alpha[detection])) / 2
    similarity = np.bincount(threshold, similarity, minlength=len(thresholds))
    counted = valid & ~excused
    false = (found.score[counted, None] >= thresholds) & ~matches.taken[counted]
    answers = true + false.sum(0)
    with np.errstate(invalid="ignore"):
        return _never_rising(true / answers), _never_rising(similarity / answers)


def precision_curves(labels: Objects, results: Objects, overlaps: Overlaps = STRICT) -> Curves:
    """Precision, and under "aos" orientation similarity, over recall.

    `overlaps`: {class: {"2d" | "bev" | "3d": what an overlap must exceed}}. Curves that do not exist are left out,
    and classes without any too (NOTES 7.4).
    """
    limits = {metric: np.array([overlaps[name][metric] for name in CLASSES]) for metric in METRICS}
    pairs, excused = find_pairs(labels, results, limits)
    classes = label_classes(labels)
    oriented = not (results.alpha == _NO_ALPHA).any()
    curves: Curves = {}
    for number, name in enumerate(CLASSES):
        own = results[results.kind == number]
        wanted = {
            "2d": (own.box[:, 0] >= 0).any(),
            "bev": (own.position[:, 0] != _NO_POSITION).any(),
            "3d": (own.position[:, 1] != _NO_POSITION).any(),
        }
        for metric in (metric for metric in METRICS if wanted[metric]):
            of_class = classes[pairs[metric].label] == number
            mine = Pairs(*(values[of_class] for values in vars(pairs[metric]).values()))
            both = [
                _curves(number, level, labels, results, mine, excused[metric]) for level in range(len(DIFFICULTIES))
            ]
            precision, similarity = map(np.stack, zip(*both, strict=True))
            curves.setdefault(name, {})[metric] = precision
            if metric == "2d" and oriented:
                curves[name]["aos"] = similarity
    return curves


def _mean_in_float32(entries: np.ndarray) -> float | None:
    """Mean in %, summed in float32 in order and rounded to six decimals (NOTES 7.11)."""
    total = np.float32(0)
    for entry in entries:
        total = np.float32(np.float64(total) + entry)
    mean = float(total / np.float32(len(entries)) * np.float32(100))
    return None if np.isnan(mean) else round(mean, 6)


def average_precisions(curves: Curves) -> Metrics:
    """AP11 (entries 0, 4, ... 40) and AP40 (entries 1 to 40) of every curve, in %; None where one is undefined."""
    return {
        name: {
            metric: {
                "AP11": [_mean_in_float32(curve[::4]) for curve in levels],
                "AP40": [_mean_in_float32(curve[1:]) for curve in levels],
            }
            for metric, levels in metrics.items()
        }
        for name, metrics in curves.items()
    }


def evaluate_folders(label_dir: str | Path, result_dir: str | Path, overlaps: Overlaps = STRICT) -> Metrics:
    """Score a folder of KITTI result files: {class: {metric: {"AP11": [easy, moderate, hard], "AP40": [...]}}} in %.

    See `precision_curves` for what is left out. InputError as `read_folders`.
    """
    labels, results, _ = read_folders(label_dir, result_dir)
    return average_precisions(precision_curves(labels, results, overlaps))
