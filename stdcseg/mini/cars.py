"""Cars: bodies of flat faces, with their windows, lamps and wheels."""

from typing import NamedTuple

import numpy as np

from .canvas import BLACK, GREY, NEAR, PALE, RED, Id, disc, hull, mix, rectangle
from .scene import Part, Scene


class Model(NamedTuple):
    """A kind of car. Positions are shares of its length (from the rear), of its height and of its width."""

    lengths: tuple[float, float]  # metres
    heights: tuple[float, float]
    contour: list[tuple[float, float, str]]  # side view, from the lower rear corner over the roof, and what follows
    windows: list[list[tuple[float, float]]]  # of a side


NOSE = [(0.97, 0.56, "body"), (1, 0.46, "nose"), (1, 0.16, "")]
MODELS = [  # saloon, hatchback, van
    Model((4.3, 4.9), (1.4, 1.5), [
        (0, 0.16, "tail"), (0, 0.6, "body"), (0.03, 0.66, "body"), (0.14, 0.68, "glass"), (0.27, 0.99, "body"),
        (0.53, 1, "glass"), (0.7, 0.67, "body"), *NOSE,
    ], [
        [(0.2, 0.69), (0.29, 0.93), (0.43, 0.94), (0.43, 0.69)],
        [(0.45, 0.69), (0.45, 0.94), (0.53, 0.94), (0.66, 0.69)],
    ]),
    Model((3.7, 4.3), (1.45, 1.65), [
        (0, 0.16, "tail"), (0, 0.58, "body"), (0.02, 0.64, "glass"), (0.1, 0.96, "body"), (0.2, 1, "body"),
        (0.5, 1, "glass"), (0.7, 0.66, "body"), *NOSE,
    ], [
        [(0.1, 0.67), (0.16, 0.92), (0.38, 0.94), (0.38, 0.67)],
        [(0.4, 0.67), (0.4, 0.94), (0.5, 0.94), (0.66, 0.67)],
    ]),
    Model((4.7, 5.6), (1.85, 2.3), [
        (0, 0.14, "tail"), (0, 0.55, "glass"), (0.02, 0.9, "body"), (0.06, 1, "body"), (0.68, 1, "glass"),
        (0.86, 0.58, "body"), *NOSE,
    ], [[(0.08, 0.6), (0.08, 0.9), (0.4, 0.9), (0.4, 0.6)], [(0.56, 0.6), (0.56, 0.9), (0.68, 0.9), (0.8, 0.6)]]),
]  # fmt: skip
DETAILS = {  # rectangles on the tail and nose: x0, x1 in shares of the width, y0, y1 of the height, what it is
    "tail": [(-0.48, -0.3, 0.45, 0.58, "rear lamp"), (0.3, 0.48, 0.45, 0.58, "rear lamp")]
    + [(-0.14, 0.14, 0.34, 0.43, "plate"), (-0.46, 0.46, 0.16, 0.25, "trim")],
    "nose": [(-0.47, -0.28, 0.32, 0.44, "headlight"), (0.28, 0.47, 0.32, 0.44, "headlight")]
    + [(-0.25, 0.25, 0.3, 0.43, "trim"), (-0.14, 0.14, 0.19, 0.26, "plate")],
}
AXLES = (0.19, 0.8)  # shares of the length
TYRE, TYRE_WIDTH = 0.32, 0.2  # metres
#: outline [n, 3] in the scene, colour, what is painted on it
Face = tuple[np.ndarray, np.ndarray, list[Part]]


