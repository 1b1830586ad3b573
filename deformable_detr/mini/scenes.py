"""A picture of the mini data: a street or a meadow with things in it, and which pixel belongs to which thing.

A flat ground seen by a level camera: whoever stands lower in the picture is nearer, larger and in front.
"""

from typing import NamedTuple

import cv2
import numpy as np

from shared.mini import to_bytes

from .things import KINDS, PERSON, Kind, Part, pick

FINE = 4  # sub-pixels a side in which everything is drawn
SHARE_SEEN = 0.5  # of each thing, at least: a nearer one that would hide more stands elsewhere
TRIES = 16  # positions for a thing before it is dropped
LEAST_PIXELS = 60  # of a thing that the picture's edge cuts
COUNTS = (0.14, 0.22, 0.26, 0.22, 0.16)  # how often a picture has 1, 2, ... things
EMPTY, CROWDED = 0.05, 0.12  # shares of the pictures without a thing, and with a crowd

SKIES = np.float32([(150, 190, 226), (186, 206, 224), (206, 208, 210), (226, 206, 180)])
GROUNDS = np.float32([(124, 124, 126), (150, 144, 136), (112, 140, 84), (140, 150, 96), (170, 156, 126)])
WALLS = np.float32([(176, 164, 148), (150, 150, 152), (160, 136, 120), (140, 152, 160), (120, 142, 112)])


class Thing(NamedTuple):
    """Something where it stands: `parts` with outlines in pixels, the farthest away has the smallest `scale`."""

    kind: Kind
    parts: list[Part]
    scale: float  # pixels a metre
    foot: tuple[float, float]
    crowd: bool = False


class Scene(NamedTuple):
    """A drawn picture and its things."""

    picture: np.ndarray  # uint8 RGB [H, W, 3]
    kinds: list[Kind]
    crowds: list[bool]
    masks: list[np.ndarray]  # of each thing, bool [H, W]; no two share a pixel


def blotches(rng: np.random.Generator, size: tuple[int, int], *lengths: float) -> np.ndarray:
    """Smooth noise of deviation 1, float32 [h, w]; `size` is (width, height), `lengths` the blotches' in pixels."""
    total = np.zeros(size[::-1], np.float32)
    for length in lengths:
        grid = rng.standard_normal((int(size[1] / length) + 2, int(size[0] / length) + 2)).astype(np.float32)
        total += cv2.resize(grid, size, interpolation=cv2.INTER_CUBIC)
    return total / (total.std() + 1e-6)


def fill(canvas: np.ndarray, outline: np.ndarray, colour) -> None:
    """Fill an outline, in pixels of the picture, on a canvas of FINE sub-pixels a side."""
    corners = np.round((outline * FINE - 0.5) * 16).astype(np.int32)
    cv2.fillPoly(canvas, [corners], colour, shift=4)


def stand(parts: list[Part], kind: Kind, scale: float, foot: tuple[float, float], mirror: float) -> Thing:
    """A thing of `scale` pixels a metre with its foot at that pixel; `mirror` is 1, or -1 for its mirror image."""
    placed = [part._replace(outline=part.outline * (mirror * scale, -scale) + foot) for part in parts]
    return Thing(kind, placed, scale, foot)


def draw_scale(rng: np.random.Generator, kind: Kind, parts: list[Part]) -> float:
    """Pixels a metre so that the longer side has one of its kind's sizes, small ones as often as large ones."""
    owned = np.concatenate([part.outline for part in parts if part.owned])
    low, high = kind.sizes
    return low * (high / low) ** rng.random() / np.ptp(owned, axis=0).max()


def silhouette(thing: Thing, width: int, height: int, owned: bool = True) -> np.ndarray:
    """Pixels that a thing covers when nothing is before it, bool [height, width]; with its post if not `owned`."""
    canvas = np.zeros((height, width), np.uint8)
    for part in thing.parts:
        if part.owned or not owned:
            cv2.fillPoly(canvas, [np.round((part.outline - 0.5) * 16).astype(np.int32)], 1, shift=4)
    return canvas.astype(bool)


