"""KITTI's text files of objects: labels and detections of many frames as arrays.

A line holds, separated by blanks: type, truncation, occlusion, alpha, box (x1, y1, x2, y2 in pixels), size (h, w, l in
metres), position (x, y, z of the bottom centre in the camera's frame, metres), ry, and in a result file the score.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from shared import InputError
from shared.files import one_line

#: the types that the evaluation tells apart, compared without case; `Objects.kind` counts in this order
KINDS = ("car", "pedestrian", "cyclist", "van", "person_sitting", "dontcare")
OTHER_KIND = -1
#: KITTI's further types
_UNUSED = ("truck", "tram", "misc")
_NAME = re.compile(r"\d{6}\.txt")
_INTEGER = re.compile(rb"[+-]?\d{1,9}")
_COLUMNS = 15  # numbers after the type, with the score
_FIELDS = (
    *("type", "truncation", "occlusion", "alpha", "x1", "y1", "x2", "y2"),
    *("h", "w", "l", "x", "y", "z", "ry", "score"),
)


@dataclass(frozen=True)
class Objects:
    """The objects of all frames, one row each, frame after frame, in the order of their lines.

    frame int64 [N]: which frame, from 0. kind int64 [N]: in KINDS, or OTHER_KIND. values float64 [N, 15]: the numbers
    of the line after the type (a label's score is 0).
    """

    frame: np.ndarray
    kind: np.ndarray
    values: np.ndarray
    #: types that are none of KITTI's
    unknown: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.kind)

    def __getitem__(self, rows: np.ndarray) -> "Objects":
        """The objects of these rows (indices or a mask)."""
        return Objects(self.frame[rows], self.kind[rows], self.values[rows], self.unknown)

    @property
    def truncation(self) -> np.ndarray:
        return self.values[:, 0]

    @property
    def occlusion(self) -> np.ndarray:
        return self.values[:, 1]

    @property
    def alpha(self) -> np.ndarray:
        return self.values[:, 2]

    @property
    def box(self) -> np.ndarray:
        """x1, y1, x2, y2."""
        return self.values[:, 3:7]

    @property
    def size(self) -> np.ndarray:
        """h, w, l."""
        return self.values[:, 7:10]

    @property
    def position(self) -> np.ndarray:
        """x, y, z of the bottom centre."""
        return self.values[:, 10:13]

    @property
    def ry(self) -> np.ndarray:
        return self.values[:, 13]

    @property
    def score(self) -> np.ndarray:
        return self.values[:, 14]


def _show(field: bytes) -> str:
    """A field of a file, which may hold anything, for an error line."""
    text = one_line(field[:40].decode(errors="replace"))
    return f"{text}..." if len(field) > 40 else text


def _number_error(where: str, fields: Sequence[bytes]) -> InputError | None:
    """The error of the first field after the type that is no finite number; None if all are."""
    for name, field in zip(_FIELDS[1:], fields, strict=False):
        try:
            finite = np.isfinite(float(field))
        except ValueError:
            return InputError(f"{where}: {name} is {_show(field)!r}, not a number; correct the line")
        if not finite:
            return InputError(f"{where}: {name} is {_show(field)}, not finite; correct or remove the line")
    return None


def _check_fields(where: str, fields: Sequence[bytes], scored: bool) -> None:
    """InputError for a line whose number of fields, or a label whose occlusion, cannot be meant."""
    if scored and len(fields) != 16:
        wanted = "16 (type, 14 numbers, score)"
        raise InputError(f"{where}: {len(fields)} fields, a result line has {wanted}; correct the line")
    if not scored and len(fields) not in (15, 16):
        wanted = "15 (type, 14 numbers), or 16 with a score"
        raise InputError(f"{where}: {len(fields)} fields, a label line has {wanted}; correct the line")
    if not scored and not _INTEGER.fullmatch(fields[2]):
        raise InputError(f"{where}: occlusion is {_show(fields[2])!r}, not an integer; correct the line")


def _read_file(path: Path, scored: bool) -> tuple[list[bytes], np.ndarray]:
    """(types, values float64 [n, 15]) of a file's lines; blank lines do not count."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the file") from error
    kinds, numbers, places = [], [], []
    for place, line in enumerate(content.splitlines(), start=1):
        fields = line.split()
        if not fields:
            continue
        _check_fields(f"{path}, line {place}", fields, scored)
        kinds.append(fields[0])
        numbers += fields[1:] if len(fields) == 16 else [*fields[1:], b"0"]
        places.append(place)
    try:
        values = np.array([float(number) for number in numbers]).reshape(-1, _COLUMNS)
        good = np.isfinite(values).all()
    except ValueError:
        good = False
    if not good:
        for row, place in enumerate(places):
            error = _number_error(f"{path}, line {place}", numbers[row * _COLUMNS : (row + 1) * _COLUMNS])
            if error:
                raise error
    return kinds, values


def read_objects(paths: Sequence[Path], scored: bool) -> Objects:
    """The objects of these files, one file a frame; an empty file is a frame without any.

    `scored`: result files, 16 fields a line; otherwise labels, 15 (a 16th, a score, is allowed and not used). Raises
    InputError, with file and line, for another number of fields, for a field that is no finite number, and for a
    label's occlusion that is no integer.
    """
    codes: dict[bytes, int] = {}
    kinds, values, counts = [], [np.empty((0, _COLUMNS))], []
    for path in paths:
        names, numbers = _read_file(path, scored)
        for name in names:
            if name not in codes:
                text = name.decode(errors="replace").lower()
                codes[name] = KINDS.index(text) if text in KINDS else OTHER_KIND
        kinds += [codes[name] for name in names]
        values.append(numbers)
        counts.append(len(names))
    frame = np.repeat(np.arange(len(paths)), counts)
    known = {*KINDS, *_UNUSED}
    unknown = sorted({_show(name) for name in codes if name.decode(errors="replace").lower() not in known})
    return Objects(frame, np.array(kinds, np.int64), np.concatenate(values), tuple(unknown))


def _result_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if _NAME.fullmatch(path.name)) if folder.is_dir() else []


def read_folders(label_dir: str | Path, result_dir: str | Path) -> tuple[Objects, Objects, int]:
    """(labels, results, number of frames) of the frames that have a result file (NOTES 7.4).

    Results are NNNNNN.txt in `result_dir`/data, as the official program wants them, or else in `result_dir` itself.
    InputError for a missing folder, no result file, a result file without a label file, or a bad line.
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
            raise InputError(f"{label}: no such label file, yet there is {result}; remove that or give its labels")
    return read_objects(label_files, scored=False), read_objects(files, scored=True), len(files)
