"""Decoding and KITTI's evaluation in plain loops, from NOTES 7: the twin's side of the metric stage."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from .data import BINS, MEAN_SIZES, NAMES, wrapped
from .dla import peaks
from .network import at_cells, probabilities

# ---------------------------------------------------------------- decoding


def extract(outputs: Mapping[str, torch.Tensor], k: int = 50) -> torch.Tensor:
    """Outputs of the network in mode "test" -> [B, k, 36] (NOTES 7.1)."""
    score, cells, classes = peaks(probabilities(outputs["heatmap"]), k)
    batch, width = len(score), outputs["heatmap"].shape[3]
    position = torch.stack([cells % width, cells // width], 2).to(score.dtype)
    rows = {name: outputs[name].reshape(batch, k, -1) for name in ("heading", "depth", "size_3d", "offset_3d")}
    certainty = (-(0.5 * rows["depth"][..., 1]).exp()).exp()
    head = torch.stack([classes.to(score.dtype), score * certainty], 2)
    centres = position + at_cells(outputs["offset_2d"], cells)
    sizes = at_cells(outputs["size_2d"], cells)
    centres_3d = position + rows["offset_3d"]
    parts = [head, centres, sizes, rows["depth"][..., :1], rows["heading"], rows["size_3d"], centres_3d]
    return torch.cat(parts, 2)


def decode(dets: np.ndarray, ratio: Sequence[float], p2: np.ndarray, threshold: float) -> list[list[float]]:
    """[50, 36] of an image -> rows of 14: class, alpha, box, h, w, l, x, y, z, ry, score."""
    found = []
    fu, fv, cu, cv = (float(p2[at]) for at in ((0, 0), (1, 1), (0, 2), (1, 2)))
    tx, ty = (float(p2[axis, 3] / -p2[axis, axis]) for axis in (0, 1))  # divided in float32
    for row in dets:
        if row[1] < threshold:
            continue
        kind = NAMES[int(row[0])]
        size = (row[31:34].astype(np.float64) + MEAN_SIZES[kind]).astype(row.dtype)
        if (size < 0).any():
            continue
        x, y, w, h = (float(value) * ratio[axis % 2] for axis, value in enumerate(row[2:6]))
        best = int(np.argmax(row[7 : 7 + BINS]))
        alpha = best * 2 * math.pi / BINS + float(row[7 + BINS + best])
        alpha = alpha - 2 * math.pi if alpha > math.pi else alpha
        depth, u, v = float(row[6]), float(row[34]) * ratio[0], float(row[35]) * ratio[1]
        at = [(u - cu) * depth / fu + tx, (v - cv) * depth / fv + ty, depth]
        at[1] += float(size[0]) / 2
        ry = wrapped(alpha + math.atan2(x - cu, fu))
        box = [x - w / 2, y - h / 2, x + w / 2, y + h / 2]
        found.append([int(row[0]), alpha, *box, *map(float, size), *at, ry, float(row[1])])
    return found


def lines(rows: Sequence[Sequence[float]]) -> str:
    """Rows of 14 -> the text of a result file."""
    return "".join(f"{NAMES[int(row[0])]} 0.0 0 {' '.join(f'{value:.2f}' for value in row[1:])}\n" for row in rows)


# ---------------------------------------------------------------- overlaps

Point = tuple[float, float]


@dataclass
class Box:
    kind: str
    truncation: float
    occlusion: int
    alpha: float
    x1: float
    y1: float
    x2: float
    y2: float
    h: float
    w: float
    l: float  # noqa: E741
    x: float
    y: float
    z: float
    ry: float
    score: float = -1.0
    corners: list[Point] = field(init=False)

    def __post_init__(self):
        c, s = math.cos(self.ry), math.sin(self.ry)
        ends = [
            (self.l / 2, self.w / 2),
            (-self.l / 2, self.w / 2),
            (-self.l / 2, -self.w / 2),
            (self.l / 2, -self.w / 2),
        ]
        self.corners = [(self.x + a * c + b * s, self.z - a * s + b * c) for a, b in ends]


def read_boxes(path: Path) -> list[Box]:
    found = []
    for line in path.read_text().splitlines():
        kind, truncation, occlusion, *rest = line.split()
        found.append(Box(kind.lower(), float(truncation), int(float(occlusion)), *map(float, rest)))
    return found


def image_overlap(a: Box, b: Box, of_first: bool = False) -> float:
    """Intersection over union, or over the first one's area."""
    width, height = min(a.x2, b.x2) - max(a.x1, b.x1), min(a.y2, b.y2) - max(a.y1, b.y1)
    if width <= 0 or height <= 0:
        return 0.0
    first, second = ((box.x2 - box.x1) * (box.y2 - box.y1) for box in (a, b))
    return width * height / (first if of_first else first + second - width * height)


