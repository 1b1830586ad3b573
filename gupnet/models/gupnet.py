"""GUPNet: backbone, neck, dense heads, and heads on regions of interest (fact sheet 4)."""

import argparse

import paddle
from paddle import nn

from . import regions
from .dla import CHANNELS, DLA34
from .dla_up import DLAUp
from .heads import RoIHead, dense_head, heatmap_head
from .peaks import find_peaks
from constants import CLASSES, HEADING_BINS, MAX_OBJECTS, MEAN_SIZES

MODES = ("train", "val", "test")
_FIRST_LEVEL = 2  # of those that the neck takes; its stride is the constants' DOWN_RATIO


class GUPNet(nn.Layer):
    """The whole network, with the official names of its tensors (363 in torch's count).

    Works in float32 and, after `to(dtype="float64")`, in float64; inputs have the network's dtype.
    """

    def __init__(self, backbone: DLA34 | None = None):
        super().__init__()
        initial = nn.initializer.Assign(MEAN_SIZES)
        self.mean_size = self.create_parameter(list(MEAN_SIZES.shape), default_initializer=initial)
        self.mean_size.stop_gradient = True
        self.backbone = backbone or DLA34()
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

    def forward(self, images, coord_ranges, calibs, targets=None, K: int = MAX_OBJECTS, mode: str = "train") -> dict:
        """Detect objects.

        images: [B, 3, H, W], sides divisible by 32. coord_ranges: [B, 2, 2], first and last corner, in pixels of the
        original image, of what each image shows. calibs: [B, 3, 4], P2. targets: as the data set gives them, with
        `indices`, `cls_ids` and `mask_2d` [B, slots]; they say in mode "train" which objects the regions are of (M in
        all, by image, then slot). In the modes "val" and "test", which are the same, these are the K best peaks of
        each image (M = B K). Batch norms follow `train()` and `eval()`, not the mode.

        Returns (h, w = H / 4, W / 4): heatmap [B, 3, h, w], logits; offset_2d, size_2d [B, 2, h, w], cells; depth
        [M, 2], with its log-variance; offset_3d [M, 2], cells; size_3d [M, 3], residual height, width, length;
        heading [M, 24], bins' scores, then residuals; h3d_log_variance [M, 1]; train_tag [M] bool, true. Without any
        object, these have one row of zeros, and train_tag is [False].
        """
        if mode not in MODES:
            raise ValueError(f"mode {mode!r} is none of {', '.join(MODES)}")
        features = self.feat_up(self.backbone(images)[_FIRST_LEVEL:])
        outputs = {name: getattr(self, name)(features) for name in ("heatmap", "offset_2d", "size_2d")}
        if mode == "train":
            objects = regions.labelled_objects(targets)
        else:
            objects = regions.found_objects(find_peaks(outputs["heatmap"], K))
        return outputs | self._detect(features, outputs, objects, coord_ranges, calibs)

    def _detect(self, features, outputs: dict, objects: regions.Objects, coord_ranges, calibs) -> dict:
        """The outputs of the regions' heads."""
        found = objects.cells.shape[0] > 0
        if not found and not self._norms_wait():
            rows = {"depth": 2, "offset_3d": 2, "size_3d": 3, "heading": 2 * HEADING_BINS, "h3d_log_variance": 1}
            empty = {name: paddle.zeros([1, width], features.dtype) for name, width in rows.items()}
            return empty | {"train_tag": paddle.zeros([1], "bool")}
        if not found:
            objects = _stand_in(objects)
        result = self.describe(features, outputs, objects, coord_ranges, calibs, found)
        if self._norms_wait():
            result = {name: value * float(found) for name, value in result.items()}
        return result | {"train_tag": paddle.full([result["depth"].shape[0]], found, "bool")}

    def describe(self, features, outputs: dict, objects: regions.Objects, coord_ranges, calibs, counts: bool = True):
        """What the regions' heads say of `objects`: the outputs [M, ...] of `forward` but for train_tag, as a dict.

        features: the neck's map; outputs: offset_2d and size_2d, at least; counts: as `BatchNorm2D` has it. One
        straight line, so that export.py can trace it for any number of images.
        """
        boxes = regions.boxes_of(outputs["offset_2d"], outputs["size_2d"], objects)
        calibs = paddle.gather(calibs, objects.images)
        map_size = features.shape[3], features.shape[2]
        pixel_boxes = regions.in_image(boxes, paddle.gather(coord_ranges, objects.images), map_size)
        rois = regions.region_features(features, boxes, pixel_boxes, calibs, objects, len(CLASSES))
        depth_bias, size, offset_3d, heading = (
            getattr(self, name)(rois, counts) for name in ("depth", "size_3d", "offset_3d", "heading")
        )
        height = paddle.gather(self.mean_size, objects.classes)[:, 0] + size[:, 0]
        return {
            "depth": regions.project_depth(depth_bias, height, size[:, 3], pixel_boxes, calibs[:, 0, 0]),
            "offset_3d": offset_3d,
            "size_3d": size[:, :3],
            "heading": heading,
            "h3d_log_variance": size[:, 3:],
        }

    def _norms_wait(self) -> bool:
        """Whether the heads' norms of other processes wait for ours, objects or not."""
        return self.training and self.depth[1].synchronise and paddle.distributed.get_world_size() > 1

    def idle_layers(self) -> list[nn.Layer]:
        """Layers whose parameters no loss reaches."""
        return self.backbone.idle_layers()


def _stand_in(objects: regions.Objects) -> regions.Objects:
    """One object in the first cell of the first image: what the heads run on where there is none."""
    one = paddle.zeros([1], "int64")
    count = paddle.to_tensor([1] + [0] * (objects.per_image.shape[0] - 1), "int32")
    return regions.Objects(one, one, one, count)


def build_model(options: argparse.Namespace | None = None) -> GUPNet:
    """The network, freshly initialised as the paper's code does it, in train mode. No option changes its tensors."""
    return GUPNet()
