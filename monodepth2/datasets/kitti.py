"""KITTI's data sets: where files lie, and one item at a time (NOTES 2.2 to 2.8)."""

import hashlib
import random
from collections.abc import Container, Sequence
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from shared import InputError
from shared.pictures import read_picture

from . import velodyne
from .splits import Line
from .transforms import SCALES, adjust, draw_jitters, intrinsics, pyramid, to_array

FULL_RESOLUTION = (375, 1242)
CAMERAS = {"l": 2, "2": 2, "r": 3, "3": 3}
_OPPOSITE = {"l": "r", "r": "l"}


def check_data_path(root: str | Path | None) -> Path:
    """`root` as a folder. InputError if it is not one."""
    todo = "give KITTI's folder (python monodepth2/draw_mini.py draws a small one)"
    if not root:
        raise InputError(f"--data_path is missing: {todo}")
    if not Path(root).is_dir():
        raise InputError(f"--data_path {root}: {'not a folder' if Path(root).exists() else 'no such folder'}; {todo}")
    return Path(root)


def load_depth_png(path: str | Path) -> np.ndarray:
    """A depth image of KITTI's depth benchmark: metres, float32 [h, w], 0 where nothing was measured (NOTES 2.2).

    InputError if it cannot be read or is not a 16-bit image.
    """

    def check_mode(image: Image.Image) -> Image.Image:
        if image.mode not in ("I;16", "I;16B", "I"):
            raise InputError(f"{path}: is a picture of mode {image.mode}, not 16-bit depth; fetch proj_depth again")
        return image.copy()

    return np.asarray(read_picture(path, check_mode)).astype(np.float32) / 256


def item_keys(frame_ids: Sequence) -> list:
    """All keys of an item with these frames ("s" may be among them), depth included."""
    images = [(name, frame, scale) for name in ("color", "color_aug") for frame in frame_ids for scale in SCALES]
    matrices = [(name, scale) for name in ("K", "inv_K") for scale in SCALES]
    return [*images, *matrices, *(["stereo_T"] if "s" in frame_ids else []), "depth_gt"]


class KITTIDataset:
    """Items of the frames in a split's lines; the subclasses say where files lie.

    `dataset[i]` is {("color", f, s): float32 [3, H // 2^s, W // 2^s], ("color_aug", f, s): the same, ("K", s),
    ("inv_K", s): float32 [4, 4], "stereo_T": float32 [4, 4], "depth_gt": float32 [1, 375, 1242]}: stereo_T if "s" is
    among the frames, depth_gt if the first line's scan exists. Without colour jitter color_aug is the same array as
    color. An item's random draws depend on (seed, epoch, index) only, not on the process that makes it.
    """

    def __init__(
        self,
        data_path: str | Path | None,
        lines: Sequence[Line],
        height: int,
        width: int,
        frame_ids: Sequence,
        is_train: bool = False,
        png: bool = False,
        resize: str = "lanczos",
        jitter: str = "per_item",
        seed: int = 0,
        keys: Container | None = None,
    ):
        """`frame_ids`: offsets, 0 first, and "s" for the other camera. `is_train`: flip and colour jitter.

        `keys`: the keys of an item to make, all by default; the random draws are the same.
        InputError for a missing folder.
        """
        self.root, self.lines = check_data_path(data_path), list(lines)
        self.height, self.width, self.frame_ids = height, width, list(frame_ids)
        self.is_train, self.suffix, self.resize, self.jitter = is_train, ".png" if png else ".jpg", resize, jitter
        self.seed, self.epoch = seed, 0
        with_depth = self.has_depth(self.lines[0])
        self.keys = [
            key for key in item_keys(frame_ids) if (keys is None or key in keys) and (key != "depth_gt" or with_depth)
        ]
        self._intrinsics = {scale: intrinsics(height, width, scale) for scale in SCALES}
        self._calibration = cache(velodyne.read_calibration)

    def __len__(self) -> int:
        return len(self.lines)

    def image_path(self, line: Line, frame: int | str) -> Path:
        """The file of `frame` (an offset or "s") of this line."""
        raise NotImplementedError

    def has_depth(self, line: Line) -> bool:
        """Whether this line has a laser scan."""
        return False

    def depth(self, line: Line, flipped: bool) -> np.ndarray:
        """Depth in metres, float32 [375, 1242], 0 where unknown; mirrored if `flipped`."""
        raise NotImplementedError

    def camera(self, line: Line, frame: int | str = 0) -> int:
        """2 or 3: the camera that took `frame`."""
        side = _OPPOSITE.get(line.side) if frame == "s" else line.side
        if line.side is None:
            raise line.error("has no side; write `<folder> <frame index> <side>` with side l or r")
        if side is None:
            raise line.error(f"side {line.side} has no opposite side; write l or r")
        return CAMERAS[side]

    def load(self, line: Line, frame: int | str) -> Image.Image:
        """The image of `frame` of this line, RGB. InputError if it is missing or broken."""
        path = self.image_path(line, frame)
        if path.is_file():
            return read_picture(path)
        other = path.with_suffix({".jpg": ".png", ".png": ".jpg"}[path.suffix])
        todo = "fetch it, or check --data_path and the split"
        if other.is_file():
            todo = f"{other.name} is there: run {'with' if other.suffix == '.png' else 'without'} --png"
        elif frame not in (0, "s"):
            todo += "; frames other than 0 need a split whose neighbours exist, such as eigen_zhou"
        name = "the other camera's frame" if frame == "s" else f"frame {frame}"
        raise line.error(f"{name} of index {line.index} is missing: {path}; {todo}")

    def set_epoch(self, epoch: int) -> None:
        """Draw from here on as in `epoch`."""
        self.epoch = epoch

    def draws(self, index: int) -> random.Random:
        """The random generator of item `index` in this epoch."""
        # The torch twin repeats this rule: the seed is the first 8 bytes, big-endian, of the SHA-256 of
        # "SEED/EPOCH/INDEX" in decimal numbers.
        digest = hashlib.sha256(f"{self.seed}/{self.epoch}/{index}".encode()).digest()
        return random.Random(int.from_bytes(digest[:8], "big"))

    def __getitem__(self, index: int) -> dict[object, np.ndarray]:
        return self.item(index, self.draws(index))

    def item(self, index: int, rng: random.Random | None) -> dict[object, np.ndarray]:
        """Item `index`, augmented by `rng` in training, otherwise not. InputError for unusable files."""
        line, item = self.lines[index], {}
        coloured = self.is_train and rng.random() > 0.5
        flipped = self.is_train and rng.random() > 0.5
        jitters = draw_jitters(rng, self.frame_ids, self.jitter) if coloured else {}
        for frame in self.frame_ids:
            self._add_images(item, line, frame, flipped, jitters)
        for key in self.keys:
            if key[0] in ("K", "inv_K"):
                item[key] = self._intrinsics[key[1]][key[0] == "inv_K"].copy()
        if "stereo_T" in self.keys:
            item["stereo_T"] = np.eye(4, dtype=np.float32)
            item["stereo_T"][0, 3] = (-0.1 if line.side == "l" else 0.1) * (-1 if flipped else 1)
        if "depth_gt" in self.keys:
            item["depth_gt"] = self.depth(line, flipped)[None]
        return item

    def _add_images(self, item: dict, line: Line, frame: int | str, flipped: bool, jitters: dict) -> None:
        wanted = [key for key in self.keys if key[0] in ("color", "color_aug") and key[1] == frame]
        if not wanted:
            return
        image = self.load(line, frame)
        if flipped:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        levels = pyramid(image, self.height, self.width, max(scale for *_, scale in wanted), self.resize)
        plain = {}
        for key in wanted:
            scale = key[2]
            if key[0] == "color_aug" and jitters:
                item[key] = to_array(adjust(levels[scale], jitters[frame, scale]))
            else:
                plain[scale] = item[key] = plain[scale] if scale in plain else to_array(levels[scale])