def _area(polygon: Sequence[Point]) -> float:
    """Signed by the orientation of the polygon."""
    pairs = zip(polygon, [*polygon[1:], *polygon[:1]], strict=True)
    return sum(x1 * y2 - x2 * y1 for (x1, y1), (x2, y2) in pairs) / 2


def shared_ground(a: Box, b: Box) -> float:
    """Area of the intersection: a's rectangle, clipped by each side of b's in turn (Sutherland and Hodgman)."""
    clip = b.corners if _area(b.corners) > 0 else b.corners[::-1]
    left = a.corners
    for (x1, y1), (x2, y2) in zip(clip, [*clip[1:], clip[0]], strict=True):
        kept = []
        sides = [(x2 - x1) * (y - y1) - (y2 - y1) * (x - x1) for x, y in left]
        for here, (point, side) in enumerate(zip(left, sides, strict=True)):
            before, side_before = left[here - 1], sides[here - 1]
            if (side >= 0) != (side_before >= 0):
                part = side_before / (side_before - side)
                kept.append(tuple(p + part * (q - p) for p, q in zip(before, point, strict=True)))
            if side >= 0:
                kept.append(point)
        left = kept
        if not left:
            return 0.0
    return abs(_area(left))


def ground_overlap(a: Box, b: Box) -> float:
    inner = shared_ground(a, b)
    return inner / (a.l * a.w + b.l * b.w - inner) if inner else 0.0


def body_overlap(a: Box, b: Box) -> float:
    """3D intersection over union; y is the bottom and points down."""
    inner = shared_ground(a, b) * max(0.0, min(a.y, b.y) - max(a.y - a.h, b.y - b.h))
    return inner / (a.h * a.l * a.w + b.h * b.l * b.w - inner) if inner else 0.0


# ---------------------------------------------------------------- counting

OVERLAPS = {"2d": image_overlap, "bev": ground_overlap, "3d": body_overlap}
LEAST_HEIGHT, MOST_OCCLUSION, MOST_TRUNCATION = (40, 25, 25), (0, 1, 2), (0.15, 0.3, 0.5)
LEAST_OVERLAP = {"Car": 0.7, "Pedestrian": 0.5, "Cyclist": 0.5}
NEIGHBOUR = {"Car": "van", "Pedestrian": "person_sitting"}
POINTS = 41
VALID, IGNORED, ABSENT = 0, 1, -1


@dataclass
class Frame:
    labels: list[Box]
    results: list[Box]
    overlaps: dict[str, list[list[float]]]  # {metric: [label][result]}
    covered: list[list[float]]  # [DontCare region][result]: the covered part of the result's area

    @classmethod
    def of(cls, labels: list[Box], results: list[Box]) -> "Frame":
        objects = [label for label in labels if label.kind != "dontcare"]
        regions = [label for label in labels if label.kind == "dontcare"]
        overlaps = {
            name: [[overlap(result, label) for result in results] for label in objects]
            for name, overlap in OVERLAPS.items()
        }
        covered = [[image_overlap(result, region, of_first=True) for result in results] for region in regions]
        return cls(objects, results, overlaps, covered)


def _label_state(label: Box, kind: str, level: int) -> int:
    if label.kind == NEIGHBOUR.get(kind):
        return IGNORED
    if label.kind != kind.lower():
        return ABSENT
    fits = label.y2 - label.y1 >= LEAST_HEIGHT[level]
    fits = fits and label.occlusion <= MOST_OCCLUSION[level] and label.truncation <= MOST_TRUNCATION[level]
    return VALID if fits else IGNORED


def _result_state(result: Box, kind: str, level: int) -> int:
    if result.y2 - result.y1 < LEAST_HEIGHT[level]:
        return IGNORED
    return VALID if result.kind == kind.lower() else ABSENT


def _pass_a(frame: Frame, states: tuple, overlaps: list, least: float) -> list[float]:
    """Scores of the true positives, where labels take the match of the highest score (NOTES 7.8)."""
    label_states, result_states = states
    taken, found = set(), []
    for row, label_state in enumerate(label_states):
        if label_state == ABSENT:
            continue
        best = None
        for column, state in enumerate(result_states):
            fits = state != ABSENT and column not in taken and overlaps[row][column] > least
            if fits and (best is None or frame.results[column].score > frame.results[best].score):
                best = column
        if best is not None:
            taken.add(best)
            if label_state == VALID and result_states[best] == VALID:
                found.append(frame.results[best].score)
    return found


