"""Matching of detections to labels (NOTES 7.7, 7.8, 7.10), for all frames at once.

Only pairs that overlap enough can match, and they are few: they are computed once, for whole arrays, and all classes,
difficulties, metrics and score thresholds use them.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from .overlaps import (
    ground_distant,
    ground_intersections,
    height_intersections,
    image_areas,
    image_intersections,
)
from .results import KINDS, OTHER_KIND, Objects

METRICS = ("2d", "bev", "3d")
DONT_CARE = KINDS.index("dontcare")
#: the class that each of KINDS is evaluated with, neighbours included; none for DontCare
_CLASS_OF_KIND = np.array([0, 1, 2, 0, 1, -1])
_CHUNK = 1 << 17  # pairs of boxes at a time: some 100 MB
_MIN_SCORE = -1e7  # the official program ignores detections with lower scores


@dataclass(frozen=True)
class Pairs:
    """Detections and labels of one frame whose overlap exceeds the threshold of the label's class.

    detection, label int64 [P]: rows of the objects; overlap float64 [P]. By label, then by detection, as in the files.
    """

    detection: np.ndarray
    label: np.ndarray
    overlap: np.ndarray


def label_classes(labels: Objects) -> np.ndarray:
    """int64 [N]: 0 Car, 1 Pedestrian, 2 Cyclist, neighbouring classes included; -1 for others."""
    return np.where(labels.kind == OTHER_KIND, -1, _CLASS_OF_KIND[labels.kind])


def _frame_pairs(labels: Objects, rows: np.ndarray, results: Objects) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(detection, label) int64 [n]: all pairs within a frame, of these rows of the labels, in chunks."""
    first = np.searchsorted(results.frame, labels.frame[rows], "left")
    counts = np.searchsorted(results.frame, labels.frame[rows], "right") - first
    ends = np.cumsum(counts)
    begin = 0
    while begin < len(rows):
        done = ends[begin - 1] if begin else 0
        end = max(begin + 1, int(np.searchsorted(ends, done + _CHUNK, "right")))
        chunk = slice(begin, end)
        label = np.repeat(rows[chunk], counts[chunk])
        starts = np.repeat(first[chunk] - (ends[chunk] - counts[chunk] - done), counts[chunk])
        yield starts + np.arange(len(label)), label
        begin = end


def _ground(objects: Objects) -> np.ndarray:
    """(x, z, l, w, ry) float64 [N, 5]."""
    return np.column_stack([objects.position[:, [0, 2]], objects.size[:, [2, 1]], objects.ry])


def _overlaps(found: Objects, labels: Objects, of_detection: bool) -> dict[str, np.ndarray]:
    """{metric: float64 [N]}, pairwise: intersection over union, or with `of_detection` over the detection.

    NaN where both boxes are empty, which no threshold is below.
    """
    ground = _ground(found), _ground(labels)
    near = np.flatnonzero(~ground_distant(*ground))
    area = np.zeros(len(found))
    area[near] = ground_intersections(ground[0][near], ground[1][near])
    heights = (np.column_stack([objects.position[:, 1], objects.size[:, 0]]) for objects in (found, labels))
    intersections = {
        "2d": image_intersections(found.box, labels.box),
        "bev": area,
        "3d": area * height_intersections(*heights),
    }

    def own(objects: Objects, metric: str) -> np.ndarray:
        if metric == "2d":
            return image_areas(objects.box)
        return np.prod(objects.size if metric == "3d" else objects.size[:, 1:], axis=1)

    ratios = {}
    for metric, value in intersections.items():
        whole = own(found, metric)
        ratios[metric] = value / (whole if of_detection else whole + own(labels, metric) - value)
    return ratios


