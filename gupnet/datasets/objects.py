"""KITTI's label and result lines: the objects of a file as arrays (NOTES 2.2)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from shared import InputError
from shared.files import one_line

from metrics.results import TYPES, parse_lines, read_lines

EASY, MODERATE, HARD, UNKNOWN = 1, 2, 3, 4  # levels of difficulty; 0 is DontCare


@dataclass(frozen=True)
class Objects:
    """The n objects of a file, in its order.

    2D boxes and positions are float32, all else float64, as in the reference. Metres, pixels, radians.
    """

    types: tuple[str, ...]
    truncation: np.ndarray  # [n]
    occlusion: np.ndarray  # [n]
    alpha: np.ndarray  # [n]
    boxes: np.ndarray  # [n, 4] x1, y1, x2, y2
    sizes: np.ndarray  # [n, 3] height, width, length
    positions: np.ndarray  # [n, 3] x, y, z of the bottom centre
    rotations: np.ndarray  # [n] about the y axis; 0: the front points along x
    scores: np.ndarray | None = None  # [n], of a result file

    def __len__(self) -> int:
        return len(self.types)

    @property
    def levels(self) -> np.ndarray:
        """Difficulty, int64 [n] (NOTES 2.6): 0 DontCare, 1 easy, 2 moderate, 3 hard, 4 unknown."""
        height = self.boxes[:, 3].astype(np.float64) - self.boxes[:, 1] + 1
        within = [
            (height >= least) & (self.truncation <= cut) & (self.occlusion <= hidden)
            for least, cut, hidden in ((40, 0.15, 0), (25, 0.3, 1), (25, 0.5, 2))
        ]
        return np.select([self.truncation == -1, *within], [0, EASY, MODERATE, HARD], UNKNOWN)

    def first(self, count: int) -> "Objects":
        """The first `count` objects of the file."""
        arrays = {name: value[:count] for name, value in vars(self).items() if value is not None}
        return replace(self, **arrays)

    def mirrored(self, width: int) -> "Objects":
        """The objects of the mirrored image of this width (NOTES 3.7). Alphas stay as they were."""
        boxes = self.boxes.copy()
        boxes[:, 0], boxes[:, 2] = width - self.boxes[:, 2], width - self.boxes[:, 0]
        positions = self.positions * np.array([-1, 1, 1], np.float32)
        return replace(self, boxes=boxes, positions=positions, rotations=wrap_once(np.pi - self.rotations))


def wrap_once(angles: np.ndarray) -> np.ndarray:
    """Angles beyond +-pi moved by one turn."""
    angles = np.where(angles > np.pi, angles - 2 * np.pi, angles)
    return np.where(angles < -np.pi, angles + 2 * np.pi, angles)


def box_corners(sizes: np.ndarray, positions: np.ndarray, rotations: np.ndarray) -> np.ndarray:
    """Corners [n, 8, 3] of 3D boxes from sizes [n, 3], positions [n, 3] and rotations [n] (NOTES 7.6).

    The bottom's four come first: front left, front right, rear right, rear left, seen from the object; then the ones
    above them.
    """
    height, width, length = (side[:, None] for side in np.asarray(sizes, np.float64).T)
    along = length / 2 * [1, 1, -1, -1]
    across = width / 2 * [1, -1, -1, 1]
    cosine, sine = np.cos(rotations)[:, None], np.sin(rotations)[:, None]
    x = along * cosine + across * sine
    z = across * cosine - along * sine
    bottom = np.stack([x, np.zeros_like(x), z], -1)
    top = bottom - np.stack([np.zeros_like(height), height, np.zeros_like(height)], -1)
    return np.concatenate([bottom, top], 1) + np.asarray(positions, np.float64)[:, None]


def parse_objects(lines: Sequence[str], name: str | Path) -> Objects:
    """The objects of label lines (15 fields) or result lines (16); blank lines are skipped.

    InputError, with `name` and the line's number, as `parse_lines`, and for a type that is not KITTI's; for lines with
    and without a score in one file too.
    """
    types, table, scored = parse_lines(lines, name, largest=float(np.finfo(np.float32).max))
    unknown = [kind for kind in types if kind not in TYPES]
    if unknown:
        number = next(n for n, line in enumerate(lines, 1) if line.split()[:1] == unknown[:1])
        text = f"unknown type {unknown[0][:40]!r}; KITTI's are {', '.join(TYPES)}"
        raise InputError(one_line(f"{name}:{number}: {text}"))
    if scored.any() and not scored.all():
        raise InputError(f"{name}: some lines have a score and some have none; correct the file")
    return Objects(
        tuple(types),
        *table[:, :3].T,
        table[:, 3:7].astype(np.float32),
        table[:, 7:10],
        table[:, 10:13].astype(np.float32),
        table[:, 13],
        table[:, 14] if scored.any() else None,
    )


def read_objects(path: str | Path) -> Objects:
    """The objects of a label or result file; none for an empty one. InputError as `parse_objects`."""
    return parse_objects(read_lines(path, "the label file"), path)
