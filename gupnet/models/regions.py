"""Regions of interest: their boxes, their features with coordinate maps, and depth from their height (sheet 4.4)."""

from typing import NamedTuple

import paddle
from paddle.nn import functional as F
from paddle.vision.ops import roi_align

from shared import InputError

SIZE = 7
#: cells from which on a box's border is a sign of broken weights; RoIAlign would not come to an end
FARTHEST = 1e4


class BrokenBoxes(InputError):
    """The network predicts boxes that no image has."""


class Objects(NamedTuple):
    """M cells of feature maps, ordered by image: image number, cell (row * width + column), class; int64 [M] each.

    `per_image`: [B] int32, how many of them each image has.
    """

    images: paddle.Tensor
    cells: paddle.Tensor
    classes: paddle.Tensor
    per_image: paddle.Tensor


def labelled_objects(targets: dict) -> Objects:
    """The objects of the targets: those slots of `indices` and `cls_ids` [B, S] at which `mask_2d` is not 0."""
    mask = targets["mask_2d"].astype("bool")
    slots = paddle.nonzero(mask)
    return Objects(
        slots[:, 0],
        paddle.gather_nd(targets["indices"].astype("int64"), slots),
        paddle.gather_nd(targets["cls_ids"].astype("int64"), slots),
        mask.astype("int32").sum(1).astype("int32"),
    )


def found_objects(peaks) -> Objects:
    """All the peaks, image by image."""
    images, count = peaks.cells.shape
    return Objects(
        paddle.arange(images).unsqueeze(1).expand([images, count]).flatten(),
        peaks.cells.flatten(),
        peaks.classes.flatten(),
        paddle.full([images], count, "int32"),
    )


def at_cells(maps, objects: Objects):
    """[B, C, H, W] -> [M, C]: what stands in the objects' cells."""
    return paddle.gather_nd(maps.flatten(2).transpose([0, 2, 1]), paddle.stack([objects.images, objects.cells], 1))


def boxes_of(offset_2d, size_2d, objects: Objects):
    """[M, 4], the predicted boxes x1, y1, x2, y2 in cells: not cut at the border, and of any sign of their size.

    BrokenBoxes where one is no finite number, or farther away than any image is wide (outside of static graphs).
    """
    width = offset_2d.shape[3]
    cell = paddle.stack([objects.cells % width, objects.cells // width], 1).astype(offset_2d.dtype)
    centre, half = cell + at_cells(offset_2d, objects), at_cells(size_2d, objects) / 2
    boxes = paddle.concat([centre - half, centre + half], 1)
    if paddle.in_dynamic_mode() and not bool((boxes.detach().abs() < FARTHEST).all()):
        raise BrokenBoxes(
            "the network predicts boxes that no image has: its weights are damaged, or its training diverged; give "
            "other weights"
        )
    return boxes


def in_image(boxes, coord_ranges, map_size: tuple[int, int]):
    """Boxes of cells in pixels of the original image.

    coord_ranges: [M, 2, 2], the corners of what the map shows; map_size: the map's width and height.
    """
    size = paddle.to_tensor([*map_size, *map_size], boxes.dtype)
    first, last = (paddle.concat([coord_ranges[:, i]] * 2, 1) for i in (0, 1))
    # put together anew: Paddle Inference 3.3 divides in place, and RoIAlign would then read cells that are none
    boxes = paddle.concat([boxes[:, :2], boxes[:, 2:]], 1)
    return boxes / size * (last - first) + first


def coordinate_maps(pixel_boxes, calibs):
    """[M, 2, 7, 7]: x and y on the plane at depth 1, at seven even steps from one border of the box to the other.

    pixel_boxes: [M, 4] in the original image; calibs: [M, 3, 4], P2 of their images.
    """
    focal = paddle.stack([calibs[:, 0, 0], calibs[:, 1, 1]], 1)
    centre, shift = calibs[:, :2, 2], calibs[:, :2, 3]
    first, last = ((pixel_boxes[:, i : i + 2] - centre) / focal - shift / focal for i in (0, 2))
    steps = paddle.arange(SIZE).astype(pixel_boxes.dtype) / (SIZE - 1)
    lines = first.unsqueeze(2) + (last - first).unsqueeze(2) * steps  # [M, 2, 7]
    x, y = lines[:, 0].unsqueeze(1), lines[:, 1].unsqueeze(2)
    return paddle.stack([x.expand([-1, SIZE, -1]), y.expand([-1, -1, SIZE])], 1)


def region_features(features, boxes, pixel_boxes, calibs, objects: Objects, classes: int):
    """[M, C + 2 + classes, 7, 7]: RoIAlign of the map, coordinate maps, one plane for each class.

    RoIAlign passes no gradient to the boxes; the coordinate maps do. Paddle's `aligned` default is not the reference's.
    """
    pooled = roi_align(features, boxes.detach(), objects.per_image, SIZE, 1.0, -1, aligned=False)
    planes = F.one_hot(objects.classes, classes).astype(features.dtype)
    planes = planes.unsqueeze([2, 3]).expand([-1, -1, SIZE, SIZE])
    return paddle.concat([pooled, coordinate_maps(pixel_boxes, calibs), planes], 1)


def project_depth(depth_bias, height_3d, height_log_variance, pixel_boxes, focal):
    """Depth and its log-variance from the height in metres and in pixels, corrected by the depth head; [M, 2].

    depth_bias: [M, 2], the head's output and log-variance; the others [M], [M], [M, 4], [M]. Geometry uncertainty
    projection: the height's uncertainty is carried over to the depth, and joins that of the head.
    """
    height_2d = (pixel_boxes[:, 3] - pixel_boxes[:, 1]).clip(min=1.0)
    depth = height_3d / height_2d * focal
    log_variance = height_log_variance + 2 * (paddle.log(focal) - paddle.log(height_2d))
    correction = 1 / (F.sigmoid(depth_bias[:, 0]) + 1e-6) - 1
    together = paddle.logsumexp(paddle.stack([depth_bias[:, 1], log_variance], 1), 1)
    return paddle.stack([correction + depth, together], 1)
