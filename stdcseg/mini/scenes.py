"""Drawn street scenes: a picture and its Cityscapes label ids, both from one random generator.

A scene stands in metres: X to the right, Y up from the ground, Z ahead. The camera looks along Z from above the road,
its picture plane upright, so what stands at Z is drawn `focal / Z` times its size in pixels, and everything that runs
along the street meets in one point of the horizon. The painter goes from far to near, and lays each thing on the
picture and on the labels with the same outline.

Colour alone does not tell the classes apart: paints come from one distribution, some of them from the sky, leaves and
road of that very picture, and light, white balance and saturation change from picture to picture.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cache
from typing import NamedTuple

import cv2
import numpy as np


class Id(IntEnum):
    """The label ids (fact sheet 3.2) of what is drawn."""

    UNLABELED = 0
    EGO_VEHICLE = 1
    RECTIFICATION_BORDER = 2
    OUT_OF_ROI = 3
    STATIC = 4
    DYNAMIC = 5
    ROAD = 7
    SIDEWALK = 8
    PARKING = 9
    BUILDING = 11
    POLE = 17
    TRAFFIC_SIGN = 20
    VEGETATION = 21
    SKY = 23
    PERSON = 24
    CAR = 26
    TRAILER = 30


NEAR, FAR = 1.2, 500.0  # metres: what is drawn lies between
FACADE = 16  # pixels a metre of this texture, before it is brought into perspective
WHITE, ROUGH, CLOUDY = range(3)  # kinds of noise
TILE = 256  # side of the noise, which repeats

RED, GREEN, BLUE = np.float32([[0.75, 0.1, 0.1], [0.1, 0.42, 0.22], [0.1, 0.25, 0.65]])
YELLOW, PALE, BLACK = np.float32([[0.9, 0.75, 0.1], [0.9, 0.9, 0.88], [0.07, 0.07, 0.08]])
GREY = np.float32([1, 1, 1])

#: a piece of a thing: its outline [n, 2] or [n, 3] in metres, RGB [3], its label (None: paint on the piece before)
Part = tuple[np.ndarray, np.ndarray, Id | None]

# --------------------------------------------------------------------------------------------------------------------
# Noise, colours, outlines
# --------------------------------------------------------------------------------------------------------------------


@cache
def noise_tiles() -> np.ndarray:
    """Noise that repeats, float32 [3, 256, 256], mean 0 and deviation 1: white, rough (1/f) and cloudy (1/f^1.8)."""
    frequency = np.hypot(np.fft.fftfreq(TILE)[:, None], np.fft.rfftfreq(TILE)[None])
    frequency[0, 0] = np.inf
    white = np.fft.rfft2(np.random.default_rng(0).standard_normal((TILE, TILE)))
    tiles = np.stack([np.fft.irfft2(white / frequency**power) for power in (0, 1, 1.8)])
    return (tiles / tiles.std((1, 2), keepdims=True)).astype(np.float32)


def noise(rng: np.random.Generator, kind: int, height: int, width: int) -> np.ndarray:
    """A piece of noise, float32 [height, width], from a place that `rng` chooses."""
    row, column = rng.integers(TILE, size=2)
    rows, columns = (row + np.arange(height)) % TILE, (column + np.arange(width)) % TILE
    return noise_tiles()[kind][rows[:, None], columns]


def noise_at(kind: int, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Noise at places x, y, float32 [h, w], one cell a unit."""
    return cv2.remap(noise_tiles()[kind], x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)


def mix(a: np.ndarray, b: np.ndarray, share: float) -> np.ndarray:
    return a + np.float32(share) * (b - a)


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


# --------------------------------------------------------------------------------------------------------------------
# Camera, canvas, scene
# --------------------------------------------------------------------------------------------------------------------


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

    def lay(self, place: tuple[slice, slice], cover: np.ndarray, colour: np.ndarray) -> None:
        """Paint a part of the picture with a colour, [3] or [h, w, 3], as far as `cover`, uint8 [h, w], says."""
        part = self.picture[place]
        part += (cover * np.float32(1 / 255))[..., None] * (colour - part)

    def mark(self, place: tuple[slice, slice], cover: np.ndarray, label: int, distance) -> None:
        """Give the pixels that are covered by half or more their label and their distance, a number or [w]."""
        inside = cover > 127
        self.label[place][inside] = label
        self.distance[place][inside] = np.broadcast_to(np.float32(distance), cover.shape)[inside]

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
        place, cover = found
        columns = np.arange(place[1].start, place[1].stop)
        top, right, bottom, left = np.linalg.norm(np.roll(quad, -1, 0) - quad, axis=1)
        limits = texture.shape[1::-1]  # shrink to about its size in the picture first, so that nothing flickers
        width, height = np.clip([max(top, bottom), max(left, right)], 2, limits).astype(int)
        texture = cv2.resize(texture, (width, height), interpolation=cv2.INTER_AREA)
        corners = rectangle(0, width, 0, height) - 0.5
        matrix = cv2.getPerspectiveTransform(np.float32(corners), np.float32(quad - (columns[0], place[0].start)))
        colour = cv2.warpPerspective(texture, matrix, cover.shape[::-1], borderMode=cv2.BORDER_REPLICATE)
        self.mark(place, cover, label, distance(columns) if callable(distance) else distance)
        if colour.shape[2] == 4:
            cover = (cover * colour[..., 3]).astype(np.uint8)
        self.lay(place, cover, colour[..., :3])


class Light(NamedTuple):
    """The unit vector [3] towards the sun, its strength and the sky's; where its shadow of a metre ends, (x, z)."""

    towards: np.ndarray
    sun: float
    sky: float
    throw: np.ndarray

    def on(self, *normal: float) -> np.float32:
        """Brightness of a surface with this unit normal."""
        return np.float32(self.sky + self.sun * max(float(np.dot(normal, self.towards)), 0))


