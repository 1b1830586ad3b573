"""The objects of the mini data set, one a class, as signed distance functions.

Points float32 [3, N] -> signed distance float32 [N], negative inside and never larger than the true one. Each object
has its own frame: y up, about the origin, within a sphere of radius 1, standing on a floor.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np


def norm(*axes: np.ndarray) -> np.ndarray:
    """Euclidean norm over arrays of one shape."""
    total = axes[0] * axes[0]
    for axis in axes[1:]:
        total += axis * axis
    return np.sqrt(total, out=total)


def dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Inner products, float32 [N], of the columns of [3, N] and [3, N] or [3, 1]."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def box(*axes_and_halves: tuple[np.ndarray, float]) -> np.ndarray:
    """Distance to the box |axis| <= half, given as (axis, half) for two or three axes."""
    sides = [np.abs(axis) - half for axis, half in axes_and_halves]
    inside = sides[0]
    for side in sides[1:]:
        inside = np.maximum(inside, side)
    return norm(*(np.maximum(side, 0) for side in sides)) + np.minimum(inside, 0)


def common(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection of two bodies whose surfaces meet at about a right angle, its edge sharp."""
    return norm(np.maximum(a, 0), np.maximum(b, 0)) + np.minimum(np.maximum(a, b), 0)


def fillet(a: np.ndarray, b: np.ndarray, width: float) -> np.ndarray:
    """Union of two bodies, rounded over about `width` where they meet."""
    blend = np.maximum(width - np.abs(a - b), 0) / width
    return np.minimum(a, b) - blend * blend * (width / 4)


def ball(p: np.ndarray) -> np.ndarray:
    return norm(*p) - 0.8


def bottle(p: np.ndarray) -> np.ndarray:
    x, y, z = p
    r = norm(x, z)
    body = box((r, 0.3), (y + 0.4, 0.46)) - 0.08
    neck = box((r, 0.1), (y - 0.48, 0.42)) - 0.03
    lip = box((r, 0.15), (y - 0.87, 0.05)) - 0.03
    return np.minimum(fillet(body, neck, 0.35), lip)


def chair(p: np.ndarray) -> np.ndarray:
    x, y, z = p
    seat = box((x, 0.39), (y + 0.1, 0.05), (z, 0.39))
    back = box((x, 0.39), (y - 0.35, 0.45), (z + 0.34, 0.05))
    legs = box((np.abs(x) - 0.33, 0.06), (y + 0.45, 0.35), (np.abs(z) - 0.33, 0.06))
    return np.minimum(np.minimum(seat, back), legs) - 0.02


def cone(p: np.ndarray) -> np.ndarray:
    x, y, z = p
    side = norm(x, z) * 0.921 + (y - 0.93) * 0.391
    return common(side + 0.02, -0.66 - y) - 0.04


def cube(p: np.ndarray) -> np.ndarray:
    x, y, z = p
    return box((x, 0.51), (y, 0.51), (z, 0.51)) - 0.05


def dumbbell(p: np.ndarray) -> np.ndarray:
    x, y, z = p
    weights = norm(np.abs(x) - 0.6, y, z) - 0.38
    handle = np.maximum(norm(y, z) - 0.13, np.abs(x) - 0.6)
    return np.minimum(weights, handle)


def mug(p: np.ndarray) -> np.ndarray:
    x, y, z = p
    r = norm(x, z)
    cup = np.maximum(box((r, 0.52), (y, 0.62)) - 0.02, -box((r, 0.43), (y - 0.2, 0.72)))
    handle = norm(norm(x - 0.56, y) - 0.32, z) - 0.09
    return np.minimum(cup, np.maximum(handle, 0.46 - r))


def mushroom(p: np.ndarray) -> np.ndarray:
    x, y, z = p
    r = norm(x, z)
    cap = np.maximum(norm(r, y - 0.05) - 0.8, 0.05 - y) - 0.03
    stem = box((r, 0.19), (y + 0.4, 0.45)) - 0.05
    return np.minimum(cap, stem)


def ring(p: np.ndarray) -> np.ndarray:
    x, y, z = p
    return norm(norm(x, y) - 0.66, z) - 0.24


def star(p: np.ndarray) -> np.ndarray:
    x, y, z = p
    r = norm(x, y)
    # Fold all ten half points onto one: the angle from the nearest tip, 0 to 36 degrees.
    angle = np.abs((np.arctan2(x, y) + np.pi / 5) % np.float32(2 * np.pi / 5) - np.float32(np.pi / 5))
    # Its edge runs from the tip at (0.95, 0) to the notch at radius 0.42, 36 degrees; (0.387, 0.922) is its normal.
    edge = (r * np.cos(angle) - 0.95) * 0.387 + r * np.sin(angle) * 0.922
    return common(edge + 0.04, np.abs(z) - 0.18) - 0.04


class Shape(NamedTuple):
    """A class: its distance function, the height of the floor it stands on, and how far it may turn (degrees)."""

    distance: Callable[[np.ndarray], np.ndarray]
    floor: float
    turn: tuple[float, float]


# Turns are limited where a side view would hide what makes the shape: the hole, the handle, the second weight.
SHAPES = {
    "ball": Shape(ball, -0.8, (0, 360)),
    "bottle": Shape(bottle, -0.94, (0, 360)),
    "chair": Shape(chair, -0.82, (-75, 75)),
    "cone": Shape(cone, -0.7, (0, 360)),
    "cube": Shape(cube, -0.56, (0, 360)),
    "dumbbell": Shape(dumbbell, -0.38, (-45, 45)),
    "mug": Shape(mug, -0.64, (-35, 35)),
    "mushroom": Shape(mushroom, -0.9, (0, 360)),
    "ring": Shape(ring, -0.9, (-50, 50)),
    "star": Shape(star, -0.77, (-45, 45)),
}
CLASSES = tuple(sorted(SHAPES))
