"""The torch twin's data side: a second implementation from folder to tensors, for the alignment stage "data".

It shares no code with `datasets/` and uses other means where there are any: padding, flipping and erasing on tensors,
look-up tables and blends instead of ImageOps and ImageEnhance. Draws must mean the same in both: sample `index` of
`epoch` draws from `np.random.default_rng([seed, epoch, index])`.
"""

import argparse
import math
import os

import numpy as np
import torch
from PIL import Image, ImageFilter, ImageOps, ImageStat

IMAGE_TYPES = {"jpg", "jpeg", "png", "ppm", "bmp", "pgm", "tif", "tiff", "webp"}
MODES = {"nearest": Image.NEAREST, "bilinear": Image.BILINEAR, "bicubic": Image.BICUBIC}
MEAN = torch.tensor([0.485, 0.456, 0.406])
STD = torch.tensor([0.229, 0.224, 0.225])


class Draws:
    """The random numbers of one sample in torch's types: float32 uniforms, int64 integers."""

    def __init__(self, seed: int, epoch: int, index: int):
        self.generator = np.random.default_rng([seed, epoch, index])

    def rand(self) -> float:
        return torch.tensor(self.generator.random(dtype=np.float32)).item()

    def uniform(self, low: float, high: float) -> float:
        low, high = torch.tensor(low, dtype=torch.float32), torch.tensor(high, dtype=torch.float32)
        return (low + (high - low) * self.rand()).item()

    def randint(self, high: int) -> int:
        return self.generator.integers(high).item()


def listing(root_split: str | os.PathLike) -> tuple[list[str], list[tuple[str, int]]]:
    """(class names, [(path, label)]) of an image folder, in the reference's order (NOTES 3.1, 3.2)."""
    top, classes, _ = next(os.walk(root_split))
    classes.sort()
    samples = []
    for label, name in enumerate(classes):
        paths = []
        for folder, _, files in os.walk(os.path.join(top, name), followlinks=True):
            paths += [(folder, file) for file in files if file.lower().rpartition(".")[2] in IMAGE_TYPES]
        samples += [(os.path.join(*path), label) for path in sorted(paths)]
    return classes, samples


def to_tensor(image: Image.Image) -> torch.Tensor:
    """RGB image -> uint8 [3, H, W]."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def normalise(pixels: torch.Tensor) -> torch.Tensor:
    """uint8 [3, H, W] -> float32 [3, H, W]."""
    return (pixels.to(torch.float32) / 255 - MEAN.view(3, 1, 1)) / STD.view(3, 1, 1)


def eval_pixels(image: Image.Image, resize_size: int, crop_size: int, interpolation: str) -> torch.Tensor:
    """Resize, zero-pad if need be, centre crop: uint8 [3, crop, crop] (NOTES 3.5, 3.6)."""
    w, h = image.size
    new_w = resize_size if w < h else int(resize_size * w / h)
    new_h = int(resize_size * h / w) if w < h else resize_size
    pixels = to_tensor(image.resize((new_w, new_h), MODES[interpolation]))

    lack_h, lack_w = (max(crop_size - side, 0) for side in pixels.shape[1:])
    pixels = torch.nn.functional.pad(pixels, (lack_w // 2, (lack_w + 1) // 2, lack_h // 2, (lack_h + 1) // 2))
    top, left = (int(round((side - crop_size) / 2.0)) for side in pixels.shape[1:])
    return pixels.narrow(1, top, crop_size).narrow(2, left, crop_size)


def _log_uniform(low: float, high: float, draws) -> float:
    ends = torch.log(torch.tensor([low, high]))
    return torch.exp(torch.tensor(draws.uniform(*ends.tolist()))).item()


def crop_box(w: int, h: int, draws) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of the random crop (NOTES 3.9, 3.10)."""
    for _ in range(10):
        area = w * h * draws.uniform(0.08, 1.0)
        aspect = _log_uniform(3 / 4, 4 / 3, draws)
        cw, ch = int(round(math.sqrt(area * aspect))), int(round(math.sqrt(area / aspect)))
        if cw in range(1, w + 1) and ch in range(1, h + 1):
            top = draws.randint(h - ch + 1)
            left = draws.randint(w - cw + 1)
            return left, top, left + cw, top + ch
    cw, ch = min(w, int(round(h * (4 / 3)))), min(h, int(round(w / (3 / 4))))
    left, top = (w - cw) // 2, (h - ch) // 2
    return left, top, left + cw, top + ch


def erase(pixels: torch.Tensor, probability: float, draws) -> torch.Tensor:
    """Random erasing with zeros of a normalised image [3, H, W] (NOTES 3.11)."""
    if not torch.tensor(draws.rand()) < probability:
        return pixels
    _, h, w = pixels.shape
    for _ in range(10):
        area = h * w * draws.uniform(0.02, 0.33)
        aspect = _log_uniform(0.3, 3.3, draws)
        eh, ew = int(round(math.sqrt(area * aspect))), int(round(math.sqrt(area / aspect)))
        if eh < h and ew < w:
            top = draws.randint(h - eh + 1)
            left = draws.randint(w - ew + 1)
            rows, columns = torch.arange(h)[:, None] - top, torch.arange(w) - left
            inside = (rows >= 0) & (rows < eh) & (columns >= 0) & (columns < ew)
            return pixels.masked_fill(inside, 0.0)
    return pixels


