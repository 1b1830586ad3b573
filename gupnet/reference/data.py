"""The torch twin's data side: a second way from the files to the same sample, for the alignment stage "data".

It shares no code with `datasets/`; it is written from NOTES 2 and 3, one object at a time. On both sides Pillow decodes
and warps, OpenCV solves for the affine matrix, and numpy's SVD refits the camera; both also share which generator a
sample draws from (`draws`).
"""

import argparse
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

NAMES = ("Pedestrian", "Car", "Cyclist")
MEAN_SIZES = {  # height, width, length in metres
    "Pedestrian": (1.76255119, 0.66068622, 0.84422524),
    "Car": (1.52563191462, 1.62856739989, 3.88311640418),
    "Cyclist": (1.73698127, 0.59706367, 1.76282397),
}
PAINTED = ("Van", "Truck", "DontCare")  # into the heatmap of Car, where accepted
SLOTS, STRIDE, BINS = 50, 4, 12
LEVELS = ("DontCare", "Easy", "Moderate", "Hard", "UnKnown")


# ---------------------------------------------------------------- files


def root(options: argparse.Namespace) -> Path:
    """The folder with ImageSets/ and training/: the data path itself, or KITTI/ in it."""
    path = Path(options.data_path)
    return path if (path / "ImageSets").is_dir() else path / "KITTI"


def frames(options: argparse.Namespace, split: str) -> list[int]:
    return [int(line) for line in (root(options) / "ImageSets" / f"{split}.txt").read_text().split()]


@dataclass
class Label:
    """A line of a label file; box and position float32, the rest Python's floats."""

    kind: str
    truncation: float
    occlusion: float
    box: np.ndarray
    size: tuple[float, float, float]
    position: np.ndarray
    ry: float

    @property
    def level(self) -> str:
        """Difficulty (NOTES 2.6)."""
        height = float(self.box[3]) - float(self.box[1]) + 1
        if self.truncation == -1:
            return "DontCare"
        for name, least, truncated, occluded in (
            ("Easy", 40, 0.15, 0),
            ("Moderate", 25, 0.3, 1),
            ("Hard", 25, 0.5, 2),
        ):
            if height >= least and self.truncation <= truncated and self.occlusion <= occluded:
                return name
        return "UnKnown"


def labels(text: str) -> list[Label]:
    found = []
    for line in text.splitlines():
        kind, *numbers = line.split()
        v = [float(number) for number in numbers]
        box, position = np.array(v[3:7], np.float32), np.array(v[10:13], np.float32)
        found.append(Label(kind, v[0], v[1], box, tuple(v[7:10]), position, v[13]))
    return found


def projection(text: str) -> np.ndarray:
    """P2 [3, 4] float32: the third line of a calibration file."""
    return np.array(text.splitlines()[2].split()[1:], np.float32).reshape(3, 4)


# ---------------------------------------------------------------- geometry


