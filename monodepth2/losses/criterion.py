"""The whole loss: images synthesised from the sources, compared with the target (paper 3.1 to 3.3; NOTES 5)."""

import argparse
from collections.abc import Sequence

import paddle
from paddle import nn
from paddle.nn import functional as F

from .photometric import ReprojectionLoss, get_smooth_loss
from models.geometry import backproject_depth, disp_to_depth, project_3d, transformation_from_parameters, warp
from options import sources

TIE_BREAK = 1e-5  # size of the noise on the errors of unwarped sources
MASK_WEIGHT = 0.2


def _upsample(x, size):
    return x if list(x.shape[2:]) == list(size) else F.interpolate(x, size, mode="bilinear", align_corners=False)


def _minimum(channels: Sequence) -> tuple:
    """Pixelwise minimum of [N, 1, h, w] tensors, and the index of the channel it is from (int64).

    Of equal values the first wins and gets the whole gradient, as in torch, where Paddle shares it; NaN wins over all
    (NOTES 8.4).
    """
    smallest, index = channels[0], paddle.zeros(channels[0].shape, "int64")
    for k, channel in enumerate(channels[1:], start=1):
        smaller = paddle.logical_or(channel < smallest, paddle.isnan(channel)).detach()
        smallest = paddle.where(smaller, channel, smallest)
        index = paddle.where(smaller, paddle.full_like(index, k), index)
    return smallest, index


class Criterion(nn.Layer):
    """criterion(outputs of the network, batch, noise=None) -> {"loss": total, "loss/S": of each scale}, scalars.

    The batch holds ("color", f, s), ("K", s), ("inv_K", s) and, with stereo, "stereo_T" (NOTES 2.4 to 2.7); without
    --v1_multiscale the sources are read at scale 0 only. `noise` breaks ties between unwarped sources: for each scale
    N(0, 1) of shape [N, sources, h, w] (one channel with --avg_reprojection); drawn here when None.
    """

    def __init__(self, options: argparse.Namespace):
        super().__init__()
        self.options = options
        self.sources = sources(options)

    def forward(self, outputs: dict, inputs: dict, noise: Sequence | None = None) -> dict:
        details = self.details(outputs, inputs, noise)
        return {name: details[name] for name in ("loss", *(f"loss/{scale}" for scale in self.options.scales))}

    def details(self, outputs: dict, inputs: dict, noise: Sequence | None = None) -> dict:
        """The terms, and the intermediate results that lead to them.

        ("depth", 0, s) [N, 1, h, w]; of each source f ("sample", f, s) [N, h, w, 2], ("color", f, s) [N, 3, h, w] (the
        source warped into the target), ("reprojection", f, s) and ("identity", f, s) [N, 1, h, w] (before the noise);
        "identity_selection/s" [N, 1, h, w], 1 where a warped source wins; "smooth/s" (unweighted).
        """
        options, details, total = self.options, {}, 0
        comparisons = {}  # by the scale whose images are compared
        for index, scale in enumerate(options.scales):
            source_scale = scale if options.v1_multiscale else 0
            if source_scale not in comparisons:
                comparisons[source_scale] = self._compare_unwarped(inputs, source_scale)
            reprojection_loss, identity = comparisons[source_scale]
            details |= self._warp_sources(outputs, inputs, scale, source_scale)
            details |= {("identity", f, scale): error for f, error in identity.items()}
            reprojection = {f: reprojection_loss(details["color", f, scale]) for f in self.sources}
            details |= {("reprojection", f, scale): error for f, error in reprojection.items()}
            loss, selection = self._photometric_loss(
                outputs, scale, list(reprojection.values()), list(identity.values()), noise and noise[index]
            )
            if selection is not None:
                details[f"identity_selection/{scale}"] = selection
            disp = outputs["disp", scale]
            mean = disp.mean([2, 3], keepdim=True) + 1e-7
            details[f"smooth/{scale}"] = get_smooth_loss(disp / mean.expand_as(disp), inputs["color", 0, scale])
            details[f"loss/{scale}"] = loss + options.disparity_smoothness / 2**scale * details[f"smooth/{scale}"]
            total = total + details[f"loss/{scale}"]
        details["loss"] = total / len(options.scales)
        return details

    def _compare_unwarped(self, inputs: dict, source_scale: int) -> tuple[ReprojectionLoss, dict]:
        """The error against the target, and with auto-masking the errors of the unwarped sources."""
        reprojection_loss = ReprojectionLoss(inputs["color", 0, source_scale], not self.options.no_ssim)
        if self.options.disable_automasking:
            return reprojection_loss, {}
        with paddle.no_grad():
            return reprojection_loss, {f: reprojection_loss(inputs["color", f, source_scale]) for f in self.sources}

    def _warp_sources(self, outputs: dict, inputs: dict, scale: int, source_scale: int) -> dict:
        """Each source warped into the target by the disparity of `scale`, at the size of `source_scale` (NOTES 5.1)."""
        options = self.options
        size = inputs["color", 0, source_scale].shape[2:]
        _, depth = disp_to_depth(_upsample(outputs["disp", scale], size), options.min_depth, options.max_depth)
        points = backproject_depth(depth, inputs["inv_K", source_scale])
        warped = {("depth", 0, scale): depth}
        for f in self.sources:
            motion = inputs["stereo_T"] if f == "s" else outputs["cam_T_cam", 0, f]
            if f != "s" and options.pose_model_type == "posecnn":
                # the translation in units of this depth; always motion 0, inverted for earlier frames (NOTES 5.2)
                mean = (1 / depth).mean([2, 3]).unsqueeze(2)
                motion = transformation_from_parameters(
                    outputs["axisangle", 0, f][:, 0], outputs["translation", 0, f][:, 0] * mean, f < 0
                )
            grid = project_3d(points, inputs["K", source_scale], motion, size)
            warped["sample", f, scale] = grid
            warped["color", f, scale] = warp(inputs["color", f, source_scale], grid, options.align_corners)
        return warped

    def _photometric_loss(self, outputs: dict, scale: int, reprojection: list, identity: list, noise) -> tuple:
        """(the loss of one scale without smoothness, which pixels chose a warped source or None) (NOTES 5.4, 5.5)."""
        options, mask_loss = self.options, 0
        if options.predictive_mask and options.disable_automasking:
            mask = outputs["predictive_mask", scale]
            mask = _upsample(mask, reprojection[0].shape[2:])
            reprojection = [error * mask[:, k : k + 1] for k, error in enumerate(reprojection)]
            mask_loss = MASK_WEIGHT * F.binary_cross_entropy(mask, paddle.ones_like(mask))
        if options.avg_reprojection:
            reprojection = [sum(reprojection) / len(reprojection)]
            identity = [sum(identity) / len(identity)] if identity else []
        if identity:
            if noise is None:
                n, _, height, width = identity[0].shape
                noise = paddle.randn([n, len(identity), height, width], identity[0].dtype)
            identity = [error + TIE_BREAK * noise[:, k : k + 1] for k, error in enumerate(identity)]
        smallest, index = _minimum([*identity, *reprojection])
        selection = (index >= len(identity)).astype("uint8") if identity else None
        return smallest.mean() + mask_loss, selection
