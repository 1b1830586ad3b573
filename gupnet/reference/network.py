"""GUPNet in torch, from the paper and NOTES 4, with the official tensor names.

It stands in for the authors' code where that is not at hand; tests compare it with golden figures of the official code.
It is written independently of the Paddle network, so that the two do not share a mistake.
"""

import argparse
from collections.abc import Mapping

import torch
from torch import nn
from torch.nn import functional as F

from .data import MEAN_SIZES
from .dla import DLA34, FIRST_LEVEL, WIDTHS, DLAUp, peaks
from .roi import SIZE, coordinate_maps, roi_align, to_image

CLASSES = 3
_HIDDEN = 256
_LOWEST = 1e-4  # of a clamped probability
_ROWS = {"heading": 24, "depth": 2, "offset_3d": 2, "size_3d": 3, "h3d_log_variance": 1}  # outputs and their widths


def _dense_head(c_out: int) -> nn.Sequential:
    first = nn.Conv2d(WIDTHS[FIRST_LEVEL], _HIDDEN, 3, padding=1)
    return nn.Sequential(first, nn.ReLU(), nn.Conv2d(_HIDDEN, c_out, 1))


def _roi_head(c_out: int) -> nn.Sequential:
    first = nn.Conv2d(WIDTHS[FIRST_LEVEL] + 2 + CLASSES, _HIDDEN, 3, padding=1)
    last = nn.Conv2d(_HIDDEN, c_out, 1)
    for conv in (first, last):
        nn.init.xavier_uniform_(conv.weight)
        nn.init.zeros_(conv.bias)
    return nn.Sequential(first, nn.BatchNorm2d(_HIDDEN), nn.ReLU(), nn.AdaptiveAvgPool2d(1), last)


def at_cells(maps: torch.Tensor, cells: torch.Tensor) -> torch.Tensor:
    """maps [B, C, h, w], cells [B, K] -> [B, K, C]."""
    return maps.flatten(2).gather(2, cells[:, None].expand(-1, maps.shape[1], -1)).transpose(1, 2)


def probabilities(heatmap: torch.Tensor) -> torch.Tensor:
    return heatmap.sigmoid().clamp(_LOWEST, 1 - _LOWEST)


class ReferenceGUPNet(nn.Module):
    """(images [B, 3, H, W], coord_ranges [B, 2, 2], calibs [B, 3, 4], targets, K, mode) -> dict (NOTES 4.16).

    In mode "train" the rows are those of the targets' `mask_2d`, else the K peaks of each image. Heatmaps are logits.
    All have the dtype of the images.
    """

    def __init__(self):
        super().__init__()
        self.mean_size = nn.Parameter(torch.tensor([*MEAN_SIZES.values()], dtype=torch.float32), requires_grad=False)
        self.backbone, self.feat_up = DLA34(), DLAUp()
        self.heatmap, self.offset_2d, self.size_2d = _dense_head(CLASSES), _dense_head(2), _dense_head(2)
        self.depth, self.offset_3d, self.size_3d, self.heading = (_roi_head(c_out) for c_out in (2, 2, 4, 24))
        nn.init.constant_(self.heatmap[-1].bias, -2.19)
        for conv in (self.offset_2d[0], self.offset_2d[2], self.size_2d[0], self.size_2d[2]):
            nn.init.normal_(conv.weight, std=0.001)
            nn.init.zeros_(conv.bias)

    def forward(self, images, coord_ranges, calibs, targets: Mapping | None = None, K: int = 50, mode: str = "train"):
        features = self.feat_up(self.backbone(images)[FIRST_LEVEL:])
        found = {name: getattr(self, name)(features) for name in ("heatmap", "offset_2d", "size_2d")}
        if mode == "train":
            cells, classes, mask = targets["indices"], targets["cls_ids"].long(), targets["mask_2d"].bool()
        else:
            _, cells, classes = peaks(probabilities(found["heatmap"]), K)
            mask = torch.ones_like(cells, dtype=torch.bool)
        if not mask.any():
            zeros = {name: images.new_zeros(1, width) for name, width in _ROWS.items()}
            return found | zeros | {"train_tag": torch.zeros(1, dtype=torch.bool)}
        owners = mask.nonzero()[:, 0]
        centres = at_cells(found["offset_2d"], cells)[mask] + _positions(cells[mask], features.shape[3], images.dtype)
        half = at_cells(found["size_2d"], cells)[mask] / 2
        boxes = torch.cat([centres - half, centres + half], 1)
        rows = self.rows(features, owners, boxes, classes[mask], coord_ranges[owners], calibs[owners])
        return found | rows | {"train_tag": torch.ones(len(owners), dtype=torch.bool)}

    def rows(self, features, owners, boxes, classes, ranges, calibs) -> dict[str, torch.Tensor]:
        """Outputs of M RoIs: `owners` [M], their images; boxes [M, 4] in cells; ranges and calibs of their images."""
        numbered = torch.cat([owners[:, None].to(boxes.dtype), boxes], 1)
        pixels = to_image(boxes, ranges, *features.shape[2:])
        planes = F.one_hot(classes, CLASSES).to(boxes.dtype)[:, :, None, None].expand(-1, -1, SIZE, SIZE)
        rois = torch.cat([roi_align(features, numbered), coordinate_maps(pixels, calibs), planes], 1)

        size, depth, offset, heading = (
            head(rois).flatten(1) for head in (self.size_3d, self.depth, self.offset_3d, self.heading)
        )
        focal = calibs[:, 0, 0]
        height_2d = (pixels[:, 3] - pixels[:, 1]).clamp(min=1)
        height_3d = self.mean_size[classes, 0] + size[:, 0]
        geometric = height_3d / height_2d * focal
        geometric_variance = size[:, 3] + 2 * (focal.log() - height_2d.log())
        value = 1 / (depth[:, 0].sigmoid() + 1e-6) - 1 + geometric
        variance = torch.logaddexp(depth[:, 1], geometric_variance)
        return {
            "heading": heading,
            "depth": torch.stack([value, variance], 1),
            "offset_3d": offset,
            "size_3d": size[:, :3],
            "h3d_log_variance": size[:, 3:],
        }


def _positions(cells: torch.Tensor, width: int, dtype: torch.dtype) -> torch.Tensor:
    """Cells [M] -> column and row [M, 2]."""
    return torch.stack([cells % width, cells // width], 1).to(dtype)


def build_reference(options: argparse.Namespace) -> ReferenceGUPNet:
    """The network, freshly initialised, in train mode; no option changes it."""
    return ReferenceGUPNet()
