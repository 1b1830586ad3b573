"""Small data sets of noise in COCO's layout."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from datasets import CocoDetection, build_dataset
from options import parse_options


def annotation(bbox, category_id=1, area=None, **more) -> dict:
    return {"bbox": bbox, "category_id": category_id, "area": bbox[2] * bbox[3] if area is None else area} | more


def lay_out(root: Path, count: int = 7, split: str = "train", change=None, step: int = 1) -> Path:
    """A data set of noise in COCO's layout; `change(content)` edits its annotations.

    Pictures are of different sizes, with a `step` of 0 of one.
    """
    place = np.random.default_rng(0)
    (root / f"{split}2017").mkdir(parents=True)
    (root / "annotations").mkdir(exist_ok=True)
    images, annotations = [], []
    for number in range(count):
        width, height = 50 + 3 * step * number, 44 - 2 * step * number
        name = f"{number:03d}.png"
        Image.fromarray(place.integers(0, 256, (height, width, 3), np.uint8)).save(root / f"{split}2017" / name)
        images.append({"id": 90 - number, "file_name": name, "width": width, "height": height})
        for _ in range(number % 3):
            x, y, w, h = place.uniform(1, 20, 4).round(2).tolist()
            entry = annotation([x, y, w, h], int(place.choice([1, 5])), id=len(annotations) + 1, image_id=90 - number)
            annotations.append(entry)
    categories = [{"id": 1, "name": "one"}, {"id": 5, "name": "five"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    if change:
        change(content)
    (root / "annotations" / f"instances_{split}2017.json").write_text(json.dumps(content))
    return root


SMALL = "--scales 32 40 --max_size 64 --val_size 40 --crop_sides 36 44 --crop_range 20 40 --num_classes 6".split()


def small_options(root: Path, *words: str):
    return parse_options([*SMALL, "--data_path", str(root), *words])


def small_set(root: Path, split: str = "train", **settings) -> CocoDetection:
    return build_dataset(small_options(root), split, **settings)


def edit(key: str, place: int, **fields):
    """A change of one entry of an annotation file; a field of None goes."""

    def change(content: dict) -> None:
        entry = content[key][place] | fields
        content[key][place] = {name: value for name, value in entry.items() if value is not None}

    return change
