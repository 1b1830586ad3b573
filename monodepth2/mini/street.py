"""The mini data's streets: houses, parked cars, trees and poles along a bending road, and the drive through it.

Metres; the world's x points right, y down, z forward at the start of the street, and the ground is y = 0. A position on
the street is (s, d): s along its middle, d to the right of it. Nothing moves but the camera, and in some streets one
car ahead that keeps its distance: what auto-masking is for (paper, section 3.3).
"""

from dataclasses import dataclass, replace

import numpy as np
from scipy.spatial.transform import Rotation

from . import textures
from .ground import GROUND_DENSITY, GROUND_X, GROUND_Z, Middle, draw_ground
from .render import Blob, Box, Scene, light_on

BASELINE = 0.54  # metres from camera 2 to camera 3
LENGTH = 120.0  # of the street
FRAMES = 45  # of the drive through it
HOUSE_HEIGHT, HOUSE_WIDTH = 14.0, 16.0  # of the textures; each house shows a part


def rigid(rotation: np.ndarray, translation: tuple | np.ndarray) -> np.ndarray:
    """[4, 4] of a rotation [3, 3] and a translation [3]."""
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = rotation, translation
    return matrix


def turned(degrees: float) -> np.ndarray:
    """The rotation about the upright axis that turns forward to the right, [3, 3]."""
    return Rotation.from_euler("y", degrees, degrees=True).as_matrix()


@dataclass(frozen=True)
class Street:
    """A street and the drive through it. `poses` [FRAMES, 4, 4] are camera 2's, to the world; `lead` is the car ahead,
    fixed to the camera, or nothing."""

    scene: Scene
    poses: np.ndarray
    lead: list[Box]

    def pose(self, frame: int, side: str = "l") -> np.ndarray:
        """Camera to world, [4, 4]; side "l" is camera 2, "r" camera 3, to its right and turned the same way."""
        return self.poses[frame] @ rigid(np.eye(3), (BASELINE * (side == "r"), 0, 0))

    def at(self, frame: int) -> Scene:
        """What stands there at that frame."""
        ahead = [replace(box, pose=self.poses[frame] @ box.pose) for box in self.lead]
        return replace(self.scene, boxes=self.scene.boxes + ahead)


