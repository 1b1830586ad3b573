"""Cityscapes on disk (fact sheet 3.1).

Two differences from the reference's reader: samples are sorted by name (there they come in the order of `os.listdir`,
which differs between machines), and files that are neither pictures nor labels are passed over (there a stray file
beside the pictures breaks an assertion).
"""

import hashlib
import io
import os
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from shared import InputError

from constants import IGNORE, LABELS

PICTURES, PICTURE_END = "leftImg8bit", "_leftImg8bit.png"
LABEL_PICTURES, LABEL_END = "gtFine", "_gtFine_labelIds.png"

_LAYOUT = (
    f"it must hold {PICTURES}/ and {LABEL_PICTURES}/ of Cityscapes (python stdcseg/draw_mini.py draws a small one)"
)
_LAST_ID = max(label.id for label in LABELS)
_LOSSLESS_MODES = ("1", "L", "P", "RGB")


def split_folders(root: str | os.PathLike | None, split: str) -> tuple[Path, Path]:
    """The folders of `split`'s pictures and labels in `root`. InputError if anything of that is missing."""
    if not root:
        raise InputError(f"--data_path is missing: {_LAYOUT}")
    root = Path(root)
    if not root.is_dir():
        raise InputError(f"--data_path {root}: {'not a folder' if root.exists() else 'no such folder'}; {_LAYOUT}")
    folders = root / PICTURES / split, root / LABEL_PICTURES / split
    for folder in folders:
        if not folder.is_dir():
            raise InputError(f"--data_path {root}: has no folder {folder.relative_to(root)}/; {_LAYOUT}")
    return folders


def _visible(folder: Path, folders: bool) -> set[str]:
    """Names of the folders, or of the files, directly in `folder`; hidden ones left out."""
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries if not entry.name.startswith(".") and entry.is_dir() == folders}
    except OSError as error:
        raise InputError(f"{folder}: cannot be listed ({error.strerror}); check its permissions and links") from error


def _names(folder: Path, end: str) -> set[str]:
    return {file.removesuffix(end) for file in _visible(folder, folders=False) if file.endswith(end)}


def list_samples(root: str | os.PathLike | None, split: str) -> list[tuple[str, str]]:
    """[(name, city)] of all pictures of `split`, sorted; links are followed.

    InputError if there is none, or if one has no label.
    """
    pictures, labels = split_folders(root, split)
    labelled_cities = _visible(labels, folders=True)
    samples, missing = [], []
    for city in _visible(pictures, folders=True):
        names = _names(pictures / city, PICTURE_END)
        labelled = _names(labels / city, LABEL_END) if city in labelled_cities else set()
        samples += [(name, city) for name in names]
        missing += [(name, city) for name in names - labelled]
    if not samples:
        raise InputError(f"{pictures}: holds no picture CITY/NAME{PICTURE_END}; check --data_path and the split's name")
    if missing:
        name, city = min(missing)
        more = f" ({len(missing) - 1} more pictures lack theirs)" if len(missing) > 1 else ""
        picture, label = pictures / city / (name + PICTURE_END), labels / city / (name + LABEL_END)
        raise InputError(f"{picture}: its label {label} is missing{more}; add the label or remove the picture")
    return sorted(samples)


def _open(path: str | os.PathLike) -> Image.Image:
    """The picture in `path`, checksums compared, not yet decoded."""
    data = Path(path).read_bytes()
    Image.open(io.BytesIO(data)).verify()  # a PNG with wrong bits can decode to wrong pixels without complaint
    return Image.open(io.BytesIO(data))


def _read(path: str | os.PathLike, check: Callable[[Image.Image], str | None]) -> Image.Image:
    """The decoded picture in `path`. InputError if it is unreadable, or if `check` complains about its kind."""
    try:
        image = _open(path)
        complaint = check(image)
        image.load()
    except UnidentifiedImageError as error:
        reason = "not an image, whatever its name says" if Path(path).stat().st_size else "the file is empty"
        cause = error
    except OSError as error:
        reason, cause = error.strerror or " ".join(str(error).split()), error
    except Exception as error:  # Pillow's decoders answer broken files with SyntaxError, ValueError, struct.error, ...
        reason, cause = " ".join(str(error).split()) or type(error).__name__, error
    else:
        if complaint:
            raise InputError(f"{path}: {complaint}")
        return image
    raise InputError(f"{path}: cannot be read as an image ({reason}); replace or remove it") from cause


