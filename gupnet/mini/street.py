"""The mini data's frames: who stands where in a street, the picture of it, and its labels as KITTI writes them."""

from dataclasses import dataclass

import numpy as np

from . import solids, textures
from .render import Canvas

WIDTH, HEIGHT = 640, 192
#: half of KITTI's, one of two drives each; with the small translation of its camera 2
PROJECTIONS = (
    np.array([(360.769, 0, 318.278, 22.4286), (0, 360.769, 95.427, 0.1082), (0, 0, 1, 0.0027)]),
    np.array([(353.525, 0, 316.041, 22.8792), (0, 353.525, 98.253, -0.1727), (0, 0, 1, 0.0050)]),
)
GROUND = {"density": 12.0, "half_width": 22.0, "length": 40.0}  # of its texture, as `textures.ground` takes it
VARIANTS = 6  # of sky and ground, in a data set
#: height, width and length in metres, and how they scatter; Van and Person_sitting as KITTI's are
SIZES = {
    "Car": (1.526, 1.629, 3.883),
    "Van": (2.21, 1.90, 5.08),
    "Pedestrian": (1.763, 0.661, 0.844),
    "Person_sitting": (1.27, 0.60, 0.80),
    "Cyclist": (1.737, 0.597, 1.763),
}
SCATTER = 0.025
#: how many of a type a frame has, and their nearest and farthest z
CROWD = {
    "Car": ((2, 3, 4), (5, 18)),
    "Pedestrian": ((0, 1, 1, 2), (4.5, 13)),
    "Cyclist": ((0, 1, 1, 2), (4.5, 13)),
    "Van": ((0, 0, 0, 0, 0, 1), (10, 22)),
    "Person_sitting": ((0, 0, 0, 0, 0, 1), (6, 14)),
}
HIDDEN = ((0.85, 0), (0.5, 1), (0.2, 2), (0.05, 3))  # least share that is seen, and the level of occlusion


@dataclass(frozen=True)
class Thing:
    """Something that stands in the street; numbers as its label has them, so that what is drawn is what is written."""

    type: str
    size: tuple[float, float, float]  # height, width, length
    position: tuple[float, float, float]  # the bottom's middle, in the camera's frame
    rotation: float
    seed: int

    def to_camera(self, points: np.ndarray) -> np.ndarray:
        """Points [n, 3] of its own frame in the camera's."""
        return points @ self.turn.T + self.position

    @property
    def turn(self) -> np.ndarray:
        """[3, 3]: directions of its own frame in the camera's."""
        cosine, sine = np.cos(self.rotation), np.sin(self.rotation)
        return np.array([(cosine, 0, sine), (0, 1, 0), (-sine, 0, cosine)])

    def faces(self) -> list[solids.Face]:
        """Its faces in the camera's frame."""
        turn, shift = self.turn, np.array([self.position, (0, 0, 0), (0, 0, 0)])
        return [
            solids.Face(
                face.points @ turn.T + self.position,
                face.frame @ turn.T + shift,
                face.texture,
                None if face.outward is None else turn @ face.outward,
            )
            for face in solids.MAKERS[self.type](np.random.default_rng(self.seed), self.size)
        ]

    def corners(self) -> np.ndarray:
        """[8, 3]: of its 3D box, in the camera's frame."""
        height, width, length = self.size
        signs = np.array([(x, y, z) for x in (-0.5, 0.5) for y in (-1, 0) for z in (-0.5, 0.5)])
        return self.to_camera(signs * [length, height, width])


@dataclass(frozen=True)
class Frame:
    """A street before the camera. `far` are cars that are labelled DontCare, `scenery` has no labels."""

    projection: np.ndarray  # [3, 4]
    height: float  # of the camera above the ground
    things: list[Thing]
    far: list[Thing]
    scenery: list[Thing]
    sun: np.ndarray
    variant: int  # of sky and ground
    along: float  # metres that the ground's texture is moved


