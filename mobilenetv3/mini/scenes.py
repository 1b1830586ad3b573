"""A scene of the mini data set: everything that chance decides, from one distribution for every class."""

from typing import NamedTuple

import cv2
import numpy as np

from .shapes import SHAPES, Shape

# The next three decide how hard the set is. With larger objects at one position a linear model does well; with smaller
# ones, or a room of as much contrast as the object, a small network does not train within minutes.
EXTENT = (0.7, 0.94)  # width of the sphere around an object, relative to the frame's
ROOM_CONTRAST, OBJECT_CONTRAST = (0.05, 0.3), (0.2, 0.7)  # how far the two colours of a texture lie apart
COLOURS_APART = 0.5  # least distance of the object's mean colour to those of the floor and wall, in display RGB

PAINTS = ("plain", "stripes", "checks", "noise", "marble")
NOISE_WAVES = np.geomspace(1.2, 6, 6)  # radians per unit of length, the octaves of noise and marble
GAMMA = 2.2


class Camera(NamedTuple):
    """`eye` [3]; rows of `axes` [3, 3] are right, up, ahead; a frame 2 wide and 2 high hangs `focal` ahead."""

    eye: np.ndarray
    axes: np.ndarray
    focal: float
    shift: np.ndarray


class Paint(NamedTuple):
    """A solid texture: a mix of two linear RGB colours [3, 2], by waves [k, 3] through space with phases [k, 1]."""

    colours: np.ndarray
    kind: str
    waves: np.ndarray
    phases: np.ndarray


class Patches(NamedTuple):
    """Flat discs and squares on a plane: middles [k, 3], half sizes [k], which are discs [k], colours [k, 3]."""

    middles: np.ndarray
    halves: np.ndarray
    discs: np.ndarray
    colours: np.ndarray


class Plane(NamedTuple):
    """The floor or the wall: points p with normal @ p = offset, facing the side that `normal` [3] points to."""

    normal: np.ndarray
    offset: float
    paint: Paint
    patches: Patches


class Scene(NamedTuple):
    shape: Shape
    camera: Camera
    light: np.ndarray  # unit vector [3] towards it
    ambient: float
    shine: float
    paint: Paint
    floor: Plane
    wall: Plane


def direction(azimuth: float, elevation: float) -> np.ndarray:
    """Unit vector, float32 [3], from angles in degrees; azimuth 0 is the z axis, where every object shows its front."""
    a, e = np.radians([azimuth, elevation])
    return np.array([np.sin(a) * np.cos(e), np.sin(e), np.cos(a) * np.cos(e)], np.float32)


def draw_camera(rng: np.random.Generator, azimuth: float) -> Camera:
    """A camera that sees the sphere of radius 1 over EXTENT of the frame, off its middle by chance."""
    away, extent = rng.uniform(3.5, 6), rng.uniform(*EXTENT)
    towards = direction(azimuth, rng.uniform(10, 34))
    right = np.cross([0, 1, 0], towards)
    right /= np.linalg.norm(right)
    up, roll = np.cross(towards, right), np.radians(rng.uniform(-12, 12))
    right, up = np.cos(roll) * right + np.sin(roll) * up, np.cos(roll) * up - np.sin(roll) * right
    shift = rng.uniform(-1, 1, 2) * (1.08 - extent)  # at most 4 % of the frame's side beyond its edge
    axes = np.stack([right, up, -towards]).astype(np.float32)
    return Camera(towards * np.float32(away), axes, extent * away, shift.astype(np.float32))


def draw_colour(rng: np.random.Generator) -> np.ndarray:
    """A colour of any hue, linear RGB float32 [3]."""
    hsv = np.array([[[rng.uniform(0, 360), rng.uniform(0.15, 0.85), rng.uniform(0.3, 1)]]], np.float32)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0, 0] ** GAMMA


def shown(colours: np.ndarray) -> np.ndarray:
    """Mean display RGB [3] of a texture's linear colours [3, 2]."""
    return colours.mean(1) ** (1 / GAMMA)


def draw_colours(rng: np.random.Generator, contrast: tuple[float, float]) -> np.ndarray:
    """Two colours, linear RGB float32 [3, 2], the second one `contrast` of the way to an independent one."""
    first, second = draw_colour(rng), draw_colour(rng)
    return np.stack([first, first + rng.uniform(*contrast) * (second - first)], 1)


def draw_paint(rng: np.random.Generator, contrast: tuple[float, float], others: tuple[Paint, ...] = ()) -> Paint:
    """A texture of any kind in two colours, at least COLOURS_APART from the others."""
    colours = draw_colours(rng, contrast)
    while any(np.linalg.norm(shown(colours) - shown(other.colours)) < COLOURS_APART for other in others):
        colours = draw_colours(rng, contrast)
    kind = PAINTS[rng.integers(len(PAINTS))]
    noise = rng.normal(size=(6, 3)) * NOISE_WAVES[:, None]
    bands = np.linalg.qr(rng.normal(size=(3, 3)))[0] * rng.uniform(6, 13)
    phases = rng.uniform(0, 2 * np.pi, (9, 1))
    return Paint(colours, kind, np.concatenate([noise, bands]).astype(np.float32), phases.astype(np.float32))


def draw_patches(rng: np.random.Generator, normal: np.ndarray, offset: float, count: int = 3) -> Patches:
    """Clutter on the plane normal @ p = offset, strewn about the point nearest to the object."""
    middles = rng.normal(size=(count, 3)) * 1.4
    middles += (offset - middles @ normal)[:, None] * normal
    halves, discs = rng.uniform(0.08, 0.3, count), rng.random(count) < 0.5
    colours = np.stack([draw_colour(rng) for _ in range(count)])
    return Patches(middles.astype(np.float32), halves.astype(np.float32), discs, colours)


def draw_plane(rng: np.random.Generator, normal: np.ndarray, offset: float) -> Plane:
    """A painted and cluttered plane."""
    return Plane(normal, offset, draw_paint(rng, ROOM_CONTRAST), draw_patches(rng, normal, offset))


def draw_scene(rng: np.random.Generator, label: str) -> Scene:
    """A scene with an object of the class `label`."""
    shape = SHAPES[label]
    azimuth = rng.uniform(*shape.turn)
    floor = draw_plane(rng, direction(0, 90), shape.floor)
    wall = draw_plane(rng, direction(azimuth + rng.uniform(-30, 30), 0), -rng.uniform(1.1, 3.5))
    return Scene(
        shape,
        camera=draw_camera(rng, azimuth),
        light=direction(azimuth + rng.uniform(-75, 75), rng.uniform(30, 65)),
        ambient=rng.uniform(0.3, 0.5),
        shine=rng.uniform(0, 0.5),
        paint=draw_paint(rng, OBJECT_CONTRAST, (floor.paint, wall.paint)),
        floor=floor,
        wall=wall,
    )
