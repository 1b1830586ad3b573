"""Targets, augmentation and batching of images and their boxes (NOTES 2.2 to 2.10).

Equal to the reference for equal draws, which come from a `random.Random` in its order. The corner of a crop may have a
generator of its own (NOTES 2.7). Sizes of PIL images are (width, height); boxes are corners [x0, y0, x1, y1] in pixels
until `normalise`. Pillow itself resizes: its filter is part of the result (NOTES 2.5).
"""

import random
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

MEAN = np.array([0.485, 0.456, 0.406], np.float32)[:, None, None]
STD = np.array([0.229, 0.224, 0.225], np.float32)[:, None, None]

Target = dict[str, np.ndarray]
Sample = tuple[np.ndarray, Target]
#: (low, high) -> a whole number from low to high, both included
Corner = Callable[[int, int], int]


def prepare_target(image_id: int, annotations: Sequence[dict], size: tuple[int, int]) -> Target:
    """The target of an image before any transform (NOTES 2.2, 2.3); `annotations` has no crowds.

    boxes float32 [n, 4], labels int64 [n], area [n] float32 (int64 if all are whole numbers), iscrowd int64 [n],
    image_id int64 [1], orig_size and size int64 [2] as (height, width). Boxes are cut at the image's edges; those
    without width or height are left out. Without annotations, iscrowd is float32.
    """
    width, height = size
    boxes = np.array([annotation["bbox"] for annotation in annotations], np.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    boxes[:, 0::2] = boxes[:, 0::2].clip(0, width)
    boxes[:, 1::2] = boxes[:, 1::2].clip(0, height)
    area = np.array([annotation["area"] for annotation in annotations])
    target = {
        "boxes": boxes,
        "labels": np.array([annotation["category_id"] for annotation in annotations], np.int64),
        "image_id": np.array([image_id], np.int64),
        "area": area.astype(np.int64 if area.dtype.kind == "i" else np.float32),
        "iscrowd": np.zeros(len(boxes), np.int64 if annotations else np.float32),
        "orig_size": np.array([height, width], np.int64),
        "size": np.array([height, width], np.int64),
    }
    return _keep(target, (boxes[:, 3] > boxes[:, 1]) & (boxes[:, 2] > boxes[:, 0]))


def _keep(target: Target, mask: np.ndarray) -> Target:
    return target | {key: target[key][mask] for key in ("boxes", "labels", "area", "iscrowd")}


def flip(image: Image.Image, target: Target) -> tuple[Image.Image, Target]:
    """Image and boxes mirrored left to right."""
    boxes = target["boxes"][:, [2, 1, 0, 3]] * np.float32([-1, 1, -1, 1])
    boxes += np.float32([image.width, 0, image.width, 0])
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), target | {"boxes": boxes}


def resized_size(size: tuple[int, int], short: int, limit: int | None = None) -> tuple[int, int]:
    """(width, height) for an image of `size` so that its short side is `short`, its long side about `limit` at most.

    The short side is rounded where the limit applies, the long side truncated (NOTES 2.4).
    """
    width, height = size
    least, most = min(size), max(size)
    if limit is not None and most / least * short > limit:
        short = round(limit * least / most)
    if least == short:
        return size
    if width < height:
        return short, int(short * height / width)
    return int(short * width / height), short


def resize(image: Image.Image, target: Target, short: int, limit: int | None = None) -> tuple[Image.Image, Target]:
    """The image with its short side `short` (see `resized_size`), boxes and areas with it."""
    width, height = resized_size(image.size, short, limit)
    across, down = width / image.width, height / image.height
    changed = {
        "boxes": target["boxes"] * np.float32([across, down, across, down]),
        "area": target["area"].astype(np.float32) * np.float32(across * down),
        "size": np.array([height, width], np.int64),
    }
    return image.resize((width, height), Image.Resampling.BILINEAR), target | changed


