"""An image folder: one sub-folder per class, listed in the order of the reference (NOTES 3.1, 3.2)."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import paddle
from PIL import Image, UnidentifiedImageError

from shared import InputError

from .transforms import Draws

#: accepted endings of file names, compared in lower case
EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _scan(folder: str) -> list[os.DirEntry]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        raise InputError(
            f"{folder}: cannot be listed ({error.strerror}); check the path and its permissions"
        ) from error


def find_classes(root: str | os.PathLike) -> list[str]:
    """Names of the folders directly in `root` (links to folders too), sorted by code point.

    InputError if `root` is missing, is not a folder or has no folder in it.
    """
    root = os.fspath(root)
    if not Path(root).is_dir():
        kind = "not a folder" if Path(root).exists() else "no such folder"
        raise InputError(f"{root}: {kind}; give a folder that holds one folder of images per class")
    classes = sorted(entry.name for entry in _scan(root) if entry.is_dir())
    if not classes:
        raise InputError(f"{root}: holds no class folders; put the images of each class into a folder of its own")
    return classes


def _walk(folder: str, parents: tuple = ()) -> list[tuple[str, list[str]]]:
    """(folder, its files) of `folder` and everything below it, links followed, unsorted."""
    status = Path(folder).stat()
    identity = (status.st_dev, status.st_ino)
    if identity in parents:
        raise InputError(f"{folder}: a link to one of its own parent folders; remove the link")
    files, folders = [], []
    for entry in _scan(folder):
        if entry.is_dir():
            folders += _walk(entry.path, (*parents, identity))
        else:
            files.append(entry.name)
    return [(folder, files), *folders]


def list_images(folder: str | os.PathLike) -> list[str]:
    """Paths of all images below `folder`: folders sorted by their path, file names sorted inside each.

    Links are followed, hidden files count, other file types are ignored.
    """
    return [
        os.path.join(parent, name)
        for parent, names in sorted(_walk(os.fspath(folder)))
        for name in sorted(names)
        if name.lower().endswith(EXTENSIONS)
    ]


def load_image(path: str | os.PathLike) -> Image.Image:
    """The file `path` as an RGB image; grey, palette, CMYK and other modes are converted (NOTES 3.4).

    InputError if it is missing, empty, truncated, not an image, or too large to be one (Pillow's limit).
    """
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - the path may be a str
            return Image.open(file).convert("RGB")
    except UnidentifiedImageError as error:
        reason = "not an image, whatever its name says" if Path(path).stat().st_size else "the file is empty"
        cause = error
    except OSError as error:
        reason, cause = error.strerror or _one_line(error), error
    except Exception as error:  # Pillow's decoders raise SyntaxError, ValueError, struct.error, ... on broken files
        reason, cause = _one_line(error), error
    raise InputError(f"{path}: cannot be read as an image ({reason}); replace or remove it") from cause


class ImageFolder(paddle.io.Dataset):
    """The images below `root` with the label of their class folder.

    Labels are ranks of the sorted folder names or, with `classes` (the class names of a network, which may be more than
    the folders), indices into that list. `samples` is [(path, label)], `targets` the labels alone.

    What `transform(image, draws)` draws for a sample depends on (seed, epoch, index) only, not on the worker. A key
    (index, repeat) instead of an index gives the repeat-th view of a sample in an epoch; repeat 0 is the view of the
    plain index.
    """

    def __init__(
        self,
        root: str | os.PathLike,
        transform: Callable,
        seed: int = 0,
        classes: Sequence[str] | None = None,
        allow_empty: bool = False,
    ):
        """InputError for a bad `root`, for folders without an image (unless `allow_empty`), for unknown folders."""
        folders = find_classes(root)
        self.classes = folders if classes is None else list(classes)
        self.transform, self.seed, self.epoch = transform, seed, 0

        index_of = {name: index for index, name in enumerate(self.classes)}
        unknown = [name for name in folders if name not in index_of]
        if unknown:
            raise InputError(
                f"{root}: {_names(unknown)} not among the network's {len(index_of)} classes; "
                "remove the folder(s) or use weights trained on these classes"
            )
        self.samples, empty = [], []
        for name in folders:
            paths = list_images(Path(root) / name)
            self.samples += [(path, index_of[name]) for path in paths]
            if not paths:
                empty.append(name)
        if empty and not (allow_empty and self.samples):
            raise InputError(
                f"{root}: no image in {_names(empty)}; add images ({' '.join(EXTENSIONS)}) or remove the folder(s)"
            )
        self.targets = [label for _, label in self.samples]

    def set_epoch(self, epoch: int) -> None:
        """Draw from now on as of `epoch`."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: int | tuple[int, int]) -> tuple[np.ndarray, np.int64]:
        """(image float32 [3, H, W], label int64); InputError if the file cannot be read."""
        # numpy's seeding pads with zeros: [seed, epoch, index] and [seed, epoch, index, 0] are one stream
        index, repeat = key if isinstance(key, tuple) else (key, 0)
        path, label = self.samples[index]
        draws = Draws(np.random.default_rng([self.seed, self.epoch, index, repeat]))
        return self.transform(load_image(path), draws), np.int64(label)


def _names(folders: Sequence[str], most: int = 5) -> str:
    """'a, b, c' or 'a, b, c, d, e and 12 more folders'."""
    more = f" and {len(folders) - most} more folders" if len(folders) > most else ""
    return ", ".join(folders[:most]) + more
