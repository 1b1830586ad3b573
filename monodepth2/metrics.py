"""Depth errors, masks and scaling of the evaluation, training monitor, flip post-processing, trajectory errors.

All in numpy (NOTES 5.8, 7).
"""

from dataclasses import dataclass

import cv2
import numpy as np

ERRORS = ("abs_rel", "sq_rel", "rmse", "rmse_log", "a1", "a2", "a3")
#: their names in training logs, in the same order
MONITOR = ("de/abs_rel", "de/sq_rel", "de/rms", "de/log_rms", "da/a1", "da/a2", "da/a3")
MIN_DEPTH, MAX_DEPTH = 1e-3, 80.0  # metres; predictions are clamped to them
STEREO_SCALE = 5.4  # KITTI's baseline of 0.54 m is 0.1 in network units
SNIPPET = 4  # motions in a snippet of a trajectory, that is five points
#: splits whose ground truth is a raw laser scan: 1 mm to 80 m, inside the Garg crop
SCAN_SPLITS = ("eigen", "mini")


def compute_depth_errors(gt: np.ndarray, pred: np.ndarray) -> dict[str, float]:
    """The seven errors {name of ERRORS: value} of depths `pred` against `gt` (NOTES 7.4); all NaN when n is 0.

    Both [n], positive, in one unit. Computed in the arrays' own dtype.
    """
    if not gt.size:
        return dict.fromkeys(ERRORS, float("nan"))
    ratio = np.maximum(gt / pred, pred / gt)
    difference = gt - pred
    errors = (
        np.mean(np.abs(difference) / gt),
        np.mean(difference**2 / gt),
        np.sqrt(np.mean(difference**2)),
        np.sqrt(np.mean((np.log(gt) - np.log(pred)) ** 2)),
        *(np.mean(ratio < 1.25**power) for power in (1, 2, 3)),
    )
    return dict(zip(ERRORS, map(float, errors), strict=True))


# ------------------------------------------------------------------------------------------- evaluation of one image


@dataclass(frozen=True)
class Scaling:
    """How predicted depth is scaled: by `factor`, then, with `median`, by median(gt) / median(pred)."""

    factor: float = 1.0
    median: bool = True


@dataclass(frozen=True)
class ImageResult:
    """One image's seven errors, number of masked pixels, sums of their depths, and median ratio (None if unscaled)."""

    errors: dict[str, float]
    pixels: int
    sum_gt: float
    sum_pred: float
    ratio: float | None


def evaluation_mask(gt: np.ndarray, split: str) -> np.ndarray:
    """bool [h, w]: the pixels of a depth map that are evaluated (NOTES 7.3).

    For SCAN_SPLITS depths between 1e-3 and 80 m inside the Garg crop; for other splits depths above 0.
    """
    if split not in SCAN_SPLITS:
        return gt > 0
    height, width = gt.shape
    top, bottom, left, right = (
        np.array([0.40810811 * height, 0.99189189 * height, 0.03594771 * width, 0.96405229 * width])
    ).astype(np.int32)
    mask = np.zeros(gt.shape, bool)
    mask[top:bottom, left:right] = True
    return mask & (gt > MIN_DEPTH) & (gt < MAX_DEPTH)


def evaluate_image(gt: np.ndarray, disparity: np.ndarray, split: str, scaling: Scaling) -> ImageResult:
    """Errors of one image's scaled disparity [h', w'] against its ground truth [h, w] in metres (NOTES 7.3)."""
    with np.errstate(divide="ignore"):  # a disparity of 0 is an infinite depth, which is clamped to 80 m
        depth = 1 / cv2.resize(disparity, gt.shape[::-1])
    mask = evaluation_mask(gt, split)
    gt, pred = gt[mask], depth[mask] * scaling.factor
    ratio = None
    if scaling.median:
        ratio = float(np.median(gt) / np.median(pred)) if gt.size else float("nan")
        pred = pred * ratio
    pred = np.clip(pred, MIN_DEPTH, MAX_DEPTH)
    sums = (float(values.sum(dtype=np.float64)) for values in (gt, pred))
    return ImageResult(compute_depth_errors(gt, pred), int(mask.sum()), *sums, ratio)


def mean_errors(results: list[ImageResult]) -> dict[str, float]:
    """The mean over images of each of the seven errors; NaN if an image had no masked pixel."""
    return {name: float(np.mean([result.errors[name] for result in results])) for name in ERRORS}


# --------------------------------------------------------------------------------------------------- training monitor


def lower_median(values: np.ndarray) -> np.floating:
    """The median of [n], n > 0; of an even number of values the lower middle one, as torch's median (NOTES 8.5)."""
    middle = (values.size - 1) // 2
    return np.partition(values, middle)[middle]


