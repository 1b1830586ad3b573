"""The torch twin's data side: from the folders to the same tensors, for the alignment stage "data".

It shares no code with `datasets/` and computes differently where it can: glob instead of scandir, the closed formulas
instead of ImageEnhance, flips and crops on tensors, one mask per label id instead of a table. Both sides resize with
Pillow and seed the random numbers of a sample by the same rule (`draws`).
"""

import argparse
import glob
import hashlib
import os
import random
from collections.abc import Iterator

import numpy as np
import torch
from PIL import Image

MEAN = torch.tensor([0.485, 0.456, 0.406])
STD = torch.tensor([0.229, 0.224, 0.225])

# label ids of the 19 classes, in the order of their train ids; all other ids below 34 are ignored (NOTES 3.3)
CLASS_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
TRAIN_ID = dict.fromkeys(range(34), 255) | {label_id: rank for rank, label_id in enumerate(CLASS_IDS)}


def draws(seed: int, epoch: int, index: int) -> random.Random:
    """The generator of one sample, by the rule of `datasets/cityscapes.py`."""
    return random.Random(int(hashlib.sha256(b"%d/%d/%d" % (seed, epoch, index)).hexdigest()[:16], 16))


def listing(root: str | os.PathLike, split: str) -> list[tuple[str, str, str]]:
    """(name, image, label) of every image of a split folder, sorted by name (NOTES 3.1)."""
    ending = "_leftImg8bit.png"
    samples = []
    for image in glob.glob(f"*/*{ending}", root_dir=os.path.join(root, "leftImg8bit", split)):
        city, file = os.path.split(image)
        image = os.path.join(root, "leftImg8bit", split, image)
        name = file[: -len(ending)]
        if not os.path.isdir(image):
            samples.append((name, image, os.path.join(root, "gtFine", split, city, f"{name}_gtFine_labelIds.png")))
    return sorted(samples)


def to_tensor(image: Image.Image) -> torch.Tensor:
    """Image -> uint8 [H, W, 3], label -> uint8 [H, W]."""
    return torch.from_numpy(np.array(image))


def grey(pixels: torch.Tensor) -> torch.Tensor:
    """uint8 [H, W, 3] -> luma, int64 [H, W], with Pillow's integer weights."""
    return (pixels.long() @ torch.tensor([19595, 38470, 7471]) + 32768) >> 16


def blend(start: torch.Tensor, pixels: torch.Tensor, factor: float) -> torch.Tensor:
    """start + factor * (pixels - start), product and sum rounded to float32 each, clipped, cut to uint8."""
    start = start.float()
    moved = (pixels.float() - start) * torch.tensor(factor, dtype=torch.float32)
    return (start + moved).clamp(0, 255).to(torch.uint8)


def jitter(pixels: torch.Tensor, brightness: float, contrast: float, saturation: float) -> torch.Tensor:
    """uint8 [H, W, 3] -> the same with other colours (NOTES 3.5)."""
    pixels = blend(torch.tensor(0), pixels, brightness)
    luma = grey(pixels)
    mean = int(luma.sum().item() / luma.numel() + 0.5)
    pixels = blend(torch.tensor(mean), pixels, contrast)
    return blend(grey(pixels)[..., None], pixels, saturation)


def resize(pixels: torch.Tensor, ids: torch.Tensor, w: int, h: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Both to [h, w]; the image by Pillow's bilinear filter, the label by its nearest one."""
    image, label = Image.fromarray(pixels.numpy()), Image.fromarray(ids.numpy())
    return to_tensor(image.resize((w, h), Image.BILINEAR)), to_tensor(label.resize((w, h), Image.NEAREST))


def window(values: torch.Tensor, top: int, left: int, h: int, w: int) -> torch.Tensor:
    """The part [h, w] of `values` from (top, left) on; zeros outside."""
    rows, columns = torch.arange(top, top + h), torch.arange(left, left + w)
    full_h, full_w = values.shape[:2]
    inside = ((rows >= 0) & (rows < full_h))[:, None] & ((columns >= 0) & (columns < full_w))
    part = values[rows.clamp(0, full_h - 1)][:, columns.clamp(0, full_w - 1)]
    return part * inside.reshape(h, w, *[1] * (values.ndim - 2))


def crop(pixels: torch.Tensor, ids: torch.Tensor, size: tuple[int, int], rng) -> tuple[torch.Tensor, torch.Tensor]:
    """A random part of `size` = (W, H), resized first if a side is too small (NOTES 3.8)."""
    crop_w, crop_h = size
    h, w = ids.shape
    if (w, h) == (crop_w, crop_h):
        return pixels, ids
    if w < crop_w or h < crop_h:
        factor = crop_h / h if h <= w else crop_w / w
        pixels, ids = resize(pixels, ids, int(factor * w + 1), int(factor * h + 1))
        h, w = ids.shape
    left = int(rng.random() * (w - crop_w))
    top = int(rng.random() * (h - crop_h))
    return window(pixels, top, left, crop_h, crop_w), window(ids, top, left, crop_h, crop_w)


def train_stages(
    pixels: torch.Tensor, ids: torch.Tensor, options: argparse.Namespace, rng
) -> Iterator[tuple[str, torch.Tensor, torch.Tensor]]:
    """(stage, pixels uint8 [H, W, 3], label ids uint8 [H, W]) after each stage of the augmentation."""
    low, high = max(1 - options.colour_jitter, 0), 1 + options.colour_jitter
    pixels = jitter(pixels, rng.uniform(low, high), rng.uniform(low, high), rng.uniform(low, high))
    yield "jitter", pixels, ids
    if rng.random() <= 0.5:
        pixels, ids = pixels.flip(1), ids.flip(1)
    yield "flip", pixels, ids
    scale = rng.choice(options.scales)
    h, w = ids.shape
    pixels, ids = resize(pixels, ids, int(w * scale), int(h * scale))
    yield "scale", pixels, ids
    yield "crop", *crop(pixels, ids, tuple(options.crop_size), rng)


def normalise(pixels: torch.Tensor) -> torch.Tensor:
    """uint8 [H, W, 3] -> float32 [3, H, W]."""
    return (pixels.permute(2, 0, 1).float() / 255 - MEAN.view(3, 1, 1)) / STD.view(3, 1, 1)


def train_ids(ids: torch.Tensor) -> torch.Tensor:
    """Label ids -> train ids, int64; ids above 33 and -1 stay."""
    result = ids.long()
    for label_id, train_id in TRAIN_ID.items():
        result = torch.where(ids == label_id, train_id, result)
    return result


def train_sample(
    pixels: torch.Tensor, ids: torch.Tensor, options: argparse.Namespace, rng
) -> tuple[torch.Tensor, torch.Tensor]:
    """Augmented: image float32 [3, H, W], train ids int64 [H, W], of size options.crop_size = (W, H)."""
    *_, (_, pixels, ids) = train_stages(pixels, ids, options, rng)
    return normalise(pixels), train_ids(ids)


def sample(
    root: str | os.PathLike, split: str, index: int, options: argparse.Namespace, seed: int, epoch: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sample `index`: image float32 [3, H, W], train ids int64 [H, W].

    As in `datasets.build_dataset`, split "train" is the folder options.mode, augmented; any other split is that folder,
    whole. Reads from `options`: mode, scales, crop_size, colour_jitter.
    """
    _, image, label = listing(root, options.mode if split == "train" else split)[index]
    pixels, ids = to_tensor(Image.open(image).convert("RGB")), to_tensor(Image.open(label))
    if split == "train":
        return train_sample(pixels, ids, options, draws(seed, epoch, index))
    return normalise(pixels), train_ids(ids)
