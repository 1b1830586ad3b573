"""Draw the mini data set: streets with cars, people and cyclists, in the layout of KITTI's object set.

    python gupnet/draw_mini.py --output_dir DIR

The result is, as in KITTI (fact sheet 3.1), `<root>/training/{image_2,label_2,calib}/NNNNNN.{png,txt,txt}`,
`<root>/testing/{image_2,calib}` and `<root>/ImageSets/{train,val,trainval,test}.txt`; and `<root>/mini.json`, how it
was drawn and what it holds. What is drawn stands in street.py and solids.py, and how in render.py. Pictures and focal
length are half of KITTI's, so that the limits of its difficulties, which are heights in pixels, lie half as far away.
"""

import argparse
import fcntl
import json
import multiprocessing
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import lru_cache, partial
from pathlib import Path

import cv2
import numpy as np
import PIL
from PIL import Image
from tqdm import tqdm

from shared import HelpFormatter, InputError

from . import street

FOLDER = Path(__file__).resolve().parents[1]
DEFAULT_ROOT = FOLDER / "data" / "mini"
VERSION = 1  # of the drawing: raise it when the same seed gives other files
COUNTS = {"train": 120, "val": 80, "test": 8}  # frames
WORTH_PROCESSES = 24  # frames from which a process a core saves more time than it takes to start
RECORD = "mini.json"
MAKER = "gupnet/datasets/mini.py"

_backdrops = lru_cache(maxsize=1)(street.backdrops)


def splits_of(counts: dict[str, int]) -> dict[str, list[int]]:
    """The frames that each list names: training and validation in turn, as far as they go; testing counts anew."""
    train, val, test = (counts[split] for split in ("train", "val", "test"))
    places = [((k + 0.5) / n, split) for split, n in (("train", train), ("val", val)) for k in range(n)]
    lists = {split: [n for n, (_, of) in enumerate(sorted(places)) if of == split] for split in ("train", "val")}
    return lists | {"trainval": list(range(train + val)), "test": list(range(test))}


def draw_frame(folder: Path, seed: int, job: tuple[str, int]) -> list[str]:
    """Draw frame `job` = (part, number) into its files; returns its label lines.

    A function of its arguments alone, however many others are drawn.
    """
    part, number = job
    frame = street.build(seed, number if part == "training" else 10**6 + number)
    picture, lines = street.render(frame, _backdrops(seed)[frame.variant])
    Image.fromarray(picture).save(folder / part / "image_2" / f"{number:06d}.png", compress_level=3)
    (folder / part / "calib" / f"{number:06d}.txt").write_text(calibration(frame.projection))
    if part == "training":
        (folder / part / "label_2" / f"{number:06d}.txt").write_text("".join(f"{line}\n" for line in lines))
    return lines


def calibration(projection: np.ndarray) -> str:
    """A calibration file of KITTI's form. There is one camera, and a scanner in its place: P0 to P3 are the same."""
    unturned = np.eye(3).ravel()
    to_camera = [0, -1, 0, 0, 0, 0, -1, 0, 1, 0, 0, 0]
    entries = {f"P{k}": projection.ravel() for k in range(4)}
    entries |= {"R0_rect": unturned, "Tr_velo_to_cam": to_camera, "Tr_imu_to_velo": np.eye(4)[:3].ravel()}
    return "".join(f"{name}: {' '.join(f'{value:.12e}' for value in values)}\n" for name, values in entries.items())


def make_record(seed: int, counts: dict[str, int]) -> dict:
    """What mini.json holds beside the results: equal records mean equal files."""
    if seed < 0:
        raise InputError(f"--seed {seed}: give a seed that is not negative")
    if min(counts.values()) < 1:
        raise InputError(f"--frames {' '.join(map(str, counts.values()))}: give each split at least one frame")
    size = [street.WIDTH, street.HEIGHT]
    return {"made_by": MAKER, "version": VERSION, "seed": seed, "size": size, "frames": dict(counts)}


def draw_all(folder: Path, record: dict) -> None:
    """Draw everything of a record under `folder`, mini.json last."""
    for part, names in (("training", ("image_2", "label_2", "calib")), ("testing", ("image_2", "calib"))):
        for name in names:
            (folder / part / name).mkdir(parents=True)
    splits = splits_of(record["frames"])
    (folder / "ImageSets").mkdir()
    for split, numbers in splits.items():
        (folder / "ImageSets" / f"{split}.txt").write_text("".join(f"{number:06d}\n" for number in numbers))
    jobs = [("training", number) for number in splits["trainval"]] + [("testing", number) for number in splits["test"]]
    cores = len(os.sched_getaffinity(0)) if len(jobs) >= WORTH_PROCESSES else 1
    work = partial(draw_frame, folder, record["seed"])
    # spawned, not forked: Paddle or torch may be running threads in this process
    context = multiprocessing.get_context("spawn")
    with context.Pool(cores, cv2.setNumThreads, (1,)) if cores > 1 else nullcontext() as pool:
        drawn = pool.imap(work, jobs, chunksize=8) if pool else map(work, jobs)
        bar = tqdm(drawn, desc="drawing mini data", total=len(jobs), unit="frame", leave=False, disable=None)
        labels = dict(zip(jobs, bar, strict=True))
    objects = {
        split: dict(sorted(Counter(line.split()[0] for n in splits[split] for line in labels["training", n]).items()))
        for split in ("train", "val")
    }
    versions = {"numpy": np.__version__, "opencv": cv2.__version__, "pillow": PIL.__version__}
    (folder / RECORD).write_text(json.dumps(record | {"objects": objects, "versions": versions}, indent=2) + "\n")


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


def ensure_mini(root: str | os.PathLike = DEFAULT_ROOT, seed: int = 0, counts: dict[str, int] = COUNTS) -> Path:
    """Draw the data set into `root` in place of any older one, unless this very one is there; returns `root`.

    `counts`: frames of train, val and test. The folder appears whole or not at all; several processes may call this at
    once. Raises InputError where `root` is something that this module did not draw.
    """
    root = Path(root).resolve()
    record = make_record(seed, counts)
    if holds(root, record):
        return root
    with alone_with(root) as drawing:
        if not holds(root, record):  # still: another process may have drawn it meanwhile
            draw_all(drawing, record)
            replace(root, drawing)
    return root


def parse_options(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Draw the mini data set: streets in the layout of KITTI's object set.",
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--output_dir", type=Path, default=DEFAULT_ROOT, metavar="DIR", help="folder to draw in")
    parser.add_argument("--seed", type=int, default=0)
    text = "frames of train, val and test"
    counts = list(COUNTS.values())
    parser.add_argument("--frames", type=int, nargs=3, default=counts, metavar=("TRAIN", "VAL", "TEST"), help=text)
    return parser.parse_args(argv)


def main() -> None:
    """Draw, or see that the same is there already; then say what it holds."""
    options = parse_options()
    root = ensure_mini(options.output_dir, options.seed, dict(zip(COUNTS, options.frames, strict=True)))
    record = json.loads((root / RECORD).read_text())
    frames = ", ".join(f"{count} {split}" for split, count in record["frames"].items())
    print(f"{root}: {frames} frames")
    for split, objects in record["objects"].items():
        print(f"{split}: {', '.join(f'{count} {name}' for name, count in objects.items())}")