@dataclass
class Scene:
    """What the things in a picture share. `items` are (distance in metres, how to draw)."""

    rng: np.random.Generator
    camera: Camera
    canvas: Canvas
    light: Light
    sky: np.ndarray  # colours of this picture, RGB [3]
    leaf: np.ndarray
    road: np.ndarray
    shade: np.ndarray  # cover of the shadows on the ground, uint8 [H, W]
    items: list[tuple[float, Callable[[], None]]] = field(default_factory=list)

    def paint(self) -> np.ndarray:
        """A colour for houses, cars and clothes: any, or a shade of the sky, the leaves or the road."""
        rng = self.rng
        if rng.random() < 0.12:
            return np.clip((self.sky, self.leaf, self.road)[rng.integers(3)] * rng.uniform(0.75, 1.25), 0.03, 1)
        return any_colour(rng)

    def fill(self, points: np.ndarray, colour: np.ndarray, label: Id | None) -> None:
        """Fill an outline [n, 3] in metres."""
        self.canvas.fill(self.camera.project(points), colour, label, points[:, 2].mean())

    def cast(self, base: np.ndarray, height: float) -> None:
        """Lay the shadow of a prism on the ground: its base [n, 2] (x, z), that moved by its height, all between."""
        x, z = hull(base, base + self.light.throw * height).T
        pixels = self.camera.project(np.stack([x, 0 * x, np.maximum(z, NEAR)], 1))
        fixed = np.round(np.clip(pixels, -2e4, 2e4) * 16).astype(np.int32)
        cv2.fillPoly(self.shade, [fixed], 255, cv2.LINE_AA, 4)

    def brightness(self, x: float, z: float, radius: float) -> np.float32:
        """How bright an upright thing at (x, z) is: less where the ground on its sunny side is in a shadow."""
        height, width = self.shade.shape
        x, z = (x, z) - self.light.throw / np.linalg.norm(self.light.throw) * (radius + 0.4)
        u, v = np.clip(self.camera.project([(x, 0, z)])[0], 0, (width - 1, height - 1)).astype(int)
        return np.float32(self.light.sky + 0.75 * self.light.sun * (1 - self.shade[v, u] / 255))

    def stand(self, x: float, z: float, height: float, radius: float, parts: list[Part]) -> None:
        """Put up flat parts, outlines [n, 2] (right, up), across the street at (x, z), with the shadow of a post."""
        self.cast(disc(x, z, radius, radius, 8), height)

        def draw() -> None:
            bright = self.brightness(x, z, radius)
            for outline, colour, label in parts:
                points = np.concatenate([outline + (x, 0), np.full((len(outline), 1), z)], 1)
                self.fill(points, colour * bright, label)

        self.items.append((z, draw))

    def draw(self) -> None:
        """Draw the items, far to near."""
        for _, draw in sorted(self.items, key=lambda item: -item[0]):
            draw()


# --------------------------------------------------------------------------------------------------------------------
# Sky and ground
# --------------------------------------------------------------------------------------------------------------------


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
    middle, period, start, half = (
        rng.uniform(-2.4, -1.2),
        rng.uniform(5, 10),
        rng.uniform(0, 10),
        rng.uniform(0.06, 0.1),
    )
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


# --------------------------------------------------------------------------------------------------------------------
# Houses
# --------------------------------------------------------------------------------------------------------------------


def facade(scene: Scene, length: float, height: float, wall: np.ndarray) -> np.ndarray:
    """A house front of so many metres, float32 [h, w, 3]: storeys of windows, doors or a shop in bricks or plaster."""
    rng = scene.rng
    rows, columns = int(height * FACADE), int(length * FACADE)
    pattern = 1 + 0.05 * noise(rng, ROUGH, rows, columns) + 0.03 * noise(rng, WHITE, rows, columns)
    style = rng.random()
    if style < 0.45:  # courses of bricks, or panels
        row, column = rng.integers([4, 7], [7, 12]) if style < 0.3 else rng.integers([24, 24], [48, 60])
        pattern[::row] *= 0.8
        pattern[:, ::column] *= 0.88
    image = wall * pattern[..., None]

    def box(x: float, y: float, width: float, height: float, colour: np.ndarray) -> None:
        """A rectangle in metres from the top left."""
        ends = np.round(np.array([x, y, x + width, y + height]) * FACADE).astype(int).tolist()
        cv2.rectangle(image, ends[:2], (ends[2] - 1, ends[3] - 1), colour.tolist(), -1)

    storey, pitch = rng.uniform(2.8, 3.6), rng.uniform(1.7, 3.2)
    wide, high = rng.uniform(0.5, 0.75) * pitch, rng.uniform(0.45, 0.65) * storey
    frame, trim = any_colour(rng), mix(wall, any_colour(rng), 0.5)
    glass = mix(scene.sky, BLACK, rng.uniform(0.4, 0.95))
    count = max(int((length - 0.6) / pitch), 1)
    margin = (length - count * pitch) / 2
    shop, bands = rng.random() < 0.4, rng.random() < 0.4
    for floor in range(int(height / storey + 0.3)):
        y = height - (floor + 1) * storey
        if bands:
            box(0, y + storey - 0.18, length, 0.16, trim)
        if floor == 0 and shop:
            box(margin, y + 0.1, length - 2 * margin, 0.5, any_colour(rng))
        for x in margin + (pitch - wide) / 2 + pitch * np.arange(count):
            tone = np.minimum(glass * np.float32(rng.uniform(0.6, 1.4)), 1)
            if floor == 0 and shop:
                box(x - 0.2, y + 0.65, wide + 0.4, storey - 1, frame)
                box(x - 0.1, y + 0.75, wide + 0.2, storey - 1.2, tone)
                box(x + 0.1, y + 1.6, wide * rng.uniform(0.2, 0.6), 0.8, any_colour(rng))
            elif floor == 0 and rng.random() < 0.25:
                box(x, y + 0.7, min(wide, 1.3), storey - 0.7, any_colour(rng) * 0.7)
            else:
                top = y + (storey - high) * 0.45
                box(x - 0.1, top - 0.1, wide + 0.2, high + 0.2, frame)
                box(x, top, wide, high, tone)
                if rng.random() < 0.4:  # a blind
                    box(x, top, wide, high * rng.uniform(0.2, 0.7), mix(tone, any_colour(rng), 0.7))
                box(x + wide / 2 - 0.05, top, 0.1, high, frame)
                box(x - 0.15, top + high + 0.08, wide + 0.3, 0.12, trim * 0.8)
    box(0, 0, length, 0.35, trim * 0.8)
    return image


