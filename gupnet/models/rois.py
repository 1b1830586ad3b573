"""Regions of interest: peaks, boxes, features with coordinate maps, depth from the height (NOTES 4.10 to 4.15)."""

from typing import NamedTuple

import paddle
from paddle.nn import functional as F
from paddle.vision.ops import roi_align

from shared import InputError

SIZE = 7
#: probabilities are kept this far from 0 and 1
CLAMP = 1e-4
#: cells; boxes that reach farther are a sign of broken weights, and RoIAlign would not end on them (NOTES 8.1)
FARTHEST = 1e4


class BrokenBoxes(InputError):
    """The network predicts boxes that no image has."""


class Peaks(NamedTuple):
    """The best cells of each image, [B, K] each: score, cell (row * width + column, int64) and class (int64)."""

    scores: paddle.Tensor
    cells: paddle.Tensor
    classes: paddle.Tensor


def probabilities(logits):
    """Clamped sigmoid of the heatmap's logits, which stay as they are."""
    return F.sigmoid(logits).clip(CLAMP, 1 - CLAMP)


def local_maxima(heat):
    """[B, classes, H, W] with 0 where one of the eight neighbours is higher."""
    return heat * (heat == F.max_pool2d(heat, 3, 1, 1)).astype(heat.dtype)


