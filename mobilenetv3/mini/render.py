"""The picture of a scene: a camera walks its rays along the object's distance function ("sphere tracing")."""

import cv2
import numpy as np

from .scenes import GAMMA, Camera, Paint, Patches, Plane, Scene
from .shapes import Shape, dot, norm

SUN = 0.85  # strength of the light from the side; the light from everywhere is drawn at random


def painted(paint: Paint, points: np.ndarray) -> np.ndarray:
    """Linear RGB [3, N] of a texture at points [3, N]."""
    first, second = paint.colours[:, :1], paint.colours[:, 1:]
    if paint.kind == "plain":
        return np.repeat(first, points.shape[1], 1)
    use = {"stripes": slice(6, 7), "checks": slice(6, 9), "noise": slice(0, 6), "marble": slice(0, 7)}[paint.kind]
    waves = np.sin(paint.waves[use] @ points + paint.phases[use])
    if paint.kind == "noise":
        mix = 0.5 + 0.25 * waves.sum(0)
    elif paint.kind == "marble":
        mix = 0.5 + 0.5 * np.sin(waves[:6].sum(0) + 0.5 * (paint.waves[6] @ points))
    else:
        mix = 0.5 + 3 * waves.prod(0)  # steep, so bands and squares with a soft edge
    return first + np.clip(mix, 0, 1) * (second - first)


def lay(patches: Patches, points: np.ndarray, colours: np.ndarray) -> None:
    """Put the patches over the colours [3, N] of points [3, N] of their plane, in place."""
    for middle, half, disc, colour in zip(*patches, strict=True):
        x, y, z = points - middle[:, None]
        inside = norm(x, y, z) if disc else np.maximum(np.maximum(np.abs(x), np.abs(y)), np.abs(z))
        colours[:, inside < half] = colour[:, None]


def camera_rays(camera: Camera, size: int) -> np.ndarray:
    """Rays float32 [3, size * size], row by row from the top left, each one `focal` long along the camera's axis."""
    grid = (np.arange(size, dtype=np.float32) + 0.5) * (2 / size) - 1
    u, v = np.meshgrid(grid - camera.shift[0], -grid - camera.shift[1])
    return camera.axes.T @ np.stack([u.ravel(), v.ravel(), np.full(size * size, camera.focal, np.float32)])


