"""Depth, motion, projection and warping in torch (NOTES 4)."""

import torch
from torch.nn import functional as F

_EPSILON = 1e-7  # keeps the division by an angle or a depth of 0 finite


def disp_to_depth(disp: torch.Tensor, min_depth: float, max_depth: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The sigmoid's output in (0, 1) -> (1 / depth, depth), both of its shape."""
    low, high = 1 / max_depth, 1 / min_depth
    scaled = low + (high - low) * disp
    return scaled, 1 / scaled


def _cross_matrix(v: torch.Tensor) -> torch.Tensor:
    """v [B, 3] -> [B, 3, 3] with _cross_matrix(v) @ x = v x x."""
    x, y, z = v.unbind(1)
    zero = torch.zeros_like(x)
    return torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=1).view(-1, 3, 3)


def rotation(axisangle: torch.Tensor) -> torch.Tensor:
    """Axis times angle in radians [B, 1, 3] -> homogeneous rotation [B, 4, 4], by Rodrigues' formula.

    A zero vector gives the identity and a zero gradient.
    """
    angle = axisangle.norm(dim=2)[..., None]
    axis = (axisangle / (angle + _EPSILON))[:, 0]
    c, s = angle.cos(), angle.sin()
    along = axis[:, :, None] * axis[:, None, :]
    turn = c * torch.eye(3).to(c) + s * _cross_matrix(axis) + (1 - c) * along
    corner = torch.ones_like(angle)
    return torch.cat([F.pad(turn, (0, 1)), F.pad(corner, (3, 0))], dim=1)


def translation_matrix(translation: torch.Tensor) -> torch.Tensor:
    """[B, 1, 3] -> the homogeneous translation [B, 4, 4]."""
    column = F.pad(translation.reshape(-1, 3, 1), (3, 0, 0, 1))
    return torch.eye(4).to(column) + column


def transformation_from_parameters(
    axisangle: torch.Tensor, translation: torch.Tensor, invert: bool = False
) -> torch.Tensor:
    """Both [B, 1, 3] -> [B, 4, 4]: rotate, then translate; or the inverse."""
    if invert:
        return rotation(axisangle).transpose(1, 2) @ translation_matrix(-translation)
    return translation_matrix(translation) @ rotation(axisangle)


def back_project(depth: torch.Tensor, inv_k: torch.Tensor) -> torch.Tensor:
    """depth [B, 1, h, w], inv_k [B, 4, 4] -> each pixel's point, homogeneous [B, 4, h * w], row by row."""
    h, w = depth.shape[2:]
    y, x = torch.meshgrid(torch.arange(h).to(depth), torch.arange(w).to(depth), indexing="ij")
    pixels = torch.stack([x.flatten(), y.flatten(), torch.ones(h * w).to(depth)])
    points = depth.flatten(2) * (inv_k[:, :3, :3] @ pixels)
    return torch.cat([points, torch.ones_like(points[:, :1])], dim=1)


def project(points: torch.Tensor, k: torch.Tensor, transform: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """points [B, 4, h * w], k and transform [B, 4, 4], size (h, w) -> sampling grid [B, h, w, 2] as (x, y).

    -1 and +1 are the centres of the outermost pixels. Points behind the camera are not treated separately.
    """
    h, w = size
    seen = (k @ transform)[:, :3] @ points
    pixels = seen[:, :2] / (seen[:, 2:] + _EPSILON)
    last = torch.tensor([w - 1, h - 1]).to(pixels)
    grid = (pixels / last[:, None] - 0.5) * 2
    return grid.transpose(1, 2).reshape(-1, h, w, 2)


def warp(image: torch.Tensor, grid: torch.Tensor, align_corners: bool) -> torch.Tensor:
    """image [B, C, h, w] sampled bilinearly at grid [B, h, w, 2], with border padding."""
    return F.grid_sample(image, grid, padding_mode="border", align_corners=align_corners)


def resize(x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """[B, C, h, w] -> [B, C, *size], bilinear, pixel centres at half-integers."""
    return F.interpolate(x, size, mode="bilinear", align_corners=False)
