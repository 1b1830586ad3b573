"""KITTI's camera and its mirrored form (NOTES 2.3 to 2.5, 3.6), and the map from a crop to the input (NOTES 3.2)."""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from shared import InputError
from shared.files import one_line

from .objects import wrap_once
from metrics.results import read_lines


@dataclass(frozen=True)
class Calibration:
    """The projection P2, float32 [3, 4]: the left colour camera's."""

    P2: np.ndarray

    @property
    def focal(self) -> tuple[np.float32, np.float32]:
        """fu and fv in pixels."""
        return self.P2[0, 0], self.P2[1, 1]

    @property
    def middle(self) -> tuple[np.float32, np.float32]:
        """cu and cv: the principal point in pixels."""
        return self.P2[0, 2], self.P2[1, 2]

    @property
    def shift(self) -> tuple[np.float32, np.float32]:
        """tx and ty in metres, from P2's translation column."""
        return self.P2[0, 3] / -self.P2[0, 0], self.P2[1, 3] / -self.P2[1, 1]

    def project(self, points: np.ndarray) -> np.ndarray:
        """Pixels float64 [n, 2] of points [n, 3]. The divisor is the point's own z, not P2's third row (NOTES 2.4)."""
        points = np.asarray(points, np.float64)
        return (points @ self.P2[:2, :3].T.astype(np.float64) + self.P2[:2, 3]) / points[:, 2:]

    def back_project(self, u: np.ndarray, v: np.ndarray, depth: np.ndarray) -> np.ndarray:
        """Points [n, 3] at pixels u, v [n] and depths [n]."""
        (fu, fv), (cu, cv), (tx, ty) = self.focal, self.middle, self.shift
        return np.stack([(u - cu) * depth / fu + tx, (v - cv) * depth / fv + ty, depth], -1)

    def rotation_of(self, alpha: np.ndarray, u: np.ndarray) -> np.ndarray:
        """ry from alpha, at column u (NOTES 2.5)."""
        return wrap_once(alpha + np.arctan2(u - self.middle[0], self.focal[0]))

    def alpha_of(self, rotation: np.ndarray, u: np.ndarray) -> np.ndarray:
        """alpha from ry, at column u (NOTES 2.5)."""
        return wrap_once(rotation - np.arctan2(u - self.middle[0], self.focal[0]))

    def mirrored(self, width: int, height: int) -> "Calibration":
        """The camera that projects x-mirrored points into the mirrored image of this size.

        A pinhole with one focal length and a translation column, fitted to eight points all over the image (NOTES 3.6).
        P2[2, 2] becomes 0, P2[2, 3] stays.
        """
        u = np.tile(np.linspace(0, width, 4), 2)
        v = np.repeat([0.0, height], 4)
        x, y, z = self.back_project(u, v, np.linspace(2, 78, 8)).T
        x, u = -x, width - u
        one, zero = np.ones(8), np.zeros(8)
        # f x + cu z + b0 - u b2 - u z = 0 and f y + cv z + b1 - v b2 - v z = 0, in (f, cu, cv, b0, b1, b2, 1)
        across = np.stack([x, z, zero, one, zero, -u, -u * z], -1)
        down = np.stack([y, zero, z, zero, one, -v, -v * z], -1)
        *_, rows = np.linalg.svd(np.concatenate([across, down]))
        f, cu, cv, b0, b1, *_ = rows[-1] / rows[-1, -1]
        return Calibration(np.array([[f, 0, cu, b0], [0, f, cv, b1], [0, 0, 0, self.P2[2, 3]]], np.float32))


def read_calibration(path: str | Path) -> Calibration:
    """The camera of a calibration file, from its line `P2: <12 numbers>`.

    InputError if there is no such line, or it does not hold 12 finite numbers with positive focal lengths.
    """
    for number, line in enumerate(read_lines(path, "the calibration"), 1):
        name, _, values = line.partition(":")
        if name.strip() != "P2":
            continue
        where = f"{path}:{number}: P2"
        try:
            with np.errstate(over="ignore"):  # becomes Inf, and is refused below
                numbers = np.array([float(value) for value in values.split()]).astype(np.float32)
        except ValueError as error:
            raise InputError(one_line(f"{where} is not 12 numbers ({error}); fetch the file again")) from error
        if numbers.size != 12 or not np.isfinite(numbers).all():
            raise InputError(f"{where} is not 12 finite numbers; fetch the file again")
        matrix = numbers.reshape(3, 4)
        if matrix[0, 0] <= 0 or matrix[1, 1] <= 0:
            raise InputError(f"{where} has a focal length that is not positive; fetch the file again")
        return Calibration(matrix)
    raise InputError(f"{path}: no line with P2; give a calibration of KITTI's object set")


# -------------------- from a crop of an image to the network's input


def affine_maps(centre: np.ndarray, crop_width: float, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """The similarity from a crop around `centre` (x, y) to the input of `size` (W, H), and its inverse.

    Both float64 [2, 3]. The scale is W / crop_width on both axes; the crop's height plays no part. Each is the exact
    solution of three pairs of points held in float32 (NOTES 3.2).
    """
    width, height = size
    source = _three_points(np.asarray(centre, np.float64), crop_width)
    target = _three_points(np.array([width * 0.5, height * 0.5]), width)
    return cv2.getAffineTransform(source, target), cv2.getAffineTransform(target, source)


def _three_points(centre: np.ndarray, width: float) -> np.ndarray:
    """The centre, the point half a width above it, and the one half a width to that one's left, float32 [3, 2]."""
    first = centre.astype(np.float32)
    second = (centre + [0, -0.5 * width]).astype(np.float32)
    direction = first - second
    third = second + np.array([-direction[1], direction[0]])
    return np.stack([first, second, third])


def apply(affine: np.ndarray, points: np.ndarray) -> np.ndarray:
    """The map of points [..., 2], which are held in float32 (NOTES 3.5); float64."""
    points = np.asarray(points, np.float32).astype(np.float64)
    return points @ affine[:, :2].T + affine[:, 2]


def warp(image: Image.Image, inverse: np.ndarray, size: tuple[int, int]) -> Image.Image:
    """The crop as an image of `size` (W, H), black outside; sampled by Pillow, not OpenCV (NOTES 3.3)."""
    return image.transform(size, Image.Transform.AFFINE, inverse.ravel().tolist(), Image.Resampling.BILINEAR)
