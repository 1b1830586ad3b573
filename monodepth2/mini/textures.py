"""Textures of the mini data's streets: drawn from random numbers, smoothed for every distance, and looked up in one go.

Each has contrast at several sizes, from decimetres to metres, so that it can be matched near and far, and nothing in
it repeats exactly.
"""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from shared.mini import to_bytes

DENSITY = 20.0  # texels a metre of whatever stands
LEVELS = 6  # a texture and its halvings

#: brick, sandstone, cream, grey, ochre, white, slate, sage, rose: 0..255
WALLS = np.float32([
    (146, 88, 72), (186, 162, 124), (208, 198, 168), (138, 136, 132), (190, 148, 92),
    (202, 200, 194), (122, 134, 148), (156, 168, 140), (190, 150, 136),
])  # fmt: skip
#: white, silver, black, graphite, navy, red, bottle green, beige, light blue, yellow
PAINTS = np.float32([
    (222, 222, 220), (160, 164, 168), (34, 34, 38), (82, 84, 88), (38, 52, 104),
    (156, 32, 34), (36, 78, 56), (178, 164, 136), (98, 142, 186), (206, 168, 44),
])  # fmt: skip


def noise(rng: np.random.Generator, height: int, width: int, sizes: tuple[float, ...]) -> np.ndarray:
    """Smooth noise of mean 0 and deviation 1, float32 [height, width]; `sizes` in texels are those of its blotches."""
    total = np.zeros((height, width), np.float32)
    for size in sizes:
        grid = rng.standard_normal((int(height / size) + 3, int(width / size) + 3)).astype(np.float32)
        large = cv2.resize(grid, None, fx=size, fy=size, interpolation=cv2.INTER_CUBIC)
        y, x = int(rng.integers(0, int(size) + 1)), int(rng.integers(0, int(size) + 1))
        total += large[y : y + height, x : x + width]
    return (total - total.mean()) / (total.std() + 1e-6)


def colour(rng: np.random.Generator, low: float, high: float, saturation: float) -> np.ndarray:
    """A random colour of given brightness, float32 [3] of 0..255."""
    tint = 1 + saturation * rng.uniform(-1, 1, 3)
    return (rng.uniform(low, high) * tint / tint.mean()).astype(np.float32)


def pick(rng: np.random.Generator, palette: np.ndarray) -> np.ndarray:
    """A colour of a palette, a little off, float32 [3]."""
    return palette[rng.integers(len(palette))] * np.float32(rng.uniform(0.85, 1.1) * rng.uniform(0.95, 1.05, 3))


def speckle(picture: np.ndarray, strength: float, field: np.ndarray) -> np.ndarray:
    """`picture` [h, w, 3] made brighter and darker by a noise field [h, w]."""
    return picture * np.exp(strength * field)[..., None]


def weathered(rng: np.random.Generator, picture: np.ndarray, strength: float, *sizes: float) -> np.ndarray:
    """`picture` with noise of its own, whose blotches have these sizes in metres; uint8 [h, w, 3]."""
    field = noise(rng, *picture.shape[:2], tuple(size * DENSITY for size in sizes))
    return to_bytes(speckle(picture, strength, field))


def surface(paint: np.ndarray | tuple, height: float, width: float) -> np.ndarray:
    """One colour, float32 [h, w, 3]; sides in metres."""
    return np.full((int(height * DENSITY), int(width * DENSITY), 3), paint, np.float32)


def plain(rng: np.random.Generator, paint: np.ndarray, height: float, width: float, strength: float = 0.25):
    """A weathered surface, uint8 [h, w, 3]; sides in metres, as of all that follow."""
    return weathered(rng, surface(paint, height, width), strength, 0.15, 0.5, 1.5)


def foliage(rng: np.random.Generator, side: float) -> np.ndarray:
    """Leaves, uint8 [h, w, 3]."""
    paint = np.float32([70, 105, 45]) * rng.uniform(0.7, 1.2) * np.exp(0.12 * rng.standard_normal(3)).astype(np.float32)
    picture = surface(paint, side, side)
    size = len(picture)
    picture = speckle(picture, 0.42, noise(rng, size, size, (0.09 * DENSITY, 0.2 * DENSITY, 0.5 * DENSITY)))
    picture[..., 0] += 9 * noise(rng, size, size, (0.4 * DENSITY,))
    return to_bytes(picture)


