"""Metrics of the port and of the twin against figures of the official code (NOTES 9)."""

import numpy as np
import pytest
import torch

from shared.align.formula import formula_input
from shared.weights import as_numpy

from golden_files import close, equal, files_of, golden, sigmoid
from metrics import (
    ERRORS,
    MONITOR,
    Scaling,
    compute_ate,
    compute_depth_errors,
    dump_xyz,
    evaluate_image,
    evaluation_mask,
    local_poses,
    lower_median,
    mean_errors,
    monitor_errors,
    resize_bilinear,
    trajectory_errors,
)
from networks import PORT, SIDES

folders = pytest.mark.parametrize("folder", files_of("eval"))
pose_folders = pytest.mark.parametrize("folder", files_of("pose_eval"))
sides = pytest.mark.parametrize("side", SIDES.values(), ids=SIDES)

#: mode of the golden file -> (split, factor, median scaling)
MODES = {
    "eigen_mono": ("eigen", 1.0, True),
    "eigen_stereo": ("eigen", 5.4, False),
    "eigen_benchmark_mono": ("eigen_benchmark", 1.0, True),
    "eigen_mono_unscaled": ("eigen", 2.5, False),
    "eigen_mono_factor": ("eigen", 2.5, True),
}


def seed(file) -> int:
    return int(file["meta/seed"])


# ------------------------------------------------------------------------------------------------------------- errors


@sides
@pytest.mark.parametrize("folder", files_of("layers"))
@pytest.mark.parametrize("dtype, group", [("float32", "metric"), ("float64", "metric64")])
def test_errors(folder, dtype, group, side):
    file = golden(folder, "layers")
    errors = side.depth_errors(file["input/gt"].astype(dtype), file["input/pred"].astype(dtype))
    expected = file[f"{group}/compute_depth_errors"]
    equal(errors, expected)
    if side is not PORT:
        close(errors[:4], expected[:4], 1e-12 if dtype == "float64" else 1e-6)
        close(errors[4:], expected[4:], 1e-7)  # the official code has these in float32


@folders
@pytest.mark.parametrize("dtype, key", [("float32", "compute_errors"), ("float64", "compute_errors64")])
def test_errors_of_a_scan(folder, dtype, key):
    file = golden(folder, "eval")
    assert file["meta/metric_names"].tolist() == list(ERRORS)
    gt = file["input/gt_depths"][0]
    gt = gt[gt > 0]
    pred = np.exp(2.7 + 0.9 * formula_input("eval_pred", gt.shape, seed(file)))
    equal(list(compute_depth_errors(gt.astype(dtype), pred.astype(dtype)).values()), file[f"metric/{key}"])


def test_no_pixel_gives_nan():
    assert np.isnan(list(compute_depth_errors(np.zeros(0), np.zeros(0)).values())).all()
    result = evaluate_image(np.zeros((20, 30), np.float32), np.ones((4, 6), np.float32), "eigen", Scaling())
    assert result.pixels == 0 and np.isnan(result.ratio) and np.isnan(mean_errors([result])["a1"])


def test_a_limit_is_outside():
    """The shares count ratios strictly below 1.25 and its powers (NOTES 7.4)."""
    gt = np.ones(4)
    errors = compute_depth_errors(gt, np.array([1.25, 1.25**2, 1.25**3, 1.0]))
    assert [errors[name] for name in ("a1", "a2", "a3")] == [0.25, 0.5, 0.75]


# ------------------------------------------------------------------------------------------------- training's monitor


MONITORED = [
    (folder, part)
    for part in ("loss_mono", "loss_stereo", "loss_ms")
    for folder in files_of(part)
    if "metric/monitor" in golden(folder, part).files
]


@sides
@pytest.mark.parametrize("folder, part", MONITORED)
@pytest.mark.parametrize("dtype, group", [("float32", "metric"), ("float64", "metric64")])
def test_monitor(folder, part, dtype, group, side):
    file = golden(folder, part)
    batch, shape = int(file["meta/batch"]), (int(file["meta/height"]), int(file["meta/width"]))

    def drawn(name: str, *shape: int) -> np.ndarray:
        return formula_input(name, shape, seed(file))

    full = (batch, 1, 375, 1242)
    gt = np.where(drawn("monitor_keep", *full) > 1.3, 5 + 75 * sigmoid(drawn("monitor_gt", *full)), 0)
    depth = 2 + 60 * sigmoid(drawn("monitor_depth", batch, 1, *shape))
    # both are float32 in the official run, whatever it then computes in
    found = side.monitor(depth.astype(np.float32).astype(dtype), gt.astype(np.float32).astype(dtype))
    assert file["meta/monitor_names"].tolist() == list(MONITOR)
    if side is PORT:
        equal(found, file[f"{group}/monitor"])
    else:
        close(found, file[f"{group}/monitor"], 1e-6 if dtype == "float64" else 1e-5)


