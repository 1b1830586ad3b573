"""Draw the mini data set: ten classes of ray-traced objects in ImageNet's folder layout.

    python mobilenetv3/draw_mini.py --output_dir DIR      draw it
    python mobilenetv3/draw_mini.py --linear_baseline     how well a linear model on its pixels does

The result is `<root>/{train,val}/<class>/<number>.jpg` and `<root>/mini.json`, the record of how it was drawn. Only
shape tells the classes apart: colours, textures, light, scale, place and background come from one distribution.

Each object is a signed distance function (negative inside) in its own frame: y up, about the origin, within a sphere of
radius 1, standing on a floor. A picture is a camera that walks its rays along that distance ("sphere tracing").
"""

import argparse
import fcntl
import json
import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image
from scipy.optimize import minimize
from scipy.special import logsumexp
from tqdm import tqdm

from shared import InputError

DEFAULT_ROOT = Path(__file__).resolve().parents[1] / "data" / "mini"
VERSION = 2  # of the drawing: raise it when the same seed gives other pictures
SPLITS = ("train", "val")
WORTH_PROCESSES = 500  # pictures from which a process a core saves more time than it takes to start
RECORD = "mini.json"
MAKER = "mobilenetv3/datasets/mini.py"

TRAIN_PER_CLASS, VAL_PER_CLASS, SIZE = 200, 200, 80
PENALTIES = (10.0, 3.0, 1.0, 0.3, 0.1)  # of the linear model

# How hard the set is hangs on the next three. Larger objects in one place let a linear model do well; smaller ones,
# or a room as loud as the object, keep a small network from learning within minutes.
EXTENT = (0.7, 0.94)  # share of the frame's side that the sphere around an object takes
ROOM_CONTRAST, OBJECT_CONTRAST = (0.05, 0.3), (0.2, 0.7)  # how far the two colours of a texture lie apart
COLOURS_APART = 0.5  # least distance of the object's mean colour to those of the floor and wall, in display RGB

PAINTS = ("plain", "stripes", "checks", "noise", "marble")
NOISE_WAVES = np.geomspace(1.2, 6, 6)  # radians per unit of length, the octaves of noise and marble
SUN = 0.85  # strength of the light from the side; the light from everywhere is drawn at random
GAMMA = 2.2

# --------------------------------------------------------------------------------------------------------------------
# Shapes: points float32 [3, N] -> signed distance float32 [N], never larger than the true one
# --------------------------------------------------------------------------------------------------------------------


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

# --------------------------------------------------------------------------------------------------------------------
# Scene: everything that chance decides, drawn in one order and from one distribution for every class
# --------------------------------------------------------------------------------------------------------------------


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


# --------------------------------------------------------------------------------------------------------------------
# Picture
# --------------------------------------------------------------------------------------------------------------------


def painted(paint: Paint, points: np.ndarray) -> np.ndarray:
    """Linear RGB [3, N] of a texture at points [3, N]."""
    first, second = paint.colours[:, :1], paint.colours[:, 1:]
    if paint.kind == "plain":
        return np.repeat(first, points.shape[1], 1)
    use = {"stripes": slice(6, 7), "checks": slice(6, 9), "noise": slice(0, 6), "marble": slice(0, 7)}[paint.kind]
    waves = np.sin(paint.waves[use] @ points + paint.phases[use])
    if paint.kind == "noise":
        mix = 0.5 + 0.25 * waves.sum(0)
    elif paint.kind == "marble":
        mix = 0.5 + 0.5 * np.sin(waves[:6].sum(0) + 0.5 * (paint.waves[6] @ points))
    else:
        mix = 0.5 + 3 * waves.prod(0)  # steep, so bands and squares with a soft edge
    return first + np.clip(mix, 0, 1) * (second - first)


def lay(patches: Patches, points: np.ndarray, colours: np.ndarray) -> None:
    """Put the patches over the colours [3, N] of points [3, N] of their plane, in place."""
    for middle, half, disc, colour in zip(*patches, strict=True):
        x, y, z = points - middle[:, None]
        inside = norm(x, y, z) if disc else np.maximum(np.maximum(np.abs(x), np.abs(y)), np.abs(z))
        colours[:, inside < half] = colour[:, None]


