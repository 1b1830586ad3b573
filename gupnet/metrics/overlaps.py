"""Overlaps of boxes, pairwise, for whole arrays (NOTES 7.6).

The bird's-eye intersection is exact and closed-form. In the frame of the first rectangle, |a| <= l/2 and |b| <= w/2,
its intersection with a polygon has the area

    integral over a in [-l/2, l/2] of (clamp(upper side at a) - clamp(lower side at a)),  clamp to [-w/2, w/2].

Each side of the polygon adds its part of the integral, with the sign of its direction: a straight line that the clamp
bends at most twice, hence three trapezoids. Nothing is sorted or divided by small numbers, and rectangles that touch or
coincide are no special case.
"""

import numpy as np


def image_intersections(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Intersections float64 [N] of boxes (x1, y1, x2, y2) [N, 4]; 0 where they only touch."""
    size = np.minimum(first[:, 2:], second[:, 2:]) - np.maximum(first[:, :2], second[:, :2])
    return np.where((size > 0).all(1), size[:, 0] * size[:, 1], 0.0)


def image_areas(boxes: np.ndarray) -> np.ndarray:
    """Areas float64 [N] of boxes (x1, y1, x2, y2) [N, 4]."""
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def _crossing(start: np.ndarray, end: np.ndarray, limit: np.ndarray) -> np.ndarray:
    """Where between `start` (0) and `end` (1) the limit is crossed, clamped to [0, 1]; 0 where the two are equal."""
    moved = end - start
    return np.clip(np.divide(limit - start, moved, out=np.zeros_like(moved), where=moved != 0), 0, 1)


def _clamped_integral(start: np.ndarray, end: np.ndarray, length: np.ndarray, width: np.ndarray) -> np.ndarray:
    """Integral of clamp(b) da along straight lines, within |a| <= length/2. start, end: (a, b), [N, 4] each."""
    (a0, b0), (a1, b1) = start, end
    half_length, half_width = length[:, None] / 2, width[:, None] / 2
    left, right = np.clip(a0, -half_length, half_length), np.clip(a1, -half_length, half_length)
    low, high = b0 + _crossing(a0, a1, left) * (b1 - b0), b0 + _crossing(a0, a1, right) * (b1 - b0)
    enters, leaves = _crossing(low, high, -half_width), _crossing(low, high, half_width)
    parts = [0.0, np.minimum(enters, leaves), np.maximum(enters, leaves), 1.0]
    heights = [np.clip(low + part * (high - low), -half_width, half_width) for part in parts]
    mean = sum((parts[k + 1] - parts[k]) * (heights[k] + heights[k + 1]) for k in range(3)) / 2
    return (right - left) * mean


def ground_intersections(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Intersections float64 [N] of rectangles in bird's-eye view.

    A rectangle is (x, z, l, w, ry), [N, 5]: corner (a, b), a = +-l/2, b = +-w/2, lies at
    (x + a cos ry + b sin ry, z - a sin ry + b cos ry).
    """
    x, z = (second[:, k] - first[:, k] for k in (0, 1))
    cos, sin = np.cos(first[:, 4]), np.sin(first[:, 4])
    centre = x * cos - z * sin, x * sin + z * cos
    turn = second[:, 4] - first[:, 4]
    cos, sin = np.cos(turn)[:, None], np.sin(turn)[:, None]
    a = second[:, 2:3] / 2 * np.array([-1, -1, 1, 1])
    b = second[:, 3:4] / 2 * np.array([-1, 1, 1, -1])
    corners = centre[0][:, None] + a * cos + b * sin, centre[1][:, None] - a * sin + b * cos
    following = [np.roll(values, -1, axis=1) for values in corners]
    return np.abs(_clamped_integral(corners, following, np.abs(first[:, 2]), np.abs(first[:, 3])).sum(1))


def ground_distant(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """bool [N]: the circumscribed circles of the two rectangles do not meet, so the rectangles do not either."""
    reach = (np.hypot(first[:, 2], first[:, 3]) + np.hypot(second[:, 2], second[:, 3])) / 2
    return np.hypot(first[:, 0] - second[:, 0], first[:, 1] - second[:, 1]) > reach


def height_intersections(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Intersections float64 [N] of the heights of boxes (y of the bottom, h) [N, 2], y pointing down."""
    bottom = np.minimum(first[:, 0], second[:, 0])
    top = np.maximum(first[:, 0] - first[:, 1], second[:, 0] - second[:, 1])
    return np.maximum(bottom - top, 0.0)
