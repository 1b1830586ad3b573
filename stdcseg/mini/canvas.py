"""The camera and the canvas of the mini data's scenes, with the noise, colours and outlines that are drawn on it."""

from enum import IntEnum
from functools import cache
from typing import NamedTuple

import cv2
import numpy as np

from constants import LABELS

NEAR, FAR = 1.2, 500.0  # metres: what is drawn lies between
WHITE, ROUGH, CLOUDY = range(3)  # kinds of noise
TILE = 256  # side of the noise, which repeats

RED, GREEN, BLUE = np.float32([[0.75, 0.1, 0.1], [0.1, 0.42, 0.22], [0.1, 0.25, 0.65]])
YELLOW, PALE, BLACK = np.float32([[0.9, 0.75, 0.1], [0.9, 0.9, 0.88], [0.07, 0.07, 0.08]])
GREY = np.float32([1, 1, 1])


_DRAWN = (0, 1, 2, 3, 4, 5, 7, 8, 9, 11, 17, 20, 21, 23, 24, 26, 30)
#: the label ids of what is drawn: Id.ROAD, Id.TRAFFIC_SIGN, ...
Id = IntEnum("Id", {label.name.upper().replace(" ", "_"): label.id for label in LABELS if label.id in _DRAWN})


@cache
def noise_tiles() -> np.ndarray:
    """Noise that repeats, float32 [3, 256, 256], mean 0 and deviation 1: white, rough (1/f) and cloudy (1/f^1.8)."""
    frequency = np.hypot(np.fft.fftfreq(TILE)[:, None], np.fft.rfftfreq(TILE)[None])
    frequency[0, 0] = np.inf
    white = np.fft.rfft2(np.random.default_rng(0).standard_normal((TILE, TILE)))
    tiles = np.stack([np.fft.irfft2(white / frequency**power) for power in (0, 1, 1.8)])
    return (tiles / tiles.std((1, 2), keepdims=True)).astype(np.float32)


def noise(rng: np.random.Generator, kind: int, height: int, width: int) -> np.ndarray:
    """A piece of noise, float32 [height, width], from a position that `rng` chooses."""
    row, column = rng.integers(TILE, size=2)
    rows, columns = (row + np.arange(height)) % TILE, (column + np.arange(width)) % TILE
    return noise_tiles()[kind][rows[:, None], columns]