def along(scene: Scene, x: float, start: float, end: float, height: float, texture: np.ndarray, label: Id) -> None:
    """Put a texture on the wall x = const from z = start to end; its right side is the far one left of the street."""
    camera, near = scene.camera, max(start, scene.camera.edge(x))
    if end <= near:
        return
    keep = max(int(texture.shape[1] * (end - near) / (end - start)), 2)
    texture = texture[:, :keep] if x > 0 else texture[:, -keep:]
    left, right = (end, near) if x > 0 else (near, end)
    quad = camera.project([(x, height, left), (x, height, right), (x, 0, right), (x, 0, left)])

    def distance(columns: np.ndarray) -> np.ndarray:
        return camera.focal * abs(x) / np.clip(np.abs(columns - camera.u), camera.focal * abs(x) / FAR, None)

    scene.canvas.paste(quad, texture, label, distance)


def across(scene: Scene, x0: float, x1: float, z: float, height: float, texture: np.ndarray, label: Id) -> None:
    """Put a texture on the wall z = const from x0 (left) to x1."""
    quad = scene.camera.project([(x0, height, z), (x1, height, z), (x1, 0, z), (x0, 0, z)])
    scene.canvas.paste(quad, texture, label, z)


def add_house(scene: Scene, sign: int, x: float, start: float, end: float) -> None:
    """A house beside the street, x metres from the camera's middle: front, gable towards the camera, roof."""
    rng, light, near = scene.rng, scene.light, max(start, scene.camera.edge(x))
    if end <= near:
        return
    height, deep, roof = rng.uniform(5.5, 17), rng.uniform(8, 14), rng.choice([0, rng.uniform(1.5, 4)])
    wall = scene.paint() if rng.random() < 0.75 else np.float32([0.5, 0.3, 0.24]) * np.float32(rng.uniform(0.7, 1.3))
    front = facade(scene, end - start, height, wall) * light.on(-sign, 0, 0)
    gable = facade(scene, deep, height, wall) * light.on(0, 0, -1)
    tile = mix(np.float32([0.35, 0.2, 0.16]), any_colour(rng), rng.uniform(0, 0.8)) * light.on(0, 0.8, 0)
    courses = 1 - 0.25 * (np.arange(40) % 4 == 0)[:, None] + 0.08 * noise(rng, WHITE, 40, 120)
    tiles = tile * courses[..., None].astype(np.float32)
    inner, ridge, outer = sign * x, sign * (x + deep / 2), sign * (x + deep)
    scene.cast(np.array([(inner, start), (inner, end), (outer, end), (outer, start)]), height)

    def draw() -> None:
        along(scene, inner, start, end, height, front, Id.BUILDING)
        if roof:
            eaves = inner - 0.3 * sign, height - 0.1
            corners = [(ridge, height + roof, end), (ridge, height + roof, near), (*eaves, near), (*eaves, end)]
            scene.canvas.paste(scene.camera.project(corners), tiles, Id.BUILDING, (near + end) / 2)
        if start > NEAR:
            across(scene, *sorted([inner, outer]), start, height, gable, Id.BUILDING)
            if roof:
                tip = np.array([(inner, height, start), (ridge, height + roof, start), (outer, height, start)])
                scene.fill(tip, wall * light.on(0, 0, -1), Id.BUILDING)

    scene.items.append((end, draw))


def add_end(scene: Scene, z: float) -> None:
    """What closes the street: houses and trees all across it."""
    rng = scene.rng
    half = 1.1 * z * scene.camera.width / scene.camera.focal
    x = -half
    while x < half:
        wide = rng.uniform(8, 20)
        if rng.random() < 0.6:
            height = rng.uniform(6, 20)
            texture = facade(scene, wide, height, scene.paint()) * scene.light.on(0, 0, -1)
            place = (x, x + wide, z + 2, height, texture, Id.BUILDING)
            scene.items.append((z + 2, lambda place=place: across(scene, *place)))
        else:
            for _ in range(3):
                add_bush(scene, x + wide * rng.random(), z + rng.uniform(2, 6), 0.4 * wide, rng.uniform(3, 6))
        x += wide


# --------------------------------------------------------------------------------------------------------------------
# Plants
# --------------------------------------------------------------------------------------------------------------------


