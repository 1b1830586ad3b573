"""Simulated labels and results of many frames in KITTI's files, to time and to test the evaluator."""

from pathlib import Path

import numpy as np

#: mean height, width, length in metres, and fraction of the labels
_TYPES = {
    "Car": (1.53, 1.63, 3.88, 0.55),
    "Pedestrian": (1.76, 0.66, 0.84, 0.13),
    "Cyclist": (1.74, 0.60, 1.76, 0.08),
    "Van": (2.21, 1.90, 5.08, 0.10),
    "Person_sitting": (1.27, 0.59, 0.80, 0.04),
    "Truck": (3.25, 2.59, 10.1, 0.10),
}
_NAMES = np.array(list(_TYPES))
_MEANS = np.array(list(_TYPES.values()))
_FOCAL, _U, _V, _CAMERA_HEIGHT = 721.5, 609.6, 172.9, 1.65
_DONT_CARE = "DontCare -1 -1 -10 {:.2f} {:.2f} {:.2f} {:.2f} -1 -1 -1 -1000 -1000 -1000 -10\n"


def _boxes(sizes: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """2D boxes in pixels [N, 4] of objects of these sizes [N, 3] and positions [N, 3]."""
    scale = _FOCAL / positions[:, 2]
    u, bottom = _U + scale * positions[:, 0], _V + scale * positions[:, 1]
    half = scale * np.maximum(sizes[:, 1], 0.6 * sizes[:, 2]) / 2
    return np.column_stack([u - half, bottom - scale * sizes[:, 0], u + half, bottom])


def _lines(kinds: np.ndarray, seen: np.ndarray, boxes, sizes, positions, rotations, scores=None) -> list[str]:
    """KITTI's lines of the objects; seen: truncation and occlusion [N, 2]."""
    alpha = rotations - np.arctan2(positions[:, 0], positions[:, 2])
    columns = [alpha, boxes, sizes, positions, rotations, *([] if scores is None else [scores])]
    rows = zip(_NAMES[kinds], seen, np.column_stack(columns).tolist(), strict=True)
    return [
        f"{name} {part:.2f} {hidden:.0f} {' '.join(f'{x:.2f}' for x in row)}\n" for name, (part, hidden), row in rows
    ]


def _write(folder: Path, frames: int, owners: np.ndarray, lines: list[str]) -> None:
    folder.mkdir(parents=True)
    texts = [[] for _ in range(frames)]
    for owner, line in zip(owners, lines, strict=True):
        texts[owner].append(line)
    for frame, text in enumerate(texts):
        (folder / f"{frame:06d}.txt").write_text("".join(text))


def write_frames(folder: str | Path, frames: int, seed: int = 0) -> tuple[int, int]:
    """Write frames 0, 1, ... to the new folders FOLDER/label_2 and FOLDER/data. The numbers of labels and of results.

    About eleven labels and twelve results per frame: most labels are detected once, some twice or not, some as another
    class; scores have two decimals, so that many are equal.
    """
    rng = np.random.default_rng(seed)
    count = 10 * frames
    kinds = rng.choice(len(_NAMES), count, p=_MEANS[:, 3])
    sizes = _MEANS[kinds, :3] * rng.uniform(0.9, 1.1, (count, 3))
    ground = [rng.uniform(-15, 15, count), rng.normal(_CAMERA_HEIGHT, 0.1, count)]
    positions = np.column_stack([*ground, rng.uniform(4, 60, count)])
    rotations = rng.uniform(-np.pi, np.pi, count)
    seen = np.column_stack([rng.choice([0, 0, 0, 0.2, 0.4, 0.7], count), rng.choice([0, 0, 1, 2, 3], count)])
    owners = np.sort(rng.integers(frames, size=count))
    labels = _lines(kinds, seen, _boxes(sizes, positions), sizes, positions, rotations)

    found = np.repeat(np.arange(count), rng.choice([0, 1, 1, 1, 2], count))
    stray = 2 * frames
    kinds = np.concatenate([np.where(kinds[found] < 3, kinds[found], 0), rng.integers(3, size=stray)])
    kinds = np.where(rng.random(len(kinds)) < 0.05, rng.integers(3, size=len(kinds)), kinds)
    sizes = np.concatenate([sizes[found] * rng.normal(1, 0.04, (len(found), 3)), _MEANS[kinds[len(found) :], :3]])
    strays = np.column_stack([rng.uniform(-15, 15, stray), np.full(stray, _CAMERA_HEIGHT), rng.uniform(4, 60, stray)])
    moved = positions[found] + rng.normal(0, [0.12, 0.05, 0.25], (len(found), 3))
    positions = np.concatenate([moved, strays])
    rotations = np.concatenate([rotations[found] + rng.normal(0, 0.15, len(found)), rng.uniform(-3, 3, stray)])
    boxes = _boxes(sizes, positions)
    scores = rng.uniform(0.05, 1, len(kinds))
    boxes[: len(found)] += rng.normal(0, 1.5, (len(found), 4))
    unseen = np.full((len(kinds), 2), -1.0)
    results = _lines(kinds, unseen, boxes, sizes, positions, rotations, scores)
    result_owners = np.concatenate([owners[found], rng.integers(frames, size=stray)])

    covered = len(found) + rng.permutation(stray)[: stray // 2]  # strays that a DontCare region excuses
    labels += [_DONT_CARE.format(*box) for box in boxes[covered] + [-5, -5, 5, 5]]
    _write(Path(folder) / "label_2", frames, np.concatenate([owners, result_owners[covered]]), labels)
    _write(Path(folder) / "data", frames, result_owners, results)
    return len(labels), len(results)
