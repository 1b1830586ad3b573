"""COCO 2017 on disk (NOTES 2.1): the images of a split with their targets."""

import hashlib
import os
import random
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from shared import InputError
from shared.pictures import read_picture

from .annotations import is_crowd, note_unusable, read_annotations
from .transforms import Sample, Target, prepare_target

_LAYOUT = (
    "it must hold {split}2017/ and annotations/instances_{split}2017.json of COCO (python "
    "deformable_detr/draw_mini.py draws a small one)"
)


def split_paths(root: str | os.PathLike | None, split: str) -> tuple[Path, Path]:
    """The folder of `split`'s images in `root` and its annotation file. InputError if one is missing."""
    layout = _LAYOUT.format(split=split)
    if not root:
        raise InputError(f"--data_path is missing: {layout}")
    root = Path(root)
    if not root.is_dir():
        raise InputError(f"--data_path {root}: {'not a folder' if root.exists() else 'no such folder'}; {layout}")
    folder, annotations = root / f"{split}2017", root / "annotations" / f"instances_{split}2017.json"
    if not folder.is_dir():
        raise InputError(f"--data_path {root}: has no folder {folder.relative_to(root)}/; {layout}")
    if not annotations.is_file():
        raise InputError(f"--data_path {root}: has no file {annotations.relative_to(root)}; {layout}")
    return folder, annotations


class CocoDetection:
    """The images of an annotation file by ascending id, through `transform(image, target, draws)`.

    `ids` are the images' ids, `coco` is pycocotools' index of the file. The random draws of a sample depend on (seed,
    epoch, index) only, never on the process.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        annotations: str | os.PathLike,
        transform: Callable[[Image.Image, Target, random.Random], Sample],
        num_classes: int | None = None,
        seed: int = 0,
    ):
        """InputError as `read_annotations` raises it."""
        self.folder, self.annotations = Path(folder), Path(annotations)
        self.coco = read_annotations(self.annotations, num_classes)
        note_unusable(self.coco, self.annotations)
        self.ids = sorted(self.coco.imgs)
        self.transform, self.seed, self.epoch = transform, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """The draws from here on are those of `epoch`."""
        self.epoch = epoch

    def draws(self, index: int) -> random.Random:
        """The random generator of sample `index` in this epoch."""
        # The rule, which the torch twin repeats: the seed is the first 8 bytes (big-endian) of the SHA-256 of
        # "SEED/EPOCH/INDEX", three decimal numbers.
        digest = hashlib.sha256(f"{self.seed}/{self.epoch}/{index}".encode()).digest()
        return random.Random(int.from_bytes(digest[:8], "big"))

    def image_path(self, index: int) -> Path:
        """The file of image `index`."""
        return self.folder / self.coco.imgs[self.ids[index]]["file_name"]

    def read(self, index: int) -> tuple[Image.Image, Target]:
        """Image `index` as RGB and its target before any transform (see `prepare_target`).

        InputError for an image that cannot be read, or whose size differs from the annotation file's.
        """
        image = read_picture(self.image_path(index))
        entry = self.coco.imgs[self.ids[index]]
        if image.size != (entry["width"], entry["height"]):
            raise InputError(
                f"{self.image_path(index)}: is {image.width}x{image.height}, {self.annotations} says "
                f"{entry['width']}x{entry['height']}; take picture and annotations from one data set"
            )
        annotations = [a for a in self.coco.imgToAnns.get(self.ids[index], []) if not is_crowd(a)]
        return image, prepare_target(self.ids[index], annotations, image.size)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> Sample:
        """(image float32 [3, H, W], target); InputError as `read` raises it."""
        return self.transform(*self.read(index), self.draws(index))