def find_pairs(
    labels: Objects, results: Objects, thresholds: Mapping[str, np.ndarray]
) -> tuple[dict[str, Pairs], dict[str, np.ndarray]]:
    """({metric: Pairs}, {metric: bool [D]}): the pairs that can match, and detections that a DontCare region excuses.

    `thresholds`: {metric: float64 [3]}, of the three classes, which overlaps must exceed. A DontCare region excuses a
    detection of which it covers more than the threshold of the detection's class.
    """
    classes = label_classes(labels)
    kept = {metric: [[], [], []] for metric in METRICS}
    excused = {metric: np.zeros(len(results), bool) for metric in METRICS}
    with np.errstate(all="ignore"):  # huge numbers of a file overflow, and then do not match
        for detection, label in _frame_pairs(labels, np.flatnonzero(classes >= 0), results):
            for metric, overlap in _overlaps(results[detection], labels[label], of_detection=False).items():
                keep = overlap > thresholds[metric][classes[label]]
                for stored, values in zip(kept[metric], (detection, label, overlap), strict=True):
                    stored.append(values[keep])
        regions = np.flatnonzero(labels.kind == DONT_CARE)
        for detection, label in _frame_pairs(labels, regions, results):
            evaluated = (results.kind[detection] >= 0) & (results.kind[detection] < 3)
            detection, label = detection[evaluated], label[evaluated]
            for metric, overlap in _overlaps(results[detection], labels[label], of_detection=True).items():
                covered = overlap > thresholds[metric][results.kind[detection]]
                excused[metric][detection[covered]] = True
    empty = [np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0)]
    pairs = {
        metric: Pairs(*(np.concatenate([none, *parts]) for none, parts in zip(empty, kept[metric], strict=True)))
        for metric in METRICS
    }
    return pairs, excused


def _rounds(labels: np.ndarray, frames: np.ndarray) -> np.ndarray:
    """int64 [P]: how many labels of the same frame come before this one. Both [P], labels ascending."""
    new_label = np.diff(labels, prepend=-1) != 0
    number = np.cumsum(new_label)
    new_frame = np.diff(frames, prepend=-1) != 0
    return number - np.maximum.accumulate(np.where(new_frame, number, 0))


@dataclass(frozen=True)
class Matches:
    """The matches of a pass: detection, label and index of the threshold, int64 [M]; taken bool [D, T]: whether the
    detection is matched."""

    detection: np.ndarray
    label: np.ndarray
    threshold: np.ndarray
    taken: np.ndarray


def match(pairs: Pairs, preference: np.ndarray, results: Objects, thresholds: np.ndarray) -> Matches:
    """Match every label, in file order, with the free detection that comes first in `preference`.

    preference float64 [P]: the smallest first, ties in file order. thresholds float64 [T]: independently for each, with
    the detections whose score is not below it. In round r every frame's r-th label is matched.
    """
    order = np.lexsort((pairs.detection, preference, pairs.label))
    order = order[results.score[pairs.detection[order]] > _MIN_SCORE]
    detection, label = pairs.detection[order], pairs.label[order]
    rounds = _rounds(label, results.frame[detection])
    enough = results.score[:, None] >= thresholds
    taken = np.zeros((len(results), len(thresholds)), bool)
    matches = [[np.empty(0, np.int64)] * 3]
    by_round = np.argsort(rounds, kind="stable")
    ends = np.cumsum(np.bincount(rounds))
    for members in np.split(by_round, ends[:-1]) if len(ends) else []:
        found, wanted = detection[members], label[members]
        free = enough[found] & ~taken[found]
        heads = np.flatnonzero(np.diff(wanted, prepend=-1))
        candidates = np.where(free, np.arange(len(members))[:, None], len(members))
        chosen = np.minimum.reduceat(candidates, heads, axis=0)
        head, threshold = np.nonzero(chosen < len(members))
        picked = found[chosen[head, threshold]]
        taken[picked, threshold] = True
        matches.append([picked, wanted[heads[head]], threshold])
    return Matches(*map(np.concatenate, zip(*matches, strict=True)), taken)
