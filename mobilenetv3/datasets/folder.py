"""An image folder: one sub-folder per class, listed in the order of the reference (NOTES 3.1, 3.2)."""

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from shared import InputError
from shared.pictures import read_picture

from .transforms import Draws

#: accepted endings of file names, compared in lower case
EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")


def _walk(folder: str | os.PathLike) -> Iterator[tuple[str, list[str], list[str]]]:
    """os.walk, links followed; InputError for a folder that cannot be listed or that a link leads back to."""

    def refuse(error: OSError) -> None:
        text = f"{error.filename}: cannot be listed ({error.strerror}); check the path and its permissions"
        raise InputError(text) from error

    for parent, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        here = Path(parent).resolve()
        for name in folders:
            if here.is_relative_to((here / name).resolve()):
                raise InputError(f"{parent}/{name}: a link to one of its own parent folders; remove the link")
        yield parent, folders, names


def find_classes(root: str | os.PathLike) -> list[str]:
    """Names of the folders directly in `root` (links to folders too), sorted by code point.

    InputError if `root` is missing, is not a folder or has no folder in it.
    """
    if not Path(root).is_dir():
        kind = "not a folder" if Path(root).exists() else "no such folder"
        raise InputError(f"{root}: {kind}; give a folder that holds one folder of images per class")
    _, classes, _ = next(_walk(root))
    if not classes:
        raise InputError(f"{root}: holds no class folders; put the images of each class into a folder of its own")
    return sorted(classes)


def list_images(folder: str | os.PathLike) -> list[str]:
    """Paths of all images below `folder`: folders sorted by their path, file names sorted inside each.

    Links are followed, hidden files count, other file types are ignored.
    """
    listed = sorted((parent, sorted(names)) for parent, _, names in _walk(folder))
    return [
        os.path.join(parent, name) for parent, names in listed for name in names if name.lower().endswith(EXTENSIONS)
    ]


class ImageFolder:
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
    ):
        """InputError for a bad `root`, for folders without an image and for folders that `classes` lacks."""
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
        if empty:
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
        return self.transform(read_picture(path), draws), np.int64(label)


def _names(folders: Sequence[str], most: int = 5) -> str:
    """'a, b, c' or 'a, b, c, d, e and 12 more folders'."""
    more = f" and {len(folders) - most} more folders" if len(folders) > most else ""
    return ", ".join(folders[:most]) + more