def facade(rng: np.random.Generator, height: float, width: float) -> np.ndarray:
    """The front of a house, uint8 [h, w, 3]: storeys of windows, a shop or doors below."""
    wall = pick(rng, WALLS)
    picture = surface(wall, height, width)
    field = noise(rng, *picture.shape[:2], (0.25 * DENSITY, 0.8 * DENSITY, 2.5 * DENSITY))
    picture = speckle(picture, 0.16, field)

    def fill(x0: float, y0: float, x1: float, y1: float, paint: np.ndarray) -> None:
        """A rectangle in metres from the top left, in a shade of its own."""
        left, top, right, bottom = (max(0, int(metres * DENSITY)) for metres in (x0, y0, x1, y1))
        picture[top:bottom, left:right] = paint * (0.85 + 0.3 * rng.random())

    storey = rng.uniform(2.7, 3.4)
    trim = np.clip(wall * rng.choice([0.5, 1.5]), 20, 240)
    top = height - rng.uniform(3.0, 3.8)  # the ground floor's upper edge
    # each house paints its ground floor in its own colour
    fill(0, top, width, height, pick(rng, WALLS) * rng.uniform(0.5, 1.0))
    row = int(top * DENSITY)
    picture[row:] = speckle(picture[row:], 0.2, field[row:])
    fill(0, top - 0.35, width, top, trim)
    fill(0, 0, width, 0.4, trim)
    y = top - 0.35
    while y - storey > 0.2:
        y -= storey
        _add_storey(rng, fill, y + storey - 0.6, width, trim)
    _add_ground_floor(rng, fill, height, width, trim)
    return weathered(rng, picture, 0.09, 0.2, 1.0)


def _add_storey(rng: np.random.Generator, fill: Callable, sill: float, width: float, trim: np.ndarray) -> None:
    """A row of equal windows that stand on `sill`."""
    x = rng.uniform(0.4, 1.2)
    wide, tall = rng.uniform(0.9, 1.7), rng.uniform(1.3, 1.9)
    while x + wide < width - 0.3:
        fill(x - 0.14, sill - tall - 0.14, x + wide + 0.14, sill + 0.2, trim)
        fill(x, sill - tall, x + wide, sill, colour(rng, *((20, 75, 0.12) if rng.random() < 0.7 else (120, 205, 0.1))))
        if rng.random() < 0.4:  # a half-drawn blind
            fill(x, sill - tall, x + wide, sill - tall * rng.uniform(0.3, 0.8), colour(rng, 120, 225, 0.12))
        fill(x + wide / 2 - 0.05, sill - tall, x + wide / 2 + 0.05, sill, trim)
        x += wide + rng.uniform(0.6, 1.9)


def _add_ground_floor(rng: np.random.Generator, fill: Callable, foot: float, width: float, trim: np.ndarray) -> None:
    """Doors and shop windows above `foot`, with gaps."""
    x = rng.uniform(0.2, 1.0)
    while x < width - 1.2:
        kind, wide = rng.random(), rng.uniform(1.0, 3.4)
        wide = min(wide, width - 0.3 - x)
        if kind < 0.35:  # a door
            wide = min(wide, 1.3)
            fill(x - 0.1, foot - 2.4, x + wide + 0.1, foot, trim)
            fill(x, foot - 2.3, x + wide, foot, colour(rng, 25, 130, 0.35))
        elif kind < 0.85:  # a shop window with its sign and goods
            fill(x, foot - 2.9, x + wide, foot - 2.4, pick(rng, PAINTS))
            fill(x, foot - 2.3, x + wide, foot - 0.5, colour(rng, 20, 90, 0.15))
            for _ in range(3):
                left = x + rng.uniform(0, 0.8) * wide
                top = foot - rng.uniform(1.0, 2.0)
                fill(left, top, left + 0.18 * wide, foot - 0.55, colour(rng, 60, 230, 0.35))
        x += wide + rng.uniform(0.3, 1.5)


def car_side(rng: np.random.Generator, paint: np.ndarray, length: float, height: float) -> np.ndarray:
    """The flank of a car's body: gaps of the doors, a darker sill, a crease of light."""
    picture = surface(paint, height, length)
    rows, columns = picture.shape[:2]
    picture *= np.interp(np.linspace(0, 1, rows), [0, 0.25, 0.35, 0.8, 1], [1.15, 1.05, 0.85, 0.75, 0.4])[:, None, None]
    for gap in (0.27, 0.5, 0.74):
        at = int((gap + rng.uniform(-0.03, 0.03)) * columns)
        picture[:, at : at + max(1, int(0.05 * DENSITY))] *= 0.4
    return weathered(rng, picture, 0.13, 0.3, 1.0)


def car_end(rng: np.random.Generator, paint: np.ndarray, width: float, height: float) -> np.ndarray:
    """A car's front or rear: lights, number plate, bumper."""
    picture = surface(paint, height, width)
    rows, columns = picture.shape[:2]
    picture[int(0.6 * rows) :] *= 0.45
    light = np.float32([190, 30, 25]) if rng.random() < 0.6 else np.float32([235, 230, 205])
    for left in (0.03, 0.79):
        picture[int(0.15 * rows) : int(0.45 * rows), int(left * columns) : int((left + 0.18) * columns)] = light
    picture[int(0.4 * rows) : int(0.58 * rows), int(0.36 * columns) : int(0.64 * columns)] = (225, 225, 215)
    return weathered(rng, picture, 0.1, 0.2, 0.6)


