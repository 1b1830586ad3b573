"""Monodepth2's losses in torch (NOTES 5)."""

import argparse
from collections.abc import Mapping, Sequence

import torch
from torch import nn
from torch.nn import functional as F

from .geometry import back_project, disp_to_depth, project, resize, transformation_from_parameters, warp
from options import sources

_SSIM_WEIGHT = 0.85
_MASK_WEIGHT = 0.2
_NOISE_SCALE = 1e-5
_EPSILON = 1e-7


def ssim_error(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """(1 - SSIM) / 2 of 3x3 windows, in [0, 1]: two images [B, C, h, w] -> the same shape."""
    x, y = (F.pad(image, (1, 1, 1, 1), mode="reflect") for image in (x, y))

    def mean(values):
        return F.avg_pool2d(values, 3, 1)

    mean_x, mean_y = mean(x), mean(y)
    var_x, var_y = mean(x * x) - mean_x**2, mean(y * y) - mean_y**2
    covariance = mean(x * y) - mean_x * mean_y
    alike = (2 * mean_x * mean_y + 0.01**2) * (2 * covariance + 0.03**2)
    most = (mean_x**2 + mean_y**2 + 0.01**2) * (var_x + var_y + 0.03**2)
    return ((1 - alike / most) / 2).clamp(0, 1)


def photometric_error(prediction: torch.Tensor, target: torch.Tensor, ssim: bool) -> torch.Tensor:
    """Images [B, 3, h, w] -> [B, 1, h, w]: mean absolute difference, or that mixed with SSIM (paper, equation 1)."""
    difference = (target - prediction).abs().mean(1, keepdim=True)
    if not ssim:
        return difference
    return _SSIM_WEIGHT * ssim_error(prediction, target).mean(1, keepdim=True) + (1 - _SSIM_WEIGHT) * difference


def normalised(disp: torch.Tensor) -> torch.Tensor:
    """[B, 1, h, w] divided by the mean of each sample."""
    return disp / (disp.mean((2, 3), keepdim=True) + _EPSILON)


def smoothness(disp: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    """Edge-aware smoothness of disp [B, 1, h, w] under image [B, 3, h, w] -> scalar (paper, equation 3)."""
    total = 0
    for axis in (2, 3):
        edge = image.diff(dim=axis).abs().mean(1, keepdim=True)
        total = total + (disp.diff(dim=axis).abs() * (-edge).exp()).mean()
    return total


class ReferenceCriterion(nn.Module):
    """(outputs, inputs, noise) -> {"loss", "loss/S" of each scale}: scalars (NOTES 5.1 to 5.7).

    outputs: the network's; inputs: ("color", f, s) [B, 3, H / 2^s, W / 2^s] in [0, 1], ("K", s) and ("inv_K", s)
    [B, 4, 4], with stereo "stereo_T" [B, 4, 4], all of one dtype. noise: one tensor of N(0, 1) for each scale, of the
    shape of the unwarped errors [B, sources or 1, h, w], or None, which draws it; used with automasking only.
    """

    def __init__(self, options: argparse.Namespace):
        super().__init__()
        self.options = options
        self.sources = sources(options)
        self.automasking = not options.disable_automasking

    def forward(self, outputs: Mapping, inputs: Mapping, noise: Sequence[torch.Tensor] | None = None) -> dict:
        found = self.details(outputs, inputs, noise)
        return {name: found[name] for name in ("loss", *(f"loss/{scale}" for scale in self.options.scales))}

    def details(self, outputs: Mapping, inputs: Mapping, noise: Sequence[torch.Tensor] | None = None) -> dict:
        """The losses, and ("depth", 0, s), ("sample", f, s), ("color", f, s) and "identity_selection/S"."""
        found = {"loss": 0}
        for index, scale in enumerate(self.options.scales):
            found |= self._warped(outputs, inputs, scale)
            draw = noise[index] if noise is not None else None
            found |= self._loss_of_scale(outputs, inputs, found, scale, draw)
            found["loss"] = found["loss"] + found[f"loss/{scale}"] / len(self.options.scales)
        return found

    def _resolution(self, scale: int) -> int:
        """The scale whose images are compared."""
        return scale if self.options.v1_multiscale else 0

    def _full(self, x: torch.Tensor, inputs: Mapping) -> torch.Tensor:
        """`x` at the size of the images that are compared."""
        return x if self.options.v1_multiscale else resize(x, inputs["color", 0, 0].shape[2:])

    def _warped(self, outputs: Mapping, inputs: Mapping, scale: int) -> dict:
        """Each source warped into frame 0 by the disparity of `scale` (NOTES 5.1)."""
        at = self._resolution(scale)
        disp = self._full(outputs["disp", scale], inputs)
        _, depth = disp_to_depth(disp, self.options.min_depth, self.options.max_depth)
        points = back_project(depth, inputs["inv_K", at])
        found = {("depth", 0, scale): depth}
        for f in self.sources:
            motion = inputs["stereo_T"] if f == "s" else self._motion(outputs, f, depth)
            grid = project(points, inputs["K", at], motion, tuple(depth.shape[2:]))
            found["sample", f, scale] = grid
            found["color", f, scale] = warp(inputs["color", f, at], grid, self.options.align_corners)
        return found

    def _motion(self, outputs: Mapping, f: int, depth: torch.Tensor) -> torch.Tensor:
        if self.options.pose_model_type != "posecnn":
            return outputs["cam_T_cam", 0, f]
        # always motion 0, inverted for earlier frames, in "all" mode too (NOTES 5.2)
        axisangle, translation = outputs["axisangle", 0, f][:, 0], outputs["translation", 0, f][:, 0]
        inverse_depth = (1 / depth).mean((2, 3))[..., None]
        return transformation_from_parameters(axisangle, translation * inverse_depth, invert=f < 0)

    def _errors(self, images: Mapping, target: torch.Tensor, scale: int) -> torch.Tensor:
        """[B, sources, h, w]"""
        errors = [photometric_error(images["color", f, scale], target, not self.options.no_ssim) for f in self.sources]
        return torch.cat(errors, dim=1)

    def _loss_of_scale(self, outputs: Mapping, inputs: Mapping, warped: Mapping, scale: int, draw) -> dict:
        """The terms of one scale (NOTES 5.4 to 5.6)."""
        options, at, found = self.options, self._resolution(scale), {}
        target = inputs["color", 0, at]
        errors = self._errors(warped, target, scale)
        loss = 0
        if options.predictive_mask and not self.automasking:
            mask = self._full(outputs["predictive_mask", scale], inputs)
            errors = errors * mask
            loss = _MASK_WEIGHT * F.binary_cross_entropy(mask, torch.ones_like(mask))
        if options.avg_reprojection:
            errors = errors.mean(1, keepdim=True)
        if self.automasking:
            still = self._errors(inputs, target, at)
            if options.avg_reprojection:
                still = still.mean(1, keepdim=True)
            draw = torch.randn_like(still) if draw is None else draw
            errors = torch.cat([still + _NOISE_SCALE * draw, errors], dim=1)
        least, which = errors.min(dim=1)
        if self.automasking:
            found[f"identity_selection/{scale}"] = (which >= still.shape[1]).to(errors.dtype)
        smooth = smoothness(normalised(outputs["disp", scale]), inputs["color", 0, scale])
        found[f"loss/{scale}"] = loss + least.mean() + options.disparity_smoothness / 2**scale * smooth
        return found


def build_criterion(options: argparse.Namespace) -> ReferenceCriterion:
    """The torch twin of `losses.build_criterion(options)`."""
    return ReferenceCriterion(options)
