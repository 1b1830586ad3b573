"""Split files: the frames of a data set (NOTES 2.1)."""

import re
from pathlib import Path
from typing import NamedTuple

from shared import InputError

SIDES = ("l", "r", "2", "3")
#: splits of pose evaluation: folder and list
ODOMETRY = {
    "odom_9": ("odom", "test_files_09.txt"),
    "odom_10": ("odom", "test_files_10.txt"),
    "mini_odom": ("mini_odom", "test_files_09.txt"),
}


class Line(NamedTuple):
    """One line `<folder> <frame index> [<side>]` of a split file."""

    folder: str
    index: int
    side: str | None
    file: Path
    number: int

    def error(self, text: str) -> InputError:
        """An InputError that names this line."""
        return InputError(f"{self.file}, line {self.number}: {text}")


def split_file(split_dir: str | Path, split: str, part: str) -> Path:
    """The file of a split's "train", "val" or "test" list; the splits of ODOMETRY have one file each."""
    return Path(split_dir).joinpath(*ODOMETRY.get(split, (split, f"{part}_files.txt")))


def read_split(split_dir: str | Path, split: str, part: str) -> list[Line]:
    """The lines of a split's list; blank lines are skipped.

    A line of two words (the benchmark's test list) has no side. InputError for a missing folder or file, an empty file,
    and a malformed line.
    """
    path = split_file(split_dir, split, part)
    if not path.parent.is_dir():
        todo = "draw it with draw_mini.py" if split == "mini" else f"copy the official split files to splits/{split}"
        raise InputError(f"{path.parent}: no such folder; {todo}, or give --split_dir")
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; copy the official one there, or choose another split") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as a list of frames ({type(error).__name__}); replace it") from error
    lines = [_parse(words, path, number) for number, row in enumerate(text.splitlines(), 1) if (words := row.split())]
    if not lines:
        raise InputError(f"{path}: is empty; it needs lines `<folder> <frame index> <side>`")
    return lines


def _parse(words: list[str], path: Path, number: int) -> Line:
    line = Line(words[0], 0, words[2] if len(words) == 3 else None, path, number)
    if len(words) not in (2, 3):
        raise line.error(f"has {len(words)} words; write `<folder> <frame index> <side>`")
    if not re.fullmatch("[0-9]{1,10}", words[1]):
        raise line.error(f"{words[1]!r:.60} is not a frame index; write a whole number from 0 on")
    if line.side not in (None, *SIDES):
        raise line.error(f"{line.side!r:.60} is not a side; write l or r")
    return line._replace(index=int(words[1]))