def car_windows(rng: np.random.Generator, paint: np.ndarray, length: float, height: float) -> np.ndarray:
    """A car's glass between its pillars; the sky is mirrored in part of it."""
    picture = weathered(rng, surface((38, 44, 52), height, length), 0.45, 0.25, 0.7)
    edge = max(1, int(0.08 * DENSITY))
    picture[:edge], picture[:, :edge], picture[:, -edge:] = (to_bytes(paint),) * 3
    middle = int(rng.uniform(0.45, 0.55) * picture.shape[1])
    picture[:, middle : middle + edge] = to_bytes(paint * 0.8)
    return picture


def sky(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Clouds over blue; the lower, the paler. uint8 [height, width, 3], the zenith above."""
    upper, lower = np.float32([92, 140, 205]) * rng.uniform(0.9, 1.1), np.float32([205, 216, 228])
    mix = np.linspace(0, 1, height, dtype=np.float32)[:, None, None] ** 0.8
    clouds = 1 / (1 + np.exp(-1.8 * noise(rng, height, width, (height / 14, height / 6, height / 2.5))))[..., None]
    return to_bytes((1 - clouds) * (upper * (1 - mix) + lower * mix) + clouds * np.float32([236, 238, 240]))


@dataclass(frozen=True)
class Atlas:
    """All textures of a scene in one picture, each with its halvings, so that one look-up serves a whole view."""

    picture: np.ndarray  # uint8 [H, W, 3]
    corners: np.ndarray  # int [textures, LEVELS, 2], x and y in it
    sizes: np.ndarray  # int [textures, LEVELS, 2], width and height
    densities: np.ndarray  # float32 [textures], texels a metre

    def look_up(self, texture: np.ndarray, u: np.ndarray, v: np.ndarray, footprint: np.ndarray) -> np.ndarray:
        """The colours, float32 [h, w, 3], at (u, v), metres from the texture's corner; all arguments are [h, w].

        Beyond its edges a texture is mirrored. `footprint` is the size in metres of what one sample stands for: it
        chooses the halvings, between which the result is interpolated.
        """
        density = self.densities[texture]
        level = np.clip(np.log2(np.maximum(footprint * density, 1)), 0, LEVELS - 1.001)
        lower = level.astype(np.int32)
        part = (level - lower)[..., None]
        full = self.sizes[texture, 0].astype(np.float32)
        position = np.stack([u * density, v * density], -1) % (2 * full)
        position = np.minimum(position, 2 * full - position) / full
        first, second = (self._sample(texture, lower + step, position) for step in (0, 1))
        return first * (1 - part) + second * part

    def _sample(self, texture: np.ndarray, level: np.ndarray, position: np.ndarray) -> np.ndarray:
        size = self.sizes[texture, level].astype(np.float32)
        inside = np.clip(position * size - 0.5, 0, size - 1) + self.corners[texture, level].astype(np.float32)
        return cv2.remap(self.picture, inside[..., 0], inside[..., 1], cv2.INTER_LINEAR).astype(np.float32)


class AtlasBuilder:
    """Collects textures; `build` packs them."""

    def __init__(self):
        self._pictures, self._densities = [], []

    def add(self, picture: np.ndarray, density: float) -> int:
        """Keep a texture, uint8 [h, w, 3], of `density` texels a metre; returns its number."""
        self._pictures.append(picture)
        self._densities.append(density)
        return len(self._pictures) - 1

    def build(self) -> Atlas:
        """Shelves of textures, the tallest first; below each its halvings, side by side."""
        heights, widths = np.array([picture.shape[:2] for picture in self._pictures]).T
        across = int(max(widths.max(), 2048))
        corners = np.zeros((len(widths), LEVELS, 2), np.int32)
        sizes = np.ones((len(widths), LEVELS, 2), np.int32)
        x = y = shelf = 0
        for k in np.argsort(-heights, kind="stable"):
            if x + widths[k] > across:
                x, y, shelf = 0, y + shelf, 0
            shelf = max(shelf, heights[k] + (heights[k] + 1) // 2)
            left = x
            for level in range(LEVELS):
                corners[k, level] = (x, y) if level == 0 else (left, y + heights[k])
                sizes[k, level] = max(widths[k] >> level, 1), max(heights[k] >> level, 1)
                left += sizes[k, level, 0] if level else 0
            x += widths[k] + 2 * LEVELS  # halvings of narrow textures may stand out by a texel each
        picture = np.zeros((y + shelf, across + 2 * LEVELS, 3), np.uint8)
        for k, level_0 in enumerate(self._pictures):
            for level in range(LEVELS):
                (left, top), (width, height) = corners[k, level], sizes[k, level]
                halved = cv2.resize(level_0, (int(width), int(height)), interpolation=cv2.INTER_AREA)
                picture[top : top + height, left : left + width] = halved
        return Atlas(picture, corners, sizes, np.float32(self._densities))