def affine(centre: np.ndarray, width: float, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """The similarity from a crop to an image of `size` (W, H) and its inverse, [2, 3] float64 each.

    Solved from three points in float32: the centre, half a width above it, and the corner left of that.
    """

    def points(middle, extent: float) -> np.ndarray:
        found = np.zeros((3, 2), np.float32)
        found[0] = middle
        found[1] = np.asarray(middle) + (0, -0.5 * extent)
        across = found[0] - found[1]
        found[2] = found[1] + np.array([-across[1], across[0]])
        return found

    source, target = points(centre, width), points((size[0] / 2, size[1] / 2), size[0])
    return cv2.getAffineTransform(source, target), cv2.getAffineTransform(target, source)


def moved(matrix: np.ndarray, point: np.ndarray) -> np.ndarray:
    """A point, cast to float32, through a [2, 3] matrix -> [2] float64."""
    return matrix @ np.array([*point, 1], np.float32).astype(np.float64)


def mirrored(p2: np.ndarray, width: int, height: int) -> np.ndarray:
    """The camera of the mirrored image, refitted to eight points (NOTES 3.6): [3, 4] float32."""
    focal, centre = p2[[0, 1], [0, 1]], p2[:2, 2]
    shift = p2[:2, 3] / -focal
    v, u = np.meshgrid(np.linspace(0, height, 2), np.linspace(0, width, 4), indexing="ij")
    pixels, depths = np.stack([u.ravel(), v.ravel()], 1), np.linspace(2, 78, 8)
    points = (pixels - centre) * depths[:, None] / focal + shift
    points[:, 0] *= -1
    pixels[:, 0] = width - pixels[:, 0]
    equations = np.zeros((8, 2, 7))
    for axis in range(2):
        equations[:, axis, 0] = points[:, axis]
        equations[:, axis, 1 + axis] = depths
        equations[:, axis, 3 + axis] = 1
        equations[:, axis, 5] = -pixels[:, axis]
        equations[:, axis, 6] = -pixels[:, axis] * depths
    f, cu, cv, b0, b1, _, one = np.linalg.svd(equations.reshape(16, 7))[2][6]
    rows = [[f / one, 0, cu / one, b0 / one], [0, f / one, cv / one, b1 / one], [0, 0, 0, p2[2, 3]]]
    return np.array(rows, np.float32)


def wrapped(angle: float) -> float:
    """Moved once by 2 pi where beyond +-pi."""
    return angle - 2 * math.pi if angle > math.pi else angle + 2 * math.pi if angle < -math.pi else angle


def radius(width: float, height: float) -> int:
    """The radius of a box's Gaussian, in cells: the least of CornerNet's three, each divided by 2."""
    total, area = width + height, width * height
    roots = (
        total + math.sqrt(total**2 - 4 * area * 0.3 / 1.7),
        2 * total + math.sqrt(4 * total**2 - 16 * 0.3 * area),
        -1.4 * total + math.sqrt(1.96 * total**2 + 4 * 2.8 * 0.3 * area),
    )
    return max(0, int(min(roots) / 2))


def gaussian(cell: np.ndarray, spread: int, height: int, width: int) -> np.ndarray:
    """[height, width] float64: a Gaussian around a cell (column, row), zero beyond `spread` cells on either axis."""
    across, down = np.abs(np.arange(width) - cell[0]), np.abs(np.arange(height) - cell[1])
    sigma = (2 * spread + 1) / 6
    values = np.exp(-(across**2 + down[:, None] ** 2) / (2 * sigma**2))
    far = (np.maximum(across, down[:, None]) > spread) | (values < np.finfo(np.float64).eps)
    return np.where(far, 0, values)


def heading_class(alpha: float) -> tuple[int, float]:
    """Angle -> bin, and the residual to the bin's centre."""
    step = 2 * math.pi / BINS
    shifted = (alpha % (2 * math.pi) + step / 2) % (2 * math.pi)
    index = int(shifted / step)
    return index, shifted - (index + 0.5) * step


# ---------------------------------------------------------------- samples


def draws(seed: int, epoch: int, index: int) -> np.random.RandomState:
    """The generator of a training sample, by the rule of `datasets/kitti.py`."""
    return np.random.RandomState([seed, epoch, index])


def sample(
    options: argparse.Namespace, split: str, index: int, rng=None
) -> tuple[np.ndarray, np.ndarray, np.ndarray, dict, dict]:
    """(image [3, H, W], P2 [3, 4], coord_range [2, 2], targets, info) as in NOTES 3, floats in float32.

    `rng` gives the draws of the augmentation; None: no augmentation.
    """
    number = frames(options, split)[index]
    folder = root(options) / ("testing" if split == "test" else "training")
    picture = Image.open(folder / "image_2" / f"{number:06d}.png").convert("RGB")
    extent = np.array(picture.size)
    middle, crop, flip = extent / 2, extent.astype(np.float64), False
    if rng is not None:
        flip = rng.random() < options.random_flip
        if rng.random() < options.random_crop:
            crop = extent * min(max(rng.randn() * options.scale + 1, 1 - options.scale), 1 + options.scale)
            for axis in range(2):
                step = min(max(rng.randn() * options.shift, -2 * options.shift), 2 * options.shift)
                middle[axis] += extent[axis] * step
    if flip:
        picture = picture.transpose(Image.FLIP_LEFT_RIGHT)
    size = tuple(options.input_size)
    matrix, inverse = affine(middle, crop[0], size)
    picture = picture.transform(size, Image.AFFINE, inverse.ravel().tolist(), Image.BILINEAR)
    pixels = np.asarray(picture, np.float32) / np.float32(255)
    pixels = (pixels - np.array([0.485, 0.456, 0.406], np.float32)) / np.array([0.229, 0.224, 0.225], np.float32)
    p2 = projection((folder / "calib" / f"{number:06d}.txt").read_text())
    shape = np.array(size) // STRIDE
    info = {"img_id": number, "img_size": extent, "bbox_downsample_ratio": extent / shape}
    targets = {}
    if split != "test":
        objects = labels((folder / "label_2" / f"{number:06d}.txt").read_text())
        if flip:
            p2 = mirrored(p2, *extent)
            for label in objects:
                label.box[[0, 2]] = extent[0] - label.box[[2, 0]]
                label.position[0] *= -1
                label.ry = wrapped(math.pi - label.ry)
        targets = encode(objects, p2, matrix, shape, options)
    span = np.stack([middle - crop / 2, middle + crop / 2]).astype(np.float32)
    return pixels.transpose(2, 0, 1), p2, span, targets, info


def _slots() -> dict[str, np.ndarray]:
    floats = {"depth": 1, "size_2d": 2, "offset_2d": 2, "size_3d": 3, "offset_3d": 2, "heading_res": 1}
    found = {name: np.zeros((SLOTS, width), np.float32) for name, width in floats.items()}
    found["heading_bin"] = np.zeros((SLOTS, 1), np.int64)
    found |= {name: np.zeros(SLOTS, np.int64) for name in ("indices", "cls_ids")}
    return found | {"mask_2d": np.zeros(SLOTS, np.uint8)}


def encode(objects: list[Label], p2: np.ndarray, matrix: np.ndarray, shape: np.ndarray, options) -> dict:
    """Targets (NOTES 3.8 to 3.14) of the labels of an image, for a map of `shape` (columns, rows)."""
    columns, rows = (int(count) for count in shape)
    targets = _slots() | {"heatmap": np.zeros((len(NAMES), rows, columns), np.float32)}
    accepted = set(options.writelist)
    accepted |= {"Van", "Truck"} if options.class_merging else set()
    accepted |= {"DontCare"} if options.use_dontcare else set()
    for slot, label, box, centre, middle in _seen(objects, p2, matrix, accepted):
        cell = (middle if options.use_3d_center else centre).astype(np.int32)
        if not (0 <= cell[0] < columns and 0 <= cell[1] < rows):
            continue
        width, height = box[2:] - box[:2]
        channel = targets["heatmap"][1 if label.kind in PAINTED else NAMES.index(label.kind)]
        np.maximum(channel, gaussian(cell, radius(float(width), float(height)), rows, columns), out=channel)
        if label.kind in PAINTED:
            continue
        targets["cls_ids"][slot] = NAMES.index(label.kind)
        targets["indices"][slot] = cell[1] * columns + cell[0]
        targets["offset_2d"][slot] = centre - cell
        targets["size_2d"][slot] = width, height
        targets["depth"][slot] = label.position[2]
        targets["offset_3d"][slot] = middle - cell
        targets["size_3d"][slot] = np.array(label.size, np.float32) - np.array(MEAN_SIZES[label.kind])
        across = (label.box[0] + label.box[2]) / np.float32(2)
        alpha = wrapped(label.ry - float(np.arctan2(across - p2[0, 2], p2[0, 0])))  # arctan2 in float32
        targets["heading_bin"][slot], targets["heading_res"][slot] = heading_class(alpha)
        targets["mask_2d"][slot] = label.truncation <= 0.5 and label.occlusion <= 2
    return targets


def _seen(objects: list[Label], p2: np.ndarray, matrix: np.ndarray, accepted: set[str]) -> Iterator[tuple]:
    """(slot, label, box, its centre, 3D centre), in cells, of the objects that are not skipped."""
    for slot, label in enumerate(objects[:SLOTS]):
        if label.kind not in accepted or label.level == "UnKnown" or label.position[2] < 2:
            continue
        box = np.concatenate([moved(matrix, label.box[:2]), moved(matrix, label.box[2:])]).astype(np.float32) / STRIDE
        body = label.position.astype(np.float64) - (0, label.size[0] / 2, 0)
        seen = (p2.astype(np.float64) @ [*body, 1])[:2] / body[2]
        yield slot, label, box, (box[:2] + box[2:]) / np.float32(2), moved(matrix, seen) / STRIDE