def camera_rays(camera: Camera, size: int) -> np.ndarray:
    """Rays float32 [3, size * size], row by row from the top left, each one `focal` long along the camera's axis."""
    grid = (np.arange(size, dtype=np.float32) + 0.5) * (2 / size) - 1
    u, v = np.meshgrid(grid - camera.shift[0], -grid - camera.shift[1])
    return camera.axes.T @ np.stack([u.ravel(), v.ravel(), np.full(size * size, camera.focal, np.float32)])


def meet_sphere(origins: np.ndarray, rays: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Indices [n] of the unit rays that meet the sphere of radius 1.02 ahead, and where they enter and leave it."""
    middle = -dot(origins, rays)
    inside = 1.02**2 - dot(origins, origins) + middle * middle
    index = np.flatnonzero((inside > 0) & (middle * np.abs(middle) > -inside))
    middle, half = middle[index], np.sqrt(inside[index])
    return index, np.maximum(middle - half, 0), middle + half


def trace(shape: Shape, eye: np.ndarray, rays: np.ndarray, start: np.ndarray, end: np.ndarray):
    """Walk unit rays [3, N] from `start` to `end` [N].

    Returns where each one came nearest to the object, relative to its distance from the eye, and how near: [N], [N].
    """
    place, gap, t, walking = start.copy(), np.full_like(start, np.inf), start.copy(), np.arange(len(start))
    for _ in range(40):
        d = shape.distance(eye[:, None] + t * rays)
        better = d < gap[walking]
        place[walking[better]], gap[walking[better]] = t[better], d[better]
        t = t + d
        go_on = (d > 0.002) & (t < end)
        walking, rays, t, end = walking[go_on], rays[:, go_on], t[go_on], end[go_on]
        if not len(walking):
            break
    return place, gap


def normals(shape: Shape, points: np.ndarray) -> np.ndarray:
    """Unit gradients of the distance, float32 [3, N], by differences over the corners of a tetrahedron."""
    corners = np.array([[1, -1, -1], [-1, -1, 1], [-1, 1, -1], [1, 1, 1]], np.float32)
    stacked = (points[:, None] + 0.004 * corners.T[:, :, None]).reshape(3, -1)
    gradient = corners.T @ shape.distance(stacked).reshape(4, -1)
    return gradient / np.maximum(norm(*gradient), 1e-9)


def unshadowed(shape: Shape, points: np.ndarray, light: np.ndarray, softness: float) -> np.ndarray:
    """How much of the light reaches each point [3, N], 0..1: the narrowest gap between its ray and the object."""
    index, t, end = meet_sphere(points, light[:, None])
    origins, t, reach = points[:, index], np.maximum(t, 0.04), np.ones(points.shape[1], np.float32)
    for _ in range(16):
        d = shape.distance(origins + t * light[:, None])
        reach[index] = np.minimum(reach[index], np.maximum(softness * d / t, 0))
        t = t + np.clip(d, 0.03, 0.4)
        go_on = (t < end) & (d > 0)
        index, origins, t, end = index[go_on], origins[:, go_on], t[go_on], end[go_on]
        if not len(index):
            break
    return reach


def plane_colour(scene: Scene, plane: Plane, points: np.ndarray) -> np.ndarray:
    """Light that points [3, N] of a plane send out, linear RGB [3, N]; darker next to the object."""
    colours = painted(plane.paint, points)
    lay(plane.patches, points, colours)
    open_sky = np.ones(points.shape[1], np.float32)
    near = np.flatnonzero(dot(points, points) < 2)
    open_sky[near] = np.clip(0.4 + 1.5 * scene.shape.distance(points[:, near]), 0, 1)
    direct = max(float(plane.normal @ scene.light), 0) * unshadowed(scene.shape, points, scene.light, 6)
    return colours * (scene.ambient * open_sky + SUN * direct)


def background(scene: Scene, rays: np.ndarray, size: int) -> np.ndarray:
    """Floor and wall, linear RGB [3, N]; the seam between them is mixed over one pixel."""
    camera, planes = scene.camera, (scene.floor, scene.wall)
    # 1 / distance, in lengths of the ray, changes linearly over the frame: the larger of the two is the plane in front.
    rates = [plane.normal / (plane.offset - camera.eye @ plane.normal) for plane in planes]
    to_floor, to_wall = (rate @ rays for rate in rates)
    pixel = np.linalg.norm(camera.axes[:2] @ (rates[0] - rates[1])) * 2 / size
    floor_share = np.clip(0.5 + (to_floor - to_wall) / pixel, 0, 1)
    picture = np.zeros_like(rays)
    for plane, inverse, share in zip(planes, (to_floor, to_wall), (floor_share, 1 - floor_share), strict=True):
        seen = np.flatnonzero((share > 0) & (inverse > 1e-4))
        points = camera.eye[:, None] + rays[:, seen] / inverse[seen]
        picture[:, seen] += share[seen] * plane_colour(scene, plane, points)
    return picture


def object_colour(scene: Scene, points: np.ndarray, rays: np.ndarray) -> np.ndarray:
    """Light that points [3, N] of the object send back along unit rays [3, N], linear RGB: Lambert and Blinn-Phong."""
    facing = normals(scene.shape, points)
    lambert = np.maximum(scene.light @ facing, 0)
    lambert *= unshadowed(scene.shape, points + 0.02 * facing, scene.light, 10)
    half = scene.light[:, None] - rays
    gloss = np.maximum(dot(facing, half) / norm(*half), 0) ** 40
    shade = scene.ambient * (0.75 + 0.25 * facing[1]) + SUN * lambert
    return painted(scene.paint, points) * shade + scene.shine * gloss * (lambert > 0)


def render(scene: Scene, size: int) -> np.ndarray:
    """The scene in linear RGB, float32 [size, size, 3]."""
    camera, rays = scene.camera, camera_rays(scene.camera, size)
    picture = background(scene, rays, size)
    rays /= norm(*rays)
    seen, start, end = meet_sphere(camera.eye[:, None], rays)
    place, gap = trace(scene.shape, camera.eye, rays[:, seen], start, end)
    # A ray that passes within a pixel of the object sees some of it: this smooths the outline.
    cover = np.clip(1 - (gap - 0.002) / (place * (2 / size / camera.focal)), 0, 1)
    hit = cover > 0
    seen, place, cover = seen[hit], place[hit], cover[hit]
    points = camera.eye[:, None] + place * rays[:, seen]
    picture[:, seen] += cover * (object_colour(scene, points, rays[:, seen]) - picture[:, seen])
    return picture.T.reshape(size, size, 3)


def develop(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Linear RGB to display RGB, uint8 [size, size, 3], with a lens a little out of focus and the noise of a sensor."""
    picture = np.clip(picture, 0, 1) ** np.float32(1 / GAMMA)
    picture = cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.3, 0.6) * len(picture) / 80)
    picture += rng.normal(0, rng.uniform(0.005, 0.02), picture.shape)
    return (np.clip(picture, 0, 1) * 255 + 0.5).astype(np.uint8)


