"""Houses beside the street, and what closes it."""

import cv2
import numpy as np

from .canvas import BLACK, FAR, NEAR, ROUGH, WHITE, Id, any_colour, mix, noise
from .plants import add_bush
from .scene import Scene

FACADE = 16  # pixels a metre of this texture, before it is brought into perspective


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
            wall = (x, x + wide, z + 2, height, texture, Id.BUILDING)
            scene.items.append((z + 2, lambda wall=wall: across(scene, *wall)))
        else:
            for _ in range(3):
                add_bush(scene, x + wide * rng.random(), z + rng.uniform(2, 6), 0.4 * wide, rng.uniform(3, 6))
        x += wide
