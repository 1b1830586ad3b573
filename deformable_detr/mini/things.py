"""What stands in the mini data's pictures: people, cars, buses, signs, umbrellas, balls and clocks, as flat shapes.

Each is drawn in metres, x to the right and y up, its foot at (0, 0), seen from its side.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

#: white, silver, graphite, navy, red, green, sky, yellow, orange, violet, turquoise: RGB, 0..255
PAINTS = np.float32([
    (226, 226, 222), (166, 170, 176), (74, 76, 82), (40, 58, 120), (176, 40, 40), (50, 120, 66),
    (96, 156, 204), (222, 182, 48), (216, 118, 40), (128, 72, 150), (60, 160, 156),
])  # fmt: skip
SKINS = np.float32([(236, 200, 172), (210, 164, 128), (160, 112, 80), (104, 70, 50)])
HAIRS = np.float32([(40, 30, 26), (92, 60, 36), (172, 136, 76), (120, 118, 116)])
WHITE, BLACK, GLASS, STEEL = (np.float32(c) for c in ((238, 238, 234), (26, 26, 28), (70, 92, 110), (130, 132, 136)))


class Part(NamedTuple):
    """One flat shape. Parts that are not `owned`, a sign's post, hide what is behind them but are no object."""

    outline: np.ndarray  # float64 [n, 2], metres
    colour: np.ndarray  # float32 RGB [3]
    owned: bool = True


class Kind(NamedTuple):
    """A category of COCO and how it is drawn; `sizes` are the least and the most pixels of its longer side."""

    category_id: int
    name: str
    draw: Callable[[np.random.Generator], list[Part]]
    sizes: tuple[float, float]


def box(left: float, bottom: float, right: float, top: float) -> np.ndarray:
    return np.array([(left, bottom), (right, bottom), (right, top), (left, top)], np.float64)


def disc(x: float, y: float, across: float, up: float | None = None, corners: int = 40) -> np.ndarray:
    """An ellipse of half axes `across` and `up` (a circle without `up`)."""
    angle = np.arange(corners) * (2 * np.pi / corners)
    return np.stack([x + across * np.cos(angle), y + (up or across) * np.sin(angle)], 1)


def wedge(x: float, y: float, radius: float, start: float, end: float) -> np.ndarray:
    """A slice of a disc between two angles in radians."""
    angle = np.linspace(start, end, 12)
    rim = np.stack([x + radius * np.cos(angle), y + radius * np.sin(angle)], 1)
    return np.concatenate([[(x, y)], rim])


def bar(start: tuple[float, float], end: tuple[float, float], width: float) -> np.ndarray:
    """A straight stroke."""
    (x0, y0), (x1, y1) = start, end
    length = np.hypot(x1 - x0, y1 - y0)
    across = np.array([y0 - y1, x1 - x0]) / length * width / 2
    return np.array([start + across, end + across, end - across, start - across])


def pick(rng: np.random.Generator, palette: np.ndarray) -> np.ndarray:
    """A colour of a palette, a little off."""
    return palette[rng.integers(len(palette))] * np.float32(rng.uniform(0.85, 1.08) * rng.uniform(0.96, 1.04, 3))


def draw_person(rng: np.random.Generator) -> list[Part]:
    """Somebody of 1.5 to 1.85 m who stands or walks."""
    tall = rng.uniform(1.5, 1.85)
    skin, hair, shirt, trousers = pick(rng, SKINS), pick(rng, HAIRS), pick(rng, PAINTS), pick(rng, PAINTS) * 0.6
    stride, swing, girth = rng.uniform(0.03, 0.3), rng.uniform(0.05, 0.35), rng.uniform(0.15, 0.21)
    hip, shoulder = 0.5 * tall, 0.82 * tall
    parts = []
    for side in (-1, 1):
        foot = side * stride
        parts.append(Part(bar((side * 0.06, hip), (foot, 0.03), 0.15), trousers * (1 if side > 0 else 0.85)))
        parts.append(Part(box(foot - 0.09, 0, foot + 0.11, 0.08), BLACK))
    parts.append(Part(bar((-girth, shoulder - 0.05), (-girth - swing, hip), 0.1), shirt * 0.8))
    parts.append(Part(disc(-girth - swing, hip - 0.02, 0.06), skin))
    torso = [(-0.15, hip - 0.04), (0.15, hip - 0.04), (girth + 0.03, shoulder), (0.06, shoulder + 0.05)]
    parts.append(Part(np.array([*torso, (-0.06, shoulder + 0.05), (-girth - 0.03, shoulder)]), shirt))
    parts.append(Part(bar((girth, shoulder - 0.05), (girth + swing * 0.8, hip), 0.1), shirt * 0.9))
    parts.append(Part(disc(girth + swing * 0.8, hip - 0.02, 0.06), skin))
    parts.append(Part(disc(0, tall - 0.13, 0.12, 0.15), hair))
    parts.append(Part(disc(0.025, tall - 0.16, 0.095, 0.125), skin))
    return parts