def noise_at(kind: int, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Noise at positions x, y, float32 [h, w], one cell a unit."""
    return cv2.remap(noise_tiles()[kind], x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)


def mix(a: np.ndarray, b: np.ndarray, amount: float) -> np.ndarray:
    return a + np.float32(amount) * (b - a)


def any_colour(rng: np.random.Generator, grey: float = 0.4) -> np.ndarray:
    """A colour of any hue, or with probability `grey` nearly without one, float32 RGB [3]."""
    saturation = rng.uniform(0, 0.12) if rng.random() < grey else rng.uniform(0.1, 0.8)
    hsv = np.float32([[[rng.uniform(0, 360), saturation, rng.uniform(0.12, 0.95)]]])
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0, 0]


def disc(x: float, y: float, rx: float, ry: float, corners: int = 16) -> np.ndarray:
    """An ellipse as an outline [n, 2]."""
    angle = np.arange(corners) * (2 * np.pi / corners)
    return np.stack([x + rx * np.cos(angle), y + ry * np.sin(angle)], 1)


def rectangle(x0: float, x1: float, y0: float, y1: float) -> np.ndarray:
    return np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])


def hull(*outlines: np.ndarray) -> np.ndarray:
    """The convex hull of outlines [n, 2]."""
    return cv2.convexHull(np.concatenate(outlines).astype(np.float32))[:, 0]


def limb(a, b, ra: float, rb: float) -> np.ndarray:
    """The hull of two discs: an arm, a leg, a beam."""
    return hull(disc(*a, ra, ra, 10), disc(*b, rb, rb, 10))


class Camera(NamedTuple):
    """Size and focal length in pixels, the vanishing point (u, v) of the street, height of the eye in metres."""

    width: int
    height: int
    focal: float
    u: float
    v: float
    eye: float

    def project(self, points) -> np.ndarray:
        """Points [n, 3] in metres -> pixels, float64 [n, 2]; the centres of pixels are whole numbers."""
        x, y, z = np.asarray(points, np.float64).T
        scale = self.focal / np.maximum(z, NEAR / 4)
        return np.stack([self.u + scale * x, self.v + scale * (self.eye - y)], 1)

    def edge(self, x: float) -> float:
        """The distance from which something at x from the middle is within the frame, and no nearer than NEAR."""
        return max(NEAR, self.focal * abs(x) / (1.1 * self.width))


class Canvas:
    """Picture float32 [H, W, 3] (display RGB, 0..1), label ids uint8 [H, W], distance float32 [H, W] in metres."""

    def __init__(self, width: int, height: int):
        self.picture = np.zeros((height, width, 3), np.float32)
        self.label = np.full((height, width), Id.SKY, np.uint8)
        self.distance = np.full((height, width), FAR, np.float32)

    def mask(self, outline: np.ndarray) -> tuple[tuple[slice, slice], np.ndarray] | None:
        """The part of the canvas that an outline [n, 2] in pixels touches and its cover there, uint8; None outside."""
        height, width = self.label.shape
        left, top = np.maximum(np.floor(outline.min(0)).astype(int) - 1, 0)
        right, bottom = np.minimum(np.ceil(outline.max(0)).astype(int) + 2, (width, height))
        if left >= right or top >= bottom:
            return None
        cover = np.zeros((bottom - top, right - left), np.uint8)
        fixed = np.round((np.clip(outline, -2e4, 2e4) - (left, top)) * 16).astype(np.int32)
        cv2.fillPoly(cover, [fixed], 255, cv2.LINE_AA, 4)
        return (slice(top, bottom), slice(left, right)), cover

    def lay(self, window: tuple[slice, slice], cover: np.ndarray, colour: np.ndarray) -> None:
        """Paint a part of the picture with a colour, [3] or [h, w, 3], as far as `cover`, uint8 [h, w], says."""
        part = self.picture[window]
        part += (cover * np.float32(1 / 255))[..., None] * (colour - part)

    def mark(self, window: tuple[slice, slice], cover: np.ndarray, label: int, distance) -> None:
        """Give the pixels that are covered by half or more their label and their distance, a number or [w]."""
        inside = cover > 127
        self.label[window][inside] = label
        self.distance[window][inside] = np.broadcast_to(np.float32(distance), cover.shape)[inside]

    def fill(self, outline: np.ndarray, colour: np.ndarray, label: int | None, distance: float) -> None:
        """Fill an outline [n, 2] in pixels with one colour [3]; label None: only paint, on something that has one."""
        found = self.mask(outline)
        if found:
            self.lay(*found, np.minimum(colour, 1))
            if label is not None:
                self.mark(*found, label, distance)

    def paste(self, quad: np.ndarray, texture: np.ndarray, label: int, distance) -> None:
        """Stretch a texture, float32 [h, w, 3 or 4], over a quad [4, 2] in pixels, clockwise from its top left corner.

        A fourth channel is the texture's cover; its label is that of the whole quad, holes included.
        distance: metres, or a function of the pixel columns [w] that gives them.
        """
        found = self.mask(quad)
        if not found:
            return
        window, cover = found
        columns = np.arange(window[1].start, window[1].stop)
        top, right, bottom, left = np.linalg.norm(np.roll(quad, -1, 0) - quad, axis=1)
        limits = texture.shape[1::-1]  # shrink to about its size in the picture first, so that nothing flickers
        width, height = np.clip([max(top, bottom), max(left, right)], 2, limits).astype(int)
        texture = cv2.resize(texture, (width, height), interpolation=cv2.INTER_AREA)
        corners = rectangle(0, width, 0, height) - 0.5
        matrix = cv2.getPerspectiveTransform(np.float32(corners), np.float32(quad - (columns[0], window[0].start)))
        colour = cv2.warpPerspective(texture, matrix, cover.shape[::-1], borderMode=cv2.BORDER_REPLICATE)
        self.mark(window, cover, label, distance(columns) if callable(distance) else distance)
        if colour.shape[2] == 4:
            cover = (cover * colour[..., 3]).astype(np.uint8)
        self.lay(window, cover, colour[..., :3])
