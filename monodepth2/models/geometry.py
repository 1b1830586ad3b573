"""Depth, camera motion, back-projection, projection and warping (NOTES 4).

Shapes: depth [N, 1, h, w]; cameras K and inv_K [N, 4, 4]; points [N, 4, h * w], homogeneous; sampling grids
[N, h, w, 2], -1 and 1 at the centres of the outermost pixels. All of one dtype, float32 or float64.
"""

import paddle
from paddle.nn import functional as F

EPSILON = 1e-7  # keeps the division by an angle or a depth of 0 finite


def disp_to_depth(disp, min_depth: float, max_depth: float) -> tuple:
    """The network's disparity in (0, 1) -> (scaled disparity in [1 / max_depth, 1 / min_depth], depth = 1 / scaled)."""
    low, high = 1 / max_depth, 1 / min_depth
    scaled = low + (high - low) * disp
    return scaled, 1 / scaled


def rot_from_axisangle(axisangle):
    """Axis times angle [N, 1, 3] in radians -> rotations [N, 4, 4]: R = c I + s [axis]x + (1 - c) axis axis'.

    A zero vector gives the identity and a zero gradient, because the library's norm has a zero gradient there.
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


def get_translation_matrix(translation):
    """Translations [N, 1, 3] or [N, 3, 1] -> [N, 4, 4]."""
    column = translation.reshape([-1, 3, 1])
    eye = paddle.eye(4, dtype=column.dtype).expand([column.shape[0], 4, 4])
    return paddle.concat([eye[:, :, :3], paddle.concat([column, eye[:, 3:, 3:]], axis=1)], axis=2)


def transformation_from_parameters(axisangle, translation, invert: bool = False):
    """axisangle and translation [N, 1, 3] -> [N, 4, 4]: rotate, then translate; with `invert` the exact inverse."""
    rotation = rot_from_axisangle(axisangle)
    if invert:
        return paddle.matmul(rotation.transpose([0, 2, 1]), get_translation_matrix(-translation))
    return paddle.matmul(get_translation_matrix(translation), rotation)


def backproject_depth(depth, inv_K):
    """depth [N, 1, h, w] -> the points [N, 4, h * w] that the pixels show, in the camera's frame."""
    n, _, height, width = depth.shape
    x = paddle.arange(width, dtype=depth.dtype).unsqueeze(0).expand([height, width])
    y = paddle.arange(height, dtype=depth.dtype).unsqueeze(1).expand([height, width])
    pixels = paddle.stack([x, y, paddle.ones_like(x)]).reshape([1, 3, -1]).expand([n, 3, height * width])
    rays = paddle.matmul(inv_K[:, :3, :3], pixels)
    depth = depth.reshape([n, 1, -1])
    # expanded explicitly: an implicit broadcast is slow on a CPU
    return paddle.concat([depth.expand_as(rays) * rays, paddle.ones_like(depth)], axis=1)


def project_3d(points, K, T, size: tuple[int, int]):
    """Points [N, 4, h * w] moved by T [N, 4, 4] and projected by K -> sampling grid [N, h, w, 2], `size` = (h, w).

    Points behind the camera are not treated separately, as in the reference.
    """
    height, width = size
    projected = paddle.matmul(paddle.matmul(K, T)[:, :3], points)
    depth = projected[:, 2] + EPSILON
    # out of place: Paddle refuses the gradient of an in-place change of a division's output
    x = (projected[:, 0] / depth / (width - 1) - 0.5) * 2
    y = (projected[:, 1] / depth / (height - 1) - 0.5) * 2
    return paddle.stack([x, y], axis=2).reshape([-1, height, width, 2])


def warp(image, grid, align_corners: bool = True):
    """Sample `image` [N, C, H, W] at `grid` [N, h, w, 2] -> [N, C, h, w]: bilinear, border padding (NOTES 4.6).

    The gradient of grid_sample on a CPU ends the process with SIGSEGV when the grid needs a gradient and the image does
    not (NOTES 8.1), so such an image is replaced by a copy that needs one.
    """
    if image.stop_gradient and not grid.stop_gradient:
        image = image.detach()
        image.stop_gradient = False
    return F.grid_sample(image, grid, mode="bilinear", padding_mode="border", align_corners=align_corners)
