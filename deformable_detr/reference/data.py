"""Reading and augmentation a second time, in numpy and Pillow alone (NOTES 2).

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
    """The images of one split (train or val) in the order of their ids."""

    def __init__(self, options: argparse.Namespace, split: str):
        self.options, self.split = options, split
        root = Path(options.data_path)
        content = json.loads((root / "annotations" / f"instances_{split}2017.json").read_text())
        self.folder = root / f"{split}2017"
        self.images = sorted(content["images"], key=lambda entry: entry["id"])
        self.annotations: dict[int, list] = {}
        for annotation in content["annotations"]:
            self.annotations.setdefault(annotation["image_id"], []).append(annotation)

    def __len__(self) -> int:
        return len(self.images)

    def item(self, index: int, draws: random.Random | None = None, corner: Callable | None = None) -> tuple:
        """(image float32 [3, H, W], target dict of arrays); augmented in training, by `draws`.

        `corner(largest_top, largest_left)` draws the crop's corner; by default `draws` does (NOTES 2.7).
        """
        entry = self.images[index]
        image = Image.open(self.folder / entry["file_name"]).convert("RGB")
        target = prepare_target(image.size, entry["id"], self.annotations.get(entry["id"], ()))
        options = self.options
        if self.split == "train":
            if draws.random() < 0.5:
                image, target = flip(image, target)
            if draws.random() >= 0.5:
                image, target = resize(image, target, draws.choice(options.crop_sides))
                image, target = random_crop(image, target, options.crop_range, draws, corner)
            short = draws.choice(options.scales)
        else:
            short = options.val_size
        image, target = resize(image, target, short, options.max_size)
        return normalise(image, target)


def prepare_target(size: tuple[int, int], image_id: int, annotations: Sequence[dict]) -> dict:
    """The target of an image of (width, height) before any transform (NOTES 2.2, 2.3)."""
    kept = [annotation for annotation in annotations if not annotation.get("iscrowd", 0)]
    boxes = np.float32([annotation["bbox"] for annotation in kept]).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    boxes = np.clip(boxes, 0, np.float32([*size, *size]))
    areas = [annotation["area"] for annotation in kept]
    integer = kept and all(isinstance(area, int) for area in areas)
    target = {
        "boxes": boxes,
        "labels": np.array([annotation["category_id"] for annotation in kept], np.int64),
        "area": np.array(areas, np.int64 if integer else np.float32),
        "iscrowd": np.zeros(len(kept), np.int64 if kept else np.float32),
        "image_id": np.array([image_id], np.int64),
        "orig_size": np.array(size[::-1], np.int64),
        "size": np.array(size[::-1], np.int64),
    }
    return _keep(target, (boxes[:, 2:] > boxes[:, :2]).all(1))


def _keep(target: dict, mask: np.ndarray) -> dict:
    return target | {name: target[name][mask] for name in PER_BOX}


def flip(image: Image.Image, target: dict) -> tuple[Image.Image, dict]:
    """Left and right exchanged."""
    x0, y0, x1, y1 = target["boxes"].T
    boxes = np.stack([image.width - x1, y0, image.width - x0, y1], 1)
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), target | {"boxes": boxes}


def resized_size(width: int, height: int, short: int, limit: int | None = None) -> tuple[int, int]:
    """(width, height) after a resize to that short side, the long side at most `limit` (NOTES 2.4)."""
    least, most = sorted((width, height))
    if limit is not None and most / least * short > limit:
        short = round(limit * least / most)
    if least == short:
        return width, height
    if width < height:
        return short, int(short * height / width)
    return int(short * width / height), short


def resize(image: Image.Image, target: dict, short: int, limit: int | None = None) -> tuple[Image.Image, dict]:
    """Pillow's bilinear resize of the uint8 image (NOTES 2.5)."""
    size = resized_size(*image.size, short, limit)
    ratios = [new / old for new, old in zip(size, image.size, strict=True)]
    return image.resize(size, Image.Resampling.BILINEAR), target | {
        "boxes": target["boxes"] * np.float32([*ratios, *ratios]),
        "area": target["area"].astype(np.float32) * np.float32(ratios[0] * ratios[1]),
        "size": np.array(size[::-1], np.int64),
    }


def random_crop(
    image: Image.Image, target: dict, sides: tuple[int, int], draws: random.Random, corner: Callable | None
) -> tuple[Image.Image, dict]:
    """A crop whose sides are drawn from `sides` (smallest, largest); boxes without area are dropped (NOTES 2.8)."""
    least, most = sides
    w = draws.randint(least, min(image.width, most))
    h = draws.randint(least, min(image.height, most))
    spare = image.height - h, image.width - w
    if spare == (0, 0):
        top = left = 0
    elif corner:
        top, left = corner(*spare)
    else:
        top, left = (draws.randint(0, most) for most in spare)
    boxes = np.clip(target["boxes"] - np.float32([left, top, left, top]), 0, np.float32([w, h, w, h]))
    sides = boxes[:, 2:] - boxes[:, :2]
    size = np.array([h, w], np.int64)
    target = target | {"boxes": boxes, "area": sides[:, 0] * sides[:, 1], "size": size}
    return image.crop((left, top, left + w, top + h)), _keep(target, (sides > 0).all(1))


def normalise(image: Image.Image, target: dict) -> tuple[np.ndarray, dict]:
    """float32 [3, H, W] by ImageNet's mean and deviation; boxes (cx, cy, w, h) relative to the image (NOTES 2.9)."""
    pixels = np.asarray(image, np.float32).transpose(2, 0, 1) / np.float32(255)
    pixels = (pixels - MEAN[:, None, None]) / STD[:, None, None]
    first, last = target["boxes"][:, :2], target["boxes"][:, 2:]
    boxes = np.concatenate([(first + last) / 2, last - first], 1) / np.float32([*image.size, *image.size])
    return np.ascontiguousarray(pixels), target | {"boxes": boxes.astype(np.float32)}


def batch(items: Sequence[tuple]) -> tuple[np.ndarray, np.ndarray, list[dict]]:
    """Images padded with 0 at the right and below, the mask (True = padding), the targets (NOTES 2.10)."""
    height, width = (max(image.shape[axis] for image, _ in items) for axis in (1, 2))
    images = np.zeros((len(items), 3, height, width), np.float32)
    mask = np.ones((len(items), height, width), bool)
    for index, (image, _) in enumerate(items):
        _, h, w = image.shape
        images[index, :, :h, :w], mask[index, :h, :w] = image, False
    return images, mask, [target for _, target in items]