class _Builder:
    """Puts one thing after the other on the street."""

    def __init__(self, rng: np.random.Generator):
        self.rng = rng
        curvature = rng.choice([-1, 1]) / rng.uniform(110, 450)
        self.middle = Middle(float(curvature))
        self.half_road = rng.uniform(4.0, 5.6)
        self.pavement = rng.uniform(1.8, 3.6)  # its width
        azimuth, height = rng.uniform(0, 2 * np.pi), np.radians(rng.uniform(32, 60))
        self.sun = np.array([np.cos(azimuth) * np.cos(height), -np.sin(height), np.sin(azimuth) * np.cos(height)])
        self.atlas = textures.AtlasBuilder()
        self.boxes: list[Box] = []
        self.blobs: list[Blob] = []
        self.shadows: list[np.ndarray] = []  # polygons on the ground, x and z, [n, 2]
        self._draw_textures()

    def _draw_textures(self) -> None:
        rng = self.rng

        def add(picture: np.ndarray) -> int:
            return self.atlas.add(picture, textures.DENSITY)

        def plain(paint: np.ndarray, strength: float = 0.25) -> int:
            return add(textures.plain(rng, paint, 6, 6, strength))

        self.facades = [add(textures.facade(rng, HOUSE_HEIGHT, HOUSE_WIDTH)) for _ in range(9)]
        self.leaves = [add(textures.foliage(rng, 8)) for _ in range(3)]
        self.bark = plain(np.float32([82, 66, 52]), 0.45)
        self.metal = [plain(textures.colour(rng, 60, 170, 0.05)) for _ in range(2)]
        self.crates = [plain(textures.pick(rng, textures.PAINTS)) for _ in range(4)]
        self.walls = [plain(textures.pick(rng, textures.WALLS)) for _ in range(3)]
        self.tyre = add(textures.plain(rng, np.float32([28, 28, 30]), 1.2, 1.2))
        self.cars = []
        for _ in range(6):
            paint = textures.pick(rng, textures.PAINTS)
            length, width = rng.uniform(3.7, 4.7), rng.uniform(1.65, 1.85)
            drawn = (
                textures.car_side(rng, paint, length, 0.75),
                textures.plain(rng, paint, width, length, 0.12),
                textures.car_end(rng, paint, width, 0.75),
                textures.car_windows(rng, paint, 0.55 * length, 0.6),
                textures.car_windows(rng, paint, width - 0.2, 0.6),
            )
            self.cars.append((length, width, [add(picture) for picture in drawn]))

    # ---- things ----

    def box(self, pose: np.ndarray, centre: tuple, size: tuple, faces: tuple[int, int, int]) -> Box:
        """A box of `size` (x, y, z) about `centre` in the frame of `pose`, lit by the sun."""
        pose = pose @ rigid(np.eye(3), centre)
        normals = pose[:3, :3].T[:, None] * np.array([-1, 1])[None, :, None]
        return Box(pose, np.array(size) / 2, faces, light_on(normals, self.sun))

    def stand(
        self, s: float, d: float, size: tuple, faces: int | tuple, turn: float = 0.0, bottom: float = 0.0
    ) -> None:
        """A box on the ground, or `bottom` metres above it, at (s, d), turned against the street.

        `faces`: three textures, as of `Box`, or one for all.
        """
        faces = faces if isinstance(faces, tuple) else (int(faces),) * 3
        x, z, heading = self.middle.position(s, d)
        box = self.box(rigid(turned(heading + turn), (x, 0, z)), (0, -bottom - size[1] / 2, 0), size, faces)
        self.boxes.append(box)
        self.shadow(box)

    def shadow(self, box: Box) -> None:
        """The outline on the ground of the box and of its shadow there."""
        corners = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)]) * box.half
        corners = corners @ box.pose[:3, :3].T + box.pose[:3, 3]
        cast = corners - corners[:, 1:2] / self.sun[1] * self.sun
        self.shadows.append(np.concatenate([cast[:, ::2], corners[:, ::2]]).astype(np.float32))

    def car(self, pose: np.ndarray) -> list[Box]:
        """A car on the ground, its middle at the origin of `pose` and its nose along z."""
        length, width, (side, top, end, window, rear_window) = self.cars[self.rng.integers(len(self.cars))]
        parts = [
            self.box(pose, (0, -0.65, 0), (width, 0.75, length), (side, top, end)),
            self.box(pose, (0, -1.3, -0.06 * length), (width - 0.2, 0.58, 0.55 * length), (window, top, rear_window)),
        ]
        for x in (-1, 1):
            for z in (-0.3, 0.3):
                centre = (x * (width / 2 - 0.1), -0.31, z * length)
                parts.append(self.box(pose, centre, (0.24, 0.62, 0.62), (self.tyre,) * 3))
        return parts

    def park(self, s: float, d: float, turn: float) -> None:
        x, z, heading = self.middle.position(s, d)
        parts = self.car(rigid(turned(heading + turn), (x, 0, z)))
        self.boxes += parts
        self.shadow(parts[0])
        self.shadow(parts[1])

    def tree(self, s: float, d: float) -> None:
        rng = self.rng
        trunk, thick = rng.uniform(1.6, 2.8), rng.uniform(0.2, 0.45)
        self.stand(s, d, (thick, trunk + 1, thick), self.bark, turn=rng.uniform(0, 90))
        x, z, _ = self.middle.position(s, d)
        leaves = int(rng.choice(self.leaves))
        for _ in range(rng.integers(6, 10)):
            radius = rng.uniform(0.5, 1.3)
            away = rng.normal(0, 0.75, 3)
            centre = np.array([x, -trunk - 1.0 - radius, z]) + away * [1, 0.8, 1]
            self.blob(centre, radius * rng.uniform(0.8, 1.2, 3), leaves)

    def blob(self, centre: np.ndarray, radii: np.ndarray, texture: int) -> None:
        self.blobs.append(Blob(centre, radii, texture))
        angle = np.linspace(0, 2 * np.pi, 12, endpoint=False)
        below = centre - centre[1] / self.sun[1] * self.sun
        ring = np.stack([radii[0] * np.cos(angle), radii[2] * np.sin(angle)], 1)
        self.shadows.append((below[::2] + ring).astype(np.float32))

    # ---- what stands where ----

    def houses(self, side: int) -> None:
        """A row of houses of varied setback, with gaps of walls, hedges and trees."""
        rng = self.rng
        s = rng.uniform(-14, -4)  # somewhere behind the camera
        setback = rng.uniform(0.0, 5.0)
        facades = iter(rng.permutation(self.facades * 4))
        while s < LENGTH:
            if rng.random() < 0.3:
                setback = rng.uniform(0.0, 7.0)
            edge = self.half_road + self.pavement + setback
            if rng.random() < 0.22:
                s += self.gap(s, side, edge)
                continue
            wide, deep, tall = rng.uniform(6, HOUSE_WIDTH), rng.uniform(7, 11), rng.uniform(5.5, HOUSE_HEIGHT)
            facade = int(next(facades))
            jut = rng.uniform(0, 0.9)
            d = side * (edge + jut + deep / 2)
            self.stand(s + wide / 2, d, (deep, tall, wide), (facade, int(rng.choice(self.walls)), facade))
            if rng.random() < 0.3:  # a porch or bay in front
                out, across = rng.uniform(0.6, 1.6), rng.uniform(1.5, 3.5)
                at = s + rng.uniform(0.3, 0.7) * wide
                wall = rng.choice(self.walls)
                self.stand(at, side * (edge + jut - out / 2), (out, rng.uniform(2.4, 5), across), wall)
            s += wide + 0.02

    def gap(self, s: float, side: int, edge: float) -> float:
        """Something low between two houses; returns how long it is."""
        rng = self.rng
        wide = rng.uniform(4, 11)
        wall = rng.choice(self.walls if rng.random() < 0.5 else self.leaves)
        height = rng.uniform(0.9, 2.2)
        self.stand(s + wide / 2, side * (edge + 0.3), (0.5, height, wide), wall)
        for _ in range(rng.integers(1, 4)):
            self.tree(s + rng.uniform(0.5, wide - 0.5), side * (edge + rng.uniform(2, 8)))
        # farther back another house closes the view
        facade, back = rng.choice(self.facades), edge + rng.uniform(9, 16)
        self.stand(s + wide / 2, side * (back + 4), (8, rng.uniform(5, 9), wide + 12), facade)
        return wide

    def kerbside(self, side: int) -> None:
        """Parked cars, trees, lamps and boxes between the road and the houses."""
        rng = self.rng
        s, share = rng.uniform(0, 8), rng.uniform(0.3, 0.85)
        while s < LENGTH:
            if rng.random() < share:
                d = side * (self.half_road - rng.uniform(0.95, 1.2))
                self.park(s, d, rng.uniform(-3, 3) + 180 * (rng.random() < 0.5))
            s += rng.uniform(5.2, 9.0)
        s, every = rng.uniform(0, 10), rng.uniform(6, 13)
        while s < LENGTH:
            d = side * (self.half_road + rng.uniform(0.4, 0.8))
            kind = rng.random()
            if kind < 0.4:
                self.tree(s, d)
            elif kind < 0.7:
                height, metal = rng.uniform(3.0, 7.0), rng.choice(self.metal)
                self.stand(s, d, (0.16, height, 0.16), metal, turn=rng.uniform(0, 90))
                board = rng.choice(self.crates)
                self.stand(s, d, (0.9, 0.8, 0.08), board, rng.uniform(-25, 25), bottom=rng.uniform(1.9, 2.5))
            else:
                size = rng.uniform(0.5, 1.5), rng.uniform(0.6, 1.9), rng.uniform(0.5, 2.2)
                d += side * size[0] / 2
                self.stand(s, d, size, rng.choice(self.crates), turn=rng.uniform(-20, 20))
            s += every * rng.uniform(0.6, 1.5)

    def ending(self) -> None:
        """Houses across the far end of the street."""
        facade = self.facades[self.rng.integers(len(self.facades))]
        self.stand(LENGTH + 4, 0, (44, self.rng.uniform(5, 13), 8), facade)

    def ground(self) -> np.ndarray:
        """Its texture; to be drawn when everything stands, for the shadows."""
        return draw_ground(self.rng, self.middle, LENGTH, self.half_road, self.pavement, self.shadows)

    # ---- the drive ----

    def drive(self) -> np.ndarray:
        """Camera 2's poses, [FRAMES, 4, 4]: 0.6 to 1 m a frame, weaving a little, the camera a little askew."""
        rng = self.rng
        # as in KITTI one car drove all streets, its cameras set anew between drives
        height, mount_pitch = -rng.uniform(1.6, 1.7), rng.uniform(-0.3, 0.3)
        mount_yaw, mount_roll = rng.uniform(-0.5, 0.5), rng.uniform(-0.3, 0.3)
        speed = rng.uniform(0.68, 0.92)
        steps = speed + 0.08 * np.sin(np.arange(FRAMES) / rng.uniform(3, 7) + rng.uniform(0, 6))
        along = np.cumsum(steps)
        reach, wave, phase = rng.uniform(0.15, 0.4), rng.uniform(24, 42), rng.uniform(0, 6)
        poses = []
        for frame, s in enumerate(along):
            d = reach * np.sin(2 * np.pi * s / wave + phase)
            drift = np.degrees(np.arctan(2 * np.pi / wave * reach * np.cos(2 * np.pi * s / wave + phase)))
            x, z, heading = self.middle.position(s, d)
            sway = np.sin(np.array([2.1, 1.3, 1.7]) * frame + phase) * [0.15, 0.1, 0.1]
            angles = [heading + drift + mount_yaw + sway[1], mount_pitch + sway[0], mount_roll + sway[2]]
            poses.append(rigid(Rotation.from_euler("YXZ", angles, degrees=True).as_matrix(), (x, height, z)))
        self.height, self.mount = height, Rotation.from_euler("YXZ", [mount_yaw, mount_pitch, mount_roll], degrees=True)
        return np.array(poses)

    def leader(self) -> list[Box]:
        """The car ahead at the camera's own speed, its boxes in the camera's frame."""
        car = rigid(turned(0), (self.rng.uniform(-0.3, 0.3), -self.height, self.rng.uniform(8, 12)))
        parts = self.car(car)
        level = rigid(self.mount.inv().as_matrix(), (0, 0, 0))
        return [replace(part, pose=level @ part.pose) for part in parts]


def build(seed: int, number: int, lead: bool = False) -> Street:
    """The street `number` of a seed, and the drive through it, behind another car if `lead`; the rest is the same."""
    builder = _Builder(np.random.default_rng([seed, number]))
    for side in (-1, 1):
        builder.houses(side)
        builder.kerbside(side)
    builder.ending()
    sky = builder.atlas.add(textures.sky(builder.rng, 256, 1024), 1024 / (2 * np.pi))
    ground = builder.atlas.add(builder.ground(), GROUND_DENSITY)
    corner = (GROUND_X[0], GROUND_Z[0])
    scene = Scene(builder.boxes, builder.blobs, ground, corner, sky, builder.sun, builder.atlas.build())
    poses = builder.drive()
    return Street(scene, poses, builder.leader() if lead else [])