def leaves(scene: Scene, x: float, z: float, width: float, low: float, high: float, leaf: np.ndarray) -> None:
    """A ragged mass of leaves, `width` metres wide, from `low` to `high` above the ground."""
    rng, camera = scene.rng, scene.camera
    tall = high - low
    (left, top), (right, bottom) = camera.project(
        [(x - 0.65 * width, high + 0.15 * tall, z), (x + 0.65 * width, low, z)]
    )
    left, top = int(np.floor(left)), int(np.floor(top))
    rows, columns = int(bottom) + 2 - top, int(right) + 2 - left
    inside = slice(max(top, 0), min(top + rows, camera.height)), slice(max(left, 0), min(left + columns, camera.width))
    if inside[0].start >= inside[0].stop or inside[1].start >= inside[1].stop:
        return
    coarse = 1 + max(rows, columns) // 160
    h, w = rows // coarse + 2, columns // coarse + 2
    body, tone = np.zeros((h, w), np.float32), np.full((h, w), 0.55, np.float32)
    rx, ry = w / 2.6, h / 2.5
    size = 0.3 * min(rx, ry)
    for step in range(34):  # boughs, from the back to the front; those to the front and to the sun are brighter
        angle, away = rng.uniform(0, 2 * np.pi), 0.8 * np.sqrt(rng.random())
        right, down = away * np.cos(angle), away * np.sin(angle)
        middle = round((w / 2 + rx * right) * 16), round((h / 2 + ry * down) * 16)
        radius = round(max(size * rng.uniform(0.7, 1.4), 0.8) * 16)
        bright = 0.45 + 0.012 * step + 0.25 * (scene.light.towards[0] * right - down) + rng.uniform(-0.12, 0.12)
        cv2.circle(body, middle, radius, 1.0, -1, cv2.LINE_AA, 4)
        cv2.circle(tone, middle, radius, bright, -1, cv2.LINE_AA, 4)
    soft = max(size * 0.25, 0.5)
    body, tone = (
        cv2.resize(cv2.GaussianBlur(part, (0, 0), soft), (columns, rows))[
            inside[0].start - top : inside[0].stop - top, inside[1].start - left : inside[1].stop - left
        ]
        for part in (body, tone)
    )
    rough, fine = noise(rng, ROUGH, *body.shape), noise(rng, WHITE, *body.shape)
    cover = np.clip((body - 0.5 + 0.11 * rough) * max(2.5 * soft * coarse, 4) + 0.5, 0, 1)  # an edge of about a pixel
    tone = tone * (1 + 0.18 * (rough + fine)) * (1.3 * scene.brightness(x, z, width / 2))
    cover = (cover * 255).astype(np.uint8)
    scene.canvas.lay(inside, cover, np.clip(leaf * tone[..., None], 0, 1))
    scene.canvas.mark(inside, cover, Id.VEGETATION, z)


def leaf_colour(scene: Scene) -> np.ndarray:
    return mix(scene.leaf, any_colour(scene.rng), scene.rng.uniform(0, 0.2))


def add_bush(scene: Scene, x: float, z: float, width: float, height: float) -> None:
    """Leaves down to the ground: a bush, or a tree far away."""
    leaf = leaf_colour(scene)
    scene.cast(disc(x, z, width / 2, width / 2, 10), 0.8 * height)
    scene.items.append((z, lambda: leaves(scene, x, z, width, -0.15 * height, height, leaf)))


def add_tree(scene: Scene, x: float, z: float) -> None:
    """A stem and a crown; both are vegetation."""
    rng, leaf = scene.rng, leaf_colour(scene)
    stem, tall, width, radius = rng.uniform([1.8, 2.5, 2.6, 0.12], [3.2, 5.5, 5.5, 0.25])
    bark = np.float32([0.33, 0.27, 0.22]) * np.float32(rng.uniform(0.6, 1.3))
    trunk = np.array([(-1.3 * radius, 0), (1.3 * radius, 0), (0.8 * radius, stem + 1), (-0.8 * radius, stem + 1)])
    lit = trunk * (0.35, 1) + (np.sign(scene.light.towards[0]) * 0.5 * radius, 0)
    scene.stand(x, z, stem, radius, [(trunk, bark, Id.VEGETATION), (lit, bark * 1.35, None)])
    scene.cast(disc(x, z, width / 2, width / 2, 12) + scene.light.throw * stem, tall / 2)
    scene.items.append((z, lambda: leaves(scene, x, z, width, stem, stem + tall, leaf)))


# --------------------------------------------------------------------------------------------------------------------
# Things on posts, people, clutter: flat parts that stand across the street
# --------------------------------------------------------------------------------------------------------------------


def post(scene: Scene, height: float, radius: float) -> list[Part]:
    """A round post, brighter where the sun is."""
    colour = mix(GREY * np.float32(scene.rng.uniform(0.15, 0.75)), scene.paint(), scene.rng.uniform(0, 0.25))
    body = np.array([(-radius, 0), (radius, 0), (0.8 * radius, height), (-0.8 * radius, height)])
    sun = np.sign(scene.light.towards[0]) * radius
    bright, dark = body * (0.3, 1) + (0.45 * sun, 0), body * (0.3, 1) - (0.6 * sun, 0)
    return [(body, colour, Id.POLE), (bright, colour * 1.4, None), (dark, colour * 0.65, None)]


def add_lamp(scene: Scene, x: float, z: float) -> None:
    """A street lamp, its head too wide to count as pole, or a bare mast."""
    rng = scene.rng
    height, radius, reach = rng.uniform(5, 9), rng.uniform(0.26, 0.36), -np.sign(x) * rng.uniform(0.8, 2.2)
    parts = post(scene, height, radius)
    if rng.random() < 0.6:
        beam = limb((0, height - 0.1), (reach, height + 0.3), 0.7 * radius, 0.6 * radius)
        parts.append((beam, parts[0][1], Id.POLE))
        parts.append((disc(reach, height + 0.2, 0.45, 0.16), PALE * np.float32(rng.uniform(0.3, 1.2)), Id.STATIC))
    scene.stand(x, z, height, radius, parts)


def sign_plate(rng: np.random.Generator, size: float) -> list[tuple[np.ndarray, np.ndarray]]:
    """A traffic sign about (0, 0): outlines [n, 2] in metres with their colours, the whole plate first."""
    half, kind = size / 2, rng.integers(5)
    if kind == 0:  # a board with lines of text
        wide, high = half * rng.uniform(1.0, 1.7), half * rng.uniform(0.7, 1.1)
        ground = rng.integers(4)
        ink = (PALE, PALE, BLACK, BLACK)[ground]
        plate = rectangle(-wide, wide, -high, high)
        lines = [
            (rectangle(-0.75 * wide, rng.uniform(0, 0.75) * wide, y * high, (y + 0.22) * high), ink)
            for y in (-0.6, -0.1, 0.4)
        ]
        return [(plate, ink), (plate * 0.92, (BLUE, GREEN, PALE, YELLOW)[ground]), *lines]
    corners, turn, inner, rim, ground, ink = {
        1: (20, 0, 0.74, RED, PALE, BLACK),  # prohibition
        2: (20, 0, 0.92, PALE, BLUE, PALE),  # order
        3: (3, np.pi / 2, 0.68, RED, PALE if rng.random() < 0.7 else YELLOW, BLACK),  # warning
        4: (8, np.pi / 8, 0.88, PALE, RED, PALE) if rng.random() < 0.5 else (4, 0, 0.7, PALE, YELLOW, YELLOW),
    }[kind]
    turned = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    plate = disc(0, 0, half, half, corners) @ turned
    bars = rng.uniform(-0.35, 0.35, (2, 2, 2)) * half
    return [(plate, rim), (plate * inner, ground), *((limb(a, b, 0.1 * half, 0.1 * half), ink) for a, b in bars)]