def draw(seed: int, split: str, label: str, index: int, size: int) -> np.ndarray:
    """One picture, uint8 [size, size, 3] RGB: a function of its arguments alone, however many others are drawn."""
    rng = np.random.default_rng([seed, SPLITS.index(split), CLASSES.index(label), index])
    return develop(render(draw_scene(rng, label), size), rng)


# --------------------------------------------------------------------------------------------------------------------
# Files
# --------------------------------------------------------------------------------------------------------------------


def make_record(seed: int, train_per_class: int, val_per_class: int, size: int) -> dict:
    """What mini.json holds: equal records mean equal pictures."""
    if min(train_per_class, val_per_class) < 1 or size < 8 or seed < 0:
        raise InputError(
            f"mini data of {train_per_class} + {val_per_class} pictures per class, {size} pixels, seed {seed}: "
            "give at least 1 picture, 8 pixels and a seed that is not negative"
        )
    counts = {"train_per_class": train_per_class, "val_per_class": val_per_class}
    return {"made_by": MAKER, "version": VERSION, "seed": seed, **counts, "size": size, "classes": list(CLASSES)}


def read_record(root: Path) -> dict | None:
    """The record of a folder that this module drew; None where there is no folder, or an empty one.

    Raises InputError for anything else: it belongs to somebody and must not be replaced.
    """
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return None
    try:
        record = json.loads((root / RECORD).read_text())
        if record["made_by"] == MAKER:
            return record
    except (OSError, ValueError, TypeError, KeyError):
        pass
    raise InputError(f"{root}: not a mini data set (no {RECORD} of {MAKER}), so it stays as it is; name another folder")


