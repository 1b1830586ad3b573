"""The whole loss: views synthesised from the sources, compared with the target (paper 3.2; fact sheet 5.2 to 5.4)."""

import argparse
from collections.abc import Sequence

import paddle
from paddle import nn
from paddle.nn import functional as F

from .photometric import Photometric, smoothness
from models.geometry import backproject, disp_to_depth, project, transformation_from_parameters, warp
from options import sources

TIE_BREAK = 1e-5  # size of the noise on the errors of unwarped sources
MASK_WEIGHT = 0.2


def _upsample(x, size):
    return x if list(x.shape[2:]) == list(size) else F.interpolate(x, size, mode="bilinear", align_corners=False)


def _smallest(channels: Sequence) -> tuple:
    """The smallest of [N, 1, h, w] tensors in each pixel, and which one it is (int64); the first of equal ones.

    The gradient goes to that one alone, as torch's does, where Paddle's own minimum shares it between equal ones.
    A NaN in any of them is the answer, as in torch.
    """
    best, place = channels[0], paddle.zeros(channels[0].shape, "int64")
    for index, channel in enumerate(channels[1:], start=1):
        smaller = paddle.logical_or(channel < best, paddle.isnan(channel)).detach()
        best = paddle.where(smaller, channel, best)
        place = paddle.where(smaller, paddle.full_like(place, index), place)
    return best, place


class Criterion(nn.Layer):
    """criterion(outputs of the network, batch, noise=None) -> {"loss": total, "loss/S": of each scale}, scalars.

    The batch has ("color", f, s), ("K", s), ("inv_K", s) and, with stereo, "stereo_T" (fact sheet 3.3); without
    --v1_multiscale the sources are needed at scale 0 only. `noise` breaks ties between unwarped sources: one array of
    N(0, 1) for each scale, [N, sources, h, w] (one channel with --avg_reprojection); drawn when None.
    """

    def __init__(self, options: argparse.Namespace):
        super().__init__()
        self.options = options
        self.sources = sources(options)

    def forward(self, outputs: dict, inputs: dict, noise: Sequence | None = None) -> dict:
        details = self.details(outputs, inputs, noise)
        return {name: details[name] for name in ("loss", *(f"loss/{scale}" for scale in self.options.scales))}

    def details(self, outputs: dict, inputs: dict, noise: Sequence | None = None) -> dict:
        """The terms, and what they come from.

        ("depth", 0, s) [N, 1, h, w]; of each source f: ("sample", f, s) [N, h, w, 2], ("color", f, s) [N, 3, h, w] (the
        source seen from the target), ("reprojection", f, s) and ("identity", f, s) [N, 1, h, w] (before the noise);
        "identity_selection/s" [N, 1, h, w], 1 where a warped source is the best; "smooth/s" (unweighted).
        """
        options, details, total = self.options, {}, 0
        identities = {}  # by the scale whose pictures are compared
        for index, scale in enumerate(options.scales):
            at = scale if options.v1_multiscale else 0
            if at not in identities:
                identities[at] = self._identities(inputs, at)
            photometric, identity = identities[at]
            details |= self._views(outputs, inputs, scale, at)
            details |= {("identity", f, scale): error for f, error in identity.items()}
            reprojection = {f: photometric(details["color", f, scale]) for f in self.sources}
            details |= {("reprojection", f, scale): error for f, error in reprojection.items()}
            loss, selection = self._compare(
                outputs, scale, list(reprojection.values()), list(identity.values()), noise and noise[index]
            )
            if selection is not None:
                details[f"identity_selection/{scale}"] = selection
            disp = outputs["disp", scale]
            mean = disp.mean([2, 3], keepdim=True) + 1e-7
            details[f"smooth/{scale}"] = smoothness(disp / mean.expand_as(disp), inputs["color", 0, scale])
            details[f"loss/{scale}"] = loss + options.disparity_smoothness / 2**scale * details[f"smooth/{scale}"]
            total = total + details[f"loss/{scale}"]
        details["loss"] = total / len(options.scales)
        return details

    def _identities(self, inputs: dict, at: int) -> tuple[Photometric, dict]:
        """The comparison with the target at scale `at`, and with automasking the errors of the unwarped sources."""
        options = self.options
        photometric = Photometric(inputs["color", 0, at], not options.no_ssim)
        if options.disable_automasking:
            return photometric, {}
        with paddle.no_grad():
            return photometric, {f: photometric(inputs["color", f, at]) for f in self.sources}

    def _views(self, outputs: dict, inputs: dict, scale: int, at: int) -> dict:
        """Every source as seen from the target by the disparity of `scale`, at the resolution of scale `at`."""
        options = self.options
        size = inputs["color", 0, at].shape[2:]
        _, depth = disp_to_depth(_upsample(outputs["disp", scale], size), options.min_depth, options.max_depth)
        points = backproject(depth, inputs["inv_K", at])
        views = {("depth", 0, scale): depth}
        for f in self.sources:
            motion = inputs["stereo_T"] if f == "s" else outputs["cam_T_cam", 0, f]
            if f != "s" and options.pose_model_type == "posecnn":
                # the motion in units of this depth map, and always the first one, backwards for earlier frames
                mean = (1 / depth).mean([2, 3]).unsqueeze(2)
                motion = transformation_from_parameters(
                    outputs["axisangle", 0, f][:, 0], outputs["translation", 0, f][:, 0] * mean, f < 0
                )
            grid = project(points, inputs["K", at], motion, size)
            views["sample", f, scale] = grid
            views["color", f, scale] = warp(inputs["color", f, at], grid, options.align_corners)
        return views

    def _compare(self, outputs: dict, scale: int, reprojection: list, identity: list, noise) -> tuple:
        """The photometric loss of one scale, and which pixels chose a warped source (None without automasking)."""
        options, extra = self.options, 0
        if options.predictive_mask and options.disable_automasking:
            mask = outputs["predictive_mask", scale]
            mask = _upsample(mask, reprojection[0].shape[2:])
            reprojection = [error * mask[:, k : k + 1] for k, error in enumerate(reprojection)]
            extra = MASK_WEIGHT * F.binary_cross_entropy(mask, paddle.ones_like(mask))
        if options.avg_reprojection:
            reprojection = [sum(reprojection) / len(reprojection)]
            identity = [sum(identity) / len(identity)] if identity else []
        if identity:
            if noise is None:
                n, _, height, width = identity[0].shape
                noise = paddle.randn([n, len(identity), height, width], identity[0].dtype)
            identity = [error + TIE_BREAK * noise[:, k : k + 1] for k, error in enumerate(identity)]
        smallest, place = _smallest([*identity, *reprojection])
        selection = (place >= len(identity)).astype("uint8") if identity else None
        return smallest.mean() + extra, selection