def _packing(image: Image.Image) -> str:
    """How the file packs its samples, which `mode` alone does not tell: "RGB;16B" is read as RGB, "L;4" as L."""
    return " ".join(str(tile.args) for tile in image.tile)


def _picture_complaint(image: Image.Image) -> str | None:
    if ";16" in _packing(image) or image.mode.startswith("I;16"):
        return "has 16 bits a sample, which RGB cannot hold; save it as 8-bit RGB"
    if image.has_transparency_data:
        if image.convert("RGBA").getchannel("A").getextrema()[0] < 255:
            return "is transparent in places, which RGB cannot hold; save it as 8-bit RGB"
    elif image.mode not in _LOSSLESS_MODES:
        return f"is of mode {image.mode}, which does not become RGB without loss; save it as 8-bit RGB"
    return None


def _label_complaint(image: Image.Image) -> str | None:
    if image.mode != "L" or ";" in _packing(image):
        kind = image.mode if image.mode != "L" else _packing(image)
        return f"is stored as {kind}, a label as single-channel 8-bit; give the labelIds picture"
    unknown = [value for value, count in enumerate(image.histogram()) if count and _LAST_ID < value != IGNORE]
    if unknown:
        values = ", ".join(map(str, unknown[:5])) + (f" and {len(unknown) - 5} more" if len(unknown) > 5 else "")
        return f"holds {values}, no label ids of Cityscapes; give the labelIds picture (not labelTrainIds or color)"
    return None


def load_image(path: str | os.PathLike) -> Image.Image:
    """The picture in `path` as RGB; grey, palette and opaque RGBA pictures are converted.

    InputError if it is missing, empty, broken, not an image, too large to be one (Pillow's limit), or of a kind that
    becomes RGB only with loss: 16 bits a sample, transparency, CMYK and the like.
    """
    return _read(path, _picture_complaint).convert("RGB")


def load_label(path: str | os.PathLike) -> Image.Image:
    """The label ids in `path`, PIL "L": 0..33, and 255 for no label (licence plates, whose id is -1, are stored so).

    InputError as `load_image` raises it, if the file is not single-channel 8-bit, or if it holds another value than
    these. A palette picture is refused: its indices need not be label ids.
    """
    return _read(path, _label_complaint)


class Cityscapes:
    """The pictures of `root`/leftImg8bit/`split` with their labels, through `transform(image, label, draws)`.

    `names` are the pictures' names without folder and ending, sorted. What is drawn for a sample depends on (seed,
    epoch, index) only, never on the process that does it.
    """

    def __init__(self, root: str | os.PathLike | None, split: str, transform: Callable, seed: int = 0):
        """InputError for missing folders, no pictures, pictures without a label."""
        self._samples = list_samples(root, split)
        self._folders = split_folders(root, split)
        self.names = [name for name, _ in self._samples]
        self.transform, self.seed, self.epoch = transform, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """The draws from here on are those of `epoch`."""
        self.epoch = epoch

    def draws(self, index: int) -> random.Random:
        """The randomness of sample `index` in this epoch."""
        # The rule, which the torch twin repeats: the seed is the first 8 bytes (the first is the highest) of the
        # SHA-256 of "SEED/EPOCH/INDEX", three decimal numbers.
        digest = hashlib.sha256(f"{self.seed}/{self.epoch}/{index}".encode()).digest()
        return random.Random(int.from_bytes(digest[:8], "big"))

    def image_path(self, index: int) -> Path:
        """Where picture `index` lies."""
        name, city = self._samples[index]
        return self._folders[0] / city / (name + PICTURE_END)

    def label_path(self, index: int) -> Path:
        """Where label `index` lies."""
        name, city = self._samples[index]
        return self._folders[1] / city / (name + LABEL_END)

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """(image float32 [3, H, W], train ids int64 [H, W]); InputError if a file is unusable, or sizes differ."""
        image, label = load_image(self.image_path(index)), load_label(self.label_path(index))
        if image.size != label.size:
            sizes = f"{label.width}x{label.height}, its picture {self.image_path(index)} {image.width}x{image.height}"
            raise InputError(f"{self.label_path(index)}: is {sizes}; give the label of this picture")
        return self.transform(image, label, self.draws(index))
