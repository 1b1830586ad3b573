"""Draw the mini data set: streets and meadows with people, cars, buses, signs, umbrellas, balls and clocks.

    python deformable_detr/draw_mini.py [--output_dir DIR]

The result is, as COCO 2017 (fact sheet 3.1), `<root>/{train,val}2017/*.jpg` and
`<root>/annotations/instances_{train,val}2017.json` with COCO's own category ids, and `<root>/mini.json`, how it was
drawn and what it holds. Boxes, areas and outlines are those of the pixels that one sees of a thing, exactly. Some
pictures hold a crowd (one annotation, iscrowd 1, run lengths), some nothing. What is drawn stands in things.py and
scenes.py.
"""

import argparse
import fcntl
import io
import json
import multiprocessing
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import PIL
from PIL import Image
from tqdm import tqdm

from shared import HelpFormatter, InputError

from .outlines import mask_box, mask_counts, mask_polygons
from .scenes import Scene, draw_scene
from .things import KINDS

DEFAULT_ROOT = Path(__file__).resolve().parents[1] / "data" / "mini"
VERSION = 1  # of the drawing: raise it when the same seed gives other files
TRAIN, VAL = 400, 150
SPLITS = ("train", "val")
FIRST_ID = {"train": 1009, "val": 200003}  # of the pictures, which are 7 apart: ids are no indices
LONG, SHORT, UPRIGHT = (176, 208), (136, 168), 0.2  # sides in pixels; share of the pictures that stand upright
WORTH_PROCESSES = 60  # pictures from which a process a core saves more time than it takes to start
RECORD = "mini.json"
MAKER = "deformable_detr/datasets/mini.py"
SIZES = {"small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, 1e10)}  # areas, as COCO's evaluation has them


class Drawn(NamedTuple):
    """One picture as a JPEG file, and its annotations without ids."""

    index: int
    jpeg: bytes
    size: tuple[int, int]  # width and height
    annotations: list[dict]


# --------------------------------------------------------------------------------------------------------------------
# One picture
# --------------------------------------------------------------------------------------------------------------------


def draw(seed: int, split: str, index: int) -> Scene:
    """Picture `index` of a split: a function of its arguments alone, however many others are drawn."""
    rng = np.random.default_rng([seed, SPLITS.index(split), index])
    long, short = (int(rng.integers(low, high + 1)) for low, high in (LONG, SHORT))
    return draw_scene(rng, *((short, long) if rng.random() < UPRIGHT else (long, short)))


def annotate(scene: Scene) -> list[dict]:
    """COCO's fields of each thing, without ids."""
    return [
        {
            "segmentation": mask_counts(mask) if crowd else mask_polygons(mask),
            "area": float(mask.sum()),
            "iscrowd": int(crowd),
            "bbox": mask_box(mask),
            "category_id": kind.category_id,
        }
        for kind, crowd, mask in zip(scene.kinds, scene.crowds, scene.masks, strict=True)
    ]


def draw_file(seed: int, split: str, index: int) -> Drawn:
    """`draw` as a file's content with its annotations."""
    cv2.setNumThreads(1)
    scene = draw(seed, split, index)
    image, file = Image.fromarray(scene.picture), io.BytesIO()
    image.save(file, "JPEG", quality=92)
    return Drawn(index, file.getvalue(), image.size, annotate(scene))


# --------------------------------------------------------------------------------------------------------------------
# The data set
# --------------------------------------------------------------------------------------------------------------------


def make_record(seed: int, train: int, val: int) -> dict:
    """What mini.json holds beside the counts: equal records mean equal files."""
    if min(train, val) < 1 or max(train, val) > 20000 or seed < 0:
        raise InputError(
            f"mini data of {train} + {val} pictures, seed {seed}: give 1 to 20000 pictures a split and a seed that is "
            "not negative"
        )
    made = {"made_by": MAKER, "version": VERSION, "libraries": {"opencv": cv2.__version__, "pillow": PIL.__version__}}
    return made | {"seed": seed, "train": train, "val": val}


def drawings(seed: int, split: str, count: int) -> Iterator[Drawn]:
    """All pictures of a split in order, drawn by a process a core where that is worth it."""
    one = partial(draw_file, seed, split)
    cores = min(len(os.sched_getaffinity(0)), count // WORTH_PROCESSES)
    pool = multiprocessing.get_context("spawn").Pool(cores) if cores > 1 else nullcontext()
    with pool:
        made = pool.imap(one, range(count), chunksize=8) if cores > 1 else map(one, range(count))
        yield from tqdm(made, total=count, desc=f"draw {split}", unit="picture", leave=False, disable=None)


def draw_split(root: Path, split: str, seed: int, count: int) -> dict:
    """Draw the pictures of a split and its annotation file; returns how much of what it holds."""
    folder = root / f"{split}2017"
    folder.mkdir(parents=True)
    images, annotations = [], []
    for drawn in drawings(seed, split, count):
        image_id = FIRST_ID[split] + 7 * drawn.index
        name = f"{image_id:012d}.jpg"
        (folder / name).write_bytes(drawn.jpeg)
        width, height = drawn.size
        images.append({"id": image_id, "file_name": name, "width": width, "height": height, "license": 1})
        for fields in drawn.annotations:
            annotations.append({"id": len(annotations) + 1, "image_id": image_id} | fields)
    categories = [{"id": kind.category_id, "name": kind.name, "supercategory": "drawn"} for kind in KINDS]
    content = {
        "info": {"description": f"mini data, {split} half, seed {seed}", "version": str(VERSION)},
        "licenses": [{"id": 1, "name": "Apache License 2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"}],
        "images": images,
        "annotations": annotations,
        "categories": categories,
    }
    (root / "annotations").mkdir(exist_ok=True)
    (root / "annotations" / f"instances_{split}2017.json").write_text(json.dumps(content))
    return counts(images, annotations)


def counts(images: list[dict], annotations: list[dict]) -> dict:
    """{"pictures", "empty", "crowds", "categories": {name: {"small", "medium", "large"}}} of an annotation file."""
    single = [a for a in annotations if not a["iscrowd"]]
    sizes = Counter(
        (a["category_id"], size) for a in single for size, (low, high) in SIZES.items() if low <= a["area"] < high
    )
    return {
        "pictures": len(images),
        "empty": len(images) - len({a["image_id"] for a in annotations}),
        "crowds": len(annotations) - len(single),
        "categories": {kind.name: {size: sizes[kind.category_id, size] for size in SIZES} for kind in KINDS},
    }


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


def ensure_mini(root: str | os.PathLike = DEFAULT_ROOT, seed: int = 0, train: int = TRAIN, val: int = VAL) -> Path:
    """Draw the data set into `root` in place of any older one, unless this very one is there; returns `root`.

    The folder appears whole or not at all; several processes may call this at once. Raises InputError where `root` is
    something that this module did not draw.
    """
    root = Path(root).resolve()
    record = make_record(seed, train, val)
    if holds(root, record):
        return root
    with alone_with(root) as drawing:
        if not holds(root, record):  # still: another process may have drawn it meanwhile
            held = {split: draw_split(drawing, split, seed, record[split]) for split in SPLITS}
            (drawing / RECORD).write_text(json.dumps(record | {"holds": held}, indent=1) + "\n")
            replace(root, drawing)
    return root


def parse_options(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Draw the mini data set: streets and meadows with things in COCO's layout.",
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--output_dir", type=Path, default=DEFAULT_ROOT, metavar="DIR", help="folder to draw in")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--train", type=int, default=TRAIN, metavar="N", help="training pictures")
    parser.add_argument("--val", type=int, default=VAL, metavar="N", help="validation pictures")
    return parser.parse_args(argv)


def main() -> None:
    """Draw, or see that the same is there already; then say what it holds."""
    options = parse_options()
    root = ensure_mini(options.output_dir, options.seed, options.train, options.val)
    for split, held in json.loads((root / RECORD).read_text())["holds"].items():
        things = ", ".join(f"{sum(sizes.values())} {name}" for name, sizes in held["categories"].items())
        sizes = ", ".join(f"{sum(c[size] for c in held['categories'].values())} {size}" for size in SIZES)
        print(f"{root / (split + '2017')}: {held['pictures']} pictures, {held['empty']} of them empty")
        print(f"  {things}; {sizes}; {held['crowds']} crowds")