class Car(NamedTuple):
    """A car in the scene: its sizes in metres, its own axes (rows of `turn` [3, 3]), where its middle stands."""

    model: Model
    length: float
    height: float
    width: float
    turn: np.ndarray
    foot: tuple[float, float, float]
    colours: dict[str, np.ndarray]

    def points(self, across, up, ahead) -> np.ndarray:
        """Points [n, 3] in the scene: metres to the right of its middle, above the ground, ahead of its rear."""
        points = np.stack(np.broadcast_arrays(across, up, np.asarray(ahead) - self.length / 2), 1)
        return points @ self.turn + self.foot

    def half(self, up: np.ndarray) -> np.ndarray:
        """Half its width at these heights: the cabin narrows towards the roof."""
        return self.width / 2 * (1 - 0.5 * np.maximum(up / self.height - 0.62, 0))

    def wheel(self, side: float, axle: float, radius: float = TYRE) -> np.ndarray:
        """A disc `side` metres to the right of its middle."""
        ahead, up = disc(axle * self.length, TYRE, radius, radius).T
        return self.points(side, up, ahead)

    def contour(self) -> np.ndarray:
        """How far ahead and how high the corners of the side view are, [2, n]."""
        return np.array([point[:2] for point in self.model.contour]).T * [[self.length], [self.height]]

    def ends(self) -> list[Face]:
        """The faces all across it, from the tail over the roof to the nose."""
        ahead, up = self.contour()
        halves, faces = self.half(up), []
        for i, (_, _, kind) in enumerate(self.model.contour[:-1]):
            side = [-halves[i], -halves[i + 1], halves[i + 1], halves[i]]
            outline = self.points(side, up[[i, i + 1, i + 1, i]], ahead[[i, i + 1, i + 1, i]])
            flat = (ahead[i + 1] - ahead[i]) / np.hypot(ahead[i + 1] - ahead[i], up[i + 1] - up[i])
            details = []
            for x0, x1, y0, y1, what in DETAILS.get(kind, []):
                x, y = (rectangle(x0, x1, y0, y1) * (self.width, self.height)).T
                details.append((self.points(x, y, ahead[i]), self.colours[what], None))
            tone = np.float32(0.75 + 0.4 * max(flat, 0))
            faces.append((outline, tone * self.colours.get(kind, self.colours["body"]), details))
        return faces

    def flank(self, side: int, towards_sun: np.ndarray) -> Face:
        """The left (-1) or the right (1) side with its windows and wheels."""
        ahead, up = self.contour()
        tone = np.float32(0.72 + 0.35 * max(side * float(self.turn[0] @ towards_sun), 0))
        details = []
        for window in self.model.windows:
            to, y = np.array(window).T * [[self.length], [self.height]]
            details.append((self.points(side * self.half(y), y, to), self.colours["glass"], None))
        for axle in AXLES:
            for scale, colour in ((1.12, BLACK), (1.0, BLACK * 1.6), (0.6, GREY * np.float32(0.5))):
                details.append((self.wheel(side * self.width / 2, axle, scale * TYRE), colour, Id.CAR))
        return self.points(side * self.half(up), up, ahead)[::side], tone * self.colours["body"], details


def add_car(scene: Scene, x: float, z: float, heading: float) -> None:
    """A car about (x, z) that drives away from the camera (heading 0 degrees), towards it (180), or across (90)."""
    rng = scene.rng
    model = MODELS[rng.choice(3, p=[0.4, 0.4, 0.2])]
    length, height, width = rng.uniform(*model.lengths), rng.uniform(*model.heights), rng.uniform(1.7, 1.95)
    colours = {
        "body": scene.paint() if rng.random() < 0.6 else GREY * np.float32(rng.uniform(0.06, 0.9)),
        "glass": mix(scene.sky, BLACK, rng.uniform(0.6, 0.95)),
        "rear lamp": RED * np.float32(rng.choice([0.8, 1.5], p=[0.7, 0.3])),
        "headlight": PALE * np.float32(rng.uniform(0.8, 1.5)),
        "plate": PALE,
        "trim": BLACK,
    }
    sin, cos = np.sin(np.radians(heading)), np.cos(np.radians(heading))
    turn = np.array([[cos, 0, -sin], [0, 1, 0], [sin, 0, cos]])
    car = Car(model, length, height, width, turn, (x, 0, z), colours)
    base = car.points([-width / 2, width / 2, width / 2, -width / 2], 0, [0, 0, length, length])[:, [0, 2]]
    if base[:, 1].min() < NEAR:
        return
    scene.cast((base - (x, z)) * 1.04 + (x, z), 0.8 * height)
    faces = car.ends() + [car.flank(side, scene.light.towards) for side in (-1, 1)]
    # far to near, so that of a body that is not convex the near faces win
    faces.sort(key=lambda face: -np.hypot(face[0][:, 0], face[0][:, 2]).mean())

    def draw() -> None:
        bright, project = scene.brightness(x, z, length / 2), scene.camera.project
        for side in (-1, 1):  # below the body one sees the tyres on both sides
            for axle in AXLES:
                inner, outer = (car.wheel(side * (width / 2 - inset), axle) for inset in (TYRE_WIDTH, 0))
                scene.canvas.fill(hull(project(inner), project(outer)), BLACK * bright, Id.CAR, z)
        for outline, colour, details in faces:
            (a, b), (c, d) = (project(outline)).T, np.roll(project(outline), -1, 0).T
            if (a * d - b * c).sum() > 0:  # its corners go clockwise: it faces the camera
                scene.fill(outline, colour * bright, Id.CAR)
                for points, paint, label in details:
                    scene.fill(points, paint * bright, label)

    scene.items.append((z, draw))
