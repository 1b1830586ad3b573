"""GUPNet: backbone, neck, dense heads, and heads on regions of interest (NOTES 4)."""

import argparse

import paddle
from paddle import nn
from paddle.nn import functional as F

from shared.norms import BatchNorm2D

from . import rois
from .dla import CHANNELS, DLA34
from .dla_up import DLAUp
from .layers import conv, torch_default
from constants import CLASSES, DENSE_OUTPUTS, HEADING_BINS, MEAN_SIZES, ROI_OUTPUTS

MODES = ("train", "val", "test")
WIDTH = 256  # channels between a head's two convolutions
_FIRST_LEVEL = 2  # of the levels that the neck takes; its stride is constants.DOWN_RATIO
_ZERO = nn.initializer.Constant(0.0)


def dense_head(inputs: int, outputs: int) -> nn.Sequential:
    """3x3 convolution, ReLU, 1x1 convolution; initialised near zero."""
    small = nn.initializer.Normal(0.0, 0.001)
    return nn.Sequential(
        conv(inputs, WIDTH, 3, initial=small, bias=_ZERO),
        nn.ReLU(),
        conv(WIDTH, outputs, 1, initial=small, bias=_ZERO),
    )


def heatmap_head(inputs: int, classes: int) -> nn.Sequential:
    """The same with torch's default initialisation; the last bias stands for a probability of 0.1."""
    first, last = torch_default(inputs, 3), torch_default(WIDTH, 1)
    return nn.Sequential(
        conv(inputs, WIDTH, 3, initial=first, bias=first),
        nn.ReLU(),
        conv(WIDTH, classes, 1, initial=last, bias=nn.initializer.Constant(-2.19)),
    )


class RoIHead(nn.Sequential):
    """3x3 convolution, batch norm, ReLU, global mean, 1x1 convolution."""

    def __init__(self, inputs: int, outputs: int):
        xavier = nn.initializer.XavierUniform()
        super().__init__(
            conv(inputs, WIDTH, 3, initial=xavier, bias=_ZERO),
            BatchNorm2D(WIDTH),
            nn.ReLU(),
            nn.AdaptiveAvgPool2D(1),
            conv(WIDTH, outputs, 1, initial=xavier, bias=_ZERO),
        )

    def forward(self, regions, share: float = 1.0):
        """[M, inputs, 7, 7] -> [M, outputs]. `share`: see `BatchNorm2D.forward`."""
        x = F.relu(self[1](self[0](regions), share))
        return paddle.flatten(self[4](self[3](x)), 1)