def add_sign(scene: Scene, x: float, z: float) -> None:
    """One or two traffic signs on a post."""
    rng = scene.rng
    radius, size, y, fading = rng.uniform([0.14, 1.2, 2.2, 0], [0.18, 1.6, 3.0, 0.25])
    parts = post(scene, y + 0.4 * size, radius)
    grey = GREY * np.float32(rng.uniform(0.4, 0.7))
    for place in (y, y - 1.02 * size)[: 1 + (rng.random() < 0.35)]:
        for step, (outline, colour) in enumerate(sign_plate(rng, size)):
            parts.append((outline + (0, place), mix(colour, grey, fading), None if step else Id.TRAFFIC_SIGN))
    scene.stand(x, z, y, radius, parts)


def add_person(scene: Scene, x: float, z: float) -> None:
    """Somebody who stands or walks. Outlines are in shares of the height, facing right, before they are scaled."""
    rng = scene.rng
    tall = rng.uniform(1.55, 1.95) if rng.random() < 0.85 else rng.uniform(1.1, 1.4)
    stride, hem = rng.uniform(0.02, 0.16), 0.3 if rng.random() < 0.35 else 0.45
    bag, shoe, hair = (any_colour(rng) * tone for tone in (1, 0.5, 0.5))
    trousers = mix(BLUE, BLACK, rng.uniform(0, 0.8)) * np.float32(rng.uniform(0.7, 1.2))
    top = mix((RED, YELLOW, PALE)[rng.integers(3)], any_colour(rng), rng.uniform(0, 0.35))
    skin = np.float32([0.85, 0.62, 0.5]) * np.float32(rng.uniform(0.35, 1.1))
    shin, hand = skin if rng.random() < 0.25 else trousers, (0.12 + stride, 0.5)
    elbow = (0.13 + 0.3 * stride, 0.64)
    parts = [(limb((-0.1, 0.77), (-0.13 - 0.6 * stride, 0.5), 0.036, 0.03), top * 0.7, Id.PERSON)]
    for foot, tone in ((-stride, 0.75), (stride, 1.0)):
        knee = (0.6 * foot + 0.02, 0.27)
        parts.append((limb((0.25 * foot, 0.48), knee, 0.065, 0.048), trousers * tone, Id.PERSON))
        parts.append((limb(knee, (foot, 0.045), 0.048, 0.034), shin * tone, Id.PERSON))
        parts.append((limb((foot, 0.025), (foot + 0.07, 0.02), 0.026, 0.02), shoe * tone, Id.PERSON))
    half = [(0, 0.855), (0.07, 0.855), (0.13, 0.8), (0.1, 0.6), (0.115, hem), (0, hem)]
    body = np.array(half + [(-a, b) for a, b in half[::-1]])
    parts += [(body, top, Id.PERSON), (body * (0.35, 1) - (0.07, 0.01), top * 0.8, None)]
    if rng.random() < 0.25:
        parts += [(rectangle(-0.1, 0.1, y, y + 0.03), trousers, None) for y in np.arange(hem + 0.04, 0.8, 0.08)]
    parts += [
        (disc(0, 0.86, 0.03, 0.05), skin * 0.85, Id.PERSON),
        (disc(0, 0.93, 0.055, 0.07), skin, Id.PERSON),
        (hull(disc(-0.01, 0.965, 0.055, 0.035), disc(-0.04, 0.91, 0.02, 0.02)), hair, Id.PERSON),
        (limb((0.11, 0.78), elbow, 0.038, 0.032), top * 1.12, Id.PERSON),
        (limb(elbow, hand, 0.03, 0.026), top * 1.12, Id.PERSON),
        (disc(*hand, 0.028, 0.028), skin, Id.PERSON),
    ]
    if rng.random() < 0.35:
        parts.append((np.array([(-0.22, 0.6), (-0.1, 0.62), (-0.1, 0.8), (-0.2, 0.79)]), bag, Id.PERSON))
    scale = tall * rng.choice([-1, 1]) * rng.uniform(0.85, 1.25), tall
    scene.stand(x, z, tall, 0.22, [(outline * scale, colour, label) for outline, colour, label in parts])


def add_clutter(scene: Scene, x: float, z: float, label: Id) -> None:
    """A box on wheels that evaluation ignores: a bin, a cart, a parked trailer, some rubbish."""
    rng = scene.rng
    sizes = {Id.STATIC: (0.6, 1.1), Id.DYNAMIC: (0.7, 0.9), Id.TRAILER: (1.9, 2.2), Id.UNLABELED: (1.2, 0.6)}
    wide, high = rng.uniform(0.8, 1.2, 2) * sizes[label]
    colour, lid = scene.paint(), any_colour(rng)
    parts = [
        (rectangle(-wide / 2, wide / 2, 0.1, high), colour, label),
        (rectangle(-0.42 * wide, 0.42 * wide, 0.2 * high, 0.7 * high), colour * 0.85, None),
        (rectangle(-0.53 * wide, 0.53 * wide, 0.88 * high, high), lid, label),
        *((disc(wheel * wide, 0.12, 0.12, 0.12), BLACK, label) for wheel in (-0.35, 0.35)),
    ]
    scene.stand(x, z, high, wide / 2, parts)


# --------------------------------------------------------------------------------------------------------------------
# Cars
# --------------------------------------------------------------------------------------------------------------------