def area(thing: Thing) -> float:
    """Pixels of a thing that the picture's edges would not cut."""
    corners = np.concatenate([part.outline for part in thing.parts])
    low, high = corners.min(0) - 1, corners.max(0) + 1
    moved = thing._replace(parts=[part._replace(outline=part.outline - low) for part in thing.parts])
    return float(silhouette(moved, *np.ceil(high - low).astype(int).tolist()).sum())


def well_seen(things: list[Thing], width: int, height: int) -> bool:
    """Whether each thing shows enough of itself behind nearer ones and inside the picture."""
    hidden = np.zeros((height, width), bool)
    for thing in sorted(things, key=lambda thing: -thing.scale):
        own = silhouette(thing, width, height)
        seen = (own & ~hidden).sum()
        if seen < LEAST_PIXELS or seen < SHARE_SEEN * area(thing):
            return False
        hidden |= silhouette(thing, width, height, owned=False)
    return True


def make_crowd(rng: np.random.Generator, horizon: float, eye: float, width: int) -> Thing:
    """Ten to sixteen people close together and far away, one thing."""
    scale, x = rng.uniform(13, 19), rng.uniform(0.2, 0.8) * width
    parts: list[Part] = []
    for _ in range(rng.integers(10, 17)):
        near, mirror = scale * rng.uniform(0.95, 1.08), rng.choice([-1.0, 1.0])
        foot = (x + rng.normal(0, 1.3) * scale, horizon + eye * near)
        parts += stand(PERSON.draw(rng), PERSON, near, foot, mirror).parts
    return Thing(PERSON, parts, scale, (x, horizon + eye * scale), crowd=True)


def furnish(rng: np.random.Generator, horizon: float, eye: float, width: int, height: int) -> list[Thing]:
    """The things of a picture, the farthest first."""
    things: list[Thing] = []
    draw = rng.random()
    if draw < EMPTY:
        return things
    if draw < EMPTY + CROWDED:
        things.append(make_crowd(rng, horizon, eye, width))
    for _ in range(1 + rng.choice(len(COUNTS), p=COUNTS)):
        kind = KINDS[rng.integers(len(KINDS))]
        parts = kind.draw(rng)
        scale, mirror = draw_scale(rng, kind, parts), rng.choice([-1.0, 1.0])
        for _ in range(TRIES):
            thing = stand(parts, kind, scale, (rng.uniform(0.02, 0.98) * width, horizon + eye * scale), mirror)
            if well_seen([*things, thing], width, height):
                things.append(thing)
                break
    return sorted(things, key=lambda thing: thing.scale)


def paint_ground(rng: np.random.Generator, canvas: np.ndarray, horizon: float) -> None:
    """Sky, walls or hedges before it, ground, and what lies on it."""
    height, width = canvas.shape[0] / FINE, canvas.shape[1] / FINE
    size = canvas.shape[1::-1]
    canvas[:] = pick(rng, SKIES) + np.linspace(-14, 14, canvas.shape[0], dtype=np.float32)[:, None, None]
    canvas += (5 * blotches(rng, size, 160 * FINE / 4, 60 * FINE / 4))[..., None]
    x = -10.0
    while x < width and rng.random() < 0.9:
        wide, tall = rng.uniform(18, 70), rng.uniform(6, 0.8 * horizon)
        wall = pick(rng, WALLS)
        front = [(x, horizon + 1), (x, horizon - tall), (x + wide, horizon - tall), (x + wide, horizon + 1)]
        fill(canvas, np.array(front), wall.tolist())
        for left in np.arange(x + 4, x + wide - 6, rng.uniform(9, 14)):
            for top in np.arange(horizon - tall + 4, horizon - 8, rng.uniform(10, 14)):
                window = [(left, top), (left + 4, top), (left + 4, top + 6), (left, top + 6)]
                fill(canvas, np.array(window), (wall * rng.uniform(0.72, 0.9)).tolist())
        x += wide * rng.uniform(0.7, 1.3)
    row, base = round(horizon * FINE), pick(rng, GROUNDS)
    below = canvas[row:]
    below[:] = base * np.linspace(0.86, 1.06, len(below), dtype=np.float32)[:, None, None]
    below *= np.exp(0.07 * blotches(rng, below.shape[1::-1], 60, 22, 8))[..., None]
    centre, spread = rng.uniform(0.2, 0.8) * width, rng.uniform(0.15, 0.5)
    for side in (-1, 1):  # two kerbs or mown edges that meet at the horizon
        ends = [(centre + side * width * spread * reach, height) for reach in (2.2, 2)]
        fill(canvas, np.array([(centre, horizon), *ends]), (base * rng.choice([0.8, 1.2])).tolist())