def find_peaks(logits, count: int) -> Peaks:
    """The `count` best local maxima over all classes of [B, classes, H, W] logits, best first.

    First the best `count` of each class, then the best of those. Ties are broken arbitrarily, as in the reference.
    """
    scores, cells = paddle.topk(local_maxima(probabilities(logits)).flatten(2), count)
    scores, position = paddle.topk(scores.flatten(1), count)
    return Peaks(scores, paddle.take_along_axis(cells.flatten(1), position, 1), position // count)


class RoIs(NamedTuple):
    """The M objects whose regions are used, by image: image index, cell (row * width + column), class; int64 [M] each.

    `per_image`: [B] int32, how many of them each image has.
    """

    images: paddle.Tensor
    cells: paddle.Tensor
    classes: paddle.Tensor
    per_image: paddle.Tensor


def target_rois(targets: dict) -> RoIs:
    """The objects of the targets: the slots of `indices` and `cls_ids` [B, S] where `mask_2d` is not 0."""
    mask = targets["mask_2d"].astype("bool")
    slots = paddle.nonzero(mask)
    return RoIs(
        slots[:, 0],
        paddle.gather_nd(targets["indices"].astype("int64"), slots),
        paddle.gather_nd(targets["cls_ids"].astype("int64"), slots),
        mask.astype("int32").sum(1).astype("int32"),
    )


def peak_rois(peaks: Peaks) -> RoIs:
    """All the peaks, image by image."""
    images, count = peaks.cells.shape
    return RoIs(
        paddle.arange(images).unsqueeze(1).expand([images, count]).flatten(),
        peaks.cells.flatten(),
        peaks.classes.flatten(),
        paddle.full([images], count, "int32"),
    )


def stand_in(rois: RoIs) -> RoIs:
    """One object, in the first cell of the first image, for a batch whose `rois` are none."""
    zero = paddle.zeros([1], "int64")
    count = paddle.to_tensor([1] + [0] * (rois.per_image.shape[0] - 1), "int32")
    return RoIs(zero, zero, zero, count)


def at_cells(maps, rois: RoIs):
    """[B, C, H, W] -> [M, C]: the values at the objects' cells."""
    return paddle.gather_nd(maps.flatten(2).transpose([0, 2, 1]), paddle.stack([rois.images, rois.cells], 1))


def boxes_of(offset_2d, size_2d, rois: RoIs):
    """[M, 4], the predicted boxes x1, y1, x2, y2 in cells: not clipped, possibly inverted (NOTES 4.11).

    Raises BrokenBoxes where a box is NaN or Inf or beyond FARTHEST (not in static graphs).
    """
    width = offset_2d.shape[3]
    cell = paddle.stack([rois.cells % width, rois.cells // width], 1).astype(offset_2d.dtype)
    centre, half = cell + at_cells(offset_2d, rois), at_cells(size_2d, rois) / 2
    boxes = paddle.concat([centre - half, centre + half], 1)
    if paddle.in_dynamic_mode() and not bool((boxes.detach().abs() < FARTHEST).all()):
        raise BrokenBoxes(
            "the network predicts boxes that no image has: its weights are damaged, or its training diverged; give "
            "other weights"
        )
    return boxes


def in_image(boxes, coord_ranges, map_size: tuple[int, int]):
    """[M, 4] in cells -> [M, 4] in pixels of the original image.

    coord_ranges: [M, 2, 2], the corners of what the map shows; map_size: the map's width and height.
    """
    size = paddle.to_tensor([*map_size, *map_size], boxes.dtype)
    first, last = (paddle.concat([coord_ranges[:, i]] * 2, 1) for i in (0, 1))
    # a copy: Paddle Inference 3.3 divides in place, and RoIAlign would then take pixels for cells (NOTES 8.6)
    boxes = paddle.concat([boxes[:, :2], boxes[:, 2:]], 1)
    return boxes / size * (last - first) + first


def coordinate_maps(pixel_boxes, calibs):
    """[M, 2, 7, 7]: x and y on the plane at depth 1, in seven even steps from border to border (NOTES 4.14).

    pixel_boxes: [M, 4] in the original image; calibs: [M, 3, 4], P2 of their images.
    """
    focal = paddle.stack([calibs[:, 0, 0], calibs[:, 1, 1]], 1)
    centre, shift = calibs[:, :2, 2], calibs[:, :2, 3]
    first, last = ((pixel_boxes[:, i : i + 2] - centre) / focal - shift / focal for i in (0, 2))
    steps = paddle.arange(SIZE).astype(pixel_boxes.dtype) / (SIZE - 1)
    lines = first.unsqueeze(2) + (last - first).unsqueeze(2) * steps  # [M, 2, 7]
    x, y = lines[:, 0].unsqueeze(1), lines[:, 1].unsqueeze(2)
    return paddle.stack([x.expand([-1, SIZE, -1]), y.expand([-1, -1, SIZE])], 1)


def roi_features(features, boxes, pixel_boxes, calibs, rois: RoIs, classes: int):
    """[M, C + 2 + classes, 7, 7]: RoIAlign of the features, coordinate maps, a one-hot plane per class.

    RoIAlign passes no gradient to the boxes; the coordinate maps do (NOTES 4.12, 4.13). aligned: NOTES 8.1.
    """
    pooled = roi_align(features, boxes.detach(), rois.per_image, SIZE, 1.0, -1, aligned=False)
    planes = F.one_hot(rois.classes, classes).astype(features.dtype)
    planes = planes.unsqueeze([2, 3]).expand([-1, -1, SIZE, SIZE])
    return paddle.concat([pooled, coordinate_maps(pixel_boxes, calibs), planes], 1)


def project_depth(depth_bias, height_3d, height_log_variance, pixel_boxes, focal):
    """Depth and its log-variance from the height in metres and in pixels, corrected by the depth head; [M, 2].

    depth_bias: [M, 2], the head's output and log-variance; the others [M], [M], [M, 4], [M]. Geometry uncertainty
    projection (paper 3.2, NOTES 4.15): the height's uncertainty is propagated to the depth and joined to the head's.
    """
    height_2d = (pixel_boxes[:, 3] - pixel_boxes[:, 1]).clip(min=1.0)
    depth = height_3d / height_2d * focal
    log_variance = height_log_variance + 2 * (paddle.log(focal) - paddle.log(height_2d))
    correction = 1 / (F.sigmoid(depth_bias[:, 0]) + 1e-6) - 1
    joined = paddle.logsumexp(paddle.stack([depth_bias[:, 1], log_variance], 1), 1)
    return paddle.stack([correction + depth, joined], 1)
