"""The mini data's camera: flat faces into a picture, in right perspective, the nearest in front."""

import cv2
import numpy as np

from shared.mini import to_bytes

from .solids import Face

OVERSAMPLING = 2  # samples a pixel, along each side
AMBIENT, DIRECT = 0.68, 0.42  # light on what the sun does not see, and what it adds
NEAR = 0.3  # metres: faces that come nearer are left out


class Canvas:
    """A picture being drawn with the projection P2 [3, 4]; pixel (0, 0)'s middle is at u = v = 0, as KITTI counts."""

    def __init__(self, projection: np.ndarray, width: int, height: int, sun: np.ndarray):
        """`sun` [3] points to it, of length 1, y down."""
        k = OVERSAMPLING
        to_samples = np.array([[k, 0, (k - 1) / 2], [0, k, (k - 1) / 2], [0, 0, 1]])
        self.projection, self.sun = to_samples @ np.asarray(projection, np.float64), sun
        self.eye = -np.linalg.solve(self.projection[:, :3], self.projection[:, 3])
        self.colour = np.zeros((height * k, width * k, 3), np.float32)
        self.nearness = np.zeros(self.colour.shape[:2], np.float32)  # 1 / depth
        self.owner = np.full(self.colour.shape[:2], -1, np.int16)

    def background(self, sky: np.ndarray, ground: np.ndarray, density: float, corner: np.ndarray) -> None:
        """The sky, its last row at the horizon, and the level ground.

        `ground`: texture, rows along z, `density` texels a metre; `corner` [3]: where its first texel lies. It repeats
        along z.
        """
        rows, columns = self.colour.shape[:2]
        horizon = int(np.ceil(self.projection[1, 2]))
        self.colour[:horizon] = cv2.resize(sky, (columns, horizon), interpolation=cv2.INTER_LINEAR)
        matrix = self._from_samples(np.array([corner, (1 / density, 0, 0), (0, 0, 1 / density)]))
        v = np.arange(horizon, rows, dtype=np.float32)[:, None]
        u = np.arange(columns, dtype=np.float32)
        x, z, nearness = (row[0] * u + row[1] * v + row[2] for row in np.float32(matrix))
        nearness = np.maximum(nearness, 1e-4)
        x, z = x / nearness, z / nearness % (2 * len(ground) - 2)
        z = np.minimum(z, 2 * len(ground) - 2 - z)  # back and forth, without a seam
        # texels under one sample: from a coarser texture where they are many
        texels = density / (self.projection[0, 0] * nearness[:, 0])
        level = np.clip(np.log2(np.maximum(texels * 2, 1)), 0, 4).astype(int)
        for step in range(5):
            if (level == step).any():
                x_here, z_here = x[level == step] / 2**step, z[level == step] / 2**step
                looked_up = cv2.remap(ground, x_here, z_here, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
                self.colour[horizon:][level == step] = looked_up
            ground = cv2.resize(ground, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)

    def shade(self, polygons: list[np.ndarray]) -> None:
        """Darken the ground inside these outlines [k, 3]."""
        mask = np.zeros(self.colour.shape[:2], np.uint8)
        for points in polygons:
            samples = self._project(points)
            if (samples[:, 2] > NEAR).all():
                hull = cv2.convexHull(np.float32(samples[:, :2] * 16))
                cv2.fillConvexPoly(mask, hull.astype(np.int32), 255, shift=4)
        self.colour *= (1 - 0.45 / 255 * cv2.blur(mask, (5, 5)).astype(np.float32))[..., None]

    def draw(self, faces: list[Face], owner: int) -> int:
        """Draw a solid's faces; returns how many samples it would cover if nothing stood in front of it."""
        silhouette = np.zeros(self.owner.shape, bool)
        turned = [face for face in faces if face.outward is None or face.outward @ (face.points[0] - self.eye) < 0]
        windows = [self._draw_face(face, owner, silhouette) for face in turned]
        rows = [window[0] for window in windows if window]
        if not rows:
            return 0
        return int(np.count_nonzero(silhouette[min(part.start for part in rows) : max(part.stop for part in rows)]))

    def visible(self, owners: int) -> np.ndarray:
        """In how many samples each of the solids 0 .. owners - 1 is seen, int64 [owners]."""
        return np.bincount(self.owner.ravel() + 1, minlength=owners + 1)[1:]

    def picture(self) -> np.ndarray:
        """uint8 [height, width, 3]."""
        k = OVERSAMPLING
        return to_bytes(cv2.resize(self.colour, None, fx=1 / k, fy=1 / k, interpolation=cv2.INTER_AREA))

    def _project(self, points: np.ndarray) -> np.ndarray:
        """Samples and depths [n, 3] of points [n, 3]."""
        samples = points @ self.projection[:, :3].T + self.projection[:, 3]
        samples[:, :2] /= samples[:, 2:]
        return samples

    def _from_samples(self, frame: np.ndarray) -> np.ndarray:
        """[3, 3]: from (column, row, 1) to a texture's (across, down, 1) / depth; `frame` as a face's."""
        corner, along, down = frame
        columns = np.stack([along, down, corner], 1)
        matrix = self.projection[:, :3] @ columns
        matrix[:, 2] += self.projection[:, 3]
        return np.linalg.inv(matrix)

    def _draw_face(self, face: Face, owner: int, silhouette: np.ndarray) -> tuple[slice, slice] | None:
        """Draw it, also into `silhouette`; returns the window it lies in, or None where it is out of sight."""
        samples = self._project(face.points)
        if samples[:, 2].min() < NEAR:
            return None
        x, y = samples[:, 0], samples[:, 1]
        rows, columns = self.owner.shape
        left, right = max(0, int(np.ceil(x.min()))), min(columns - 1, int(x.max()))
        top, bottom = max(0, int(np.ceil(y.min()))), min(rows - 1, int(y.max()))
        if left > right or top > bottom:
            return None
        u, v = np.arange(left, right + 1), np.arange(top, bottom + 1)[:, None]
        next_x, next_y = np.append(x[1:], x[0]), np.append(y[1:], y[0])
        turn = np.sign((x * next_y - y * next_x).sum())
        dx, dy = turn * (next_x - x), turn * (next_y - y)
        inside = np.ones((len(v), len(u)), bool)
        for k in range(len(x)):
            inside &= dx[k] * (v - y[k]) >= dy[k] * (u - x[k])
        window = np.s_[top : bottom + 1, left : right + 1]
        silhouette[window] |= inside
        matrix = self._from_samples(face.frame)
        nearness = matrix[2, 0] * u + (matrix[2, 1] * v + matrix[2, 2])
        inside &= nearness > self.nearness[window]
        row, column = np.nonzero(inside)
        if not len(row):
            return window
        nearness = nearness[row, column]
        position = matrix[:2, :2] @ np.stack([column + left, row + top]) + matrix[:2, 2:]
        height, width = face.texture.shape[:2]
        across, down = (position / nearness * [[width], [height]]).astype(int)
        light = AMBIENT + DIRECT * (0.5 if face.outward is None else max(face.outward @ self.sun, 0))
        row, column = row + top, column + left
        self.colour[row, column] = face.texture[down.clip(0, height - 1), across.clip(0, width - 1)] * np.float32(light)
        self.nearness[row, column] = nearness
        self.owner[row, column] = owner
        return window
