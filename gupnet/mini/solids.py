"""What stands in the mini data's streets, as flat faces: cars, people, cyclists, houses, trees.

An object's own axes: x along its length to the front, y down with 0 at the bottom, z along its width to the left. Each
body touches all six sides of its 3D box.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from shared.mini import to_bytes

from . import textures


@dataclass(frozen=True)
class Face:
    """A flat convex face: its corners [k, 3]; where its texture lies: corner, width and height [3, 3]; the texture
    uint8 [h, w, 3]; and which way it looks, [3], or None where both its sides are seen."""

    points: np.ndarray
    frame: np.ndarray
    texture: np.ndarray
    outward: np.ndarray | None


def quad(points: np.ndarray, texture: np.ndarray, inside: np.ndarray) -> Face:
    """A quadrilateral of lower left, lower right, upper right, upper left, which looks away from the point `inside`."""
    along, up = points[1] - points[0], (points[2] + points[3] - points[0] - points[1]) / 2
    (a, b, c), (d, e, f) = along, up
    normal = np.array([b * f - c * e, c * d - a * f, a * e - b * d])  # np.cross takes much longer
    normal *= np.sign(normal @ (points[0] - inside)) / np.sqrt(normal @ normal)
    return Face(points, np.array([points[0] + up, along, -up]), texture, normal)


def rectangle(x: tuple[float, float], z: tuple[float, float]) -> np.ndarray:
    """Corners [4, 2] in the order of the sides that start there: front, left, rear, right."""
    return np.array([(x[1], z[0]), (x[1], z[1]), (x[0], z[1]), (x[0], z[0])])


def prism(bottom: np.ndarray, low: float, top: np.ndarray, high: float, walls: list, roof: np.ndarray) -> list[Face]:
    """A solid between two polygons [k, 2] of x and z at heights `low` and `high`; a texture for each wall, and above.

    Wall i stands from corner i to the next, which from outside is from left to right.
    """
    lower, upper = np.empty((2, len(bottom), 3))
    lower[:, ::2], upper[:, ::2] = bottom, top
    lower[:, 1], upper[:, 1] = -low, -high
    inside = (lower.sum(0) + upper.sum(0)) / (2 * len(lower))
    faces = []
    for i, texture in enumerate(walls):
        j = (i + 1) % len(lower)
        faces.append(quad(np.array([lower[i], lower[j], upper[j], upper[i]]), texture, inside))
    frame = np.array([upper[0], upper[1] - upper[0], upper[-1] - upper[0]])
    faces.append(Face(upper, frame, roof, np.array([0.0, -1.0, 0.0])))
    return faces


def block(x, y, z, walls, roof=None, x_top=None, z_top=None) -> list[Face]:
    """A box from x[0] to x[1], heights y[0] to y[1], z[0] to z[1]; its top may lie elsewhere.

    `walls`: a colour, or the textures of front, left, rear and right.
    """
    if isinstance(walls, np.ndarray):
        walls = [textures.plain(walls)] * 4
    roof = walls[0] if roof is None else textures.plain(roof)
    return prism(rectangle(x, z), y[0], rectangle(x_top or x, z_top or z), y[1], walls, roof)


def disc(x: float, height: float, z: float, radius: float, texture: np.ndarray, side: float | None) -> Face:
    """An upright wheel; `side` is the sign of z that it looks to, or None for both."""
    angles = np.arange(16) * np.pi / 8 + np.pi / 16
    # the corners reach a little beyond the circle, so that the topmost and lowest side touch it
    reach = radius / np.cos(np.pi / 16)
    points = np.stack([x + reach * np.cos(angles), -height + reach * np.sin(angles), np.full(16, z)], -1)
    frame = np.array([(x - radius, -height - radius, z), (2 * radius, 0, 0), (0, 2 * radius, 0)])
    return Face(points, frame, texture, None if side is None else np.array([0.0, 0.0, side]))


def car(rng: np.random.Generator, size: tuple[float, float, float], tall: bool = False) -> list[Face]:
    """A car; `tall` for a van, whose cabin reaches to its rear. Lights and windscreen say where it looks."""
    h, w, l = size  # noqa: E741
    paint = textures.pick(rng, textures.PAINTS)
    dark = np.float32([30, 30, 32])
    belt = 0.5 * h if tall else 0.56 * h
    front, flank, rear = (make(rng, paint) for make in (textures.car_front, textures.car_flank, textures.car_rear))
    z = (-w / 2 + 0.02, w / 2 - 0.02)
    walls = [front, flank, rear, flank[:, ::-1]]
    faces = block((-l / 2, l / 2), (0.17 * h, belt), z, walls, paint)
    faces += block((-0.47 * l, 0.47 * l), (0.1 * h, 0.17 * h), (-0.42 * w, 0.42 * w), dark)
    pane, side_pane = textures.window(rng, paint), textures.window(rng, paint, (0.3, 0.62))
    glass = [pane, side_pane, pane, side_pane[:, ::-1]]
    base, roof = (-0.45 * l, 0.24 * l), (-0.34 * l, 0.06 * l)
    if tall:
        base, roof = (-0.49 * l, 0.34 * l), (-0.47 * l, 0.2 * l)
    width = 0.46 * w, (0.44 * w if tall else 0.37 * w)
    faces += block(base, (belt, h), (-width[0], width[0]), glass, paint, roof, (-width[1], width[1]))
    radius = min(0.21 * h, 0.36)
    hub = textures.wheel(rng, 0.62)
    for x in (-0.31 * l, 0.31 * l):
        for side in (-1, 1):
            faces.append(disc(x, radius, side * w / 2, radius, hub, side))
            inner = sorted((side * (w / 2 - 0.2), side * (w / 2 - 0.03)))
            faces += block((x - 0.43 * radius, x + 0.43 * radius), (0.1 * radius, 1.4 * radius), inner, dark)
    return faces


def _head(rng: np.random.Generator, x: float, low: float, high: float, hair: np.ndarray) -> list[Face]:
    """A head: the face looks ahead, hair or a helmet covers the rest."""
    angles = np.arange(8) * np.pi / 4 + np.pi / 8
    radius = 0.5 * (high - low) * 0.9
    ring = np.stack([x + radius * np.cos(angles), radius * np.sin(angles)], -1)
    skin = textures.plain(textures.pick(rng, textures.SKIN))
    walls = [skin if np.cos(angle + np.pi / 8) > 0.4 else textures.plain(hair) for angle in angles]
    return prism(ring, low, ring, high, walls, textures.plain(hair))


def pedestrian(rng: np.random.Generator, size: tuple[float, float, float]) -> list[Face]:
    """Somebody in mid-stride, with a bag on the back."""
    h, w, l = size  # noqa: E741
    coat, trousers = textures.pick(rng, textures.CLOTHES), textures.pick(rng, textures.TROUSERS)
    hair, bag = np.float32([52, 38, 28]) * np.float32(rng.uniform(0.5, 2)), coat * 0.35
    faces = []
    for side in (-1, 1):
        foot, hand = side * (l / 2 - 0.11), -side * 0.28 * l
        z = side * 0.1
        leg = (z - 0.085, z + 0.085)
        faces += block((foot - 0.09, foot + 0.09), (0.08, 0.48 * h), leg, trousers, x_top=(-0.11, 0.11))
        faces += block((foot - 0.11, foot + 0.11), (0, 0.08), leg, np.float32([40, 34, 30]))
        z = side * (w / 2 - 0.06)
        arm = (z - 0.06, z + 0.06)
        faces += block((hand - 0.06, hand + 0.06), (0.47 * h, 0.8 * h), arm, coat * 0.85, x_top=(-0.07, 0.07))
    chest = 0.5 * w - 0.12
    faces += block((-0.13, 0.14), (0.47 * h, 0.83 * h), (-chest, chest), coat)
    faces += block((-0.27, -0.13), (0.56 * h, 0.8 * h), (-0.8 * chest, 0.8 * chest), bag)
    return faces + _head(rng, 0.03, 0.84 * h, h, hair)


def cyclist(rng: np.random.Generator, size: tuple[float, float, float]) -> list[Face]:
    """A bicycle and its rider, leaning forward."""
    h, w, l = size  # noqa: E741
    coat, trousers = textures.pick(rng, textures.CLOTHES), textures.pick(rng, textures.TROUSERS)
    metal, helmet = textures.pick(rng, textures.PAINTS), textures.pick(rng, textures.PAINTS)
    radius, spokes = 0.34, textures.wheel(rng, 0.8)
    faces = []
    for x in (-l / 2 + radius, l / 2 - radius):
        faces.append(disc(x, radius, 0, radius, spokes, None))
        tread = (x - 0.5 * radius, x + 0.5 * radius), (0.14 * radius, 1.8 * radius)
        faces += block(*tread, (-0.03, 0.03), textures.TYRE)
    faces += block((-0.3 * l, 0.28 * l), (0.52, 0.6), (-0.035, 0.035), metal)
    bar = 0.27 * l
    faces += block((bar - 0.03, bar + 0.03), (1.0, 1.06), (-w / 2, w / 2), textures.TYRE)
    faces += block((bar - 0.04, bar + 0.1), (0.86, 0.98), (-0.06, 0.06), textures.HEADLIGHT)
    faces += block((-0.46 * l, -0.4 * l), (0.6, 0.72), (-0.07, 0.07), textures.TAILLIGHT)
    for side in (-1, 1):
        leg = (side * 0.12 - 0.07, side * 0.12 + 0.07)
        pedal = 0.08 + 0.12 * side
        faces += block((pedal - 0.1, pedal + 0.1), (0.2, 0.95), leg, trousers, x_top=(-0.34, -0.12))
        arm = (side * 0.24 - 0.05, side * 0.24 + 0.05)
        faces += block((bar - 0.06, bar + 0.06), (1.04, 0.82 * h), arm, coat * 0.85, x_top=(-0.02, 0.1))
    faces += block((-0.38, -0.1), (0.9, 0.85 * h), (-0.19, 0.19), coat, x_top=(-0.12, 0.14))
    return faces + _head(rng, 0.12, 0.85 * h, h, helmet)


def sitting(rng: np.random.Generator, size: tuple[float, float, float]) -> list[Face]:
    """Somebody on a bench."""
    h, w, l = size  # noqa: E741
    coat, trousers = textures.pick(rng, textures.CLOTHES), textures.pick(rng, textures.TROUSERS)
    wood = np.float32([120, 84, 52])
    faces = block((-l / 2, 0.2), (0, 0.36), (-w / 2, w / 2), wood)
    faces += block((-0.2, l / 2), (0.36, 0.5), (-0.2, 0.2), trousers)
    faces += block((l / 2 - 0.16, l / 2), (0, 0.36), (-0.2, 0.2), trousers)
    faces += block((-0.28, 0), (0.4, 0.8 * h), (-0.24, 0.24), coat)
    return faces + _head(rng, -0.1, 0.8 * h, h, np.float32([52, 38, 28]))


def house(rng: np.random.Generator, size: tuple[float, float, float]) -> list[Face]:
    """A house with a flat roof."""
    h, w, l = size  # noqa: E741
    walls = [textures.house(rng)] * 4
    return block((-l / 2, l / 2), (0, h), (-w / 2, w / 2), walls, np.float32([110, 70, 60]))


def tree(rng: np.random.Generator, size: tuple[float, float, float]) -> list[Face]:
    """A trunk and a crown of two tiers."""
    h, w, _ = size
    leaves = np.float32([64, 100, 48]) * np.float32(rng.uniform(0.75, 1.25))
    foliage = to_bytes(leaves * np.exp(0.22 * textures.noise(rng, 48, 48, (4, 9)))[..., None])
    angles = np.arange(6) * np.pi / 3 + rng.uniform(0, 1)
    ring = np.stack([np.cos(angles), np.sin(angles)], -1)
    faces = block((-0.15, 0.15), (0, 0.4 * h), (-0.15, 0.15), np.float32([86, 66, 48]))
    for low, high, wide in ((0.3 * h, 0.72 * h, w / 2), (0.6 * h, h, 0.36 * w)):
        faces += prism(wide * ring, low, 0.55 * wide * ring, high, [foliage] * 6, textures.plain(leaves))
    return faces


MAKERS: dict[str, Callable] = {
    "Car": car,
    "Van": lambda rng, size: car(rng, size, tall=True),
    "Pedestrian": pedestrian,
    "Cyclist": cyclist,
    "Person_sitting": sitting,
    "house": house,
    "tree": tree,
}