def crop(
    image: Image.Image, target: Target, top: int, left: int, height: int, width: int
) -> tuple[Image.Image, Target]:
    """A part of the image. Areas become those of the cut boxes; boxes without an area left are dropped (NOTES 2.8)."""
    boxes = target["boxes"] - np.float32([left, top, left, top])
    boxes = np.minimum(boxes, np.float32([width, height, width, height])).clip(0)
    sides = boxes[:, 2:] - boxes[:, :2]
    changed = {"boxes": boxes, "area": sides[:, 0] * sides[:, 1], "size": np.array([height, width], np.int64)}
    return image.crop((left, top, left + width, top + height)), _keep(target | changed, (sides > 0).all(1))


def normalise(image: Image.Image, target: Target) -> Sample:
    """(image float32 [3, H, W], target with boxes (cx, cy, w, h) relative to the image's sides) (NOTES 2.9)."""
    pixels = np.asarray(image).transpose(2, 0, 1).astype(np.float32, order="C")
    pixels /= np.float32(255)
    pixels -= MEAN
    pixels /= STD
    low, high = target["boxes"][:, :2], target["boxes"][:, 2:]
    boxes = np.concatenate([(low + high) / np.float32(2), high - low], 1)
    boxes /= np.float32([image.width, image.height, image.width, image.height])
    return pixels, target | {"boxes": boxes}


class EvalTransform:
    """The image at one size."""

    def __init__(self, short: int = 800, limit: int = 1333):
        self.short, self.limit = short, limit
        self.most_pixels = short * limit

    def __call__(self, image: Image.Image, target: Target, draws: random.Random | None = None) -> Sample:
        """`normalise` of the resized image; `draws` is not used."""
        return normalise(*resize(image, target, self.short, self.limit))


class TrainTransform:
    """Flip, then either a resize, or a resize, a crop and a second resize."""

    def __init__(
        self,
        scales: Sequence[int],
        limit: int = 1333,
        crop_sides: Sequence[int] = (400, 500, 600),
        crop_range: tuple[int, int] = (384, 600),
    ):
        """`scales`: short sides to draw from; `crop_sides`: the same before a crop, whose sides lie in `crop_range`."""
        self.scales, self.limit = list(scales), limit
        self.crop_sides, self.crop_range = list(crop_sides), tuple(crop_range)
        self.most_pixels = max(scales) * limit

    def __call__(
        self, image: Image.Image, target: Target, draws: random.Random, corner: Corner | None = None
    ) -> Sample:
        """`normalise` of the augmented image, with the draws in their order (NOTES 2.6).

        `corner` draws the corner of a crop, top first; without it `draws` does (NOTES 2.7).
        """
        if draws.random() < 0.5:
            image, target = flip(image, target)
        if draws.random() >= 0.5:
            image, target = resize(image, target, draws.choice(self.crop_sides))
            image, target = self._random_crop(image, target, draws, corner or draws.randint)
        return normalise(*resize(image, target, draws.choice(self.scales), self.limit))

    def _random_crop(self, image: Image.Image, target: Target, draws: random.Random, corner: Corner):
        least, most = self.crop_range
        width = draws.randint(least, min(image.width, most))
        height = draws.randint(least, min(image.height, most))
        if (width, height) == image.size:
            return crop(image, target, 0, 0, height, width)
        top = corner(0, image.height - height)
        return crop(image, target, top, corner(0, image.width - width), height, width)


def pad_images(images: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """(images float32 [N, 3, H, W], mask bool [N, H, W]) of images [3, h, w], zero-padded at the right and bottom.

    H and W are the largest height and width; the mask is True where an image is padded (NOTES 2.10).
    """
    height, width = (max(image.shape[axis] for image in images) for axis in (1, 2))
    batch = np.zeros((len(images), 3, height, width), np.float32)
    mask = np.ones((len(images), height, width), bool)
    for index, image in enumerate(images):
        batch[index, :, : image.shape[1], : image.shape[2]] = image
        mask[index, : image.shape[1], : image.shape[2]] = False
    return batch, mask
