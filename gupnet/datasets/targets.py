"""The targets of a frame (NOTES 3.8 to 3.14)."""

from collections.abc import Collection

import numpy as np

from .geometry import Calibration, apply
from .objects import UNKNOWN, Objects
from constants import CLASSES, DOWN_RATIO, HEADING_BINS, MAX_OBJECTS, MEAN_SIZES

NEAREST = 2  # metres: nearer objects are no targets
_PAINTED = ("Van", "Truck", "DontCare")  # into the heatmap of Car, where accepted, without targets of their own
_MINIMAL_OVERLAP = 0.7
_BIN = 2 * np.pi / HEADING_BINS


def gaussian_radius(width: np.ndarray, height: np.ndarray) -> np.ndarray:
    """How far, in cells, a box's corner may move so that the boxes still overlap by 0.7, as CornerNet (NOTES 3.10)."""
    side, area, overlap = width + height, width * height, _MINIMAL_OVERLAP
    first = (side + np.sqrt(side**2 - 4 * area * (1 - overlap) / (1 + overlap))) / 2
    second = (2 * side + np.sqrt(4 * side**2 - 16 * (1 - overlap) * area)) / 2
    third = (-2 * overlap * side + np.sqrt(4 * overlap**2 * side**2 + 16 * overlap * (1 - overlap) * area)) / 2
    return np.minimum(np.minimum(first, second), third)


def gaussian2D(radius: int) -> np.ndarray:
    """A peak of height 1, float64 [2 radius + 1] * 2, with sigma a sixth of its side."""
    distance = np.arange(-radius, radius + 1.0)
    # its smallest value is exp(-9) or more, so the reference's cut at float64's epsilon never applies
    return np.exp(-(distance[:, None] ** 2 + distance**2) / (2 * ((2 * radius + 1) / 6) ** 2))


def draw_umich_gaussian(heatmap: np.ndarray, column: int, row: int, radius: int) -> None:
    """Merge a peak into a heatmap [h, w] by maximum, cut off at its border."""
    height, width = heatmap.shape
    left, right = min(column, radius), min(width - column, radius + 1)
    above, below = min(row, radius), min(height - row, radius + 1)
    part = heatmap[row - above : row + below, column - left : column + right]
    np.maximum(part, gaussian2D(radius)[radius - above : radius + below, radius - left : radius + right], out=part)


def angle2class(angle: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bin, int64, and residual in [-pi/12, pi/12) of an angle (NOTES 3.13)."""
    shifted = (np.asarray(angle, np.float64) % (2 * np.pi) + _BIN / 2) % (2 * np.pi)
    bins = np.floor(shifted / _BIN).astype(np.int64)
    return bins, shifted - (bins * _BIN + _BIN / 2)


def class2angle(bins: np.ndarray, residual: np.ndarray) -> np.ndarray:
    """The angle of a bin and a residual, up to pi."""
    angle = bins * _BIN + residual
    return np.where(angle > np.pi, angle - 2 * np.pi, angle)


def empty_targets(map_size: tuple[int, int]) -> dict[str, np.ndarray]:
    """The targets of a frame without objects; `map_size` is (w, h) of the feature map."""
    width, height = map_size

    def zeros(*shape: int, dtype: type = np.float32) -> np.ndarray:
        return np.zeros(shape, dtype)

    return {
        "depth": zeros(MAX_OBJECTS, 1),
        "size_2d": zeros(MAX_OBJECTS, 2),
        "heatmap": zeros(len(CLASSES), height, width),
        "offset_2d": zeros(MAX_OBJECTS, 2),
        "indices": zeros(MAX_OBJECTS, dtype=np.int64),
        "size_3d": zeros(MAX_OBJECTS, 3),
        "offset_3d": zeros(MAX_OBJECTS, 2),
        "heading_bin": zeros(MAX_OBJECTS, 1, dtype=np.int64),
        "heading_res": zeros(MAX_OBJECTS, 1),
        "cls_ids": zeros(MAX_OBJECTS, dtype=np.int64),
        "mask_2d": zeros(MAX_OBJECTS, dtype=np.uint8),
    }


def build_targets(
    objects: Objects,
    calibration: Calibration,
    affine: np.ndarray,
    map_size: tuple[int, int],
    accepted: Collection[str],
    use_3d_center: bool = True,
) -> dict[str, np.ndarray]:
    """Targets of a frame from its objects and camera, mirrored where the image is, and the map to the network's input.

    depth [50, 1], size_2d, offset_2d, offset_3d [50, 2], size_3d [50, 3], heading_res [50, 1] float32; heading_bin
    [50, 1], indices, cls_ids [50] int64; mask_2d [50] uint8; heatmap [3, h, w] float32. Sizes and offsets are in cells.
    An object's slot is its line in the label file, and only the first 50 count. `accepted` are the types that are not
    skipped; Van, Truck and DontCare among them are painted into the heatmap of Car and leave their slots empty.
    """
    targets = empty_targets(map_size)
    objects = objects.first(MAX_OBJECTS)
    if not len(objects):
        return targets
    boxes = apply(affine, objects.boxes.reshape(-1, 2, 2)).reshape(-1, 4).astype(np.float32) / np.float32(DOWN_RATIO)
    centre_2d = (boxes[:, :2] + boxes[:, 2:]) / 2
    size_2d = boxes[:, 2:] - boxes[:, :2]
    middle = objects.positions - np.array([0, 0.5, 0]) * objects.sizes[:, :1]
    usable = np.isin(objects.types, list(accepted)) & (objects.levels != UNKNOWN) & (objects.positions[:, 2] >= NEAREST)
    with np.errstate(divide="ignore", invalid="ignore"):  # at z = 0, where no object is usable
        centre_3d = apply(affine, calibration.project(middle)) / DOWN_RATIO
        centre = centre_3d if use_3d_center else centre_2d
        cells = np.where(usable[:, None], centre, -1).astype(np.int32)  # towards zero: -0.9 gives cell 0
    usable &= ((cells >= 0) & (cells < map_size)).all(1)
    painted = np.isin(objects.types, _PAINTED)
    radii = np.maximum(gaussian_radius(*size_2d.T.astype(np.float64)), 0)
    names = ["Car" if name in _PAINTED else name for name in objects.types]
    classes = np.array([CLASSES.index(name) if ok else 0 for name, ok in zip(names, usable, strict=True)])
    for slot in np.flatnonzero(usable):
        draw_umich_gaussian(targets["heatmap"][classes[slot]], *cells[slot], int(radii[slot]))

    k = np.flatnonzero(usable & ~painted)
    cells, classes = cells[k], classes[k]
    targets["cls_ids"][k] = classes
    targets["indices"][k] = cells[:, 1] * map_size[0] + cells[:, 0]
    targets["offset_2d"][k] = centre_2d[k] - cells
    targets["offset_3d"][k] = centre_3d[k] - cells
    targets["size_2d"][k] = size_2d[k]
    targets["depth"][k, 0] = objects.positions[k, 2]
    targets["size_3d"][k] = objects.sizes[k].astype(np.float32) - MEAN_SIZES[classes]
    # alpha at the centre of the untransformed 2D box, not the label's (NOTES 2.5)
    alpha = calibration.alpha_of(objects.rotations[k], (objects.boxes[k, 0] + objects.boxes[k, 2]) / 2)
    targets["heading_bin"][k, 0], targets["heading_res"][k, 0] = angle2class(alpha)
    targets["mask_2d"][k] = (objects.truncation[k] <= 0.5) & (objects.occlusion[k] <= 2)
    return targets
