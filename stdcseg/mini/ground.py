"""Sky and ground of a scene: the strips of the street, what land lies beside it, and how they look."""

from typing import NamedTuple

import cv2
import numpy as np

from .canvas import CLOUDY, FAR, GREY, PALE, ROUGH, TILE, WHITE, YELLOW, Id, any_colour, mix, noise_at
from .scene import Scene


class Side(NamedTuple):
    """One side of the street: where each strip of the ground ends, in metres outwards from the camera's middle.

    There are no parking bays where `parking` is `road`; the kerb follows, then the sidewalk up to `walk`.
    """

    sign: int  # -1 left, 1 right
    road: float
    parking: float
    walk: float


class Lot(NamedTuple):
    """A piece of land beside the street, from z = start to end."""

    start: float
    end: float
    kind: str  # house, garden, park, gap
    ground: Id


def draw_side(rng: np.random.Generator, sign: int) -> Side:
    road = rng.uniform(2.2, 3.2) if sign > 0 else rng.uniform(3.2, 5)
    parking = road + (rng.uniform(2.0, 2.5) if rng.random() < 0.25 else 0)
    return Side(sign, road, parking, parking + rng.uniform(2.5, 4.5))


def draw_lots(rng: np.random.Generator, end: float) -> list[Lot]:
    """Lots from beside the camera to the end of the street."""
    lots, z, taste = [], rng.uniform(-6, 2), rng.dirichlet([3, 2.8, 1.2, 0.6])
    while z < end:
        kind = ("house", "garden", "park", "gap")[rng.choice(4, p=taste)]
        length = rng.uniform(5, 9) if kind == "gap" else rng.uniform(8, 22)
        ground = Id.PARKING if kind == "gap" and rng.random() < 0.4 else Id.SIDEWALK
        lots.append(Lot(z, z + length, kind, ground))
        z += length
    return lots


def draw_sky(scene: Scene) -> None:
    """A gradient down to the horizon, and clouds that grow flat towards it."""
    rng, camera, canvas = scene.rng, scene.camera, scene.canvas
    height, width = canvas.label.shape
    rise = np.clip((camera.v - np.arange(height, dtype=np.float32)) / camera.v, 0, 1)[:, None]
    pale = mix(scene.sky, PALE, rng.uniform(0.3, 0.9))
    canvas.picture[:] = pale + np.sqrt(rise)[..., None] * (scene.sky - pale)
    away = np.repeat(1 / (rise + 0.15), width, 1)
    u = (np.arange(width, dtype=np.float32) - np.float32(camera.u)) / np.float32(camera.focal)
    x, y = away * u * 60 + np.float32(rng.uniform(0, TILE)), away * 30 + np.float32(rng.uniform(0, TILE))
    clouds = noise_at(CLOUDY, x, y) + 0.35 * noise_at(ROUGH, 3 * x, 3 * y)
    cover = np.clip(clouds * rng.uniform(0.5, 1.5) + rng.uniform(-1.2, 0.8), 0, 1) * np.float32(rng.uniform(0.3, 0.9))
    tone = np.clip(rng.uniform(0.55, 1.0) - 0.12 * noise_at(CLOUDY, x + 7, y + 5), 0, 1)
    canvas.picture += cover[..., None] * (tone[..., None] - canvas.picture)


def ground_labels(x: np.ndarray, z: np.ndarray, sides: list[Side], lots: list[list[Lot]]) -> np.ndarray:
    """Label ids of the ground, uint8 [h, w], at x [h, w] and z [h], one distance a row."""
    label = np.full(x.shape, Id.ROAD, np.uint8)
    for side, land in zip(sides, lots, strict=True):
        out = side.sign * x
        label[out > side.road] = Id.PARKING
        label[out > side.parking] = Id.SIDEWALK
        here = np.searchsorted([lot.end for lot in land[:-1]], z)
        grounds = np.array([lot.ground for lot in land], np.uint8)[here]
        label = np.where(out > side.walk, grounds[:, None], label)
    return label


