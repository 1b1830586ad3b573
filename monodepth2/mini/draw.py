"""Draw the mini data set: drives through drawn streets, in the layouts of KITTI raw and KITTI odometry.

    python monodepth2/draw_mini.py --output_dir DIR

The lists in splits/mini and splits/mini_odom say which frames. The result is, as in KITTI raw (fact sheet 3.2, 3.5),
`<root>/<date>/<date>_drive_<number>_sync/{image_02,image_03}/data/*.jpg`, `velodyne_points/data/*.bin` beside them and
`<root>/<date>/calib_*.txt`; as in KITTI odometry (7.4), `<root>/sequences/09/{image_2,image_3}/*.jpg` and
`<root>/poses/09.txt`; and `<root>/mini.json`, how it was drawn and what trivial predictions reach on it. What is drawn
stands in street.py, and how in render.py.
"""

import argparse
import fcntl
import hashlib
import json
import multiprocessing
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import PIL
from PIL import Image
from tqdm import tqdm

from shared import HelpFormatter, InputError

from . import street
from .render import picture
from .rig import CAMERA, baselines, calibration, scan, scanned_depth

FOLDER = Path(__file__).resolve().parents[1]
DEFAULT_ROOT = FOLDER / "data" / "mini"
DEFAULT_LISTS = FOLDER / "splits"
VERSION = 5  # of the drawing: raise it when the same seed gives other files
WORTH_PROCESSES = 24  # frames from which a process a core saves more time than it takes to start
RECORD = "mini.json"
MAKER = "monodepth2/datasets/mini.py"
LISTS = {part: f"mini/{part}_files.txt" for part in ("train", "val", "test")}
ODOMETRY_LIST = "mini_odom/test_files_09.txt"
ODOMETRY_DRIVE = "2026_05_02/2026_05_02_drive_0011_sync"  # is sequence 09
DRIVE = re.compile(r"[\d_]+/[\d_]+_drive_(\d{4})_sync")
LEAD_EVERY = 3  # each third street has the car ahead that keeps its distance

# --------------------------------------------------------------------------------------------------------------------
# Files
# --------------------------------------------------------------------------------------------------------------------


class Job(NamedTuple):
    """One moment of one drive: two pictures, and a scan if a list names that frame."""

    drive: str
    frame: int
    scanned: bool


def read_lists(lists: Path) -> dict[str, list[tuple[str, int]]]:
    """The (drive, frame) of every line of train, val, test and odometry. InputError for a list that cannot be read."""
    named = {}
    for part, name in (LISTS | {"odometry": ODOMETRY_LIST}).items():
        try:
            words = [line.split() for line in (lists / name).read_text(encoding="utf-8").splitlines()]
            named[part] = [(drive, int(frame)) for drive, frame, _ in words]
        except (OSError, ValueError) as error:
            raise InputError(f"{lists / name}: not a list of `drive frame side` lines; restore it from git") from error
    return named


def jobs_of(named: dict[str, list[tuple[str, int]]]) -> list[Job]:
    """Every moment that the lists need: training and validation also look at the frames before and after.

    Raises InputError for a drive or frame that cannot be drawn.
    """
    scanned = {entry for part in LISTS for entry in named[part]}
    needed = scanned | {(drive, f + near) for part in ("train", "val") for drive, f in named[part] for near in (-1, 1)}
    needed |= {(ODOMETRY_DRIVE, frame + near) for _, frame in named["odometry"] for near in (0, 1)}
    for drive, frame in needed:
        if not (DRIVE.fullmatch(drive) and 0 <= frame < street.FRAMES):
            raise InputError(
                f"the mini lists need frame {frame} of {drive}; frames go from 0 to {street.FRAMES - 1}, "
                "and drives are named <date>/<date>_drive_<nnnn>_sync"
            )
    return [Job(drive, frame, (drive, frame) in scanned) for drive, frame in sorted(needed)]


@lru_cache(maxsize=2)
def street_of(seed: int, drive: str) -> street.Street:
    """The street of a drive, kept while its frames are drawn."""
    number = int(DRIVE.fullmatch(drive)[1])
    return street.build(seed, number, lead=number % LEAD_EVERY == 0)


def draw(seed: int, job: Job) -> tuple[dict[str, np.ndarray], np.ndarray | None]:
    """Pictures uint8 [H, W, 3] of sides "l" and "r", and the scan, float32 [n, 4], if one is due.

    A function of its arguments alone, however many others are drawn.
    """
    place = street_of(seed, job.drive)
    scene = place.at(job.frame)
    pictures = {side: picture(scene, place.pose(job.frame, side), CAMERA) for side in "lr"}
    return pictures, scan(scene, place.pose(job.frame)) if job.scanned else None


def draw_files(folder: Path, seed: int, job: Job) -> tuple[Job, np.ndarray | None]:
    """Draw a job into its files; returns it with its scan."""
    pictures, points = draw(seed, job)
    for side, camera in (("l", 2), ("r", 3)):
        file = folder / job.drive / f"image_0{camera}" / "data" / f"{job.frame:010d}.jpg"
        Image.fromarray(pictures[side]).save(file, quality=92, subsampling=2)
        if job.drive == ODOMETRY_DRIVE:
            shutil.copyfile(file, folder / "sequences" / "09" / f"image_{camera}" / f"{job.frame:06d}.jpg")
    if points is not None:
        points.tofile(folder / job.drive / "velodyne_points" / "data" / f"{job.frame:010d}.bin")
    return job, points


def write_odometry_poses(folder: Path, seed: int, frames: int) -> None:
    """`poses/09.txt`: a line for each frame, camera to that of the first frame, 3 x 4 by rows."""
    poses = street_of(seed, ODOMETRY_DRIVE).poses[:frames]
    (folder / "poses").mkdir()
    np.savetxt(folder / "poses" / "09.txt", (np.linalg.inv(poses[0]) @ poses)[:, :3].reshape(-1, 12), fmt="%.6e")