class Model(NamedTuple):
    """A kind of car. Places are shares of its length (from the rear), of its height and of its width."""

    lengths: tuple[float, float]  # metres
    heights: tuple[float, float]
    contour: list[tuple[float, float, str]]  # side view, from the lower rear corner over the roof, and what follows
    windows: list[list[tuple[float, float]]]  # of a side


NOSE = [(0.97, 0.56, "body"), (1, 0.46, "nose"), (1, 0.16, "")]
MODELS = [
    Model(  # saloon
        (4.3, 4.9),
        (1.4, 1.5),
        [(0, 0.16, "tail"), (0, 0.6, "body"), (0.03, 0.66, "body"), (0.14, 0.68, "glass"), (0.27, 0.99, "body")]
        + [(0.53, 1, "glass"), (0.7, 0.67, "body"), *NOSE],
        [
            [(0.2, 0.69), (0.29, 0.93), (0.43, 0.94), (0.43, 0.69)],
            [(0.45, 0.69), (0.45, 0.94), (0.53, 0.94), (0.66, 0.69)],
        ],
    ),
    Model(  # hatchback
        (3.7, 4.3),
        (1.45, 1.65),
        [(0, 0.16, "tail"), (0, 0.58, "body"), (0.02, 0.64, "glass"), (0.1, 0.96, "body"), (0.2, 1, "body")]
        + [(0.5, 1, "glass"), (0.7, 0.66, "body"), *NOSE],
        [
            [(0.1, 0.67), (0.16, 0.92), (0.38, 0.94), (0.38, 0.67)],
            [(0.4, 0.67), (0.4, 0.94), (0.5, 0.94), (0.66, 0.67)],
        ],
    ),
    Model(  # van
        (4.7, 5.6),
        (1.85, 2.3),
        [(0, 0.14, "tail"), (0, 0.55, "glass"), (0.02, 0.9, "body"), (0.06, 1, "body"), (0.68, 1, "glass")]
        + [(0.86, 0.58, "body"), *NOSE],
        [[(0.08, 0.6), (0.08, 0.9), (0.4, 0.9), (0.4, 0.6)], [(0.56, 0.6), (0.56, 0.9), (0.68, 0.9), (0.8, 0.6)]],
    ),
]
DETAILS = {  # rectangles on the tail and nose: x0, x1 in shares of the width, y0, y1 of the height, what it is
    "tail": [(-0.48, -0.3, 0.45, 0.58, "rear lamp"), (0.3, 0.48, 0.45, 0.58, "rear lamp")]
    + [(-0.14, 0.14, 0.34, 0.43, "plate"), (-0.46, 0.46, 0.16, 0.25, "trim")],
    "nose": [(-0.47, -0.28, 0.32, 0.44, "headlight"), (0.28, 0.47, 0.32, 0.44, "headlight")]
    + [(-0.25, 0.25, 0.3, 0.43, "trim"), (-0.14, 0.14, 0.19, 0.26, "plate")],
}
AXLES = (0.19, 0.8)  # shares of the length
TYRE, TYRE_WIDTH = 0.32, 0.2  # metres


def add_car(scene: Scene, x: float, z: float, heading: float) -> None:
    """A car about (x, z) that drives away from the camera (heading 0 degrees), towards it (180), or across (90)."""
    rng = scene.rng
    model = MODELS[rng.choice(3, p=[0.4, 0.4, 0.2])]
    length, height, width = rng.uniform(*model.lengths), rng.uniform(*model.heights), rng.uniform(1.7, 1.95)
    paint = scene.paint() if rng.random() < 0.6 else GREY * np.float32(rng.uniform(0.06, 0.9))
    colours = {
        "body": paint,
        "glass": mix(scene.sky, BLACK, rng.uniform(0.6, 0.95)),
        "rear lamp": RED * np.float32(rng.choice([0.8, 1.5], p=[0.7, 0.3])),
        "headlight": PALE * np.float32(rng.uniform(0.8, 1.5)),
        "plate": PALE,
        "trim": BLACK,
    }
    sin, cos = np.sin(np.radians(heading)), np.cos(np.radians(heading))
    turn = np.array([[cos, 0, -sin], [0, 1, 0], [sin, 0, cos]])

    def place(across, up, ahead) -> np.ndarray:
        """Outline [n, 3] of points in the car, metres from the middle of its ground -> in the scene."""
        points = np.stack(np.broadcast_arrays(across, up, np.asarray(ahead) - length / 2), 1)
        return points @ turn + (x, 0, z)

    base = place([-width / 2, width / 2, width / 2, -width / 2], 0, [0, 0, length, length])[:, [0, 2]]
    if base[:, 1].min() < NEAR:
        return
    scene.cast((base - (x, z)) * 1.04 + (x, z), 0.8 * height)

    ahead, up = np.array([point[:2] for point in model.contour]).T * [[length], [height]]
    halves = width / 2 * (1 - 0.5 * np.maximum(up / height - 0.62, 0))  # the cabin narrows towards the roof
    faces: list[tuple[np.ndarray, np.ndarray, list[Part]]] = []  # outline in the scene, colour, what is painted on it
    for i, (_, _, kind) in enumerate(model.contour[:-1]):
        side = [-halves[i], -halves[i + 1], halves[i + 1], halves[i]]
        outline = place(side, up[[i, i + 1, i + 1, i]], ahead[[i, i + 1, i + 1, i]])
        flat = (ahead[i + 1] - ahead[i]) / np.hypot(ahead[i + 1] - ahead[i], up[i + 1] - up[i])
        details = []
        for x0, x1, y0, y1, what in DETAILS.get(kind, []):
            details.append((place(*(rectangle(x0, x1, y0, y1) * (width, height)).T, ahead[i]), colours[what], None))
        tone = np.float32(0.75 + 0.4 * max(flat, 0))
        faces.append((outline, tone * colours.get(kind, paint), details))
    for side in (-1, 1):
        tone = np.float32(0.72 + 0.35 * max(side * float(turn[0] @ scene.light.towards), 0))
        details = []
        for window in model.windows:
            to, y = np.array(window).T * [[length], [height]]
            spot = width / 2 * (1 - 0.5 * np.maximum(y / height - 0.62, 0))
            details.append((place(side * spot, y, to), colours["glass"], None))
        for axle in AXLES:
            for share, colour in ((1.12, BLACK), (1.0, BLACK * 1.6), (0.6, GREY * np.float32(0.5))):
                to, y = disc(axle * length, TYRE, share * TYRE, share * TYRE).T
                details.append((place(side * width / 2, y, to), colour, Id.CAR))
        faces.append((place(side * halves, up, ahead)[::side], tone * paint, details))
    # far to near, so that of a body that is not convex the near faces win
    faces.sort(key=lambda face: -np.hypot(face[0][:, 0], face[0][:, 2]).mean())

    def draw() -> None:
        bright, project = scene.brightness(x, z, length / 2), scene.camera.project
        for side in (-1, 1):  # below the body one sees the tyres on both sides
            for axle in AXLES:
                to, y = disc(axle * length, TYRE, TYRE, TYRE).T
                inner, outer = (place(side * (width / 2 - inset), y, to) for inset in (TYRE_WIDTH, 0))
                tyre = hull(project(inner), project(outer))
                scene.canvas.fill(tyre, BLACK * bright, Id.CAR, z)
        for outline, colour, details in faces:
            (a, b), (c, d) = (project(outline)).T, np.roll(project(outline), -1, 0).T
            if (a * d - b * c).sum() > 0:  # its corners go clockwise: it faces the camera
                scene.fill(outline, colour * bright, Id.CAR)
                for points, paint, label in details:
                    scene.fill(points, paint * bright, label)

    scene.items.append((z, draw))


