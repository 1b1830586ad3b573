"""Draw the mini data set: drives through drawn streets, in the layouts of KITTI raw and KITTI odometry.

    python monodepth2/draw_mini.py --output_dir DIR

The lists in splits/mini and splits/mini_odom say which frames. The result is, as in KITTI raw,
`<root>/<date>/<date>_drive_<number>_sync/{image_02,image_03}/data/*.jpg`, `velodyne_points/data/*.bin` beside them and
`<root>/<date>/calib_*.txt`; as in KITTI odometry, `<root>/sequences/09/{image_2,image_3}/*.jpg` and
`<root>/poses/09.txt`; and `<root>/mini.json`, how it was drawn and what trivial predictions reach on it. What is drawn
stands in street.py, and how in render.py.
"""

import hashlib
import os
import re
import shutil
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from shared import InputError
from shared.mini import VERSIONS, build_parser, draw_jobs, ensure, read_record

from . import street
from .render import picture
from .rig import CAMERA, baselines, calibration, scan, scanned_depth

FOLDER = Path(__file__).resolve().parents[1]
DEFAULT_ROOT = FOLDER / "data" / "mini"
DEFAULT_LISTS = FOLDER / "splits"
VERSION = 5  # of the drawing: raise it when the same seed gives other files
MAKER = "monodepth2/datasets/mini.py"  # names the drawing in mini.json: another name would disown drawn data sets
WORTH_PROCESSES = 24  # frames from which a process a core saves more time than it takes to start
LISTS = {part: f"mini/{part}_files.txt" for part in ("train", "val", "test")}
ODOMETRY_LIST = "mini_odom/test_files_09.txt"
ODOMETRY_DRIVE = "2026_05_02/2026_05_02_drive_0011_sync"  # is sequence 09
DRIVE = re.compile(r"[\d_]+/[\d_]+_drive_(\d{4})_sync")
LEAD_EVERY = 3  # each third street has the car ahead that keeps its distance


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


def write_odometry_poses(folder: Path, seed: int, frames: int) -> None:
    """`poses/09.txt`: a line for each frame, camera to that of the first frame, 3 x 4 by rows."""
    poses = street_of(seed, ODOMETRY_DRIVE).poses[:frames]
    (folder / "poses").mkdir()
    np.savetxt(folder / "poses" / "09.txt", (np.linalg.inv(poses[0]) @ poses)[:, :3].reshape(-1, 12), fmt="%.6e")


def draw(seed: int, job: Job) -> tuple[dict[str, np.ndarray], np.ndarray | None]:
    """Pictures uint8 [H, W, 3] of sides "l" and "r", and the scan, float32 [n, 4], if one is due.

    A function of its arguments alone, however many others are drawn.
    """
    drive = street_of(seed, job.drive)
    scene = drive.at(job.frame)
    pictures = {side: picture(scene, drive.pose(job.frame, side), CAMERA) for side in "lr"}
    return pictures, scan(scene, drive.pose(job.frame)) if job.scanned else None


def draw_files(folder: Path, seed: int, job: Job) -> np.ndarray | None:
    """Draw a job into its files; returns the depth map of its scan, if one is due."""
    pictures, points = draw(seed, job)
    for side, camera in (("l", 2), ("r", 3)):
        file = folder / job.drive / f"image_0{camera}" / "data" / f"{job.frame:010d}.jpg"
        Image.fromarray(pictures[side]).save(file, quality=92, subsampling=2)
        if job.drive == ODOMETRY_DRIVE:
            shutil.copyfile(file, folder / "sequences" / "09" / f"image_{camera}" / f"{job.frame:06d}.jpg")
    if points is None:
        return None
    points.tofile(folder / job.drive / "velodyne_points" / "data" / f"{job.frame:010d}.bin")
    return scanned_depth(points)


def draw_all(seed: int, named: dict[str, list[tuple[str, int]]], jobs: list[Job], folder: Path) -> dict:
    """Draw all jobs under `folder`; returns what trivial predictions reach on the test frames, and versions."""
    for drive in {job.drive for job in jobs}:
        for name in ("image_02", "image_03", "velodyne_points"):
            (folder / drive / name / "data").mkdir(parents=True)
        for name, text in calibration().items():
            (folder / drive).parent.joinpath(name).write_text(text)
    for camera in (2, 3):
        (folder / "sequences" / "09" / f"image_{camera}").mkdir(parents=True)
    write_odometry_poses(folder, seed, max((frame for _, frame in named["odometry"]), default=-1) + 2)
    # a chunk of jobs is of one drive, mostly, so that each process builds few streets
    maps = draw_jobs(partial(draw_files, folder, seed), jobs, "frame", WORTH_PROCESSES, chunk=11)
    depths = {(job.drive, job.frame): depth for job, depth in zip(jobs, maps, strict=True)}
    train, test = ([depths[entry] for entry in sorted(set(named[part]))] for part in ("train", "test"))
    return {"abs_rel": baselines(train, test), "versions": VERSIONS}


def ensure_mini(root: str | os.PathLike = DEFAULT_ROOT, seed: int = 0, lists: Path = DEFAULT_LISTS) -> Path:
    """Draw the data set into `root`, unless this very one is there, as `shared.mini.ensure` does; returns `root`.

    `lists` is a folder that holds mini/{train,val,test}_files.txt and mini_odom/test_files_09.txt.
    """
    if seed < 0:
        raise InputError(f"--seed {seed}: give a seed that is not negative")
    named = read_lists(Path(lists))
    jobs = jobs_of(named)
    record = {
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
    return ensure(root, record, partial(draw_all, seed, named, jobs))


def main() -> None:
    """Draw, or see that the same is there already; then say what it holds."""
    options = build_parser("drives through drawn streets in the layouts of KITTI", DEFAULT_ROOT).parse_args()
    root = ensure_mini(options.output_dir, options.seed)
    record = read_record(root)
    lines = ", ".join(f"{count} {part}" for part, count in record["lines"].items())
    print(f"{root}: {record['frames']} stereo pairs, {record['scans']} scans; lines: {lines}")
    for name, error in record["abs_rel"].items():
        print(f"abs_rel on the test frames of the {name.replace('_', ' ')}: {error:.3f}")
