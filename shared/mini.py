"""What all mini data sets have in common, whatever is drawn in them: when they are drawn, safely, by all cores.

A mini data set is a folder with the drawn files and a record of how they were drawn, mini.json. Imports no Paddle.
"""

import argparse
import fcntl
import json
import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL
from tqdm import tqdm

from shared import HelpFormatter, InputError

RECORD = "mini.json"
#: of the libraries that decide on pixels, for the record
VERSIONS = {"numpy": np.__version__, "opencv": cv2.__version__, "pillow": PIL.__version__}


def ensure(root: str | os.PathLike, record: dict, draw: Callable[[Path], dict], indent: int = 2) -> Path:
    """Draw a data set into `root` in place of any older one, unless the one of this record is there already.

    `record` says how it is drawn: "made_by", the name of the drawing, and what else decides on its files.
    `draw` fills the new folder that it is given and returns what mini.json (with that `indent`) holds after the record.
    The data set appears whole or not at all; several processes may call this at once. Returns `root`, resolved.
    InputError where `root` holds anything but an older drawing of the same name, or cannot be made.
    """
    root = Path(root).resolve()
    if _holds(root, record):
        return root
    with _alone_with(root) as drawing:
        if not _holds(root, record):  # still: another process may have drawn it meanwhile
            drawing.mkdir()
            text = json.dumps(record | draw(drawing), indent=indent)
            (drawing / RECORD).write_text(text + "\n")
            if root.exists() and any(root.iterdir()):
                root.replace(drawing.with_name(f"{drawing.name}.old"))
            drawing.replace(root)
    return root


def read_record(root: Path) -> dict:
    """What the mini.json of a drawn data set holds."""
    return json.loads((root / RECORD).read_text())


def _holds(root: Path, record: dict) -> bool:
    """Whether `root` holds the data set of this record; no if it is empty, missing, or an older drawing.

    InputError for anything else: it belongs to somebody and must not be replaced.
    """
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    try:
        found = read_record(root)
        if found["made_by"] == record["made_by"]:
            return {key: found.get(key) for key in record} == record
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        pass
    raise InputError(
        f"{root}: not a mini data set (no {RECORD} of this drawing), so it stays as it is; name another folder"
    )


@contextmanager
def _alone_with(root: Path) -> Iterator[Path]:
    """Hold the lock file beside `root`; yields the folder beside it to draw in, which nobody else uses meanwhile.

    The lock ends with its process, so whatever lies there is left from a drawing that was broken off.
    """
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        lock = (root.parent / f".{root.name}.lock").open("w")
    except OSError as error:
        raise InputError(f"{root}: cannot be made ({error.strerror}); name a folder that you may write to") from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _remove_drawings(root)
        try:
            # a name of its own: helpers of a process that was killed may still draw for a moment
            yield root.parent / f".{root.name}.drawing-{os.getpid()}"
        finally:
            _remove_drawings(root)


def _remove_drawings(root: Path) -> None:
    """Remove what drawings beside `root` have left."""
    for left in root.parent.glob(f".{root.name}.drawing-*"):
        shutil.rmtree(left, ignore_errors=True)


def draw_jobs(work: Callable, jobs: Sequence, unit: str, processes_from: int, chunk: int = 8) -> list[Any]:
    """`work(job)` of every job, in order, with a progress bar that counts `unit`s.

    From `processes_from` jobs on, one process per core does them, `chunk` jobs at a time; for fewer it would not be
    worth the start.
    """
    cores = len(os.sched_getaffinity(0)) if len(jobs) >= processes_from else 1
    # spawned, not forked: Paddle or torch may be running threads in this process
    context = multiprocessing.get_context("spawn")
    with context.Pool(cores, cv2.setNumThreads, (1,)) if cores > 1 else nullcontext() as pool:
        done = pool.imap(work, jobs, chunk) if pool else map(work, jobs)
        return list(tqdm(done, "drawing mini data", len(jobs), unit=unit, leave=False, disable=None))


def build_parser(world: str, root: Path) -> argparse.ArgumentParser:
    """The command line of a draw_mini.py, with the options that all have: --output_dir (default `root`) and --seed."""
    parser = argparse.ArgumentParser(
        description=f"Draw the mini data set: {world}.", formatter_class=HelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--output_dir", type=Path, default=root, metavar="DIR", help="folder to draw in")
    parser.add_argument("--seed", type=int, default=0)
    return parser


def to_bytes(picture: np.ndarray) -> np.ndarray:
    """Values of 0..255, rounded and cut off, as uint8."""
    return np.clip(picture + 0.5, 0, 255).astype(np.uint8)
