"""Trees and bushes."""

import cv2
import numpy as np

from .canvas import ROUGH, WHITE, Id, any_colour, disc, mix, noise
from .scene import Scene


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