# --------------------------------------------------------------------------------------------------------------------
# The whole
# --------------------------------------------------------------------------------------------------------------------


def draw_camera(rng: np.random.Generator, width: int, height: int) -> Camera:
    focal, u, v, eye = rng.uniform([0.85, 0.47, 0.42, 1.4], [0.95, 0.53, 0.46, 1.6]).tolist()
    return Camera(width, height, width * focal, width * u - 0.5, height * v - 0.5, eye)


def draw_light(rng: np.random.Generator) -> Light:
    """Sun from behind or beside the camera, or an overcast sky."""
    azimuth, rise = np.radians([rng.choice([-1, 1]) * rng.uniform(35, 110), rng.uniform(28, 60)])
    towards = np.array([np.sin(azimuth) * np.cos(rise), np.sin(rise), -np.cos(azimuth) * np.cos(rise)])
    throw = -towards[[0, 2]] / towards[1]
    if rng.random() < 0.65:
        return Light(towards, rng.uniform(0.35, 0.75), rng.uniform(0.55, 0.75), throw)
    return Light(towards, rng.uniform(0, 0.12), rng.uniform(0.8, 1.0), throw)


def draw_palette(rng: np.random.Generator) -> list[np.ndarray]:
    """Colours of this picture's sky, leaves and road, float32 RGB [3] each."""
    skies = [(0.35, 0.55, 0.85), (0.62, 0.75, 0.9), (0.8, 0.82, 0.84), (0.55, 0.58, 0.62), (0.9, 0.75, 0.6)]
    plants = [(0.25, 0.38, 0.14), (0.36, 0.45, 0.2), (0.2, 0.3, 0.2), (0.55, 0.42, 0.16), (0.5, 0.28, 0.16)]
    sky = np.array(skies[rng.integers(5)]) * rng.uniform(0.85, 1.1)
    leaf = np.array(plants[rng.choice(5, p=[0.35, 0.3, 0.2, 0.1, 0.05])]) * rng.uniform(0.9, 1.3)
    road = mix(GREY * rng.uniform(0.2, 0.4), any_colour(rng), rng.uniform(0, 0.12))
    return [np.float32(colour) for colour in (sky, leaf, road)]


def empty_scene(rng: np.random.Generator, width: int, height: int) -> Scene:
    """A camera, a light and colours, and nothing to see yet."""
    shade = np.zeros((height, width), np.uint8)
    camera = draw_camera(rng, width, height)
    return Scene(rng, camera, Canvas(width, height), draw_light(rng), *draw_palette(rng), shade)


def steps(rng: np.random.Generator, start: float, end: float, least: float, most: float) -> Iterator[float]:
    """Places from start to end that lie `least` to `most` apart."""
    while start < end:
        yield start
        start += rng.uniform(least, most)


def furnish_lots(scene: Scene, side: Side, lots: list[Lot]) -> None:
    """Houses and plants on the land beside the street."""
    rng, sign = scene.rng, side.sign
    setback = side.walk + rng.uniform(0, 1.5)
    for lot in lots:
        if lot.kind == "house":
            add_house(scene, sign, setback + rng.uniform(0, 0.8), lot.start, lot.end)
        if lot.kind == "garden" and rng.random() < 0.5:
            add_house(scene, sign, side.walk + rng.uniform(6, 12), lot.start + 1, lot.end - 1)
        if lot.kind in ("garden", "park"):
            for _ in range(rng.integers(1, 4)):
                z, out, wide = rng.uniform(max(lot.start, 4), max(lot.end, 5)), rng.uniform(1.5, 7), rng.uniform(1.2, 4)
                if rng.random() < 0.5:
                    add_tree(scene, sign * (side.walk + out), z)
                else:
                    add_bush(scene, sign * (side.walk + out + wide / 2), z, wide, wide * rng.uniform(0.5, 0.9))


