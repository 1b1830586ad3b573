"""What the mini data's surfaces look like: small pictures, uint8 [h, w, 3], drawn from random numbers."""

import cv2
import numpy as np

from shared.mini import to_bytes

#: white, blue, red, green, light blue, yellow, orange, violet
PAINTS = np.float32([
    (232, 232, 230), (34, 62, 168), (196, 30, 34), (24, 120, 74),
    (80, 156, 222), (236, 196, 40), (232, 112, 30), (142, 52, 138),
])  # fmt: skip
CLOTHES = np.float32([(190, 50, 50), (50, 80, 170), (230, 225, 215), (60, 140, 80), (235, 190, 60), (130, 70, 150)])
TROUSERS = np.float32([(48, 52, 74), (84, 76, 66), (36, 36, 38), (110, 116, 124)])
SKIN = np.float32([(224, 178, 146), (196, 144, 108), (128, 86, 60)])
GLASS, TYRE, PLATE = np.float32([(46, 56, 68), (26, 26, 28), (236, 236, 214)])
HEADLIGHT, TAILLIGHT = np.float32([(255, 250, 214), (214, 24, 20)])


def noise(rng: np.random.Generator, height: int, width: int, sizes: tuple[float, ...]) -> np.ndarray:
    """Smooth noise of mean 0 and deviation 1, float32 [height, width]; `sizes` are its blotches' in pixels."""
    total = np.zeros((height, width), np.float32)
    for size in sizes:
        grid = rng.standard_normal((int(height / size) + 3, int(width / size) + 3)).astype(np.float32)
        total += cv2.resize(grid, None, fx=size, fy=size, interpolation=cv2.INTER_CUBIC)[:height, :width]
    return (total - total.mean()) / (total.std() + 1e-6)


def plain(colour: np.ndarray) -> np.ndarray:
    """One colour, [1, 1, 3]."""
    return to_bytes(np.float32(colour))[None, None]


def pick(rng: np.random.Generator, palette: np.ndarray) -> np.ndarray:
    """A colour of a palette, a little off, float32 [3]."""
    return palette[rng.integers(len(palette))] * np.float32(rng.uniform(0.9, 1.08) * rng.uniform(0.96, 1.04, 3))


def panel(rng: np.random.Generator, base: np.ndarray, parts: list[tuple]) -> np.ndarray:
    """A surface of 48 x 96 pixels with rectangles (left, top, right, bottom, colour), their sides from 0 to 1.

    The surface is a little darker below, and slightly uneven.
    """
    height, width = 48, 96
    picture = np.full((height, width, 3), base, np.float32) * np.linspace(1.06, 0.82, height)[:, None, None]
    for left, top, right, bottom, colour in parts:
        rows, columns = (slice(round(a * n), round(b * n)) for a, b, n in ((top, bottom, height), (left, right, width)))
        picture[rows, columns] = colour
    return to_bytes(picture * (1 + 0.04 * noise(rng, height, width, (5, 14)))[..., None])


def car_flank(rng: np.random.Generator, paint: np.ndarray) -> np.ndarray:
    """Doors between the lights, the front on the left: a headlight there, a tail light on the right."""
    gaps = [(x, 0, x + 0.012, 0.8, paint * 0.45) for x in (0.3, 0.52, 0.73)]
    handles = [(x, 0.2, x + 0.035, 0.27, paint * 0.6) for x in (0.46, 0.67)]
    lights = [(0, 0.2, 0.06, 0.5, HEADLIGHT), (0.95, 0.15, 1, 0.55, TAILLIGHT)]
    return panel(rng, paint, [*gaps, *handles, *lights, (0, 0.85, 1, 1, paint * 0.4)])


def car_front(rng: np.random.Generator, paint: np.ndarray) -> np.ndarray:
    """Headlights, a dark grille between them, a plate."""
    lights = [(0.03, 0.15, 0.24, 0.5, HEADLIGHT), (0.76, 0.15, 0.97, 0.5, HEADLIGHT)]
    return panel(rng, paint, [*lights, (0.3, 0.2, 0.7, 0.6, TYRE), (0.38, 0.68, 0.62, 0.84, PLATE)])


