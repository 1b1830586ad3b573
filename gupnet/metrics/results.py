"""KITTI's text files of objects: labels and detections of many frames as arrays (NOTES 2.2, 7.4).

Imports no Paddle: result files are scored without it.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from shared import InputError
from shared.files import one_line

TYPES = ("Car", "Van", "Truck", "Pedestrian", "Person_sitting", "Cyclist", "Tram", "Misc", "DontCare")
#: the types that the evaluation tells apart, compared without case; `Objects.kind` is an index in here
KINDS = ("car", "pedestrian", "cyclist", "van", "person_sitting", "dontcare")
OTHER_KIND = -1
_NAME = re.compile(r"\d{6}\.txt")
_INTEGER = re.compile(r"[+-]?\d{1,9}", re.ASCII)
#: fields after the type; the score is a result's
_FIELDS = "truncation occlusion alpha x1 y1 x2 y2 h w l x y z ry score".split()


def read_lines(path: str | Path, what: str) -> list[str]:
    """The lines of a text file. InputError, calling it `what`, if it cannot be read or is not text."""
    try:
        return Path(path).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise InputError(f"{path}: {what} cannot be read ({error.strerror}); fetch it again") from error
    except ValueError as error:
        raise InputError(f"{path}: {what} is not a text file; fetch it again") from error


def parse_lines(
    lines: Sequence[str],
    name: str | Path,
    counts: Sequence[int] = (15, 16),
    integer_occlusion: bool = False,
    largest: float = np.inf,
) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Types, numbers float64 [n, 15] (score 0 where there is none) and bool [n], whether there is a score.

    Blank lines are skipped. InputError, with `name` and the line's number, for another number of fields than `counts`,
    for a value that is not a finite number below `largest`, and for an occlusion that is not an integer, if it must be.
    """
    types, numbers, scored, places = [], [], [], []
    for number, line in enumerate(lines, 1):
        fields = line.split()
        if not fields:
            continue
        if len(fields) not in counts:
            wanted = " or ".join(map(str, counts))
            raise InputError(f"{name}:{number}: {len(fields)} fields instead of {wanted}; correct the line")
        if integer_occlusion and not _INTEGER.fullmatch(fields[2]):
            raise InputError(f"{name}:{number}: occlusion is {_show(fields[2])}, not an integer; correct the line")
        types.append(fields[0])
        scored.append(len(fields) == 16)
        numbers += fields[1:] if scored[-1] else [*fields[1:], "0"]
        places.append(number)
    try:
        values = np.array([float(number) for number in numbers]).reshape(-1, len(_FIELDS))
        good = bool((np.abs(values) < largest).all())
    except ValueError:
        good = False
    if not good:
        index, reason = next(filter(None, (_fault(k, number, largest) for k, number in enumerate(numbers))))
        row, column = divmod(index, len(_FIELDS))
        shown = _show(numbers[index])
        raise InputError(f"{name}:{places[row]}: {_FIELDS[column]} is {shown}, {reason}; correct the line")
    return types, values, np.array(scored, bool)


def _fault(index: int, number: str, largest: float) -> tuple[int, str] | None:
    try:
        return None if abs(float(number)) < largest else (index, "not finite")
    except ValueError:
        return index, "not a number"


def _show(field: str) -> str:
    """A field of a file, which may hold anything, for an error line."""
    text = one_line(field)
    return repr(f"{text[:40]}..." if len(text) > 40 else text)


@dataclass(frozen=True)
class Objects:
    """The objects of all frames, frame after frame, in the order of their lines; arrays of N rows, float64 if not int.

    Pixels, metres and radians; the position is that of the bottom centre.
    """

    frame: np.ndarray  # int64: index of the frame
    kind: np.ndarray  # int64: in KINDS, or OTHER_KIND
    truncation: np.ndarray
    occlusion: np.ndarray
    alpha: np.ndarray
    box: np.ndarray  # [N, 4]: x1, y1, x2, y2
    size: np.ndarray  # [N, 3]: h, w, l
    position: np.ndarray  # [N, 3]: x, y, z
    ry: np.ndarray
    score: np.ndarray  # 0 for labels
    unknown: tuple[str, ...] = ()  # types that KITTI does not have

    def __len__(self) -> int:
        return len(self.kind)

    def __getitem__(self, rows: np.ndarray) -> "Objects":
        """The objects of these rows (indices or a mask)."""
        return replace(self, **{name: value[rows] for name, value in vars(self).items() if name != "unknown"})


def read_objects(paths: Sequence[Path], scored: bool) -> Objects:
    """The objects of these files, one file per frame; an empty file is a frame without any.

    `scored`: result files, 16 fields a line; otherwise labels, 15 (a 16th, a score, is not used), whose occlusion is an
    integer. InputError as `parse_lines`.
    """
    what, counts = ("the result file", (16,)) if scored else ("the label file", (15, 16))
    types, values, lengths = [], [np.empty((0, len(_FIELDS)))], []
    for path in paths:
        names, numbers, _ = parse_lines(read_lines(path, what), path, counts, integer_occlusion=not scored)
        types += names
        values.append(numbers)
        lengths.append(len(names))
    codes = {name: KINDS.index(name.lower()) if name.lower() in KINDS else OTHER_KIND for name in set(types)}
    known = {name.lower() for name in TYPES}
    frame = np.repeat(np.arange(len(paths)), lengths)
    kind = np.array([codes[name] for name in types], np.int64)
    truncation, occlusion, alpha, box, size, position, ry, score = np.split(
        np.concatenate(values), [1, 2, 3, 7, 10, 13, 14], axis=1
    )
    single = [column[:, 0] for column in (truncation, occlusion, alpha, ry, score)]
    unknown = sorted(one_line(name)[:40] for name in codes if name.lower() not in known)
    return Objects(frame, kind, *single[:3], box, size, position, *single[3:], tuple(unknown))


def _result_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if _NAME.fullmatch(path.name)) if folder.is_dir() else []


def read_folders(label_dir: str | Path, result_dir: str | Path) -> tuple[Objects, Objects, int]:
    """(labels, results, number of frames) of the frames that have a result file (NOTES 7.4).

    Results are NNNNNN.txt in `result_dir`/data, as for the official program, or else in `result_dir` itself. InputError
    for a missing folder, no result file, a result file without a label file, and as `parse_lines`.
    """
    label_dir, result_dir = Path(label_dir), Path(result_dir)
    for name, folder in (("labels", label_dir), ("results", result_dir)):
        if not folder.is_dir():
            raise InputError(f"{folder}: no such folder of {name}; check the path")
    files = _result_files(result_dir / "data") or _result_files(result_dir)
    if not files:
        raise InputError(f"{result_dir}: no result files NNNNNN.txt in it or in its data/; check the path")
    label_files = [label_dir / path.name for path in files]
    for label, result in zip(label_files, files, strict=True):
        if not label.is_file():
            raise InputError(f"{label}: no such label file, but {result} is there; remove that or give its labels")
    return read_objects(label_files, scored=False), read_objects(files, scored=True), len(files)
