"""Draw the mini data set: street scenes in the layout of Cityscapes.

    python stdcseg/draw_mini.py --output_dir DIR      draw it
    python stdcseg/draw_mini.py --colour_baseline     how far colour alone, and place alone, get

The result is `<root>/leftImg8bit/<split>/<city>/<city>_<number>_000019_leftImg8bit.png`, beside it
`<root>/gtFine/<split>/<city>/<city>_<number>_000019_gtFine_labelIds.png`, and `<root>/mini.json`, the record of how it
was drawn and of the classes in it. What is drawn, and how, stands in scenes.py.
"""

import argparse
import fcntl
import json
import multiprocessing
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter
from tqdm import tqdm

from shared import HelpFormatter, InputError

from .scenes import draw_scene
from constants import CLASS_NAMES, to_train_ids

DEFAULT_ROOT = Path(__file__).resolve().parents[1] / "data" / "mini"
VERSION = 4  # of the drawing: raise it when the same seed gives other pictures
CITIES = {"train": ("kreidenau", "pinselburg", "skizzenfeld", "tuschheim"), "val": ("farbhausen", "stiftingen")}
TRAIN, VAL, SIZE = 240, 60, (512, 256)
WORTH_PROCESSES = 40  # pictures from which a process a core saves more time than it takes to start
RECORD = "mini.json"
MAKER = "stdcseg/datasets/mini.py"
ENOUGH = 5e-4  # share of the evaluated val pixels from which a class counts

# --------------------------------------------------------------------------------------------------------------------
# Files
# --------------------------------------------------------------------------------------------------------------------


def make_record(seed: int, train: int, val: int, size: tuple[int, int]) -> dict:
    """What mini.json holds beside the classes: equal records mean equal pictures."""
    width, height = size
    if min(train, val) < 1 or width < 64 or height < 32 or seed < 0:
        raise InputError(
            f"mini data of {train} + {val} pictures, {width} x {height} pixels, seed {seed}: "
            "give at least 1 picture a split, 64 x 32 pixels and a seed that is not negative"
        )
    counts = {"train": train, "val": val}
    return {"made_by": MAKER, "version": VERSION, "seed": seed, **counts, "size": [width, height]}


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


def files_of(split: str, index: int) -> tuple[str, str]:
    """Where picture `index` of a split and its labels stand under the root: its cities take turns."""
    cities = CITIES[split]
    city = cities[index % len(cities)]
    name = f"{city}/{city}_{index // len(cities):06d}_000019"
    return f"leftImg8bit/{split}/{name}_leftImg8bit.png", f"gtFine/{split}/{name}_gtFine_labelIds.png"


