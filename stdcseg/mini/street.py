"""The mini data's street scenes: a picture and its Cityscapes label ids, both from one random generator.

A scene stands in metres: X to the right, Y up from the ground, Z ahead. The camera looks along Z from above the road,
its picture plane upright, so what stands at Z is drawn `focal / Z` times its size in pixels, and everything that runs
along the street meets in one point of the horizon. Things are drawn from far to near, each on the picture and on the
labels with the same outline.

Colour alone does not tell the classes apart: paints come from one distribution, some of them from the sky, leaves and
road of that very picture, and light, white balance and saturation change from picture to picture.
"""

from collections.abc import Iterator

import cv2
import numpy as np

from .buildings import add_end, add_house
from .canvas import NEAR, PALE, Camera, Id, any_colour, disc, mix
from .cars import add_car
from .ground import Lot, Side, draw_ground, draw_lots, draw_side, draw_sky
from .plants import add_bush, add_tree
from .scene import Scene, empty_scene
from .things import add_clutter, add_lamp, add_person, add_sign


def steps(rng: np.random.Generator, start: float, end: float, least: float, most: float) -> Iterator[float]:
    """Positions from start to end that lie `least` to `most` apart."""
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
