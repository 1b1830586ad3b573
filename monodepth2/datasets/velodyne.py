"""Depth maps from laser scans (NOTES 2.9, 2.10, 2.12)."""

import math
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from shared import InputError

CAM_TO_CAM, VELO_TO_CAM = "calib_cam_to_cam.txt", "calib_velo_to_cam.txt"
_NUMBERS = re.compile(r"[0-9.eE+\- ]+")


class Calibration(NamedTuple):
    """Size of the rectified images of camera 2, and per camera the projection of scanner points, float64 [3, 4]."""

    width: int
    height: int
    projections: dict[int, np.ndarray]


def read_values(path: Path, shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """The numbers under these keys in a file of `key: values` lines, float64 of these shapes.

    InputError for a missing or malformed file.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise InputError(f"{path}: is missing; unpack KITTI's calibration archive there") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({type(error).__name__}); unpack the calibration again") from error
    found = {}
    for number, line in enumerate(text.splitlines(), 1):
        key, colon, values = line.partition(":")
        if line.strip() and not colon:
            raise InputError(f"{path}: line {number} is not `key: values`; unpack the calibration again")
        found[key.strip()] = values.strip()
    return {key: _numbers(path, key, found.get(key), shape) for key, shape in shapes.items()}


def _numbers(path: Path, key: str, text: str | None, shape: tuple[int, ...]) -> np.ndarray:
    if text is None:
        raise InputError(f"{path}: has no line {key}; unpack the calibration again")
    try:
        values = np.array(text.split() if _NUMBERS.fullmatch(text) else [], np.float64)
    except ValueError:
        values = np.empty(0)
    if values.size != math.prod(shape) or not np.isfinite(values).all():
        raise InputError(f"{path}: {key} is not {math.prod(shape)} numbers; unpack the calibration again")
    return values.reshape(shape)


def read_calibration(folder: str | Path) -> Calibration:
    """The calibration of one day's drives, from the two texts in its folder.

    A projection is P_rect . R_rect_00 . [R | T], in float64. The size is camera 2's for both cameras, as in the
    reference. InputError for missing or malformed texts.
    """
    folder = Path(folder)
    shapes = {"R_rect_00": (3, 3), "P_rect_02": (3, 4), "P_rect_03": (3, 4), "S_rect_02": (2,)}
    cameras = read_values(folder / CAM_TO_CAM, shapes)
    scanner = read_values(folder / VELO_TO_CAM, {"R": (3, 3), "T": (3,)})
    width, height = cameras["S_rect_02"].astype(int).tolist()
    if not (0 < width < 1 << 15 and 0 < height < 1 << 15):
        raise InputError(f"{folder / CAM_TO_CAM}: S_rect_02 is not the size of an image; unpack the calibration again")
    to_camera, rectify = np.eye(4), np.eye(4)
    to_camera[:3, :3], to_camera[:3, 3] = scanner["R"], scanner["T"]
    rectify[:3, :3] = cameras["R_rect_00"]
    return Calibration(width, height, {c: cameras[f"P_rect_0{c}"] @ rectify @ to_camera for c in (2, 3)})


def read_points(path: str | Path) -> np.ndarray:
    """The points of one scan, float32 [n, 4]: x forward, y left, z up in metres, reflectance.

    InputError for a missing, empty or truncated file.
    """
    try:
        values = Path(path).read_bytes()
    except FileNotFoundError as error:
        raise InputError(f"{path}: this scan is missing; unpack the drive's velodyne_points again") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); unpack the drive again") from error
    if not values or len(values) % 16:
        what = "is empty" if not values else f"holds {len(values)} bytes, not a multiple of 16, so it is truncated"
        raise InputError(f"{path}: {what}; unpack the drive's velodyne_points again")
    return np.frombuffer(values, "<f4").reshape(-1, 4)


def depth_map(points: np.ndarray, calibration: Calibration, camera: int, vel_depth: bool = False) -> np.ndarray:
    """Depths in metres in the image of camera 2 or 3, float64 [height, width], 0 where no point falls.

    points: float32 [n, 4] as `read_points` gives them. Depth is the projected z or, with vel_depth, the scanner's x.
    """
    points = points[points[:, 0] >= 0]
    homogeneous = np.concatenate([points[:, :3], np.ones_like(points[:, :1])], 1)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        u, v, z = calibration.projections[camera] @ homogeneous.T
        u, v = np.round(u / z) - 1, np.round(v / z) - 1  # the reference's - 1, from MATLAB's pixels
    width, height = calibration.width, calibration.height
    kept = (u >= 0) & (v >= 0) & (u < width) & (v < height)  # False for NaN
    u, v = u[kept].astype(np.int64), v[kept].astype(np.int64)
    depths = points[kept, 0].astype(np.float64) if vel_depth else z[kept]

    depth = np.zeros((height, width))
    depth[v, u] = depths  # the last point of a pixel stays
    # Of points with equal keys, the first one's pixel gets the smallest depth. The key is the reference's: because of
    # width - 1, the last pixel of a row and the first of the next row share one (NOTES 2.10).
    keys = v * (width - 1) + u - 1
    order = np.argsort(keys, kind="stable")
    _, starts, counts = np.unique(keys[order], return_index=True, return_counts=True)
    if starts.size:
        smallest = np.minimum.reduceat(depths[order], starts)[counts > 1]
        first = order[starts[counts > 1]]
        depth[v[first], u[first]] = smallest
    return np.maximum(depth, 0)


def resize_nearest(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """`image` [h, w] at `size` (height, width): output i takes input floor((i + 0.5) * n_in / n_out)."""
    rows, columns = ((2 * np.arange(n) + 1) * side // (2 * n) for n, side in zip(size, image.shape, strict=True))
    return image[rows[:, None], columns]