# AutoAugment "imagenet" (NOTES 3.12 to 3.14): operations by letter, then 25 times letter, tenths (T: ten), level twice
_NAMES = "Posterize Solarize AutoContrast Equalize Invert Color Contrast Sharpness Rotate ShearX"
LETTERS = dict(zip("PSAEICKHRX", _NAMES.split(), strict=True))
POLICY = (
    "P48R69S65A6-E8-E6-P67P66E4-S24E4-R88S63E6-P85ET-R23S68E6-P46R88C40R49E6-E0-E8-"
    "I6-ET-C64KT8R88CT2C88S87H47I6-X65ET-C40E6-E4-S24S65A6-I6-ET-C64KT8E8-E6-"
)


def magnitude_table(w: int, h: int) -> dict[str, torch.Tensor]:
    """Ten unsigned magnitudes of each operation that has any, on an image of w x h."""
    tops = {"ShearX": 0.3, "ShearY": 0.3, "TranslateX": 150 / 331 * w, "TranslateY": 150 / 331 * h, "Rotate": 30.0}
    tops |= dict.fromkeys(["Brightness", "Color", "Contrast", "Sharpness"], 0.9)
    table = {name: torch.linspace(0.0, top, 10) for name, top in tops.items()}
    table["Posterize"] = torch.tensor([8, 8, 7, 7, 6, 6, 5, 5, 4, 4])
    return table | {"Solarize": torch.linspace(255.0, 0.0, 10)}


def _grey(image: Image.Image) -> Image.Image:
    return image.convert("L").convert("RGB")


def _mean_grey(image: Image.Image) -> Image.Image:
    mean = int(ImageStat.Stat(image.convert("L")).mean[0] + 0.5)
    return Image.new("RGB", image.size, (mean, mean, mean))


BLEND_FROM = {
    "Brightness": lambda image: Image.new("RGB", image.size),
    "Color": _grey,
    "Contrast": _mean_grey,
    "Sharpness": lambda image: image.filter(ImageFilter.SMOOTH),
}


def apply_operation(image: Image.Image, name: str, m: float, interpolation: str) -> Image.Image:
    """One operation of AutoAugment at signed magnitude `m`."""
    if name in BLEND_FROM:
        return Image.blend(BLEND_FROM[name](image), image, 1.0 + m)
    if name in ("Posterize", "Solarize", "Invert"):
        levels = range(256)
        if name == "Posterize":
            step = 2 ** (8 - int(m))
            table = [value // step * step for value in levels]
        else:
            threshold = m if name == "Solarize" else 0
            table = [255 - value if value >= threshold else value for value in levels]
        return image.point(table * 3)
    if name == "AutoContrast":
        return ImageOps.autocontrast(image)
    if name == "Equalize":
        return ImageOps.equalize(image)
    if name == "Rotate":
        return image.rotate(m, resample=MODES[interpolation])
    matrix = torch.eye(2, 3, dtype=torch.float64)
    entry = {"ShearX": (0, 1), "ShearY": (1, 0), "TranslateX": (0, 2), "TranslateY": (1, 2)}[name]
    matrix[entry] = m if name.startswith("Shear") else -int(m)
    return image.transform(image.size, Image.AFFINE, matrix.flatten().tolist(), resample=MODES[interpolation])


def auto_augment(image: Image.Image, interpolation: str, draws) -> Image.Image:
    """AutoAugment "imagenet"."""
    row = POLICY[6 * draws.randint(25) :][:6]
    drawn = torch.tensor([draws.rand(), draws.rand()])
    signs = torch.tensor([draws.randint(2), draws.randint(2)])
    for half, chance, sign in zip((row[:3], row[3:]), drawn, signs, strict=True):
        letter, tenths, level = half
        probability = 1.0 if tenths == "T" else int(tenths) / 10
        if chance > probability:
            continue
        name = LETTERS[letter]
        m = 0.0 if level == "-" else magnitude_table(*image.size)[name][int(level)].item()
        if letter in "CKHRX" and sign == 0:
            m = -m
        image = apply_operation(image, name, m, interpolation)
    return image


def train_pixels(image: Image.Image, options: argparse.Namespace, draws) -> torch.Tensor:
    """Crop, flip, policy: uint8 [3, crop, crop]. The twin has no policies but "imagenet"."""
    size = (options.train_crop_size, options.train_crop_size)
    pixels = to_tensor(image.crop(crop_box(*image.size, draws)).resize(size, MODES[options.interpolation]))
    if draws.rand() < 0.5:
        pixels = pixels.flip(2)
    if options.auto_augment is None:
        return pixels
    if options.auto_augment != "imagenet":
        raise ValueError(f"the torch twin has no policy {options.auto_augment!r}")
    flipped = Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
    return to_tensor(auto_augment(flipped, options.interpolation, draws))


def train_tensor(image: Image.Image, options: argparse.Namespace, draws) -> torch.Tensor:
    """The training preset: float32 [3, crop, crop]."""
    pixels = normalise(train_pixels(image, options, draws))
    return erase(pixels, options.random_erase, draws) if options.random_erase > 0 else pixels


def eval_tensor(image: Image.Image, options: argparse.Namespace) -> torch.Tensor:
    """The evaluation preset: float32 [3, crop, crop]."""
    return normalise(eval_pixels(image, options.val_resize_size, options.val_crop_size, options.interpolation))


def sample(
    root_split: str | os.PathLike, index: int, options: argparse.Namespace, epoch: int, seed: int, train: bool = True
) -> tuple[torch.Tensor, int]:
    """Sample `index` of a split under the training or the evaluation preset: float32 [3, crop, crop] and its label.

    The label is the rank of its class folder. Reads from `options` what `datasets.build_transform` reads.
    """
    path, label = listing(root_split)[1][index]
    with open(path, "rb") as file:  # noqa: PTH123 - as the reference opens it
        image = Image.open(file).convert("RGB")
    if train:
        return train_tensor(image, options, Draws(seed, epoch, index)), label
    return eval_tensor(image, options), label