def car_rear(rng: np.random.Generator, paint: np.ndarray) -> np.ndarray:
    """Tail lights, a plate between them."""
    lights = [(0.02, 0.1, 0.2, 0.5, TAILLIGHT), (0.8, 0.1, 0.98, 0.5, TAILLIGHT)]
    return panel(rng, paint, [*lights, (0.36, 0.25, 0.64, 0.5, PLATE), (0, 0.8, 1, 1, paint * 0.4)])


def window(rng: np.random.Generator, paint: np.ndarray, posts: tuple[float, ...] = ()) -> np.ndarray:
    """Glass in a frame, and posts of the body's colour at these positions; the sky is mirrored in its upper part."""
    frame = [(0, 0, 1, 0.1, paint), (0, 0, 0.04, 1, paint), (0.96, 0, 1, 1, paint), (0, 0.92, 1, 1, paint)]
    posts = [(x - 0.02, 0, x + 0.02, 1, paint) for x in posts]
    return panel(rng, GLASS, [(0, 0.1, 1, 0.35, GLASS * 1.6), *frame, *posts])


def wheel(rng: np.random.Generator, rim: float) -> np.ndarray:
    """A tyre around spokes; `rim` is where the spokes end, from 0 to 1."""
    side = np.linspace(-1, 1, 32)
    radius, angle = np.hypot(side, side[:, None]), np.arctan2(side[:, None], side)
    grey = np.where(np.cos(5 * angle + rng.uniform(0, 6)) > 0, 175, 110)
    return to_bytes(np.repeat(np.where(radius < rim, grey, 28)[..., None], 3, -1))


def house(rng: np.random.Generator) -> np.ndarray:
    """Two storeys of windows in a wall."""
    wall = np.float32([(160, 110, 92), (198, 180, 150), (206, 204, 196), (150, 160, 168)])[rng.integers(4)]
    panes = [(x, y, x + 0.09, y + 0.26, GLASS) for x in np.arange(0.06, 0.9, 0.17) for y in (0.12, 0.58)]
    return panel(rng, wall * np.float32(rng.uniform(0.8, 1.05)), panes)


def ground(rng: np.random.Generator, density: float, half_width: float, length: float) -> np.ndarray:
    """Road, its lines, pavements and verges seen from above: rows along z, columns along x from -half_width on.

    `density` in pixels a metre, the rest in metres. The road's middle is at x = -1.8.
    """
    rows, columns = int(length * density), int(2 * half_width * density)
    x = np.arange(columns) / density - half_width + 1.8
    z = np.arange(rows)[:, None] / density
    fine = noise(rng, rows, columns, (2, 4))
    coarse = noise(rng, rows, columns, (12, 40))
    off = np.abs(x) + 0 * z
    grass = np.float32([92, 120, 62]) * np.float32(rng.uniform(0.8, 1.1))
    picture = np.full((rows, columns, 3), grass, np.float32) * np.exp(0.1 * fine + 0.12 * coarse)[..., None]
    for edge, grey in ((6.6, rng.uniform(135, 165)), (4.9, rng.uniform(84, 112))):
        inside = off < edge
        picture[inside] = (grey * np.exp(0.05 * fine + 0.05 * coarse))[inside][:, None]
    lines = ((off < 0.08) & (z % 6 < 3)) | (np.abs(off - 4.6) < 0.07)
    picture[lines] = 215
    picture[(np.abs(off - 4.9) < 0.1)] *= 1.25
    return to_bytes(picture)


def sky(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Clouds, paler towards the last row, which is the horizon, and hills before it."""
    blue, pale = np.float32([104, 152, 214]) * np.float32(rng.uniform(0.9, 1.1)), np.float32([206, 218, 230])
    mix = np.linspace(0, 1, height, dtype=np.float32)[:, None, None]
    clouds = 1 / (1 + np.exp(-2 * noise(rng, height, width, (30, 90))))[..., None]
    picture = (blue * (1 - mix) + pale * mix) * (1 - 0.6 * clouds) + 0.6 * clouds * np.float32([238, 240, 242])
    tops = height - 14 - 8 * noise(rng, 1, width, (60, 25))
    hills = np.arange(height)[:, None] > tops
    green = np.float32([78, 98, 74]) * np.exp(0.12 * noise(rng, height, width, (4, 9)))[..., None]
    return to_bytes(np.where(hills[..., None], green, picture))