def meet_sphere(origins: np.ndarray, rays: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Indices [n] of the unit rays that meet the sphere of radius 1.02 ahead, and where they enter and leave it."""
    middle = -dot(origins, rays)
    inside = 1.02**2 - dot(origins, origins) + middle * middle
    index = np.flatnonzero((inside > 0) & (middle * np.abs(middle) > -inside))
    middle, half = middle[index], np.sqrt(inside[index])
    return index, np.maximum(middle - half, 0), middle + half


def trace(shape: Shape, eye: np.ndarray, rays: np.ndarray, start: np.ndarray, end: np.ndarray):
    """Walk unit rays [3, N] from `start` to `end` [N].

    Returns the distance from the eye at which each ray came nearest to the object, and how near: [N], [N].
    """
    nearest, gap, t, walking = start.copy(), np.full_like(start, np.inf), start.copy(), np.arange(len(start))
    for _ in range(40):
        d = shape.distance(eye[:, None] + t * rays)
        better = d < gap[walking]
        nearest[walking[better]], gap[walking[better]] = t[better], d[better]
        t = t + d
        go_on = (d > 0.002) & (t < end)
        walking, rays, t, end = walking[go_on], rays[:, go_on], t[go_on], end[go_on]
        if not len(walking):
            break
    return nearest, gap


def normals(shape: Shape, points: np.ndarray) -> np.ndarray:
    """Unit gradients of the distance, float32 [3, N], by differences over the corners of a tetrahedron."""
    corners = np.array([[1, -1, -1], [-1, -1, 1], [-1, 1, -1], [1, 1, 1]], np.float32)
    stacked = (points[:, None] + 0.004 * corners.T[:, :, None]).reshape(3, -1)
    gradient = corners.T @ shape.distance(stacked).reshape(4, -1)
    return gradient / np.maximum(norm(*gradient), 1e-9)


def unshadowed(shape: Shape, points: np.ndarray, light: np.ndarray, softness: float) -> np.ndarray:
    """How much of the light reaches each point [3, N], 0..1: the narrowest gap between its ray and the object."""
    index, t, end = meet_sphere(points, light[:, None])
    origins, t, reach = points[:, index], np.maximum(t, 0.04), np.ones(points.shape[1], np.float32)
    for _ in range(16):
        d = shape.distance(origins + t * light[:, None])
        reach[index] = np.minimum(reach[index], np.maximum(softness * d / t, 0))
        t = t + np.clip(d, 0.03, 0.4)
        go_on = (t < end) & (d > 0)
        index, origins, t, end = index[go_on], origins[:, go_on], t[go_on], end[go_on]
        if not len(index):
            break
    return reach


def plane_colour(scene: Scene, plane: Plane, points: np.ndarray) -> np.ndarray:
    """Light that points [3, N] of a plane send out, linear RGB [3, N]; darker next to the object."""
    colours = painted(plane.paint, points)
    lay(plane.patches, points, colours)
    open_sky = np.ones(points.shape[1], np.float32)
    near = np.flatnonzero(dot(points, points) < 2)
    open_sky[near] = np.clip(0.4 + 1.5 * scene.shape.distance(points[:, near]), 0, 1)
    direct = max(float(plane.normal @ scene.light), 0) * unshadowed(scene.shape, points, scene.light, 6)
    return colours * (scene.ambient * open_sky + SUN * direct)


def background(scene: Scene, rays: np.ndarray, size: int) -> np.ndarray:
    """Floor and wall, linear RGB [3, N]; the seam between them is mixed over one pixel."""
    camera, planes = scene.camera, (scene.floor, scene.wall)
    # 1 / distance, in lengths of the ray, changes linearly over the frame: the larger of the two is the plane in front.
    rates = [plane.normal / (plane.offset - camera.eye @ plane.normal) for plane in planes]
    to_floor, to_wall = (rate @ rays for rate in rates)
    pixel = np.linalg.norm(camera.axes[:2] @ (rates[0] - rates[1])) * 2 / size
    floor_share = np.clip(0.5 + (to_floor - to_wall) / pixel, 0, 1)
    picture = np.zeros_like(rays)
    for plane, inverse, share in zip(planes, (to_floor, to_wall), (floor_share, 1 - floor_share), strict=True):
        seen = np.flatnonzero((share > 0) & (inverse > 1e-4))
        points = camera.eye[:, None] + rays[:, seen] / inverse[seen]
        picture[:, seen] += share[seen] * plane_colour(scene, plane, points)
    return picture


def object_colour(scene: Scene, points: np.ndarray, rays: np.ndarray) -> np.ndarray:
    """Light that points [3, N] of the object send back along unit rays [3, N], linear RGB: Lambert and Blinn-Phong."""
    facing = normals(scene.shape, points)
    lambert = np.maximum(scene.light @ facing, 0)
    lambert *= unshadowed(scene.shape, points + 0.02 * facing, scene.light, 10)
    half = scene.light[:, None] - rays
    gloss = np.maximum(dot(facing, half) / norm(*half), 0) ** 40
    shade = scene.ambient * (0.75 + 0.25 * facing[1]) + SUN * lambert
    return painted(scene.paint, points) * shade + scene.shine * gloss * (lambert > 0)


def render(scene: Scene, size: int) -> np.ndarray:
    """The scene in linear RGB, float32 [size, size, 3]."""
    camera, rays = scene.camera, camera_rays(scene.camera, size)
    picture = background(scene, rays, size)
    rays /= norm(*rays)
    seen, start, end = meet_sphere(camera.eye[:, None], rays)
    nearest, gap = trace(scene.shape, camera.eye, rays[:, seen], start, end)
    # A ray that passes within a pixel of the object sees some of it: this smooths the outline.
    cover = np.clip(1 - (gap - 0.002) / (nearest * (2 / size / camera.focal)), 0, 1)
    hit = cover > 0
    seen, nearest, cover = seen[hit], nearest[hit], cover[hit]
    points = camera.eye[:, None] + nearest * rays[:, seen]
    picture[:, seen] += cover * (object_colour(scene, points, rays[:, seen]) - picture[:, seen])
    return picture.T.reshape(size, size, 3)


def develop(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Linear RGB to display RGB, uint8 [size, size, 3], with a lens a little out of focus and the noise of a sensor."""
    picture = np.clip(picture, 0, 1) ** np.float32(1 / GAMMA)
    picture = cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.3, 0.6) * len(picture) / 80)
    picture += rng.normal(0, rng.uniform(0.005, 0.02), picture.shape)
    return (np.clip(picture, 0, 1) * 255 + 0.5).astype(np.uint8)