def furnish_side(scene: Scene, side: Side, end: float) -> None:
    """Parked cars, lamps, signs, people, trees and clutter on one side of the street."""
    rng, sign, heading = scene.rng, side.sign, 0 if side.sign > 0 else 180
    kerb = side.parking + 0.6
    if side.parking > side.road or side.road > 3.6:
        crowd = rng.choice([0, 0.4, 0.85])
        for z in steps(rng, rng.uniform(7, 12), 24, 5.6, 8):
            if rng.random() < crowd:
                add_car(scene, sign * (side.parking - 1.1), z, heading + rng.normal(0, 2))
            elif rng.random() < 0.06:
                add_clutter(scene, sign * (side.parking - 1.1), z, Id.TRAILER)
    for z in steps(rng, rng.uniform(6, 11), 24, 7, 11):
        add_lamp(scene, sign * kerb, z)
    for _ in range(rng.integers(1, 3)):
        add_sign(scene, sign * (kerb + rng.uniform(-0.1, 0.4)), rng.uniform(5.5, 10))
    if rng.random() < 0.45:
        for z in steps(rng, rng.uniform(8, 20), 40, 9, 16):
            add_tree(scene, sign * (kerb + 0.2), z)

    def walkway() -> float:
        return sign * rng.uniform(side.parking + 0.8, side.walk)

    for _ in range(rng.integers(1, 4)):
        x, z = walkway(), rng.uniform(6, 10)
        for friend in range(1 + (rng.random() < 0.3)):
            add_person(scene, x + 0.6 * friend, z + rng.uniform(0, 0.5))
    for label in (Id.STATIC, Id.DYNAMIC, Id.UNLABELED):
        if rng.random() < 0.3:
            add_clutter(scene, walkway(), rng.uniform(7, 20), label)


def furnish_road(scene: Scene, sides: list[Side]) -> None:
    """Cars that drive, people who cross."""
    rng, (left, right) = scene.rng, (-sides[0].road, sides[1].road)
    if rng.random() < 0.7:
        add_car(scene, rng.uniform(-0.4, 0.8), rng.uniform(9, 20), rng.normal(0, 2))
    if rng.random() < 0.6:
        add_car(scene, rng.uniform(left + 0.7, -2.5), rng.uniform(9, 22), rng.normal(180, 2))
    if rng.random() < 0.15:
        add_car(scene, rng.uniform(-6, 6), rng.uniform(12, 22), rng.choice([90, 270]) + rng.normal(0, 12))
    for _ in range(rng.integers(1, 4)):
        add_person(scene, rng.uniform(left, right), rng.uniform(5, 9))


def draw_bonnet(scene: Scene) -> None:
    """The ego vehicle at the lower edge."""
    rng, (height, width) = scene.rng, scene.canvas.label.shape
    rise, paint = height * rng.uniform(0.06, 0.12), any_colour(rng) * np.float32(0.6)
    shine = mix(paint, scene.sky, rng.uniform(0.3, 0.7))
    middle = (width * rng.uniform(0.46, 0.54), height)
    outline = disc(0, rise * 0.35, width * rng.uniform(0.5, 0.62), rise * 1.35, 60)
    scene.canvas.fill(outline + middle, paint, Id.EGO_VEHICLE, NEAR)
    scene.canvas.fill(outline * (0.8, 0.7) + middle, shine, None, NEAR)
    scene.canvas.fill(outline * (0.72, 0.5) + middle, mix(paint, shine, 0.4), None, NEAR)


def develop(scene: Scene) -> np.ndarray:
    """The finished picture, uint8 [H, W, 3]: haze, vignette, white balance, saturation, contrast, blur, noise."""
    rng, canvas = scene.rng, scene.canvas
    height, width = canvas.label.shape
    haze = mix(scene.sky, PALE, 0.6)
    seen = np.exp(-canvas.distance / np.float32(rng.uniform(60, 400)))
    seen[canvas.label == Id.SKY] = 1
    picture = haze + seen[..., None] * (canvas.picture - haze)
    y, x = np.linspace(-1, 1, height, dtype=np.float32)[:, None], np.linspace(-1, 1, width, dtype=np.float32)
    picture *= (1 - np.float32(rng.uniform(0, 0.15)) * (x * x + y * y))[..., None]
    picture *= np.float32(rng.uniform(0.92, 1.08, 3) * rng.uniform(0.9, 1.2))
    grey = picture.mean(2, keepdims=True)
    picture = grey + np.float32(rng.uniform(0.6, 1.15)) * (picture - grey)
    picture = np.clip(picture, 0, 1) ** np.float32(rng.uniform(0.7, 1.05))
    picture = cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.35, 0.7) * width / 512)
    picture += np.float32(rng.uniform(0.005, 0.015)) * rng.standard_normal(picture.shape, np.float32)
    return (np.clip(picture, 0, 1) * 255 + 0.5).astype(np.uint8)


def draw_borders(rng: np.random.Generator, picture: np.ndarray, label: np.ndarray) -> None:
    """Void borders: what rectification leaves black at the left and right, and a frame that is out of the region."""
    height, width = label.shape
    down, column = np.linspace(0, 1, height)[:, None], np.arange(width)
    a, b, c, d = rng.uniform(0, 0.008, 4) * width
    wedge = (column < a + (b - a) * down) | (column > width - 1 - c - (d - c) * down)
    picture[wedge], label[wedge] = 0, Id.RECTIFICATION_BORDER
    frame = max(round(width / 256), 1)
    edge = np.ones_like(label, bool)
    edge[frame:-frame, frame:-frame] = False
    label[edge] = Id.OUT_OF_ROI


def draw_scene(rng: np.random.Generator, width: int, height: int) -> tuple[np.ndarray, np.ndarray, Camera]:
    """A picture, uint8 RGB [height, width, 3], its label ids, uint8 [height, width], and the camera that saw it."""
    scene = empty_scene(rng, width, height)
    sides, end = [draw_side(rng, sign) for sign in (-1, 1)], rng.uniform(28, 60)
    lots = [draw_lots(rng, end) for _ in sides]
    add_end(scene, end)
    for side, land in zip(sides, lots, strict=True):
        furnish_lots(scene, side, land)
        furnish_side(scene, side, end)
    furnish_road(scene, sides)
    draw_sky(scene)
    draw_ground(scene, sides, lots)
    scene.draw()
    draw_bonnet(scene)
    picture, label = develop(scene), scene.canvas.label
    draw_borders(rng, picture, label)
    return picture, label, scene.camera