@pytest.mark.parametrize("dtype, limit", [("float32", 1e-6), ("float64", 1e-12)])
@pytest.mark.parametrize("size", [(375, 1242), (64, 128), (7, 5), (1, 1)])
def test_resizing_is_torchs(dtype, limit, size):
    values = formula_input("resize", (2, 1, 64, 128), 0).astype(dtype)
    expected = torch.nn.functional.interpolate(torch.from_numpy(values), size, mode="bilinear", align_corners=False)
    resized = resize_bilinear(values, size)
    assert resized.dtype == values.dtype
    close(resized, expected.numpy(), limit)


def test_monitor_counts_the_crop_alone():
    gt = np.zeros((1, 1, 375, 1242), np.float32)
    gt[:, :, 152], gt[:, :, 371], gt[..., 43], gt[..., 1197] = 5, 5, 5, 5
    depth = np.ones((1, 1, 32, 64), np.float32)
    assert np.isnan(list(monitor_errors(depth, gt).values())).all()
    gt[0, 0, 153, 44] = 7
    assert monitor_errors(depth, gt)["de/abs_rel"] == 0  # one pixel, its median the scale


def test_lower_median():
    values = np.array([3.0, 1, 2, 10])
    assert lower_median(values) == torch.from_numpy(values).median().item() == 2
    assert lower_median(values[:3]) == 2 and lower_median(values[:1]) == 3


# ------------------------------------------------------------------------------------------- evaluation of disparities


@sides
@folders
@pytest.mark.parametrize("mode", MODES)
def test_per_image_figures(folder, mode, side):
    file = golden(folder, "eval")
    pairs = list(zip(file["input/gt_depths"], file["input/pred_disps"], strict=True))
    errors = [side.score(*pair, *MODES[mode])[0] for pair in pairs]
    expected = file[f"metric/{mode}/per_image"]
    equal(errors, expected[:, :7])
    equal(np.mean(errors, axis=0), file[f"metric/{mode}/mean"])
    if side is PORT:
        split, factor, median = MODES[mode]
        results = [evaluate_image(*pair, split, Scaling(factor, median)) for pair in pairs]
        equal([[result.pixels, result.sum_gt, result.sum_pred] for result in results], expected[:, 7:])
        equal(list(mean_errors(results).values()), file[f"metric/{mode}/mean"])
        assert all((result.ratio is None) == (not median) for result in results)


@sides
@folders
def test_flip_post_processing(folder, side):
    file = golden(folder, "eval")
    plain, mirrored = (sigmoid(formula_input(name, (2, 5, 60), seed(file))) for name in ("pp_l", "pp_r"))
    result = as_numpy(side.flip(plain, mirrored))
    assert result.dtype == np.float64
    close(result, file["post/batch_post_process_disparity"], 1e-7)


def test_mask_rules():
    gt = np.full((375, 1242), 10.0, np.float32)
    gt[200, 600:603] = 0, 80, 1e-3  # unknown, and the limits, which do not count
    mask = evaluation_mask(gt, "eigen")
    rows, columns = np.nonzero(mask)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (153, 370, 44, 1196)  # equal to NOTES 5.8
    assert mask.sum() == 218 * 1153 - 3
    assert evaluation_mask(gt, "eigen_benchmark").sum() == gt.size - 1
    np.testing.assert_array_equal(evaluation_mask(gt, "mini"), mask)


def test_disparity_zero_is_far(recwarn):
    gt = np.full((40, 60), 20.0, np.float32)
    result = evaluate_image(gt, np.zeros((4, 6), np.float32), "eigen", Scaling(median=False))
    assert result.errors["abs_rel"] == 3 and not recwarn.list  # clamped to 80 m


# --------------------------------------------------------------------------------------------------------- trajectories


@pose_folders
def test_trajectory_errors(folder):
    file = golden(folder, "pose_eval")
    gt, pred = file["input/gt_poses"], file["input/pred_poses"]
    close(trajectory_errors(gt, pred), file["metric/ates"], 1e-9)
    close(dump_xyz(pred[:4]), file["post/dump_xyz"], 1e-9)
    first = compute_ate(dump_xyz(local_poses(gt)[:4]), dump_xyz(pred[:4]))
    close(first, file["metric/ate_of_first_snippet"], 1e-9)
    ates = trajectory_errors(gt, pred)
    assert f"Trajectory error: {ates.mean():0.3f}, std: {ates.std():0.3f}" in str(file["metric/printed"])


def test_perfect_motions_have_no_error():
    file = golden("committed", "pose_eval")
    gt = file["input/gt_poses"]
    motions = local_poses(gt)
    motions[:, :3, 3] *= 7  # the scale is fitted
    assert trajectory_errors(gt, motions).max() < 1e-12
