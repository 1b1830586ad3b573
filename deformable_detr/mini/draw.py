"""Draw the mini data set: streets and meadows with people, cars, buses, signs, umbrellas, balls and clocks.

    python deformable_detr/draw_mini.py [--output_dir DIR]

The result is, as COCO 2017, `<root>/{train,val}2017/*.jpg` and
`<root>/annotations/instances_{train,val}2017.json` with COCO's own category ids, and `<root>/mini.json`, how it was
drawn and what it holds. Boxes, areas and outlines are those of the pixels that one sees of a thing, exactly. Some
pictures hold a crowd (one annotation, iscrowd 1, run lengths), some nothing. What is drawn stands in things.py and
scenes.py.
"""

import json
import os
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from shared import InputError
from shared.mini import VERSIONS, build_parser, draw_jobs, ensure, read_record

from .outlines import mask_box, mask_counts, mask_polygons
from .scenes import Scene, draw_scene
from .things import KINDS

DEFAULT_ROOT = Path(__file__).resolve().parents[1] / "data" / "mini"
VERSION = 1  # of the drawing: raise it when the same seed gives other files
MAKER = "deformable_detr/datasets/mini.py"  # names the drawing in mini.json: another name would disown drawn data sets
TRAIN, VAL = 400, 150
SPLITS = ("train", "val")
FIRST_ID = {"train": 1009, "val": 200003}  # of the pictures, which are 7 apart: ids are no indices
LONG, SHORT, UPRIGHT = (176, 208), (136, 168), 0.2  # sides in pixels; share of the pictures that stand upright
WORTH_PROCESSES = 60  # pictures from which a process a core saves more time than it takes to start
SIZES = {"small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, 1e10)}  # areas, as COCO's evaluation has them


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


def image_id(split: str, index: int) -> int:
    return FIRST_ID[split] + 7 * index


def draw_file(folder: Path, seed: int, job: tuple[str, int]) -> tuple[dict, list[dict]]:
    """Draw the job's (split, index) into its file; returns its entry in "images", and its annotations without ids."""
    split, index = job
    scene, number = draw(seed, split, index), image_id(split, index)
    name = f"{number:012d}.jpg"
    image = Image.fromarray(scene.picture)
    image.save(folder / f"{split}2017" / name, quality=92)
    entry = {"id": number, "file_name": name, "width": image.width, "height": image.height, "license": 1}
    return entry, annotate(scene)


def annotation_file(split: str, seed: int, drawn: list[tuple[dict, list[dict]]]) -> dict:
    """The annotations of a split, of whose pictures `draw_file` returned these, as COCO's files hold them."""
    fields = [{"image_id": image["id"]} | entry for image, annotations in drawn for entry in annotations]
    return {
        "info": {"description": f"mini data, {split} half, seed {seed}", "version": str(VERSION)},
        "licenses": [{"id": 1, "name": "Apache License 2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"}],
        "images": [image for image, _ in drawn],
        "annotations": [{"id": number} | entry for number, entry in enumerate(fields, 1)],
        "categories": [{"id": kind.category_id, "name": kind.name, "supercategory": "drawn"} for kind in KINDS],
    }


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


def draw_all(record: dict, folder: Path) -> dict:
    """Draw everything of a record under `folder`; returns how much of what its splits hold."""
    for name in (*(f"{split}2017" for split in SPLITS), "annotations"):
        (folder / name).mkdir()
    seed, jobs = record["seed"], [(split, index) for split in SPLITS for index in range(record[split])]
    drawn = dict(zip(jobs, draw_jobs(partial(draw_file, folder, seed), jobs, "picture", WORTH_PROCESSES), strict=True))
    held = {}
    for split in SPLITS:
        content = annotation_file(split, seed, [drawn[split, index] for index in range(record[split])])
        (folder / "annotations" / f"instances_{split}2017.json").write_text(json.dumps(content))
        held[split] = counts(content["images"], content["annotations"])
    return {"holds": held}


def ensure_mini(root: str | os.PathLike = DEFAULT_ROOT, seed: int = 0, train: int = TRAIN, val: int = VAL) -> Path:
    """Draw the data set into `root`, unless this very one is there, as `shared.mini.ensure` does; returns `root`."""
    if min(train, val) < 1 or max(train, val) > 20000 or seed < 0:
        raise InputError(
            f"mini data of {train} + {val} pictures, seed {seed}: give 1 to 20000 pictures a split and a seed that is "
            "not negative"
        )
    libraries = {name: VERSIONS[name] for name in ("opencv", "pillow")}
    made = {"made_by": MAKER, "version": VERSION, "libraries": libraries}
    record = made | {"seed": seed, "train": train, "val": val}
    return ensure(root, record, partial(draw_all, record), indent=1)


def main() -> None:
    """Draw, or see that the same is there already; then say what it holds."""
    parser = build_parser("streets and meadows with things in COCO's layout", DEFAULT_ROOT)
    parser.add_argument("--train", type=int, default=TRAIN, metavar="N", help="training pictures")
    parser.add_argument("--val", type=int, default=VAL, metavar="N", help="validation pictures")
    options = parser.parse_args()
    root = ensure_mini(options.output_dir, options.seed, options.train, options.val)
    for split, held in read_record(root)["holds"].items():
        things = ", ".join(f"{sum(sizes.values())} {name}" for name, sizes in held["categories"].items())
        sizes = ", ".join(f"{sum(c[size] for c in held['categories'].values())} {size}" for size in SIZES)
        print(f"{root / (split + '2017')}: {held['pictures']} pictures, {held['empty']} of them empty")
        print(f"  {things}; {sizes}; {held['crowds']} crowds")
