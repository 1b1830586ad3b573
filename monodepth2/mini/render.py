"""The mini data's camera and laser scanner: rays cast at boxes, ellipsoids and the ground, in whole arrays.

Frames are KITTI's: x right, y down, z forward; the ground is y = 0. A ray (x, y, 1) that meets something at `depth`
does so at depth * (x, y, 1): depth is z, in metres, not the length of the ray.
"""

from dataclasses import dataclass

import numpy as np

from shared.mini import to_bytes

from .textures import Atlas

NEAR, FAR = 0.1, 1000.0  # metres
OVERSAMPLING = 2  # rays a pixel, along each side


@dataclass(frozen=True)
class Camera:
    """A pinhole camera with the reference's fixed intrinsics, for pictures of any size (NOTES 2.6)."""

    width: int
    height: int

    @property
    def focal(self) -> tuple[float, float]:
        """fx and fy, in pixels."""
        return 0.58 * self.width, 1.92 * self.height

    def rays(self, oversampling: int = 1) -> "Rays":
        """The rays through the middles of the pixels, or of `oversampling`^2 parts of each.

        The principal point is the middle of the picture, so that a mirrored picture is one of the same camera.
        """
        across, down = self.width * oversampling, self.height * oversampling
        x = ((np.arange(across) + 0.5) / across - 0.5) / 0.58
        y = ((np.arange(down) + 0.5) / down - 0.5) / 1.92
        return Rays(np.float32(x), np.float32(y)[:, None], 1 / (self.focal[0] * oversampling))


@dataclass(frozen=True)
class Rays:
    """A grid of directions (x, y, 1): x [w] rises, y [h, 1 or w] rises from row to row; `spacing` in radians."""

    x: np.ndarray
    y: np.ndarray
    spacing: float

    def window(self, points: np.ndarray) -> tuple[slice, slice] | None:
        """Rows and columns that can see the convex body with these corners [n, 3]; None when no ray can."""
        z = points[:, 2]
        if z.max() < NEAR:
            return None
        if z.min() < NEAR:
            return slice(0, len(self.y)), slice(0, len(self.x))
        across, down = points[:, 0] / z, points[:, 1] / z
        columns = np.searchsorted(self.x, [across.min(), across.max()])
        rows = np.flatnonzero((self.y.max(1) >= down.min()) & (self.y.min(1) <= down.max()))
        if columns[0] == columns[1] or not len(rows):
            return None
        return slice(int(rows[0]), int(rows[-1]) + 1), slice(*map(int, columns))


@dataclass(frozen=True)
class Box:
    """A box: its pose (box to world) [4, 4], half its sides [3], the textures of the faces across its three axes, and
    how much light those receive, [3, 2], on the negative and the positive side."""

    pose: np.ndarray
    half: np.ndarray
    textures: tuple[int, int, int]
    light: np.ndarray


@dataclass(frozen=True)
class Blob:
    """An ellipsoid that stands upright: its centre [3] and radii [3] in the world, and its texture."""

    centre: np.ndarray
    radii: np.ndarray
    texture: int


@dataclass(frozen=True)
class Scene:
    """Everything to be seen at one moment. `sun` [3] points to it; `ground` and `sky` are textures."""

    boxes: list[Box]
    blobs: list[Blob]
    ground: int
    ground_corner: tuple[float, float]  # x and z of the ground texture's corner; its rows run along x
    sky: int
    sun: np.ndarray
    atlas: Atlas


AMBIENT, DIRECT = 0.62, 0.55


def light_on(normals: np.ndarray, sun: np.ndarray) -> np.ndarray:
    """Brightness of surfaces with these normals [..., 3]."""
    return AMBIENT + DIRECT * np.maximum(normals @ sun, 0)


