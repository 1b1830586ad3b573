"""Depth, camera motion, back-projection, projection and warping (fact sheet 5.1).

Shapes: depth [N, 1, h, w]; cameras K and inv_K [N, 4, 4]; points [N, 4, h * w], homogeneous; sampling grids
[N, h, w, 2], -1 and 1 at the centres of the outermost pixels. All of one dtype, float32 or float64.
"""

import paddle
from paddle.nn import functional as F

EPSILON = 1e-7  # keeps the axis of a zero angle, and points at depth 0, from a division by 0


def disp_to_depth(disp, min_depth: float, max_depth: float) -> tuple:
    """The network's disparity in (0, 1) -> (scaled disparity in [1 / max_depth, 1 / min_depth], depth = 1 / it)."""
    low, high = 1 / max_depth, 1 / min_depth
    scaled = low + (high - low) * disp
    return scaled, 1 / scaled


def rotation_from_axisangle(axisangle):
    """Axis times angle [N, 1, 3] -> rotations [N, 4, 4], by R = c I + s [axis]x + (1 - c) axis axis' (Rodrigues).

    A zero vector gives the identity and a zero gradient, which is why the norm is the library's.
    """
    angle = paddle.linalg.norm(axisangle, axis=2, keepdim=True)
    axis = axisangle / (angle + EPSILON)
    cos, sin = paddle.cos(angle), paddle.sin(angle)
    x, y, z = (axis[:, :, i : i + 1] for i in range(3))
    zero, one = paddle.zeros_like(x), paddle.ones_like(x)
    cross = paddle.concat([zero, -z, y, z, zero, -x, -y, x, zero], axis=2).reshape([-1, 3, 3])
    eye = paddle.eye(3, dtype=axis.dtype)
    rotation = cos * eye + sin * cross + (1 - cos) * paddle.matmul(axis, axis, transpose_x=True)
    column = paddle.concat([zero, zero, zero], axis=1)
    return paddle.concat(
        [paddle.concat([rotation, column], axis=2), paddle.concat([zero, zero, zero, one], axis=2)], axis=1
    )


def translation_matrix(translation):
    """Translations of 3 numbers, [N, 1, 3] or [N, 3, 1] -> [N, 4, 4]."""
    column = translation.reshape([-1, 3, 1])
    eye = paddle.eye(4, dtype=column.dtype).expand([column.shape[0], 4, 4])
    return paddle.concat([eye[:, :, :3], paddle.concat([column, eye[:, 3:, 3:]], axis=1)], axis=2)


def transformation_from_parameters(axisangle, translation, invert: bool = False):
    """Motions [N, 1, 3] and [N, 1, 3] -> [N, 4, 4]: rotate, then shift; with `invert` the exact inverse of that."""
    rotation = rotation_from_axisangle(axisangle)
    if invert:
        return paddle.matmul(rotation.transpose([0, 2, 1]), translation_matrix(-translation))
    return paddle.matmul(translation_matrix(translation), rotation)


def backproject(depth, inv_K):
    """depth [N, 1, h, w] -> the points [N, 4, h * w] that the pixels see, in the camera's frame."""
    n, _, height, width = depth.shape
    x = paddle.arange(width, dtype=depth.dtype).unsqueeze(0).expand([height, width])
    y = paddle.arange(height, dtype=depth.dtype).unsqueeze(1).expand([height, width])
    pixels = paddle.stack([x, y, paddle.ones_like(x)]).reshape([1, 3, -1]).expand([n, 3, height * width])
    rays = paddle.matmul(inv_K[:, :3, :3], pixels)
    depth = depth.reshape([n, 1, -1])
    # written out, for to broadcast is slow on a CPU
    return paddle.concat([depth.expand_as(rays) * rays, paddle.ones_like(depth)], axis=1)


def project(points, K, T, size: tuple[int, int]):
    """Points [N, 4, h * w] moved by T [N, 4, 4] and seen by K -> sampling grid [N, h, w, 2], `size` = (h, w).

    Points behind the camera are not treated apart, as in the reference.
    """
    height, width = size
    seen = paddle.matmul(paddle.matmul(K, T)[:, :3], points)
    depth = seen[:, 2] + EPSILON
    x = (seen[:, 0] / depth / (width - 1) - 0.5) * 2
    y = (seen[:, 1] / depth / (height - 1) - 0.5) * 2
    return paddle.stack([x, y], axis=2).reshape([-1, height, width, 2])


def warp(image, grid, align_corners: bool = True):
    """Sample `image` [N, C, H, W] at `grid` [N, h, w, 2] -> [N, C, h, w]: bilinear, the border repeated outside.

    On a CPU, Paddle 3.3's gradient of grid_sample ends the process with a segmentation fault when the grid needs a
    gradient and the image does not. So such an image goes in as a copy that does (PaddlePaddle/Paddle issue 38900).
    """
    if image.stop_gradient and not grid.stop_gradient:
        image = image.detach()
        image.stop_gradient = False
    return F.grid_sample(image, grid, mode="bilinear", padding_mode="border", align_corners=align_corners)