class KITTIRAWDataset(KITTIDataset):
    """KITTI raw: `<date>/<drive>/image_0<camera>/data/`, depth from `velodyne_points/data/`."""

    def image_path(self, line: Line, frame: int | str) -> Path:
        index = line.index + (0 if frame == "s" else frame)
        return self.root / line.folder / f"image_0{self.camera(line, frame)}/data/{index:010d}{self.suffix}"

    def scan_path(self, line: Line) -> Path:
        """The file of this line's laser scan."""
        return self.root / line.folder / f"velodyne_points/data/{line.index:010d}.bin"

    def has_depth(self, line: Line) -> bool:
        return self.scan_path(line).is_file()

    def depth_map(self, line: Line, camera: int, vel_depth: bool = False) -> np.ndarray:
        """`velodyne.depth_map` of this line's scan, float64 of the image's own size."""
        path = self.scan_path(line)
        if not path.is_file():
            raise line.error(f"its laser scan is missing: {path}; unpack the drive's velodyne_points")
        calibration = self._calibration(self.root / line.folder.split("/")[0])
        return velodyne.depth_map(velodyne.read_points(path), calibration, camera, vel_depth)

    def depth(self, line: Line, flipped: bool) -> np.ndarray:
        depth = velodyne.resize_nearest(self.depth_map(line, self.camera(line)), FULL_RESOLUTION).astype(np.float32)
        return np.fliplr(depth) if flipped else depth


class KITTIDepthDataset(KITTIRAWDataset):
    """KITTI raw with the accumulated depth of the depth benchmark, `proj_depth/groundtruth/`."""

    def projected_depth(self, line: Line) -> np.ndarray:
        """Depth in metres, float32 of the image's own size."""
        path = self.root / line.folder / f"proj_depth/groundtruth/image_0{self.camera(line)}/{line.index:010d}.png"
        if not path.is_file():
            raise line.error(f"its depth image is missing: {path}; unpack KITTI's annotated depth maps there")
        return load_depth_png(path)

    def depth(self, line: Line, flipped: bool) -> np.ndarray:
        # equals Pillow's nearest filter for 16-bit images, which the reference uses
        depth = velodyne.resize_nearest(self.projected_depth(line), FULL_RESOLUTION)
        return np.fliplr(depth) if flipped else depth


class KITTIOdomDataset(KITTIDataset):
    """KITTI odometry: `sequences/<two digits>/image_<camera>/`, without depth."""

    def image_path(self, line: Line, frame: int | str) -> Path:
        if not line.folder.isdecimal():
            raise line.error(f"{line.folder!r} is not a sequence number; give a split of odometry, or --dataset kitti")
        index = line.index + (0 if frame == "s" else frame)
        folder = self.root / f"sequences/{int(line.folder):02d}"
        return folder / f"image_{self.camera(line, frame)}/{index:06d}{self.suffix}"