class _View:
    """What each ray has met so far."""

    def __init__(self, rays: Rays):
        shape = (len(rays.y), len(rays.x))
        self.rays = rays
        self.x, self.y = np.broadcast_to(rays.x, shape), np.broadcast_to(rays.y, shape)
        self.length = np.sqrt(self.x**2 + self.y**2 + 1)
        self.depth = np.full(shape, np.inf, np.float32)
        self.texture = np.zeros(shape, np.int32)
        self.u, self.v, self.light, self.footprint = (np.zeros(shape, np.float32) for _ in range(4))

    def put(self, where, depth, texture, u, v, light, slope) -> None:
        """Note a hit at the flat positions `where`; `slope` is the cosine between the ray and the surface's normal."""
        self.depth.flat[where] = depth
        self.texture.flat[where] = texture
        self.u.flat[where], self.v.flat[where], self.light.flat[where] = u, v, light
        # a slanting surface fills a pixel with more of itself one way than the other: in between
        self.footprint.flat[where] = depth * self.rays.spacing / np.sqrt(np.maximum(slope, 0.02))

    def nearer(self, window: tuple[slice, slice], depth: np.ndarray, hit: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where in the window, and where in the whole, flat, `hit` holds and nothing nearer was met."""
        inside = np.flatnonzero(hit & (depth > NEAR) & (depth < self.depth[window]))
        rows, columns = np.divmod(inside, depth.shape[1])
        return inside, (rows + window[0].start) * self.depth.shape[1] + columns + window[1].start


def _directions(matrix: np.ndarray, view: _View, window: tuple[slice, slice]) -> list[np.ndarray]:
    """The rays of the window in the frame that `matrix` [3, 3] leads to: three arrays [h, w]."""
    x, y = view.x[window], view.y[window]
    return [np.float32(row[0]) * x + np.float32(row[1]) * y + np.float32(row[2]) for row in matrix]


CORNERS = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], float)


def _add_box(view: _View, camera_from_world: np.ndarray, box: Box) -> None:
    camera_from_box = camera_from_world @ box.pose
    window = view.rays.window(CORNERS * box.half @ camera_from_box[:3, :3].T + camera_from_box[:3, 3])
    if window is None:
        return
    rotation = camera_from_box[:3, :3].T
    origin = np.float32(-rotation @ camera_from_box[:3, 3])
    half = np.float32(box.half)
    directions = _directions(rotation, view, window)
    enters, leaves = [], None
    for k in range(3):
        with np.errstate(divide="ignore", invalid="ignore"):
            first, second = (-half[k] - origin[k]) / directions[k], (half[k] - origin[k]) / directions[k]
        enters.append(np.minimum(first, second))
        leaving = np.maximum(first, second)
        leaves = leaving if leaves is None else np.minimum(leaves, leaving)
    depth = np.maximum(np.maximum(enters[0], enters[1]), enters[2])
    inside, where = view.nearer(window, depth, depth < leaves)
    if not len(inside):
        return
    depth = depth.flat[inside]
    directions = np.stack([direction.flat[inside] for direction in directions])
    axis = np.stack([enter.flat[inside] for enter in enters]).argmax(0)
    point = origin[:, None] + depth * directions + half[:, None]
    u = np.where(axis == 0, point[2], point[0])
    v = np.where(axis == 1, point[2], point[1])
    along = directions[axis, np.arange(len(axis))]
    light = np.float32(box.light)[axis, (along < 0).astype(int)]
    texture = np.array(box.textures)[axis]
    view.put(where, depth, texture, u, v, light, np.abs(along) / view.length.flat[where])


def _add_blob(view: _View, camera_from_world: np.ndarray, blob: Blob, sun: np.ndarray) -> None:
    rotation = camera_from_world[:3, :3]
    centre = rotation @ blob.centre + camera_from_world[:3, 3]
    window = view.rays.window(CORNERS * blob.radii @ rotation.T + centre)
    if window is None:
        return
    origin = np.float32(-rotation.T @ centre)
    radii = np.float32(blob.radii)
    directions = _directions(rotation.T, view, window)
    a = sum((direction / radius) ** 2 for direction, radius in zip(directions, radii, strict=True))
    b = sum(o * d / r**2 for o, d, r in zip(origin, directions, radii, strict=True))
    c = np.sum((origin / radii) ** 2) - 1
    root = b * b - a * c
    depth = (-b - np.sqrt(np.maximum(root, 0))) / a
    inside, where = view.nearer(window, depth, root > 0)
    if not len(inside):
        return
    depth = depth.flat[inside]
    directions = np.stack([direction.flat[inside] for direction in directions])
    point = origin[:, None] + depth * directions
    normal = point / radii[:, None] ** 2
    normal /= np.linalg.norm(normal, axis=0)
    u = np.arctan2(point[0], point[2]) * radii[0] + 10
    v = point[1] + 10
    slope = np.abs((normal * directions).sum(0)) / view.length.flat[where]
    view.put(where, depth, blob.texture, u, v, light_on(normal.T, sun), slope)


def _add_ground(view: _View, pose: np.ndarray, scene: Scene) -> None:
    down = _directions(pose[1:2, :3], view, np.s_[:, :])[0]
    with np.errstate(divide="ignore"):
        depth = np.float32(-pose[1, 3]) / down
    where = np.flatnonzero((down > 0) & (depth < FAR))
    depth, down = depth.flat[where], down.flat[where]
    x, z = (
        depth * (np.float32(row[0]) * view.x.flat[where] + np.float32(row[1]) * view.y.flat[where] + np.float32(row[2]))
        + np.float32(row[3])
        for row in (pose[0], pose[2])
    )
    light = light_on(np.array([0.0, -1.0, 0.0]), scene.sun)
    u, v = z - scene.ground_corner[1], x - scene.ground_corner[0]
    view.put(where, depth, scene.ground, u, v, light, down / view.length.flat[where])


def _add_sky(view: _View, pose: np.ndarray, scene: Scene) -> None:
    x, y, z = _directions(pose[:3, :3], view, np.s_[:, :])
    view.texture[:] = scene.sky
    view.u[:] = np.arctan2(x, z) + np.float32(np.pi)
    view.v[:] = np.float32(np.pi / 4) + np.arctan2(y, np.hypot(x, z))
    view.light[:] = 1
    view.footprint[:] = view.rays.spacing


def cast(scene: Scene, pose: np.ndarray, rays: Rays) -> tuple[np.ndarray, np.ndarray]:
    """What rays from `pose` (viewer to world, [4, 4]) meet: depth float32 [h, w] in metres, inf for the sky, and
    colour float32 [h, w, 3] of 0..255."""
    view = _View(rays)
    camera_from_world = np.linalg.inv(pose)
    _add_sky(view, pose, scene)
    _add_ground(view, pose, scene)
    for box in scene.boxes:
        _add_box(view, camera_from_world, box)
    for blob in scene.blobs:
        _add_blob(view, camera_from_world, blob, scene.sun)
    colour = scene.atlas.look_up(view.texture, view.u, view.v, view.footprint)
    return view.depth, colour * view.light[..., None]


def picture(scene: Scene, pose: np.ndarray, camera: Camera) -> np.ndarray:
    """A picture from `pose` (camera to world, [4, 4]): RGB uint8 [H, W, 3]."""
    _, colour = cast(scene, pose, camera.rays(OVERSAMPLING))
    colour = colour.reshape(camera.height, OVERSAMPLING, camera.width, OVERSAMPLING, 3).mean((1, 3))
    return to_bytes(colour)
