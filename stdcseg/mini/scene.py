"""A scene: camera, light and colours of one picture, and the things in it, which are drawn from far to near."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import cv2
import numpy as np

from .canvas import GREY, NEAR, Camera, Canvas, Id, any_colour, disc, hull, mix

#: a piece of a thing: its outline [n, 2] or [n, 3] in metres, RGB [3], its label (None: paint on the piece before)
Part = tuple[np.ndarray, np.ndarray, Id | None]


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
