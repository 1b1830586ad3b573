"""Draw the mini data set: street scenes in the layout of Cityscapes.

    python stdcseg/draw_mini.py --output_dir DIR      draw it
    python stdcseg/draw_mini.py --colour_baseline     how far colour alone, and position alone, get

The result is `<root>/leftImg8bit/<split>/<city>/<city>_<number>_000019_leftImg8bit.png`, beside it
`<root>/gtFine/<split>/<city>/<city>_<number>_000019_gtFine_labelIds.png`, and `<root>/mini.json`, the record of how it
was drawn and of the classes in it. What is drawn, and how, stands in street.py.
"""

import os
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from shared import InputError
from shared.mini import build_parser, draw_jobs, ensure, read_record

from .baselines import colour_baseline, position_baseline
from .street import draw_scene
from constants import CLASS_NAMES, to_train_ids

DEFAULT_ROOT = Path(__file__).resolve().parents[1] / "data" / "mini"
VERSION = 4  # of the drawing: raise it when the same seed gives other pictures
MAKER = "stdcseg/datasets/mini.py"  # names the drawing in mini.json: another name would disown drawn data sets
CITIES = {"train": ("kreidenau", "pinselburg", "skizzenfeld", "tuschheim"), "val": ("farbhausen", "stiftingen")}
TRAIN, VAL, SIZE = 240, 60, (512, 256)
WORTH_PROCESSES = 40  # pictures from which a process a core saves more time than it takes to start
ENOUGH = 5e-4  # share of the evaluated val pixels from which a class is evaluated


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


def draw_files(folder: Path, seed: int, size: tuple[int, int], job: tuple[str, int]) -> np.ndarray:
    """Draw the job's (split, index) into its two files; returns how many pixels each class has, [19]."""
    picture, labels = draw(seed, *job, size)
    for array, name in zip((picture, labels), files_of(*job), strict=True):
        Image.fromarray(array).save(folder / name, compress_level=4)
    train_ids = to_train_ids(labels)
    return np.bincount(train_ids[train_ids < len(CLASS_NAMES)], minlength=len(CLASS_NAMES))


def draw_all(record: dict, folder: Path) -> dict:
    """Draw every picture of a record under `folder`; returns the cities, and the classes of the val split."""
    jobs = [(split, index) for split in CITIES for index in range(record[split])]
    for job in jobs:
        for name in files_of(*job):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
    work = partial(draw_files, folder, record["seed"], tuple(record["size"]))
    counts = draw_jobs(work, jobs, "picture", WORTH_PROCESSES)
    pixels = {split: sum(c for c, job in zip(counts, jobs, strict=True) if job[0] == split) for split in CITIES}
    classes = [
        {"train_id": train_id, "name": name, **{f"{split}_pixels": int(pixels[split][train_id]) for split in CITIES}}
        for train_id, name in enumerate(CLASS_NAMES)
        if pixels["val"][train_id] > ENOUGH * pixels["val"].sum()
    ]
    return {"cities": {split: list(names) for split, names in CITIES.items()}, "classes": classes}


def ensure_mini(
    root: str | os.PathLike = DEFAULT_ROOT,
    seed: int = 0,
    train: int = TRAIN,
    val: int = VAL,
    size: tuple[int, int] = SIZE,
) -> Path:
    """Draw the data set into `root`, unless this very one is there, as `shared.mini.ensure` does; returns `root`.

    train, val: pictures; size: (width, height) of each in pixels.
    """
    width, height = size
    if min(train, val) < 1 or width < 64 or height < 32 or seed < 0:
        raise InputError(
            f"mini data of {train} + {val} pictures, {width} x {height} pixels, seed {seed}: "
            "give at least 1 picture a split, 64 x 32 pixels and a seed that is not negative"
        )
    counts = {"train": train, "val": val}
    record = {"made_by": MAKER, "version": VERSION, "seed": seed, **counts, "size": [width, height]}
    return ensure(root, record, partial(draw_all, record))


def main() -> None:
    """Draw, or see that the same is there already; then say what it holds."""
    parser = build_parser("street scenes in the layout of Cityscapes", DEFAULT_ROOT)
    parser.add_argument("--train", type=int, default=TRAIN, metavar="N", help="training pictures")
    parser.add_argument("--val", type=int, default=VAL, metavar="N", help="validation pictures")
    text = f"of the pictures, in pixels (default: {SIZE[0]} {SIZE[1]})"
    parser.add_argument("--size", type=int, nargs=2, default=list(SIZE), metavar=("W", "H"), help=text)
    text = "also print how well colour alone, and position alone, tell the classes apart"
    parser.add_argument("--colour_baseline", action="store_true", help=text)
    options = parser.parse_args()
    root = ensure_mini(options.output_dir, options.seed, options.train, options.val, tuple(options.size))
    classes = read_record(root)["classes"]
    print(f"{root}: {options.train} training and {options.val} validation pictures, {len(classes)} classes:")
    print(", ".join(entry["name"] for entry in classes))
    if options.colour_baseline:
        print(f"the best class for each colour: mIoU {colour_baseline(root):.3f} on the validation half")
        print(f"the commonest class at each place: mIoU {position_baseline(root):.3f}")