def _wheel(x: float, radius: float) -> list[Part]:
    return [Part(disc(x, radius, radius), BLACK), Part(disc(x, radius, 0.55 * radius), STEEL * 1.25)]


def draw_car(rng: np.random.Generator) -> list[Part]:
    """A car of 3.6 to 4.6 m with four side windows."""
    long, tall, paint = rng.uniform(3.6, 4.6), rng.uniform(1.35, 1.6), pick(rng, PAINTS)
    half, waist, boot = long / 2, 0.58 * tall, rng.uniform(0.2, 0.75)
    rear, front = -half + boot, half - 1.7  # of the roof
    body = [(-half, 0.28), (half, 0.28), (half, 0.5 * tall), (half - 0.9, waist), (front, tall), (rear + 0.2, tall)]
    middle, low, high = (rear + front) / 2 + 0.15, waist + 0.02, tall - 0.1
    left_window = [(rear + 0.05, low), (middle - 0.05, low), (middle - 0.05, high), (rear + 0.32, high)]
    right_window = [(middle + 0.05, low), (front + 0.55, low), (front - 0.05, high), (middle + 0.05, high)]
    return [
        Part(np.array([*body, (-half + 0.05, waist)]), paint),
        Part(np.array(left_window), GLASS),
        Part(np.array(right_window), GLASS),
        Part(box(-half, 0.28, half, 0.4), paint * 0.6),
        Part(disc(half - 0.1, 0.45 * tall, 0.12, 0.09), np.float32((250, 240, 190))),
        Part(disc(-half + 0.1, 0.48 * tall, 0.09, 0.12), np.float32((190, 30, 30))),
        *_wheel(-half + 0.8, 0.33),
        *_wheel(half - 0.85, 0.33),
    ]


def draw_bus(rng: np.random.Generator) -> list[Part]:
    """A bus of 6 to 7.5 m with a row of windows, a door and a stripe."""
    long, tall, paint = rng.uniform(6.0, 7.5), rng.uniform(2.8, 3.2), pick(rng, PAINTS)
    half, stripe = long / 2, pick(rng, PAINTS)
    corner = 0.25
    body = [(-half, 0.4), (half, 0.4), (half, tall - corner), (half - corner, tall), (-half + corner, tall)]
    parts = [Part(np.array([*body, (-half, tall - corner)]), paint)]
    parts.append(Part(box(-half, 0.95, half, 1.2), stripe))
    parts.append(Part(box(-half, 0.4, half, 0.55), paint * 0.55))
    count = int(rng.integers(4, 7))
    edges = np.linspace(-half + 0.2, half - 1.3, count + 1)
    for left, right in zip(edges[:-1], edges[1:], strict=True):
        parts.append(Part(box(left + 0.07, 1.45, right - 0.07, tall - 0.45), GLASS * 0.9))
    parts.append(Part(box(half - 1.15, 0.45, half - 0.25, tall - 0.45), GLASS * 1.2))
    parts.append(Part(box(half - 0.73, 0.45, half - 0.67, tall - 0.45), paint * 0.7))
    for x in (-half + 1.4, half - 1.9):
        parts += _wheel(x, 0.48)
    return parts


def draw_stop_sign(rng: np.random.Generator) -> list[Part]:
    """A red octagon with white letters, of 1 m, on a post that is no part of it."""
    middle, red = rng.uniform(1.9, 2.3), np.float32((200, 30, 36)) * np.float32(rng.uniform(0.85, 1.1))

    def octagon(radius: float) -> np.ndarray:
        angle = np.pi / 8 + np.arange(8) * np.pi / 4
        return np.stack([radius * np.cos(angle), middle + radius * np.sin(angle)], 1)

    parts = [Part(box(-0.05, 0, 0.05, middle), STEEL * 0.7, owned=False)]
    parts += [Part(octagon(0.54), WHITE), Part(octagon(0.48), red)]
    low, high = middle - 0.14, middle + 0.14
    for left in (-0.38, -0.18, 0.02, 0.22):  # the four letters, as far as one can read them from here
        parts.append(Part(box(left, low, left + 0.16, high), WHITE))
        parts.append(Part(box(left + 0.05, low + 0.06, left + 0.11, high - 0.06), red))
    return parts