def _pass_b(frame: Frame, states: tuple, overlaps: list, least: float, threshold: float, metric: str) -> np.ndarray:
    """True positives, false positives and similarity of headings at a score threshold (NOTES 7.10)."""
    label_states, result_states = states
    out = {column for column, result in enumerate(frame.results) if result.score < threshold}
    taken, true, similarity = set(), 0, 0.0
    for row, label_state in enumerate(label_states):
        if label_state == ABSENT:
            continue
        open_ = [c for c in range(len(result_states)) if c not in taken | out and overlaps[row][c] > least]
        valid = [c for c in open_ if result_states[c] == VALID]
        ignored = [c for c in open_ if result_states[c] == IGNORED]
        if valid or ignored:
            best = max(valid, key=lambda c: overlaps[row][c]) if valid else ignored[0]
            taken.add(best)
            if label_state == VALID and valid:
                true += 1
                similarity += (1 + math.cos(frame.labels[row].alpha - frame.results[best].alpha)) / 2
    false = {c for c, state in enumerate(result_states) if state == VALID} - taken - out
    if metric == "2d":
        false = {c for c in false if not any(region[c] > least for region in frame.covered)}
    return np.array([true, len(false), similarity])


def _thresholds(scores: list[float], count: int) -> list[float]:
    """The scores at which recall passes the 41 positions (NOTES 7.9)."""
    found, target = [], 0.0
    scores = sorted(scores, reverse=True)
    for number, score in enumerate(scores, 1):
        last = number == len(scores)
        left, right = number / count, (number if last else number + 1) / count
        if right - target < target - left and not last:
            continue
        found.append(score)
        target += 1 / (POINTS - 1)
    return found


def _curves(frames: Sequence[Frame], kind: str, level: int, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """Precision and similarity at 41 recall positions, each the best of itself and all later ones."""
    least = LEAST_OVERLAP[kind]
    states = [
        (
            [_label_state(label, kind, level) for label in frame.labels],
            [_result_state(result, kind, level) for result in frame.results],
        )
        for frame in frames
    ]
    count = sum(state == VALID for labels, _ in states for state in labels)
    pairs = list(zip(frames, states, strict=True))
    scores = [score for frame, state in pairs for score in _pass_a(frame, state, frame.overlaps[metric], least)]
    precision, similarity = np.zeros(POINTS), np.zeros(POINTS)
    for index, threshold in enumerate(_thresholds(scores, count)):
        total = sum(_pass_b(frame, state, frame.overlaps[metric], least, threshold, metric) for frame, state in pairs)
        precision[index], similarity[index] = total[[0, 2]] / total[:2].sum()
    return tuple(np.maximum.accumulate(curve[::-1])[::-1] for curve in (precision, similarity))


def evaluate(label_dir: Path, result_dir: Path) -> dict[tuple[str, str], np.ndarray]:
    """{("Car", "3d"): curves [3, 41], ...} of all figures that exist (NOTES 7.4); frames are those with results."""
    paths = sorted(Path(result_dir).glob("[0-9]*.txt"))
    frames = [Frame.of(read_boxes(Path(label_dir) / path.name), read_boxes(path)) for path in paths]
    results = [result for frame in frames for result in frame.results]
    found = {}
    for kind in LEAST_OVERLAP:
        own = [result for result in results if result.kind == kind.lower()]
        present = {
            "2d": any(result.x1 >= 0 for result in own),
            "bev": any(result.x != -1000 for result in own),
            "3d": any(result.y != -1000 for result in own),
        }
        for metric in (name for name, there in present.items() if there):
            precision, similarity = zip(*(_curves(frames, kind, level, metric) for level in range(3)), strict=True)
            found[kind, metric] = np.stack(precision)
            if metric == "2d" and all(result.alpha != -10 for result in results):
                found[kind, "aos"] = np.stack(similarity)
    return found


def _mean(curves: np.ndarray) -> np.ndarray:
    """[3, n] -> [3] in %, summed in float32 and rounded to six decimals (NOTES 7.11)."""
    means = []
    for curve in curves:
        total = np.float32(0)
        for value in curve:
            total = np.float32(float(total) + value)
        means.append(round(float(total / np.float32(len(curve)) * np.float32(100)), 6))
    return np.array(means)


def ap40(curves: np.ndarray) -> np.ndarray:
    """Curves of `evaluate` [3, 41] -> easy, moderate, hard in %."""
    return _mean(curves[:, 1:])


def ap11(curves: np.ndarray) -> np.ndarray:
    return _mean(curves[:, ::4])