@contextmanager
def alone_with(root: Path) -> Iterator[Path]:
    """Hold the lock file beside `root`; yields the folder beside it to draw in, which nobody else uses meanwhile.

    The lock ends with its process, so whatever lies there is left from a drawing that was broken off.
    """
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        lock = (root.parent / f".{root.name}.lock").open("w")
    except OSError as error:
        raise InputError(f"{root}: cannot be made ({error.strerror}); name a folder that you may write to") from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        remove_drawings(root)
        try:
            # a name of its own: helpers of a process that was killed may still draw for a moment
            yield root.parent / f".{root.name}.drawing-{os.getpid()}"
        finally:
            remove_drawings(root)


def remove_drawings(root: Path) -> None:
    """Remove what drawings beside `root` have left."""
    for left in root.parent.glob(f".{root.name}.drawing-*"):
        shutil.rmtree(left, ignore_errors=True)


def draw_file(job: tuple[Path, int, int, str, str, int]) -> None:
    """Draw one picture into its file: (folder of the data set, seed, size, split, label, index)."""
    folder, seed, size, split, label, index = job
    picture = Image.fromarray(draw(seed, split, label, index, size))
    picture.save(folder / split / label / f"{index:04d}.jpg", quality=92)


def draw_all(folder: Path, record: dict) -> None:
    """Draw every picture of a record under `folder`, then the record itself."""
    counts = {"train": record["train_per_class"], "val": record["val_per_class"]}
    for split in SPLITS:
        for label in CLASSES:
            (folder / split / label).mkdir(parents=True)
    start = (folder, record["seed"], record["size"])
    jobs = [(*start, split, label, index) for split in SPLITS for label in CLASSES for index in range(counts[split])]
    cores = len(os.sched_getaffinity(0)) if len(jobs) >= WORTH_PROCESSES else 1
    # spawned, not forked: Paddle or torch may be running threads in this process
    with multiprocessing.get_context("spawn").Pool(cores) if cores > 1 else nullcontext() as pool:
        drawn = pool.imap_unordered(draw_file, jobs, chunksize=20) if pool else map(draw_file, jobs)
        for _ in tqdm(drawn, desc="drawing mini data", total=len(jobs), unit="picture", leave=False, disable=None):
            pass
    (folder / RECORD).write_text(json.dumps(record, indent=2) + "\n")


def replace(root: Path, drawing: Path) -> None:
    """Put a finished drawing in the place of `root`, which holds an older one, is empty, or is not there."""
    if root.exists() and any(root.iterdir()):
        root.replace(drawing.with_name(f"{drawing.name}.old"))
    drawing.replace(root)


def write_mini(
    root: str | os.PathLike = DEFAULT_ROOT,
    seed: int = 0,
    train_per_class: int = TRAIN_PER_CLASS,
    val_per_class: int = VAL_PER_CLASS,
    size: int = SIZE,
) -> Path:
    """Draw the data set into `root` (`train/`, `val/`, `mini.json`) in place of any older one; returns `root`.

    `size` is the side of the square pictures in pixels. The folder appears whole or not at all. Raises InputError where
    `root` is something that this module did not draw.
    """
    root, record = Path(root).resolve(), make_record(seed, train_per_class, val_per_class, size)
    read_record(root)
    with alone_with(root) as drawing:
        read_record(root)  # again: it may have changed hands while this process waited
        draw_all(drawing, record)
        replace(root, drawing)
    return root


def ensure_mini(
    root: str | os.PathLike = DEFAULT_ROOT,
    seed: int = 0,
    train_per_class: int = TRAIN_PER_CLASS,
    val_per_class: int = VAL_PER_CLASS,
    size: int = SIZE,
) -> Path:
    """`write_mini`, unless `root` holds this very data set already. Several processes may call it at once."""
    root, record = Path(root).resolve(), make_record(seed, train_per_class, val_per_class, size)
    if read_record(root) == record:
        return root
    with alone_with(root) as drawing:
        if read_record(root) != record:
            draw_all(drawing, record)
            replace(root, drawing)
    return root