def shade_ground(canvas: np.ndarray, thing: Thing, strength: float) -> None:
    """The shadow at a thing's foot."""
    corners = np.concatenate([part.outline for part in thing.parts])
    low = corners[corners[:, 1] > thing.foot[1] - 0.35 * thing.scale, 0]
    left, right = (low.min(), low.max()) if len(low) else (thing.foot[0], thing.foot[0])
    angle = np.arange(32) * (2 * np.pi / 32)
    reach = (right - left) / 2 + 0.12 * thing.scale
    middle = ((left + right) / 2, thing.foot[1])
    outline = np.stack([np.cos(angle) * reach, np.sin(angle) * 0.12 * thing.scale], 1) + middle
    shadow = np.zeros(canvas.shape[:2], np.uint8)
    fill(shadow, outline, 1)
    rows = slice(max(0, int(outline[:, 1].min() * FINE) - 1), max(0, int(outline[:, 1].max() * FINE) + 2))
    canvas[rows][shadow[rows] > 0] *= np.float32(1 - strength)


def paint(rng: np.random.Generator, canvas: np.ndarray, owner: np.ndarray, thing: Thing, number: int) -> None:
    """A thing over what is there already; `owner` uint8 [h, w] gets its `number` where it is, 0 where its post is."""
    bright = np.float32(rng.uniform(0.85, 1.1))
    for part in thing.parts:
        fill(canvas, part.outline, (part.colour * bright).tolist())
        fill(owner, part.outline, number if part.owned else 0)
    own = owner == number
    rows = np.flatnonzero(own.any(1))
    if rows.size:  # lighter above than below
        part = slice(rows[0], rows[-1] + 1)
        fall = np.interp(np.arange(len(owner)), rows[[0, -1]], [1.1, 0.88]).astype(np.float32)
        canvas[part] *= np.where(own[part], fall[part, None], np.float32(1))[..., None]


def develop(rng: np.random.Generator, canvas: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The picture, uint8 [H, W, 3]: sub-pixels together, light, a little blur and noise."""
    picture = cv2.resize(canvas, size, interpolation=cv2.INTER_AREA)
    picture *= np.float32(rng.uniform(0.85, 1.1) * rng.uniform(0.96, 1.04, 3))
    picture *= np.exp(0.04 * blotches(rng, size, 50, 5))[..., None]
    picture = cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.3, 0.55))
    picture += np.float32(rng.uniform(1.0, 3.5)) * rng.standard_normal(picture.shape, np.float32)
    return to_bytes(picture)


def draw_scene(rng: np.random.Generator, width: int, height: int) -> Scene:
    """A picture of that size with what `rng` puts into it. A pixel belongs to the thing that covers most of it."""
    horizon, eye = rng.uniform(0.3, 0.45) * height, rng.uniform(1.4, 2.0)
    canvas = np.zeros((height * FINE, width * FINE, 3), np.float32)
    owner = np.zeros(canvas.shape[:2], np.uint8)
    paint_ground(rng, canvas, horizon)
    things = furnish(rng, horizon, eye, width, height)
    strength = rng.uniform(0.1, 0.4)
    for number, thing in enumerate(things):
        shade_ground(canvas, thing, strength)
        paint(rng, canvas, owner, thing, 1 + number)
    picture = develop(rng, canvas, (width, height))
    own = [(owner == 1 + number).astype(np.float32) for number in range(len(things))]
    masks = [cv2.resize(mask, (width, height), interpolation=cv2.INTER_AREA) > 0.5 for mask in own]
    seen = [number for number, mask in enumerate(masks) if mask.any()]
    return Scene(
        picture,
        [things[number].kind for number in seen],
        [things[number].crowd for number in seen],
        [masks[number] for number in seen],
    )