def make_record(seed: int, lists: Path) -> dict:
    """What mini.json holds beside the results: equal records mean equal files."""
    if seed < 0:
        raise InputError(f"--seed {seed}: give a seed that is not negative")
    named = read_lists(lists)
    jobs = jobs_of(named)
    return {
        "made_by": MAKER,
        "version": VERSION,
        "seed": seed,
        "size": [CAMERA.width, CAMERA.height],
        "baseline": street.BASELINE,
        "lines": {part: len(lines) for part, lines in named.items()},
        "lists": hashlib.sha256(repr(named).encode()).hexdigest(),
        "frames": len(jobs),
        "scans": sum(job.scanned for job in jobs),
    }


def draw_all(folder: Path, record: dict, lists: Path) -> None:
    """Draw everything of a record under `folder`, mini.json last."""
    named = read_lists(lists)
    jobs = jobs_of(named)
    for drive in {job.drive for job in jobs}:
        for name in ("image_02", "image_03", "velodyne_points"):
            (folder / drive / name / "data").mkdir(parents=True, exist_ok=True)
        for name, text in calibration().items():
            (folder / drive).parent.joinpath(name).write_text(text)
    for camera in (2, 3):
        (folder / "sequences" / "09" / f"image_{camera}").mkdir(parents=True)
    write_odometry_poses(folder, record["seed"], max((frame for _, frame in named["odometry"]), default=-1) + 2)
    maps = {part: [] for part in LISTS}
    parts = {part: set(named[part]) for part in LISTS}
    cores = len(os.sched_getaffinity(0)) if len(jobs) >= WORTH_PROCESSES else 1
    work = partial(draw_files, folder, record["seed"])
    # spawned, not forked: Paddle or torch may be running threads in this process
    context = multiprocessing.get_context("spawn")
    with context.Pool(cores, cv2.setNumThreads, (1,)) if cores > 1 else nullcontext() as pool:
        drawn = pool.imap(work, jobs, chunksize=11) if pool else map(work, jobs)
        for job, points in tqdm(
            drawn, desc="drawing mini data", total=len(jobs), unit="frame", leave=False, disable=None
        ):
            for part, entries in parts.items():
                if (job.drive, job.frame) in entries:
                    maps[part].append(scanned_depth(points))
    versions = {"numpy": np.__version__, "opencv": cv2.__version__, "pillow": PIL.__version__}
    record = record | {"abs_rel": baselines(maps["train"], maps["test"]), "versions": versions}
    (folder / RECORD).write_text(json.dumps(record, indent=2) + "\n")


def read_record(root: Path) -> dict | None:
    """The record of a folder that this module drew; None where there is no folder, or an empty one.

    Raises InputError for anything else: it belongs to somebody and must not be replaced.
    """
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return None
    try:
        record = json.loads((root / RECORD).read_text())
        if record["made_by"] == MAKER:
            return record
    except (OSError, ValueError, TypeError, KeyError):
        pass
    raise InputError(f"{root}: not a mini data set (no {RECORD} of {MAKER}), so it stays as it is; name another folder")


def holds(root: Path, record: dict) -> bool:
    """Whether `root` holds the data set of this record."""
    found = read_record(root)
    return found is not None and {key: found.get(key) for key in record} == record


@contextmanager
def alone_with(root: Path) -> Iterator[Path]:
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
        remove_drawings(root)
        try:
            # a name of its own: helpers of a process that was killed may still draw for a moment
            yield root.parent / f".{root.name}.drawing-{os.getpid()}"
        finally:
            remove_drawings(root)


def remove_drawings(root: Path) -> None:
    """Remove what drawings beside `root` have left."""
    for left in root.parent.glob(f".{root.name}.drawing-*"):
        shutil.rmtree(left, ignore_errors=True)


def replace(root: Path, drawing: Path) -> None:
    """Put a finished drawing in the place of `root`, which holds an older one, is empty, or is not there."""
    if root.exists() and any(root.iterdir()):
        root.replace(drawing.with_name(f"{drawing.name}.old"))
    drawing.replace(root)


def ensure_mini(root: str | os.PathLike = DEFAULT_ROOT, seed: int = 0, lists: Path = DEFAULT_LISTS) -> Path:
    """Draw the data set into `root` in place of any older one, unless this very one is there; returns `root`.

    `lists` is a folder that holds mini/{train,val,test}_files.txt and mini_odom/test_files_09.txt. The folder appears
    whole or not at all; several processes may call this at once. Raises InputError where `root` is something that this
    module did not draw.
    """
    root, lists = Path(root).resolve(), Path(lists)
    record = make_record(seed, lists)
    if holds(root, record):
        return root
    with alone_with(root) as drawing:
        if not holds(root, record):  # still: another process may have drawn it meanwhile
            draw_all(drawing, record, lists)
            replace(root, drawing)
    return root


def parse_options(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Draw the mini data set: drives through drawn streets in the layouts of KITTI.",
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--output_dir", type=Path, default=DEFAULT_ROOT, metavar="DIR", help="folder to draw in")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(argv)


def main() -> None:
    """Draw, or see that the same is there already; then say what it holds."""
    options = parse_options()
    root = ensure_mini(options.output_dir, options.seed)
    record = json.loads((root / RECORD).read_text())
    lines = ", ".join(f"{count} {part}" for part, count in record["lines"].items())
    print(f"{root}: {record['frames']} stereo pairs, {record['scans']} scans; lines: {lines}")
    for name, error in record["abs_rel"].items():
        print(f"abs_rel on the test frames of the {name.replace('_', ' ')}: {error:.3f}")