# --------------------------------------------------------------------------------------------------------------------
# What pixels alone tell
# --------------------------------------------------------------------------------------------------------------------


def pixels(root: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """All pictures of a split at 32 x 32 pixels, float32 [N, 3072], and their classes, int64 [N]."""
    files = [(label, file) for label, name in enumerate(CLASSES) for file in sorted((root / split / name).iterdir())]
    small = [cv2.resize(np.asarray(Image.open(file)), (32, 32), interpolation=cv2.INTER_AREA) for _, file in files]
    return np.stack(small).reshape(len(files), -1).astype(np.float32), np.array([label for label, _ in files])


def logistic_regression(x: np.ndarray, labels: np.ndarray, penalty: float) -> np.ndarray:
    """Weights [features + 1, classes], the last row the bias: least cross-entropy + penalty / 2 * squared weights."""
    x = np.concatenate([x, np.ones((len(x), 1), np.float32)], 1)
    chosen = np.eye(len(CLASSES), dtype=np.float32)[labels]
    decay = np.full((x.shape[1], 1), penalty, np.float32)
    decay[-1] = 0

    def loss_and_gradient(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weights = flat.reshape(-1, len(CLASSES)).astype(np.float32)
        logits = x @ weights
        log_p = logits - logsumexp(logits, axis=1, keepdims=True)
        loss = (decay * weights * weights).sum() / 2 - (log_p * chosen).sum() / len(x)
        gradient = x.T @ (np.exp(log_p) - chosen) / len(x) + decay * weights
        return float(loss), gradient.ravel().astype(np.float64)

    start = np.zeros(x.shape[1] * len(CLASSES))
    found = minimize(loss_and_gradient, start, jac=True, method="L-BFGS-B", options={"maxiter": 60})
    return found.x.reshape(-1, len(CLASSES)).astype(np.float32)


def accuracy(weights: np.ndarray, x: np.ndarray, labels: np.ndarray) -> float:
    """Share of rows of x [N, features] that a linear model [features + 1, classes] puts in their class."""
    return float(((x @ weights[:-1] + weights[-1]).argmax(1) == labels).mean())


def linear_baseline(root: str | os.PathLike, seed: int = 0) -> float:
    """Top-1, 0..1, on the val half, of a multinomial logistic regression on the standardised pixels of the train half.

    Its penalty is the one that does best on a fifth of the train half, chosen by `seed` and kept out of that fit.
    """
    root = Path(root)
    (x, labels), (val_x, val_labels) = pixels(root, "train"), pixels(root, "val")
    mean, deviation = x.mean(0), x.std(0) + 1e-3
    x, val_x = (x - mean) / deviation, (val_x - mean) / deviation
    check, fit = np.split(np.random.default_rng(seed).permutation(len(x)), [len(x) // 5])

    def checked(penalty: float) -> float:
        return accuracy(logistic_regression(x[fit], labels[fit], penalty), x[check], labels[check])

    return accuracy(logistic_regression(x, labels, max(PENALTIES, key=checked)), val_x, val_labels)


def parse_options(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Draw the mini data set: ten classes of objects in ImageNet's layout.")
    parser.add_argument(
        "--output_dir", type=Path, default=DEFAULT_ROOT, help="folder to draw in (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--train_per_class", type=int, default=TRAIN_PER_CLASS, help="default: %(default)s")
    parser.add_argument("--val_per_class", type=int, default=VAL_PER_CLASS, help="default: %(default)s")
    parser.add_argument("--size", type=int, default=SIZE, help="side of the pictures in pixels (default: %(default)s)")
    parser.add_argument(
        "--linear_baseline", action="store_true", help="print what a linear model on the pixels reaches"
    )
    return parser.parse_args(argv)


def main() -> None:
    """Draw, or see that the same is there already; then say what it holds."""
    options = parse_options()
    counts = (options.train_per_class, options.val_per_class)
    root = ensure_mini(options.output_dir, options.seed, *counts, options.size)
    print(f"{root}: {len(CLASSES)} classes of {counts[0]} training and {counts[1]} validation pictures")
    if options.linear_baseline:
        print(f"linear model on 32 x 32 pixels: top-1 {100 * linear_baseline(root):.1f} % on the validation half")
