"""Draw the mini data set: ten classes of ray-traced objects in ImageNet's folder layout.

    python mobilenetv3/draw_mini.py --output_dir DIR      draw it
    python mobilenetv3/draw_mini.py --linear_baseline     how well a linear model on its pixels does

The result is `<root>/{train,val}/<class>/<number>.jpg` and `<root>/mini.json`, the record of how it was drawn. Only
shape tells the classes apart: colours, textures, light, scale, place and background come from one distribution.
"""

import os
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from shared import InputError
from shared.mini import build_parser, draw_jobs, ensure

from .baseline import linear_baseline
from .render import develop, render
from .scenes import draw_scene
from .shapes import CLASSES

DEFAULT_ROOT = Path(__file__).resolve().parents[1] / "data" / "mini"
VERSION = 2  # of the drawing: raise it when the same seed gives other pictures
MAKER = "mobilenetv3/datasets/mini.py"  # names the drawing in mini.json: another name would disown drawn data sets
SPLITS = ("train", "val")
WORTH_PROCESSES = 500  # pictures from which a process a core saves more time than it takes to start
TRAIN_PER_CLASS, VAL_PER_CLASS, SIZE = 200, 200, 80


def draw(seed: int, split: str, label: str, index: int, size: int) -> np.ndarray:
    """One picture, uint8 [size, size, 3] RGB: a function of its arguments alone, however many others are drawn."""
    rng = np.random.default_rng([seed, SPLITS.index(split), CLASSES.index(label), index])
    return develop(render(draw_scene(rng, label), size), rng)


def draw_file(folder: Path, seed: int, size: int, job: tuple[str, str, int]) -> None:
    """Draw the job's (split, label, index) into its file."""
    split, label, index = job
    picture = Image.fromarray(draw(seed, *job, size))
    picture.save(folder / split / label / f"{index:04d}.jpg", quality=92)


def draw_all(record: dict, folder: Path) -> dict:
    """Draw every picture of a record under `folder`."""
    jobs = [(s, label, index) for s in SPLITS for label in CLASSES for index in range(record[f"{s}_per_class"])]
    for split, label, _ in jobs:
        (folder / split / label).mkdir(parents=True, exist_ok=True)
    draw_jobs(partial(draw_file, folder, record["seed"], record["size"]), jobs, "picture", WORTH_PROCESSES)
    return {}


def ensure_mini(
    root: str | os.PathLike = DEFAULT_ROOT,
    seed: int = 0,
    train_per_class: int = TRAIN_PER_CLASS,
    val_per_class: int = VAL_PER_CLASS,
    size: int = SIZE,
) -> Path:
    """Draw the data set into `root`, unless this very one is there, as `shared.mini.ensure` does; returns `root`.

    `size` is the side of the square pictures in pixels.
    """
    if min(train_per_class, val_per_class) < 1 or size < 8 or seed < 0:
        raise InputError(
            f"mini data of {train_per_class} + {val_per_class} pictures per class, {size} pixels, seed {seed}: "
            "give at least 1 picture, 8 pixels and a seed that is not negative"
        )
    counts = {"train_per_class": train_per_class, "val_per_class": val_per_class}
    record = {"made_by": MAKER, "version": VERSION, "seed": seed, **counts, "size": size, "classes": list(CLASSES)}
    return ensure(root, record, partial(draw_all, record))


def main() -> None:
    """Draw, or see that the same is there already; then say what it holds."""
    parser = build_parser("ten classes of objects in ImageNet's layout", DEFAULT_ROOT)
    text = "training pictures of each class"
    parser.add_argument("--train_per_class", type=int, default=TRAIN_PER_CLASS, metavar="N", help=text)
    text = "validation pictures of each class"
    parser.add_argument("--val_per_class", type=int, default=VAL_PER_CLASS, metavar="N", help=text)
    parser.add_argument("--size", type=int, default=SIZE, help="side of the pictures in pixels")
    text = "also print what a linear model on the pixels reaches"
    parser.add_argument("--linear_baseline", action="store_true", help=text)
    options = parser.parse_args()
    counts = (options.train_per_class, options.val_per_class)
    root = ensure_mini(options.output_dir, options.seed, *counts, options.size)
    print(f"{root}: {len(CLASSES)} classes of {counts[0]} training and {counts[1]} validation pictures")
    if options.linear_baseline:
        print(f"linear model on 32 x 32 pixels: top-1 {100 * linear_baseline(root):.1f} % on the validation half")
