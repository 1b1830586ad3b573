"""Cityscapes on disk (NOTES 3.1).

Two differences from the reference's reader (NOTES 3.2): samples are sorted by name, and files that are neither images
nor labels are ignored.
"""

import hashlib
import os
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from shared import InputError
from shared.pictures import read_picture

from constants import IGNORE, LABELS

IMAGES, IMAGE_END = "leftImg8bit", "_leftImg8bit.png"
LABELS_FOLDER, LABEL_END = "gtFine", "_gtFine_labelIds.png"

_LAYOUT = f"it must hold {IMAGES}/ and {LABELS_FOLDER}/ of Cityscapes (python stdcseg/draw_mini.py draws a small one)"
_LAST_ID = max(label.id for label in LABELS)
_LOSSLESS_MODES = ("1", "L", "P", "RGB")


def split_folders(root: str | os.PathLike | None, split: str) -> tuple[Path, Path]:
    """The folders of the images and labels of `split` in `root`. InputError if one is missing."""
    if not root:
        raise InputError(f"--data_path is missing: {_LAYOUT}")
    root = Path(root)
    if not root.is_dir():
        raise InputError(f"--data_path {root}: {'not a folder' if root.exists() else 'no such folder'}; {_LAYOUT}")
    folders = root / IMAGES / split, root / LABELS_FOLDER / split
    for folder in folders:
        if not folder.is_dir():
            raise InputError(f"--data_path {root}: has no folder {folder.relative_to(root)}/; {_LAYOUT}")
    return folders


def _visible(folder: Path, folders: bool) -> set[str]:
    """Names of the folders, or of the files, directly in `folder`, without hidden ones."""
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries if not entry.name.startswith(".") and entry.is_dir() == folders}
    except OSError as error:
        raise InputError(f"{folder}: cannot be listed ({error.strerror}); check its permissions and links") from error


def _names(folder: Path, end: str) -> set[str]:
    return {file.removesuffix(end) for file in _visible(folder, folders=False) if file.endswith(end)}


def list_samples(root: str | os.PathLike | None, split: str) -> list[tuple[str, str]]:
    """[(name, city)] of all images of `split`, sorted; links are followed.

    InputError if there is none, or if one has no label.
    """
    images, labels = split_folders(root, split)
    labelled_cities = _visible(labels, folders=True)
    samples, missing = [], []
    for city in _visible(images, folders=True):
        names = _names(images / city, IMAGE_END)
        labelled = _names(labels / city, LABEL_END) if city in labelled_cities else set()
        samples += [(name, city) for name in names]
        missing += [(name, city) for name in names - labelled]
    if not samples:
        raise InputError(f"{images}: holds no image CITY/NAME{IMAGE_END}; check --data_path and the split's name")
    if missing:
        name, city = min(missing)
        more = f" ({len(missing) - 1} more images lack theirs)" if len(missing) > 1 else ""
        image, label = images / city / (name + IMAGE_END), labels / city / (name + LABEL_END)
        raise InputError(f"{image}: its label {label} is missing{more}; add the label or remove the image")
    return sorted(samples)


def _verify(image: Image.Image) -> None:
    """Compare the checksums of the file of `image`: a PNG with wrong bits can decode to wrong pixels silently."""
    with Image.open(image.filename) as again:
        again.verify()


def _packing(image: Image.Image) -> str:
    """How the file packs its samples, which `mode` does not tell: "RGB;16B" is read as RGB, "L;4" as L."""
    return " ".join(str(tile.args) for tile in image.tile)


def _decode_image(image: Image.Image) -> Image.Image:
    _verify(image)
    complaint = None
    if ";16" in _packing(image) or image.mode.startswith("I;16"):
        complaint = "has 16 bits a sample, which RGB cannot hold"
    elif image.has_transparency_data:
        if image.convert("RGBA").getchannel("A").getextrema()[0] < 255:
            complaint = "is partly transparent, which RGB cannot hold"
    elif image.mode not in _LOSSLESS_MODES:
        complaint = f"is of mode {image.mode}, which does not become RGB without loss"
    if complaint:
        raise InputError(f"{image.filename}: {complaint}; save it as 8-bit RGB")
    return image.convert("RGB")