def resize_bilinear(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """[..., h, w] -> [..., *size], bilinear, corners not aligned, in the values' own dtype.

    In torch's arithmetic (NOTES 8.8): the difference to OpenCV's and Paddle's would show in the seven errors.
    """
    row, next_row, down = _neighbours(values.shape[-2], size[0], values.dtype)
    column, next_column, right = _neighbours(values.shape[-1], size[1], values.dtype)
    values = values[..., column] * (1 - right) + values[..., next_column] * right
    return values[..., row, :] * (1 - down[:, None]) + values[..., next_row, :] * down[:, None]


def _neighbours(size: int, new_size: int, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Along one axis, for each new position [new_size]: the indices before and after it, the weight of the latter."""
    scale = dtype.type(size) / dtype.type(new_size)
    # rounded once, as by a fused multiply-add
    position = (np.float64(scale) * (np.arange(new_size) + 0.5) - 0.5).astype(dtype).clip(min=0)
    before = position.astype(np.int64)
    return before, (before + 1).clip(max=size - 1), position - before.astype(dtype)


def monitor_errors(depth: np.ndarray, depth_gt: np.ndarray) -> dict[str, float]:
    """The errors that training logs {name of MONITOR: value}, over all pixels of the batch together (NOTES 5.8).

    depth [N, 1, H, W] as predicted at scale 0, depth_gt [N, 1, 375, 1242] in metres, 0 where unknown. All NaN when no
    pixel inside the crop has a depth.
    """
    pred, gt = resize_bilinear(depth, depth_gt.shape[2:]).clip(MIN_DEPTH, MAX_DEPTH), depth_gt
    crop = np.zeros(gt.shape, bool)
    crop[:, :, 153:371, 44:1197] = True
    mask = crop & (gt > 0)
    gt, pred = gt[mask], pred[mask]
    if gt.size:
        pred = (pred * (lower_median(gt) / lower_median(pred))).clip(MIN_DEPTH, MAX_DEPTH)
    return dict(zip(MONITOR, compute_depth_errors(gt, pred).values(), strict=True))


# ----------------------------------------------------------------------------------------------- flip post-processing


def batch_post_process_disparity(plain: np.ndarray, mirrored: np.ndarray) -> np.ndarray:
    """The blend of two disparities [N, h, w], float64 (NOTES 7.7).

    `mirrored` is the disparity of the mirrored image, mirrored back. Its values are taken near the left border, the
    plain ones near the right border, their mean in between.
    """
    left = 1 - np.clip(20 * (np.linspace(0, 1, plain.shape[2]) - 0.05), 0, 1)
    right = left[::-1]
    return right * plain + left * mirrored + (1 - left - right) * 0.5 * (plain + mirrored)


# -------------------------------------------------------------------------------------------------- trajectory errors


def local_poses(global_poses: np.ndarray) -> np.ndarray:
    """Motions float64 [n - 1, 4, 4] from frame to frame of KITTI's poses [n, 12], rows of 3x4 (NOTES 7.8).

    As the network's, they map points of a frame to the next frame.
    """
    poses = np.tile(np.eye(4), (len(global_poses), 1, 1))
    poses[:, :3] = np.asarray(global_poses, np.float64).reshape(-1, 3, 4)
    return np.linalg.inv(np.linalg.inv(poses[:-1]) @ poses[1:])


def dump_xyz(motions: np.ndarray) -> np.ndarray:
    """Points float64 [m + 1, 3] of the trajectory of m motions [m, 4, 4], starting at the origin."""
    pose = np.eye(4)
    points = [pose[:3, 3]]
    for motion in motions:
        pose = pose @ motion
        points.append(pose[:3, 3])
    return np.array(points)


def compute_ate(gt_xyz: np.ndarray, pred_xyz: np.ndarray) -> float:
    """Distance of two snippets [n, 3], starts made equal, the predicted one scaled to fit best.

    The reference's definition, kept for comparison: the root of the *sum* of squared differences, divided by n.
    """
    pred_xyz = pred_xyz + (gt_xyz[0] - pred_xyz[0])
    scale = np.sum(gt_xyz * pred_xyz) / np.sum(pred_xyz**2)
    return float(np.sqrt(np.sum((pred_xyz * scale - gt_xyz) ** 2)) / len(gt_xyz))


def trajectory_errors(gt_poses: np.ndarray, pred_poses: np.ndarray) -> np.ndarray:
    """`compute_ate` of each snippet of five frames, float64 [n - 1]; the last ones are shorter (NOTES 7.8).

    gt_poses [n, 12] in KITTI's form, pred_poses [n - 1, 4, 4] the motions between successive frames.
    """
    motions = local_poses(gt_poses)
    return np.array(
        [
            compute_ate(dump_xyz(motions[start : start + SNIPPET]), dump_xyz(pred_poses[start : start + SNIPPET]))
            for start in range(len(motions))
        ]
    )