def draw_ground(scene: Scene, sides: list[Side], lots: list[list[Lot]]) -> None:
    """Road, parking bays, kerbs, slabs and the shadows on them: each pixel where its ray meets the ground."""
    rng, camera, canvas = scene.rng, scene.camera, scene.canvas
    height, width = canvas.label.shape
    top = int(np.floor(camera.v)) + 1
    z = np.minimum(camera.focal * camera.eye / (np.arange(top, height) - camera.v), FAR).astype(np.float32)
    x = ((np.arange(width) - camera.u) * (z / camera.focal)[:, None]).astype(np.float32)
    label = ground_labels(x, z, sides, lots)
    foot = (z * z / np.float32(camera.focal * camera.eye))[:, None]  # metres of the street in a row of pixels
    z = np.repeat(z[:, None], width, 1)

    def seen(cell: float) -> np.ndarray:
        """How much of a pattern with cells of this many metres is left."""
        return 1 / (1 + (foot / np.float32(cell)) ** 2)

    shift = rng.uniform(0, TILE, 2).astype(np.float32)
    grain = noise_at(WHITE, x * 40 + shift[0], z * 25 + shift[1]) * seen(0.06)
    clumps = noise_at(ROUGH, x * 6 + shift[1], z * 3 + shift[0]) * seen(0.6)
    stains = noise_at(CLOUDY, x * 8 + shift[0], z * 1.5 + shift[1])
    slab = np.float32(rng.uniform(0.4, 1.1))
    cells = noise_at(WHITE, np.floor(x / slab), np.floor(z / slab)) * seen(slab)
    joints = (((x / slab) % 1 < 0.07) | ((z / slab) % 1 < 0.07)) * seen(slab / 2)
    walk, bay = (mix(GREY * np.float32(rng.uniform(0.4, 0.7)), any_colour(rng), rng.uniform(0, 0.25)) for _ in range(2))
    looks = {
        Id.ROAD: (scene.road, 1 + np.float32(rng.uniform(0.04, 0.1)) * grain + 0.03 * clumps + 0.05 * stains),
        Id.SIDEWALK: (walk, 1 + 0.03 * grain + 0.07 * cells - 0.3 * joints + 0.03 * stains),
        Id.PARKING: (bay, 1 + 0.05 * grain + 0.1 * cells - 0.2 * joints),
    }
    picture = np.zeros((*label.shape, 3), np.float32)
    for kind, (colour, pattern) in looks.items():
        inside = label == kind
        picture[inside] = pattern[inside][:, None] * colour
    for side in sides:
        out = side.sign * x - side.parking
        picture[(out > 0) & (out < 0.25)] = np.float32(rng.uniform(0.4, 0.75))
        picture[(out > -0.12) & (out <= 0)] *= 0.6
    draw_markings(rng, picture, label == Id.ROAD, x, z, sides, clumps)
    scene.shade[:] = cv2.GaussianBlur(scene.shade, (0, 0), 1.2 * width / 512)
    dark = 0.85 * scene.light.sun / (scene.light.sun + scene.light.sky)
    picture *= scene.light.on(0, 1, 0) * (1 - np.float32(dark / 255) * scene.shade[top:, :, None])
    canvas.picture[top:], canvas.label[top:], canvas.distance[top:] = picture, label, z


def draw_markings(rng: np.random.Generator, picture, road, x, z, sides: list[Side], wear) -> None:
    """Repaired patches, lane lines and a zebra crossing on the pixels of the `road`; changes `picture` [h, w, 3]."""
    left, right = -sides[0].road, sides[1].road
    for _ in range(rng.integers(1, 6)):
        x0, z0 = rng.uniform(left, right), rng.uniform(4, 35)
        patch = (np.abs(x - x0) < rng.uniform(0.3, 1.2)) & (np.abs(z - z0) < rng.uniform(0.4, 5)) & road
        picture[patch] *= np.float32(rng.uniform(0.7, 1.2))
    middle, period, start, half = rng.uniform([-2.4, 5, 0, 0.06], [-1.2, 10, 10, 0.1])
    lines = np.zeros(road.shape, bool)
    if rng.random() < 0.8:
        lines |= (np.abs(x - middle) < half) & ((z + start) % period < period * rng.choice([0.5, 1]))
    if rng.random() < 0.5:
        lines |= (np.abs(x - right + 0.35) < half) | (np.abs(x - left - 0.35) < half)
    if rng.random() < 0.4:
        from_here = z - rng.uniform(7, 22)
        lines |= (from_here > 0) & (from_here < 3.2) & (x % 1.1 < 0.55)
        lines |= (from_here > -1.4) & (from_here < -1) & (x > middle)
    lines &= road
    share = np.clip(0.85 + 0.2 * wear[lines], 0.2, 1)[:, None]
    picture[lines] += share * ((PALE if rng.random() < 0.85 else YELLOW) - picture[lines])