def _decode_label(image: Image.Image) -> Image.Image:
    _verify(image)
    if image.mode != "L" or ";" in _packing(image):
        kind = image.mode if image.mode != "L" else _packing(image)
        told = f"is stored as {kind}, a label as single-channel 8-bit; give the labelIds file"
        raise InputError(f"{image.filename}: {told}")
    unknown = [value for value, count in enumerate(image.histogram()) if count and _LAST_ID < value != IGNORE]
    if unknown:
        values = ", ".join(map(str, unknown[:5])) + (f" and {len(unknown) - 5} more" if len(unknown) > 5 else "")
        remedy = "give the labelIds file (not labelTrainIds or color)"
        raise InputError(f"{image.filename}: holds {values}, no label ids of Cityscapes; {remedy}")
    return image.copy()


def load_image(path: str | os.PathLike, upright: bool = False) -> Image.Image:
    """The image in `path` as RGB; grey, palette and opaque RGBA images are converted.

    With `upright` it is turned as its EXIF orientation says. InputError if it is missing, empty, broken, not an image,
    above Pillow's size limit, or of a kind that becomes RGB only with loss: 16 bits a sample, transparency, CMYK.
    """
    return read_picture(path, _decode_image, upright)


def load_label(path: str | os.PathLike) -> Image.Image:
    """The label ids in `path`, PIL "L": 0..33, and 255 for no label or a licence plate (NOTES 3.3).

    InputError as from `load_image`, if the file is not single-channel 8-bit, or if it holds another value. A palette
    image is refused: its indices need not be label ids.
    """
    return read_picture(path, _decode_label)


class CityScapes:
    """The images of `root`/leftImg8bit/`split` with their labels, through `transform(image, label, draws)`.

    `names` are the names of the images without folder and ending, sorted. The random numbers of a sample depend on
    (seed, epoch, index) only, not on the process that reads it.
    """

    def __init__(self, root: str | os.PathLike | None, split: str, transform: Callable, seed: int = 0):
        """InputError for missing folders, no images, images without a label."""
        self._samples = list_samples(root, split)
        self._folders = split_folders(root, split)
        self.names = [name for name, _ in self._samples]
        self.transform, self.seed, self.epoch = transform, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Use the random numbers of `epoch` from now on."""
        self.epoch = epoch

    def draws(self, index: int) -> random.Random:
        """The generator of sample `index` in this epoch."""
        # The rule, which the torch twin repeats: the seed is the first 8 bytes (big-endian) of the SHA-256 of
        # "SEED/EPOCH/INDEX", three decimal numbers.
        digest = hashlib.sha256(f"{self.seed}/{self.epoch}/{index}".encode()).digest()
        return random.Random(int.from_bytes(digest[:8], "big"))

    def image_path(self, index: int) -> Path:
        """The file of image `index`."""
        name, city = self._samples[index]
        return self._folders[0] / city / (name + IMAGE_END)

    def label_path(self, index: int) -> Path:
        """The file of label `index`."""
        name, city = self._samples[index]
        return self._folders[1] / city / (name + LABEL_END)

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """(image float32 [3, H, W], train ids int64 [H, W]); InputError if a file is unusable, or sizes differ."""
        image, label = load_image(self.image_path(index)), load_label(self.label_path(index))
        if image.size != label.size:
            sizes = f"{label.width}x{label.height}, its image {self.image_path(index)} {image.width}x{image.height}"
            raise InputError(f"{self.label_path(index)}: is {sizes}; give the label of this image")
        return self.transform(image, label, self.draws(index))
