"""The ground of the mini data's streets: where the road runs, and the one large texture of all that lies flat."""

from dataclasses import dataclass

import cv2
import numpy as np

from shared.mini import to_bytes

from . import textures

GROUND_DENSITY = 14.0  # texels a metre
GROUND_X, GROUND_Z = (-42.0, 42.0), (-6.0, 134.0)  # metres that the texture covers


@dataclass(frozen=True)
class Middle:
    """The middle of the road: an arc of this curvature, 1/metres, positive to the right."""

    curvature: float

    def position(self, s: float, d: float) -> tuple[float, float, float]:
        """x, z and the heading in degrees at (s, d)."""
        k, angle = self.curvature, self.curvature * s
        x, z = (1 - np.cos(angle)) / k, np.sin(angle) / k
        return float(x + d * np.cos(angle)), float(z - d * np.sin(angle)), float(np.degrees(angle))

    def coordinates(self, x: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(s, d) of positions x, z."""
        k = self.curvature
        to_centre = 1 / k - x
        side = np.sign(k)
        return np.arctan2(side * z, side * to_centre) / k, 1 / k - side * np.hypot(to_centre, z)


def draw_ground(
    rng: np.random.Generator,
    middle: Middle,
    length: float,
    half_road: float,
    pavement: float,
    shadows: list[np.ndarray],
) -> np.ndarray:
    """The road, its marks and patches, the pavements, the gardens and all shadows, uint8 [x, z, 3].

    `length`, `half_road` (half its width) and `pavement` (its width) in metres; `shadows` are points [n, 2], x and z,
    each set's convex hull in the dark.
    """
    density = GROUND_DENSITY
    rows, columns = (int((high - low) * density) for low, high in (GROUND_X, GROUND_Z))
    x = np.float32(GROUND_X[0] + (np.arange(rows)[:, None] + 0.5) / density)
    z = np.float32(GROUND_Z[0] + (np.arange(columns)[None] + 0.5) / density)
    s, d = middle.coordinates(x, z)
    fine = textures.noise(rng, rows, columns, (0.3 * density, 0.8 * density))
    coarse = textures.noise(rng, rows, columns, (1.2 * density, 2.5 * density))
    field = 0.6 * fine + 0.8 * coarse
    off = np.abs(d)
    asphalt = textures.colour(rng, 85, 125, 0.05)
    picture = np.empty((rows, columns, 3), np.float32)
    picture[:] = textures.colour(rng, 75, 125, 0.1) * [0.97, 1.08, 0.72]  # gardens and yards
    walk = off < half_road + pavement
    picture[walk] = textures.colour(rng, 120, 170, 0.05)
    road = off < half_road
    picture[road] = asphalt
    # slabs of the pavement and mended pieces of the road, each in its own grey
    for where, long, wide, strength in ((walk & ~road, 1.7, 1.3, 0.16), (road, 6.0, 2.3, 0.2)):
        tone = rng.normal(0, strength, (int(2 * length / long) + 40, 80)).astype(np.float32)
        tone[rng.random(tone.shape) < 0.4] = 0
        slab = tone[(s / long).astype(int) % len(tone), (d / wide + 40).astype(int) % 80]
        picture[where] *= np.exp(slab[where])[:, None]
    picture = textures.speckle(picture, 0.2, field)
    kerb = (off > half_road - 0.22) & (off < half_road)
    picture[kerb] = 0.5 * picture[kerb] + 90
    dash, share = rng.uniform(5, 9), rng.uniform(0.35, 0.6)
    line = (off < 0.09) & (np.mod(s, dash) < share * dash)
    edge = np.abs(off - (half_road - 2.3)) < 0.06 if rng.random() < 0.5 else np.zeros_like(line)
    crossing = np.zeros_like(line)
    for start in rng.uniform(12, length, 3):
        crossing |= road & (np.abs(s - start) < 1.5) & (np.mod(d, 1.0) < 0.5) & (off < half_road - 0.4)
    marks = line | edge | crossing
    picture[marks] = 0.35 * picture[marks] + 150
    for _ in range(70):  # covers, stains, mended trenches
        centre = rng.uniform(0, columns), rng.uniform(0.25, 0.75) * rows
        size = rng.uniform(0.3, 1.6, 2) * density
        tone = float(rng.choice([0.55, 0.7, 1.3]))
        left, top = (max(0, int(c - h)) for c, h in zip(centre, size, strict=True))
        piece = picture[top : int(centre[1] + size[1]), left : int(centre[0] + size[0])]
        piece *= tone
    shade = np.ones((rows, columns), np.float32)
    for polygon in shadows:
        texels = (polygon - [GROUND_X[0], GROUND_Z[0]])[:, ::-1] * density
        cv2.fillConvexPoly(shade, cv2.convexHull(np.int32(np.clip(texels, -3e4, 3e4))), 0.6)
    return to_bytes(picture * cv2.blur(shade, (5, 5))[..., None])