def around(points: np.ndarray, projection: np.ndarray) -> np.ndarray:
    """x1, y1, x2, y2 around points [n, 3], not cut off by the picture's border."""
    samples = points @ projection[:, :3].T + projection[:, 3]
    pixels = samples[:, :2] / samples[:, 2:]
    return np.concatenate([pixels.min(0), pixels.max(0)])


def cut(box: np.ndarray) -> np.ndarray:
    """The part of a box inside the picture."""
    return np.clip(box, 0, [WIDTH - 1, HEIGHT - 1] * 2)


def area(box: np.ndarray) -> float:
    return float(np.prod(np.maximum(box[2:] - box[:2], 0)))


def _pose(rng: np.random.Generator, kind: str, reach: tuple[float, float]) -> tuple[float, float, float]:
    """x, z and rotation of a newcomer."""
    z = float(np.exp(rng.uniform(*np.log(reach))))
    if kind in ("Car", "Van"):
        if rng.random() < 0.2:  # turning or crossing
            return rng.uniform(-0.7, 0.7) * z, z, rng.uniform(-np.pi, np.pi)
        # own lane, the oncoming one, parked on either side
        x, rotation = ((0.2, -1), (-3.7, 1), (3.8, -1), (-7.2, 1))[rng.choice(4, p=(0.2, 0.35, 0.3, 0.15))]
        return x + 0.25 * rng.standard_normal(), z, rotation * np.pi / 2 + 0.12 * rng.standard_normal()
    x = rng.uniform(-0.62, 0.62) * z
    if kind == "Cyclist" and rng.random() < 0.6:
        return x, z, rng.choice([-1, 1]) * np.pi / 2 + 0.2 * rng.standard_normal()
    return x, z, rng.uniform(-np.pi, np.pi)


def build(seed: int, number: int) -> Frame:
    """Frame `number` of a seed."""
    rng = np.random.default_rng([seed, number])
    projection, height = PROJECTIONS[rng.integers(len(PROJECTIONS))], round(rng.uniform(1.55, 1.75), 2)
    things, boxes = [], []

    def make(kind: str, size, x: float, z: float, rotation: float) -> Thing:
        numbers = [round(float(value), 2) for value in (*size, x, z, (rotation + np.pi) % (2 * np.pi) - np.pi)]
        return Thing(kind, tuple(numbers[:3]), (numbers[3], height, numbers[4]), numbers[5], int(rng.integers(2**31)))

    for kind, (counts, reach) in CROWD.items():
        for _ in range(rng.choice(counts)):
            for _ in range(30):
                size = np.array(SIZES[kind]) * (1 + SCATTER * rng.standard_normal(3).clip(-2, 2))
                thing = make(kind, size, *_pose(rng, kind, reach))
                box = around(thing.corners(), projection)
                if _fits(rng, thing, box, things, boxes):
                    things.append(thing)
                    boxes.append(box)
                    break
    far = [
        make("Car", SIZES["Car"], rng.uniform(-0.3, 0.3) * z, z, rng.uniform(-np.pi, np.pi))
        for z in rng.uniform(45, 70, rng.choice((0, 0, 1, 3)))
    ]
    scenery = []
    for side in (-1, 1):
        z = rng.uniform(4, 12)
        while z < 50:
            if rng.random() < 0.5:
                deep, long = rng.uniform(6, 9), rng.uniform(7, 13)
                x = -1.8 + side * (10.5 + deep / 2 + rng.uniform(0, 2))
                scenery.append(make("house", (rng.uniform(4.5, 8), long, deep), x, z + long / 2, 0))
                z += long + rng.uniform(1, 8)
            else:
                wide = rng.uniform(2, 3.2)
                x = -1.8 + side * rng.uniform(9, 11)
                scenery.append(make("tree", (rng.uniform(3.5, 6), wide, wide), x, z, 0))
                z += rng.uniform(5, 10)
    sun = np.array([rng.uniform(-1, 1), -rng.uniform(0.7, 1.2), rng.uniform(-0.8, 0.4)])
    sun /= np.linalg.norm(sun)
    return Frame(projection, height, things, far, scenery, sun, int(rng.integers(VARIANTS)), rng.uniform(0, 200))