class GUPNet(nn.Layer):
    """The whole network, with the official names of its tensors (363 in torch's count).

    Works in float32 and, after `to(dtype="float64")`, in float64; inputs have the network's dtype.
    """

    def __init__(self):
        super().__init__()
        initial = nn.initializer.Assign(MEAN_SIZES)
        self.mean_size = self.create_parameter(list(MEAN_SIZES.shape), default_initializer=initial)
        self.mean_size.stop_gradient = True
        self.backbone = DLA34()
        self.feat_up = DLAUp(CHANNELS[_FIRST_LEVEL:])
        width = CHANNELS[_FIRST_LEVEL]
        self.heatmap = heatmap_head(width, len(CLASSES))
        self.offset_2d = dense_head(width, 2)
        self.size_2d = dense_head(width, 2)
        width += 2 + len(CLASSES)
        self.depth = RoIHead(width, 2)
        self.offset_3d = RoIHead(width, 2)
        self.size_3d = RoIHead(width, 4)
        self.heading = RoIHead(width, 2 * HEADING_BINS)

    def forward(self, images, coord_ranges, calibs, targets=None, K: int = 50, mode: str = "train") -> dict:
        """Detect objects.

        images: [B, 3, H, W], sides divisible by 32. coord_ranges: [B, 2, 2], first and last corner, in pixels of the
        original image, of what each image shows. calibs: [B, 3, 4], P2. targets: of the data set, with `indices`,
        `cls_ids` and `mask_2d` [B, slots]; in mode "train" they give the objects whose regions are used (M in all, by
        image, then slot). In the modes "val" and "test", which are the same, the K best peaks of each image are used
        (M = B K). Batch norms follow `train()` and `eval()`, not the mode.

        Returns (h, w = H / 4, W / 4): heatmap [B, 3, h, w], logits; offset_2d, size_2d [B, 2, h, w], cells; depth
        [M, 2], metres, and its log-variance; offset_3d [M, 2], cells; size_3d [M, 3], residual height, width, length;
        heading [M, 24], scores of the bins, then residuals; h3d_log_variance [M, 1]; train_tag [M] bool, true. Without
        an object, these have one row of zeros, and train_tag is [False]. Raises BrokenBoxes (see `rois.boxes_of`).
        """
        if mode not in MODES:
            raise ValueError(f"mode {mode!r} is none of {', '.join(MODES)}")
        features, dense = self.dense(images)
        if mode == "train":
            outputs = self._target_outputs(features, dense, targets, coord_ranges, calibs)
        else:
            peaks = rois.peak_rois(rois.find_peaks(dense["heatmap"], K))
            outputs = self._roi_outputs(features, dense, peaks, coord_ranges, calibs)
            outputs["train_tag"] = paddle.ones_like(peaks.cells).astype("bool")
        return dense | outputs

    def dense(self, images) -> tuple:
        """[B, 3, H, W] -> the neck's features [B, 64, h, w], and {heatmap, offset_2d, size_2d}."""
        features = self.feat_up(self.backbone(images)[_FIRST_LEVEL:])
        return features, {name: getattr(self, name)(features) for name in DENSE_OUTPUTS}

    def _target_outputs(self, features, dense: dict, targets: dict, coord_ranges, calibs) -> dict:
        """The outputs of the targets' objects; one row of zeros where there are none (NOTES 4.16)."""
        objects = rois.target_rois(targets)
        present = objects.cells.shape[0] > 0
        # with synchronised batch norms, processes without an object take part in the heads' sums all the same
        synchronised = self.training and self.depth[1].synchronise and paddle.distributed.get_world_size() > 1
        if present or synchronised:
            objects = objects if present else rois.stand_in(objects)
            outputs = self._roi_outputs(features, dense, objects, coord_ranges, calibs, present)
            if synchronised:
                outputs = {name: value * float(present) for name, value in outputs.items()}
        else:
            outputs = {name: paddle.zeros([1, width], features.dtype) for name, width in ROI_OUTPUTS.items()}
        return outputs | {"train_tag": paddle.full([outputs["depth"].shape[0]], present, "bool")}

    def _roi_outputs(self, features, dense: dict, objects: rois.RoIs, coord_ranges, calibs, present: bool = True):
        """ROI_OUTPUTS [M, width] of `objects`. `present` False: they stand in for none, and stay out of statistics."""
        boxes = rois.boxes_of(dense["offset_2d"], dense["size_2d"], objects)
        calibs = paddle.gather(calibs, objects.images)
        map_size = features.shape[3], features.shape[2]
        pixel_boxes = rois.in_image(boxes, paddle.gather(coord_ranges, objects.images), map_size)
        regions = rois.roi_features(features, boxes, pixel_boxes, calibs, objects, len(CLASSES))
        depth_bias, size, offset_3d, heading = (
            getattr(self, name)(regions, present) for name in ("depth", "size_3d", "offset_3d", "heading")
        )
        height = paddle.gather(self.mean_size, objects.classes)[:, 0] + size[:, 0]
        return {
            "depth": rois.project_depth(depth_bias, height, size[:, 3], pixel_boxes, calibs[:, 0, 0]),
            "offset_3d": offset_3d,
            "size_3d": size[:, :3],
            "heading": heading,
            "h3d_log_variance": size[:, 3:],
        }

    def idle_layers(self) -> list[nn.Layer]:
        """Layers whose parameters never get a gradient (NOTES 4.5)."""
        return self.backbone.idle_layers()


def build_model(options: argparse.Namespace | None = None) -> GUPNet:
    """The network, freshly initialised as the reference does it, in train mode. No option changes its tensors."""
    return GUPNet()
