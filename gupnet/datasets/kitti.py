"""KITTI's object set on disk, one frame at a time (NOTES 2.1, 3)."""

import argparse
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from shared import InputError
from shared.files import one_line
from shared.pictures import read_picture

from .geometry import affine_maps, read_calibration, warp
from .objects import read_objects
from .targets import build_targets
from constants import DOWN_RATIO, MEAN, STD
from metrics.results import read_lines

_LEVELS = ((np.arange(256, dtype=np.float32) / 255)[:, None] - MEAN) / STD  # [256, 3]: normalised grey levels


class Sample(NamedTuple):
    """A frame as the network takes it."""

    image: np.ndarray  # float32 [3, H, W]
    calib: np.ndarray  # float32 [3, 4]: P2, refitted where the image is mirrored
    coord_range: np.ndarray  # float32 [2, 2]: first and last corner of the crop in the image (NOTES 3.4)
    targets: dict[str, np.ndarray]  # as `build_targets` makes them; empty for the split test
    info: dict[str, np.ndarray]  # img_id int64 [], img_size int64 [2] (W, H), bbox_downsample_ratio float64 [2]


def find_root(data_path: str | Path | None) -> Path:
    """The folder with ImageSets/: `data_path`, or KITTI/ in it. InputError if there is none."""
    todo = "give the folder of KITTI's object set (python gupnet/draw_mini.py draws a small one)"
    if not data_path:
        raise InputError(f"--data_path is missing: {todo}")
    path = Path(data_path)
    if not path.is_dir():
        raise InputError(f"--data_path {path}: {'not a folder' if path.exists() else 'no such folder'}; {todo}")
    for root in (path, path / "KITTI"):
        if any((root / name).is_dir() for name in ("ImageSets", "training", "testing")):
            return root
    raise InputError(f"--data_path {path}: holds neither ImageSets/ nor training/, nor does its KITTI/; {todo}")


def read_split(root: Path, split: str) -> list[int]:
    """The frame numbers of ImageSets/SPLIT.txt. InputError if it is missing, empty or holds anything else."""
    path = root / "ImageSets" / f"{split}.txt"
    if not path.is_file():
        raise InputError(f"{path}: no such list; write the split's frame numbers there, one per line")
    frames = []
    for number, line in enumerate(read_lines(path, "the list"), 1):
        if not line.strip():
            continue
        if not (line.strip().isascii() and line.strip().isdecimal() and len(line.strip()) < 10):
            text = one_line(line)[:40]
            raise InputError(f"{path}:{number}: {text!r} is not a frame number; write one per line, such as 000042")
        frames.append(int(line))
    if not frames:
        raise InputError(f"{path}: is empty; write the split's frame numbers there, one per line")
    return frames


def normalise(image: Image.Image) -> np.ndarray:
    """RGB image -> float32 [3, H, W]: grey level / 255, less the mean, by the deviation."""
    pixels = np.asarray(image)
    result = np.empty((3, *pixels.shape[:2]), np.float32)
    for channel in range(3):
        # no grey level is outside the table; "clip" saves numpy a copy
        np.take(_LEVELS[:, channel], pixels[..., channel], out=result[channel], mode="clip")
    return result


def network_input(
    image: Image.Image, centre: np.ndarray, crop: np.ndarray, input_size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The network's input [3, H, W] for a crop, its coord_range [2, 2], and the affine map [2, 3] from image to input.

    `centre` (x, y) and `crop` (w, h) in pixels; for a whole image half its size, and its size.
    """
    affine, inverse = affine_maps(centre, crop[0], input_size)
    coord_range = np.stack([centre - crop / 2, centre + crop / 2]).astype(np.float32)
    return normalise(warp(image, inverse, input_size)), coord_range, affine


class KITTI:
    """The frames of a split: `dataset[i]` is a `Sample`.

    With augmentation, the draws for sample i of an epoch depend on (seed, epoch, i) only, not on the process.
    """

    def __init__(self, options: argparse.Namespace, split: str, augment: bool):
        """`options`: data_path, writelist, class_merging, use_dontcare, use_3d_center, random_flip, random_crop, scale,
        shift (NOTES 1.5, 3.1), input_size (W, H) and seed.

        InputError for a missing folder, list or file, and as `read_split` raises it.
        """
        self.options, self.split, self.augment = options, split, augment
        root = find_root(options.data_path)
        self.ids = read_split(root, split)
        self.folder = root / ("testing" if split == "test" else "training")
        self.accepted = {*options.writelist}
        self.accepted |= {"Van", "Truck"} if options.class_merging else set()
        self.accepted |= {"DontCare"} if options.use_dontcare else set()
        self.input_size = tuple(options.input_size)
        self.epoch = 0
        self._check_files(root / "ImageSets" / f"{split}.txt")

    def _check_files(self, source: Path) -> None:
        """InputError for a missing file of a listed frame: at the start, not hours later."""
        for name in ("image_2", "calib", *(["label_2"] if self.split != "test" else [])):
            folder = self.folder / name
            there = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
            missing = [path for path in (self.path(k, name) for k in range(len(self))) if path.name not in there]
            if missing:
                more = f", nor {len(missing) - 1} others" if len(missing) > 1 else ""
                text = f"{missing[0]}: no such file{more}, though {source} names it"
                raise InputError(f"{text}; fetch it, or correct the list")

    def __len__(self) -> int:
        return len(self.ids)

    def path(self, index: int, name: str) -> Path:
        """The file of sample `index` in the folder "image_2", "label_2" or "calib"."""
        return self.folder / name / f"{self.ids[index]:06d}{'.png' if name == 'image_2' else '.txt'}"

    def set_epoch(self, epoch: int) -> None:
        """Draw as in `epoch` from here on."""
        self.epoch = epoch

    def draws(self, index: int) -> np.random.RandomState:
        """The generator of sample `index` in this epoch: MT19937 with the key (seed, epoch, index)."""
        return np.random.RandomState([self.options.seed, self.epoch, index])

    def __getitem__(self, index: int) -> Sample:
        return self.item(index, self.draws(index) if self.augment else None)

    def item(self, index: int, rng: np.random.RandomState | None) -> Sample:
        """Sample `index` by the draws of `rng` (NOTES 3.1); nothing is drawn without augmentation.

        InputError for a file that cannot be read.
        """
        image = read_picture(self.path(index, "image_2"))
        calibration = read_calibration(self.path(index, "calib"))
        size, options = np.array(image.size), self.options
        centre, crop, mirrored = size / 2, size.astype(np.float64), False
        if self.augment:
            mirrored = rng.random() < options.random_flip
            if rng.random() < options.random_crop:
                crop = size * np.clip(1 + options.scale * rng.randn(), 1 - options.scale, 1 + options.scale)
                for axis in range(2):
                    bound = 2 * options.shift
                    centre[axis] += size[axis] * np.clip(options.shift * rng.randn(), -bound, bound)
        if mirrored:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            calibration = calibration.mirrored(*image.size)
        pixels, coord_range, affine = network_input(image, centre, crop, self.input_size)
        map_size = tuple(side // DOWN_RATIO for side in self.input_size)
        targets = {}
        if self.split != "test":
            objects = read_objects(self.path(index, "label_2"))
            objects = objects.mirrored(image.width) if mirrored else objects
            targets = build_targets(objects, calibration, affine, map_size, self.accepted, options.use_3d_center)
        info = {
            "img_id": np.array(self.ids[index], np.int64),
            "img_size": size.astype(np.int64),
            "bbox_downsample_ratio": size / map_size,
        }
        return Sample(pixels, calibration.P2, coord_range, targets, info)