def _fits(rng: np.random.Generator, thing: Thing, box: np.ndarray, others: list[Thing], boxes: list) -> bool:
    """Whether a newcomer stands free, mostly inside the picture, and does not hide or stand behind too much."""
    if thing.corners()[:, 2].min() < 2.5 or area(cut(box)) < rng.choice([0.95, 0.95, 0.6]) * area(box):
        return False
    for other, theirs in zip(others, boxes, strict=True):
        gap = np.hypot(thing.position[0] - other.position[0], thing.position[2] - other.position[2])
        if gap < 0.52 * (max(thing.size[1:]) + max(other.size[1:])):
            return False
        common = area(np.concatenate([np.maximum(box[:2], theirs[:2]), np.minimum(box[2:], theirs[2:])]))
        if common > rng.choice([0.1, 0.1, 0.5]) * min(area(box), area(theirs)):
            return False
    return True


def backdrops(seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """The pairs of sky and ground that the frames of a seed share."""
    rng = np.random.default_rng([seed, 2**20])
    return [(textures.sky(rng, 128, 1280), textures.ground(rng, **GROUND)) for _ in range(VARIANTS)]


def render(frame: Frame, backdrop: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, list[str]]:
    """The picture, uint8 [HEIGHT, WIDTH, 3], and the label lines."""
    canvas = Canvas(frame.projection, WIDTH, HEIGHT, frame.sun)
    sky, ground = backdrop
    corner = np.array([-GROUND["half_width"], frame.height, -frame.along])
    canvas.background(sky, ground, GROUND["density"], corner)
    everything = [*frame.things, *frame.far, *frame.scenery]
    canvas.shade([_shadow(thing, frame.sun) for thing in everything])
    drawn = [thing.faces() for thing in everything]
    whole = [canvas.draw(faces, number) for number, faces in enumerate(drawn)]
    seen = canvas.visible(len(everything))

    lines, unlabelled = [], []
    for number, thing in enumerate(everything[: len(frame.things) + len(frame.far)]):
        full = around(np.concatenate([face.points for face in drawn[number]]), frame.projection)
        box = cut(full)
        share = seen[number] / max(whole[number], 1)
        levels = [level for least, level in HIDDEN if share >= least]
        if number >= len(frame.things) and share > 0:
            unlabelled.append("DontCare -1 -1 -10 " + _numbers(box) + " -1 -1 -1 -1000 -1000 -1000 -10")
        elif number < len(frame.things) and levels:
            x, _, z = thing.position
            alpha = (thing.rotation - np.arctan2(x, z) + np.pi) % (2 * np.pi) - np.pi
            numbers = _numbers([alpha, *box, *thing.size, *thing.position, thing.rotation])
            lines.append(f"{thing.type} {1 - area(box) / area(full):.2f} {levels[0]} {numbers}")
    noise = np.random.default_rng(int(1e6 * frame.along)).normal(0, 1.2, (HEIGHT, WIDTH, 1))
    return np.clip(canvas.picture() + noise, 0, 255).astype(np.uint8), lines + unlabelled


def _numbers(values) -> str:
    return " ".join(f"{value:.2f}" for value in values)


def _shadow(thing: Thing, sun: np.ndarray) -> np.ndarray:
    """What the corners of its box shade on the ground [8, 3]."""
    corners = thing.corners()
    if thing.type == "tree":
        corners = corners[corners[:, 1] < thing.position[1] - 0.1]
    steps = (thing.position[1] - corners[:, 1:2]) / -sun[1]
    return corners - steps * sun