def draw_umbrella(rng: np.random.Generator) -> list[Part]:
    """A parasol of eight gores in two colours, with its pole and foot."""
    tall, reach = rng.uniform(2.1, 2.5), rng.uniform(1.05, 1.35)
    first, second = rng.permutation(len(PAINTS))[:2]
    colours = PAINTS[first], PAINTS[second] if rng.random() < 0.6 else WHITE
    rim = tall - 0.62 * reach
    parts = [Part(box(-0.04, 0, 0.04, tall), STEEL * 0.8), Part(box(-0.22, 0, 0.22, 0.1), STEEL * 0.6)]
    edges = reach * np.sin(np.linspace(-np.pi / 2, np.pi / 2, 7))
    for number, (left, right) in enumerate(zip(edges[:-1], edges[1:], strict=True)):
        up = np.linspace(0, 1, 12)
        spread = np.sin(np.arccos(1 - up))  # the canopy's width at each height, from its top
        fall = tall - 0.62 * reach * up
        gore = np.concatenate([np.stack([left * spread, fall], 1), np.stack([right * spread, fall], 1)[::-1]])
        parts.append(Part(gore, colours[number % 2]))
        sag = disc((left + right) / 2, rim, (right - left) / 2, 0.07)
        parts.append(Part(sag, colours[number % 2] * 0.9))
    parts.append(Part(box(-0.03, tall, 0.03, tall + 0.1), STEEL))
    return parts


def draw_ball(rng: np.random.Generator) -> list[Part]:
    """A football, a basketball or a beach ball of 0.6 to 0.8 m."""
    radius, turn = rng.uniform(0.3, 0.4), rng.uniform(0, 2 * np.pi)
    kind = rng.integers(3)
    if kind == 0:
        parts = [Part(disc(0, radius, radius), WHITE), Part(disc(0, radius, 0.3 * radius, corners=5), BLACK)]
        for corner in range(5):
            angle = turn + corner * 2 * np.pi / 5
            x, y = 0.76 * radius * np.cos(angle), radius + 0.76 * radius * np.sin(angle)
            parts.append(Part(disc(x, y, 0.2 * radius, corners=5), BLACK))
        return parts
    if kind == 1:
        parts = [Part(disc(0, radius, radius), np.float32((222, 120, 46)))]
        for angle in (turn, turn + np.pi / 2):
            reach = np.array([np.cos(angle), np.sin(angle)]) * radius * 0.97
            parts.append(Part(bar(tuple((0, radius) - reach), tuple((0, radius) + reach), 0.12 * radius), BLACK * 1.6))
        return parts
    paints = [WHITE, *(PAINTS[k] for k in rng.permutation(len(PAINTS))[:2])]
    parts = [Part(disc(0, radius, radius), WHITE)]
    for gore in range(6):
        start = turn + gore * np.pi / 3
        parts.append(Part(wedge(0, radius, radius, start, start + np.pi / 3), paints[gore % 3]))
    return [*parts, Part(disc(0, radius, 0.18 * radius), WHITE)]


def draw_clock(rng: np.random.Generator) -> list[Part]:
    """A round clock of 1 m on a post that is no part of it."""
    middle, frame = rng.uniform(2.2, 2.8), pick(rng, PAINTS[[2, 3, 5, 9]]) * 0.6
    parts = [Part(box(-0.08, 0, 0.08, middle), BLACK * 1.5, owned=False)]
    parts += [Part(disc(0, middle, 0.54), frame), Part(disc(0, middle, 0.43), WHITE)]
    for hour in range(12):
        way = np.array([np.sin(hour * np.pi / 6), np.cos(hour * np.pi / 6)])
        centre = np.array([0, middle])
        parts.append(Part(bar(tuple(centre + 0.33 * way), tuple(centre + 0.4 * way), 0.05), BLACK))
    for length, width in ((0.22, 0.08), (0.34, 0.05)):
        angle = rng.uniform(0, 2 * np.pi)
        end = (length * np.sin(angle), middle + length * np.cos(angle))
        parts.append(Part(bar((0, middle), end, width), BLACK))
    return parts


PERSON = Kind(1, "person", draw_person, (40, 120))
KINDS = (
    PERSON,
    Kind(3, "car", draw_car, (46, 170)),
    Kind(6, "bus", draw_bus, (84, 240)),
    Kind(13, "stop sign", draw_stop_sign, (20, 60)),
    Kind(28, "umbrella", draw_umbrella, (40, 120)),
    Kind(37, "sports ball", draw_ball, (18, 56)),
    Kind(85, "clock", draw_clock, (20, 60)),
)
