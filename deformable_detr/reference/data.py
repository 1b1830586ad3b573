"""Reading and augmentation once more, in numpy and Pillow alone, from the fact sheet (section 3).

Annotations are read from the JSON file itself, without pycocotools.
"""

import argparse
import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

MEAN, STD = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
PER_BOX = ("boxes", "labels", "area", "iscrowd")


class Reading:
    """The pictures of one split (train or val) in the order of their ids."""

    def __init__(self, options: argparse.Namespace, split: str):
        self.options, self.split = options, split
        root = Path(options.data_path)
        told = json.loads((root / "annotations" / f"instances_{split}2017.json").read_text())
        self.folder = root / f"{split}2017"
        self.pictures = sorted(told["images"], key=lambda one: one["id"])
        self.annotations: dict[int, list] = {}
        for one in told["annotations"]:
            self.annotations.setdefault(one["image_id"], []).append(one)

    def __len__(self) -> int:
        return len(self.pictures)

    def item(self, index: int, draws: random.Random | None = None, corner: Callable | None = None) -> tuple:
        """(image float32 [3, H, W], target dict of arrays); augmented in training, by `draws`.

        `corner(most_top, most_left)` places the crop, by default with two draws more.
        """
        told = self.pictures[index]
        picture = Image.open(self.folder / told["file_name"]).convert("RGB")
        target = prepared(picture.size, told["id"], self.annotations.get(told["id"], ()))
        options = self.options
        if self.split == "train":
            if draws.random() < 0.5:
                picture, target = flipped(picture, target)
            if draws.random() >= 0.5:
                picture, target = resized(picture, target, draws.choice(options.crop_sides))
                picture, target = cropped(picture, target, options.crop_range, draws, corner)
            short = draws.choice(options.scales)
        else:
            short = options.val_size
        picture, target = resized(picture, target, short, options.max_size)
        return normalised(picture, target)


def prepared(size: tuple[int, int], image_id: int, annotations: Sequence[dict]) -> dict:
    """The target of a picture of (width, height) before any transform (section 3.3)."""
    kept = [one for one in annotations if not one.get("iscrowd", 0)]
    boxes = np.float32([one["bbox"] for one in kept]).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    boxes = np.clip(boxes, 0, np.float32([*size, *size]))
    areas = [one["area"] for one in kept]
    whole = kept and all(isinstance(area, int) for area in areas)
    target = {
        "boxes": boxes,
        "labels": np.array([one["category_id"] for one in kept], np.int64),
        "area": np.array(areas, np.int64 if whole else np.float32),
        "iscrowd": np.zeros(len(kept), np.int64 if kept else np.float32),
        "image_id": np.array([image_id], np.int64),
        "orig_size": np.array(size[::-1], np.int64),
        "size": np.array(size[::-1], np.int64),
    }
    return _keep(target, (boxes[:, 2:] > boxes[:, :2]).all(1))


def _keep(target: dict, which: np.ndarray) -> dict:
    return target | {name: target[name][which] for name in PER_BOX}


def flipped(picture: Image.Image, target: dict) -> tuple[Image.Image, dict]:
    """Left and right exchanged."""
    x0, y0, x1, y1 = target["boxes"].T
    boxes = np.stack([picture.width - x1, y0, picture.width - x0, y1], 1)
    return picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT), target | {"boxes": boxes}


def new_size(width: int, height: int, short: int, limit: int | None = None) -> tuple[int, int]:
    """(width, height) after a resize to that short side, the long side at most `limit`."""
    least, most = sorted((width, height))
    if limit is not None and most / least * short > limit:
        short = round(limit * least / most)
    if least == short:
        return width, height
    if width < height:
        return short, int(short * height / width)
    return int(short * width / height), short


def resized(picture: Image.Image, target: dict, short: int, limit: int | None = None) -> tuple[Image.Image, dict]:
    """Pillow's bilinear resize of the uint8 picture."""
    size = new_size(*picture.size, short, limit)
    ratios = [new / old for new, old in zip(size, picture.size, strict=True)]
    return picture.resize(size, Image.Resampling.BILINEAR), target | {
        "boxes": target["boxes"] * np.float32([*ratios, *ratios]),
        "area": target["area"].astype(np.float32) * np.float32(ratios[0] * ratios[1]),
        "size": np.array(size[::-1], np.int64),
    }


def cropped(
    picture: Image.Image, target: dict, sides: tuple[int, int], draws: random.Random, corner: Callable | None
) -> tuple[Image.Image, dict]:
    """A crop whose sides are drawn from `sides` (smallest, largest); what is left without area is dropped."""
    least, most = sides
    w = draws.randint(least, min(picture.width, most))
    h = draws.randint(least, min(picture.height, most))
    spare = picture.height - h, picture.width - w
    if spare == (0, 0):
        top = left = 0
    elif corner:
        top, left = corner(*spare)
    else:
        top, left = (draws.randint(0, one) for one in spare)
    boxes = np.clip(target["boxes"] - np.float32([left, top, left, top]), 0, np.float32([w, h, w, h]))
    sides = boxes[:, 2:] - boxes[:, :2]
    size = np.array([h, w], np.int64)
    target = target | {"boxes": boxes, "area": sides[:, 0] * sides[:, 1], "size": size}
    return picture.crop((left, top, left + w, top + h)), _keep(target, (sides > 0).all(1))


def normalised(picture: Image.Image, target: dict) -> tuple[np.ndarray, dict]:
    """float32 [3, H, W] by ImageNet's mean and deviation; boxes (cx, cy, w, h) as shares of the picture."""
    image = np.asarray(picture, np.float32).transpose(2, 0, 1) / np.float32(255)
    image = (image - MEAN[:, None, None]) / STD[:, None, None]
    first, last = target["boxes"][:, :2], target["boxes"][:, 2:]
    boxes = np.concatenate([(first + last) / 2, last - first], 1) / np.float32([*picture.size, *picture.size])
    return np.ascontiguousarray(image), target | {"boxes": boxes.astype(np.float32)}


def batch(items: Sequence[tuple]) -> tuple[np.ndarray, np.ndarray, list[dict]]:
    """Images padded with 0 at the right and below, the mask (True = padding), the targets (section 3.5)."""
    height, width = (max(image.shape[axis] for image, _ in items) for axis in (1, 2))
    images = np.zeros((len(items), 3, height, width), np.float32)
    mask = np.ones((len(items), height, width), bool)
    for index, (image, _) in enumerate(items):
        _, h, w = image.shape
        images[index, :, :h, :w], mask[index, :h, :w] = image, False
    return images, mask, [target for _, target in items]