def draw(seed: int, split: str, index: int, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """One picture, uint8 RGB [H, W, 3], and its label ids, uint8 [H, W]; size is (W, H).

    A function of its arguments alone, however many others are drawn.
    """
    rng = np.random.default_rng([seed, list(CITIES).index(split), index])
    picture, labels, _ = draw_scene(rng, *size)
    return picture, labels


def draw_files(folder: Path, seed: int, size: tuple[int, int], job: tuple[str, int]) -> tuple[str, np.ndarray]:
    """Draw the job's (split, index) into its two files; returns the split and how many pixels each class has, [19]."""
    split, index = job
    picture, labels = draw(seed, split, index, size)
    for array, name in zip((picture, labels), files_of(split, index), strict=True):
        Image.fromarray(array).save(folder / name, compress_level=4)
    train_ids = to_train_ids(labels)
    return split, np.bincount(train_ids[train_ids < len(CLASS_NAMES)], minlength=len(CLASS_NAMES))


def draw_all(folder: Path, record: dict) -> None:
    """Draw every picture of a record under `folder`, then the record itself, with the classes of the val split."""
    jobs = [(split, index) for split in CITIES for index in range(record[split])]
    for split, index in jobs:
        for name in files_of(split, index):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
    cores = len(os.sched_getaffinity(0)) if len(jobs) >= WORTH_PROCESSES else 1
    work = partial(draw_files, folder, record["seed"], tuple(record["size"]))
    pixels = {split: np.zeros(len(CLASS_NAMES), np.int64) for split in CITIES}
    # spawned, not forked: Paddle or torch may be running threads in this process
    context = multiprocessing.get_context("spawn")
    with context.Pool(cores, cv2.setNumThreads, (1,)) if cores > 1 else nullcontext() as pool:
        drawn = pool.imap_unordered(work, jobs, chunksize=4) if pool else map(work, jobs)
        for split, counts in tqdm(
            drawn, desc="drawing mini data", total=len(jobs), unit="picture", leave=False, disable=None
        ):
            pixels[split] += counts
    classes = [
        {"train_id": train_id, "name": name, **{f"{split}_pixels": int(pixels[split][train_id]) for split in CITIES}}
        for train_id, name in enumerate(CLASS_NAMES)
        if pixels["val"][train_id] > ENOUGH * pixels["val"].sum()
    ]
    cities = {split: list(names) for split, names in CITIES.items()}
    text = json.dumps({**record, "cities": cities, "classes": classes}, indent=2)
    (folder / RECORD).write_text(text + "\n")


def replace(root: Path, drawing: Path) -> None:
    """Put a finished drawing in the place of `root`, which holds an older one, is empty, or is not there."""
    if root.exists() and any(root.iterdir()):
        root.replace(drawing.with_name(f"{drawing.name}.old"))
    drawing.replace(root)


def write_mini(
    root: str | os.PathLike = DEFAULT_ROOT,
    seed: int = 0,
    train: int = TRAIN,
    val: int = VAL,
    size: tuple[int, int] = SIZE,
) -> Path:
    """Draw the data set into `root` (`leftImg8bit/`, `gtFine/`, `mini.json`) in place of any older one; returns `root`.

    train, val: pictures; size: (width, height) of each in pixels. The folder appears whole or not at all. Raises
    InputError where `root` is something that this module did not draw.
    """
    root, record = Path(root).resolve(), make_record(seed, train, val, size)
    read_record(root)
    with alone_with(root) as drawing:
        read_record(root)  # again: it may have changed hands while this process waited
        draw_all(drawing, record)
        replace(root, drawing)
    return root


def ensure_mini(
    root: str | os.PathLike = DEFAULT_ROOT,
    seed: int = 0,
    train: int = TRAIN,
    val: int = VAL,
    size: tuple[int, int] = SIZE,
) -> Path:
    """`write_mini`, unless `root` holds this very data set already. Several processes may call it at once."""
    root, record = Path(root).resolve(), make_record(seed, train, val, size)
    if holds(root, record):
        return root
    with alone_with(root) as drawing:
        if not holds(root, record):
            draw_all(drawing, record)
            replace(root, drawing)
    return root


# --------------------------------------------------------------------------------------------------------------------
# What colour alone, and place alone, tell
# --------------------------------------------------------------------------------------------------------------------

BINS = 32  # of each colour channel


def samples(root: Path, split: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Every picture of a split, uint8 RGB [H, W, 3], with its train ids, int64 [H, W]."""
    for file in sorted((root / "leftImg8bit" / split).glob("*/*_leftImg8bit.png")):
        name = file.name.replace("_leftImg8bit.png", "_gtFine_labelIds.png")
        labels = Image.open(root / "gtFine" / split / file.parent.name / name)
        yield np.asarray(Image.open(file)), to_train_ids(np.asarray(labels))


def count(cells: np.ndarray, labels: np.ndarray, size: int) -> np.ndarray:
    """How often each class falls into each cell, float64 [19, size]; pixels of no class are left out."""
    known = labels < len(CLASS_NAMES)
    flat = np.bincount(labels[known] * size + cells[known], minlength=len(CLASS_NAMES) * size)
    return flat.reshape(len(CLASS_NAMES), size).astype(np.float64)


def count_colours(root: Path, split: str) -> np.ndarray:
    """Pixels of each class in each cell of colour space, float64 [19, 32768]."""
    total = 0.0
    for picture, labels in samples(root, split):
        red, green, blue = np.moveaxis(picture.astype(np.int64) * BINS // 256, 2, 0)
        total = total + count((red * BINS + green) * BINS + blue, labels, BINS**3)
    return total


def count_places(root: Path, split: str) -> np.ndarray:
    """Pixels of each class at each place of the frame, float64 [19, H * W]."""
    total = 0.0
    for _, labels in samples(root, split):
        total = total + count(np.arange(labels.size).reshape(labels.shape), labels, labels.size)
    return total


def mean_iou(counts: np.ndarray, chosen: np.ndarray) -> float:
    """mIoU, 0..1, over the classes that `counts` [19, cells] holds, of giving each cell the class `chosen` [cells]."""
    right = np.bincount(chosen, counts[chosen, np.arange(len(chosen))], minlength=len(counts))
    said, there = np.bincount(chosen, counts.sum(0), minlength=len(counts)), counts.sum(1)
    present = there > 0
    return float((right[present] / (said + there - right)[present]).mean())


def best_classes(scores: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The class of each cell, [cells]: the largest of the weighted `scores` [19, cells].

    The weights are those that give the best mIoU on `counts` [19, cells]: between the frequencies of the classes and
    equal footing first, then each class on its own.
    """
    totals = np.maximum(scores.sum(1), 1)

    def value(weights: np.ndarray) -> float:
        return mean_iou(counts, (weights[:, None] * scores).argmax(0))

    weights = max((totals**-power for power in np.linspace(0, 1, 6)), key=value)
    for step in (3.0, 1.5):
        for train_id in np.flatnonzero(counts.sum(1)):
            tries = [weights * np.where(np.arange(len(weights)) == train_id, f, 1) for f in (1, step, 1 / step)]
            weights = max(tries, key=value)
    return (weights[:, None] * scores).argmax(0)


def counted(root: Path, counts: np.ndarray) -> np.ndarray:
    """`counts` [19, cells] with the classes emptied that mini.json does not name."""
    named = [entry["train_id"] for entry in json.loads((root / RECORD).read_text())["classes"]]
    return counts * np.isin(np.arange(len(counts)), named)[:, None]


def colour_baseline(root: str | os.PathLike) -> float:
    """mIoU, 0..1, on the val split of the best class for each colour (of 32 steps a channel) in the train split."""
    root = Path(root)
    fitted = counted(root, count_colours(root, "train"))
    smooth = [gaussian_filter(one.reshape(BINS, BINS, BINS), 1.0).ravel() for one in fitted]
    return mean_iou(counted(root, count_colours(root, "val")), best_classes(np.stack(smooth), fitted))


def place_baseline(root: str | os.PathLike) -> float:
    """mIoU, 0..1, on the val split of the most frequent class at each place of the frame in the train split."""
    root = Path(root)
    fitted = counted(root, count_places(root, "train"))
    return mean_iou(counted(root, count_places(root, "val")), fitted.argmax(0))


def parse_options(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Draw the mini data set: street scenes in the layout of Cityscapes.",
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--output_dir", type=Path, default=DEFAULT_ROOT, metavar="DIR", help="folder to draw in")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--train", type=int, default=TRAIN, metavar="N", help="training pictures")
    parser.add_argument("--val", type=int, default=VAL, metavar="N", help="validation pictures")
    text = f"of the pictures, in pixels (default: {SIZE[0]} {SIZE[1]})"
    parser.add_argument("--size", type=int, nargs=2, default=list(SIZE), metavar=("W", "H"), help=text)
    text = "also print how well colour alone, and place alone, tell the classes"
    parser.add_argument("--colour_baseline", action="store_true", help=text)
    return parser.parse_args(argv)


def main() -> None:
    """Draw, or see that the same is there already; then say what it holds."""
    options = parse_options()
    root = ensure_mini(options.output_dir, options.seed, options.train, options.val, tuple(options.size))
    classes = json.loads((root / RECORD).read_text())["classes"]
    print(f"{root}: {options.train} training and {options.val} validation pictures, {len(classes)} classes:")
    print(", ".join(entry["name"] for entry in classes))
    if options.colour_baseline:
        print(f"the best class for each colour: mIoU {colour_baseline(root):.3f} on the validation half")
        print(f"the commonest class at each place: mIoU {place_baseline(root):.3f}")
