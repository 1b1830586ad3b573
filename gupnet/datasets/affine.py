"""From a crop of a picture to the network's input and back (fact sheet 3.3, steps 3 and 4)."""

import cv2
import numpy as np
from PIL import Image


def affine_maps(centre: np.ndarray, crop_width: float, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """The similarity from a crop around `centre` (x, y) to the input of `size` (W, H), and its inverse.

    Both float64 [2, 3]. The scale is W / crop_width on both axes; the crop's height plays no part. Each is the exact
    solution of three pairs of points held in float32, as the reference's: a closed form moves single pixels by a grey
    level.
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
    """The map at points [..., 2], which are held in float32 as the reference's; float64."""
    points = np.asarray(points, np.float32).astype(np.float64)
    return points @ affine[:, :2].T + affine[:, 2]


def warp(image: Image.Image, inverse: np.ndarray, size: tuple[int, int]) -> Image.Image:
    """The crop as a picture of `size` (W, H); black outside the picture. Pillow's sampling, which is not OpenCV's."""
    return image.transform(size, Image.Transform.AFFINE, inverse.ravel().tolist(), Image.Resampling.BILINEAR)
