"""Metrics and evaluation against figures of the official code (NOTES 9), and with bad input."""

import json
import shutil
from collections import OrderedDict
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from shared import InputError
from shared.align.formula import formula_input

import evaluate
import evaluate_pose
import inference
from golden_files import DATA, close, files_of, formula_weights, golden, official_shapes
from metrics import (
    ERRORS,
    MONITOR,
    Scaling,
    batch_post_process_disparity,
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
from options import parse_options

DRIVE = "2011_09_26/2011_09_26_drive_0001_sync"
HEIGHT, WIDTH = 64, 128
folders = pytest.mark.parametrize("folder", files_of("eval"))
pose_folders = pytest.mark.parametrize("folder", files_of("pose_eval"))
with_pictures = pytest.mark.parametrize("folder", [name for name in files_of("eval") if name != "committed"])

#: mode of the golden file -> (options, split, how that scales)
MODES = {
    "eigen_mono": (["--eval_mono"], "eigen", Scaling()),
    "eigen_stereo": (["--eval_stereo"], "eigen", Scaling(5.4, median=False)),
    "eigen_benchmark_mono": (["--eval_mono"], "eigen_benchmark", Scaling()),
    "eigen_mono_unscaled": (
        ["--eval_mono", "--disable_median_scaling", "--pred_depth_scale_factor", "2.5"],
        "eigen",
        Scaling(2.5, median=False),
    ),
    "eigen_mono_factor": (["--eval_mono", "--pred_depth_scale_factor", "2.5"], "eigen", Scaling(2.5)),
}
modes = pytest.mark.parametrize("mode", MODES)


def picture_test(function):
    """A test that needs the KITTI pictures: without them there is no such test, rather than one that is skipped."""
    return function if DATA else None


def seed(file) -> int:
    return int(file["meta/seed"])


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def equal(actual, expected, relative: float = 1e-6) -> None:
    np.testing.assert_allclose(np.asarray(actual, float), np.asarray(expected, float), rtol=relative, atol=0)


# ------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize("folder", files_of("layers"))
@pytest.mark.parametrize("dtype, group", [("float32", "metric"), ("float64", "metric64")])
def test_errors(folder, dtype, group):
    file = golden(folder, "layers")
    errors = compute_depth_errors(file["input/gt"].astype(dtype), file["input/pred"].astype(dtype))
    assert tuple(errors) == ERRORS
    equal(list(errors.values()), file[f"{group}/compute_depth_errors"])


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


@pytest.mark.parametrize("folder, part", MONITORED)
@pytest.mark.parametrize("dtype, group", [("float32", "metric"), ("float64", "metric64")])
def test_monitor(folder, part, dtype, group):
    file = golden(folder, part)
    batch, shape = int(file["meta/batch"]), (int(file["meta/height"]), int(file["meta/width"]))

    def drawn(name: str, *shape: int) -> np.ndarray:
        return formula_input(name, shape, seed(file))

    full = (batch, 1, 375, 1242)
    gt = np.where(drawn("monitor_keep", *full) > 1.3, 5 + 75 * sigmoid(drawn("monitor_gt", *full)), 0)
    depth = 2 + 60 * sigmoid(drawn("monitor_depth", batch, 1, *shape))
    # both are float32 in the official run, whatever it then computes in
    found = monitor_errors(depth.astype(np.float32).astype(dtype), gt.astype(np.float32).astype(dtype))
    assert list(found) == file["meta/monitor_names"].tolist() == list(MONITOR)
    equal(list(found.values()), file[f"{group}/monitor"])


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


@folders
@modes
def test_per_image_figures(folder, mode):
    file = golden(folder, "eval")
    _, split, scaling = MODES[mode]
    pairs = zip(file["input/gt_depths"], file["input/pred_disps"], strict=True)
    results = [evaluate_image(*pair, split, scaling) for pair in pairs]
    found = [[*result.errors.values(), result.pixels, result.sum_gt, result.sum_pred] for result in results]
    equal(found, file[f"metric/{mode}/per_image"])
    equal(list(mean_errors(results).values()), file[f"metric/{mode}/mean"])
    assert all((result.ratio is None) == (not scaling.median) for result in results)


def write_inputs(root: Path, gt, disparities, split: str = "eigen") -> list[str]:
    """Ground truth in the split's folder and disparities of a file; the options that name them."""
    (root / "splits" / split).mkdir(parents=True, exist_ok=True)
    maps = np.empty(len(gt), object)
    maps[:] = list(gt)
    np.savez_compressed(root / "splits" / split / "gt_depths.npz", data=maps)
    np.save(root / "disps.npy", disparities)
    return ["--ext_disp_to_eval", f"{root}/disps.npy", "--split_dir", f"{root}/splits", "--eval_split", split]


@folders
@modes
def test_command(folder, mode, tmp_path, capsys):
    """The reference's lines on the terminal, the same figures in metrics.json."""
    file = golden(folder, "eval")
    words, split, _ = MODES[mode]
    where = write_inputs(tmp_path, file["input/gt_depths"], file["input/pred_disps"], split)
    evaluate.main([*where, *words, "--output", f"{tmp_path}/out/metrics.json"])
    said = capsys.readouterr().out
    wanted = [line for line in str(file[f"metric/{mode}/printed"]).splitlines() if line.strip()]
    for line in wanted:
        if "|" in line or "&" in line:
            assert line in said.splitlines()
    metrics = json.loads((tmp_path / "out/metrics.json").read_text())
    equal([metrics[name] for name in ERRORS], file[f"metric/{mode}/mean"])
    equal(
        [[row[name] for name in (*ERRORS, "pixels")] for row in metrics["per_image"]],
        file[f"metric/{mode}/per_image"][:, :8],
    )
    scalings = {"eigen_stereo": "stereo", "eigen_mono_unscaled": "none"}
    assert metrics["images"] == 3 and metrics["scaling"] == scalings.get(mode, "median")
    assert metrics["split"] == split and ("ratio_median" in metrics) == (metrics["scaling"] == "median")


@folders
def test_benchmark_pictures(folder, tmp_path):
    file = golden(folder, "eval")
    where = write_inputs(tmp_path, [], file["input/pred_disps"])
    (tmp_path / "splits/benchmark").mkdir()
    np.save(tmp_path / "splits/benchmark/eigen_to_benchmark_ids.npy", file["post/benchmark_ids"])
    evaluate.main(
        [*where, "--eval_split", "benchmark", "--eval_eigen_to_benchmark", "--eval_out_dir", f"{tmp_path}/out"]
    )
    written = sorted((tmp_path / "out/benchmark_predictions").iterdir())
    assert [path.name for path in written] == file["post/benchmark_names"].tolist()
    for number, path in enumerate(written):
        picture = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        assert picture.dtype == np.uint16 and picture.shape == (352, 1216)
        mean, spread, largest = file[f"post/benchmark_{number}/stats"]
        equal([picture.mean(), picture.std(), picture.max()], [mean, spread, largest], 1e-4)
        difference = picture[::8, ::16].astype(int) - file[f"post/benchmark_{number}"].astype(int)
        assert np.abs(difference).max() <= 1  # of truncation


@folders
def test_flip_post_processing(folder):
    file = golden(folder, "eval")
    plain, mirrored = (sigmoid(formula_input(name, (2, 5, 60), seed(file))) for name in ("pp_l", "pp_r"))
    result = batch_post_process_disparity(plain, mirrored)
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


# ------------------------------------------------------------------------------------------- with the network's weights


def official_folder(folder: Path, file, parts=("encoder", "depth"), stereo: bool = False) -> Path:
    """Formula weights of ResNet-18 as a folder that the reference would have written."""
    folder.mkdir()
    for part in parts:
        state = formula_weights(file, part, official_shapes(part))
        state = OrderedDict((name, torch.from_numpy(array)) for name, array in state.items())
        if part == "encoder":
            state |= {"height": HEIGHT, "width": WIDTH, "use_stereo": stereo}
        torch.save(state, folder / f"{part}.pth")
    return folder


def raw_tree(root: Path, pictures: dict[int, Path | Image.Image]) -> Path:
    """A drive's left pictures by frame index, and eigen's list of them."""
    folder = root / DRIVE / "image_02/data"
    folder.mkdir(parents=True)
    for index, picture in pictures.items():
        target = folder / f"{index:010d}.jpg"
        if isinstance(picture, Path):
            shutil.copyfile(picture, target)
        else:
            picture.save(target)
    (root / "splits/eigen").mkdir(parents=True)
    (root / "splits/eigen/test_files.txt").write_text("".join(f"{DRIVE} {index:010d} l\n" for index in pictures))
    return root


def drawn_picture(number: int) -> Image.Image:
    rng = np.random.default_rng(number)
    return Image.fromarray(rng.integers(0, 256, (6, 9, 3), np.uint8)).resize((207, 63), Image.Resampling.BICUBIC)


@picture_test
@with_pictures
@pytest.mark.parametrize("words, key", [([], "net"), (["--post_process"], "net_post_process")])
def test_full_evaluation(folder, words, key, tmp_path):
    file = golden(folder, "eval")
    sources = dict(entry.split(" = ") for entry in file["meta/frames"].tolist())
    pictures = {index: DATA / sources[f"image_02 {index:010d}.jpg"] for index in (4, 5, 6)}
    root = raw_tree(tmp_path / "data", pictures)
    np.savez(tmp_path / "gt.npz", data=file["input/gt_depths"])
    weights = official_folder(tmp_path / "weights", file)
    where = [
        "--weights",
        weights,
        "--data_path",
        root,
        "--split_dir",
        root / "splits",
        "--gt_path",
        tmp_path / "gt.npz",
    ]
    words = [*map(str, where), *words, "--eval_mono", "--save_pred_disps", "--num_workers", "0"]
    evaluate.main([*words, "--output", f"{tmp_path}/metrics.json"])
    disparities = np.load(weights / "disps_eigen_split.npy")
    assert disparities.dtype == str(file[f"post/{key}_disps_dtype"])
    close(disparities[:, ::2, ::2], file[f"post/{key}_disps"], 1e-4, key)
    stats = [disparities.mean(), disparities.std(), disparities.max()]
    equal(stats, file[f"post/{key}_disps/stats"], 1e-4)
    rows = json.loads((tmp_path / "metrics.json").read_text())["per_image"]
    # the disparities' limit: errors move with them
    found = [[row[name] for name in (*ERRORS, "pixels")] for row in rows]
    equal(found, file[f"metric/{key}/per_image"][:, :8], 1e-4)


@picture_test
@pytest.mark.parametrize("folder", [name for name in files_of("pose_eval") if name != "committed"])
def test_full_pose_evaluation(folder, tmp_path, capsys):
    file = golden(folder, "pose_eval")
    width, height = file["meta/window"].tolist()
    frames, (step_x, step_y) = int(file["meta/frames"]), file["meta/step"].tolist()
    source = Image.open(DATA / str(file["meta/source"])).convert("RGB")
    crops = [source.crop((step_x * i, step_y * i, step_x * i + width, step_y * i + height)) for i in range(frames)]
    root = odometry_tree(tmp_path / "data", crops, file["input/gt_poses"])
    weights = official_folder(tmp_path / "weights", file, ("encoder", "depth", "pose_encoder", "pose"))
    evaluate_pose.main([*pose_words(root, weights), "--output", f"{tmp_path}/metrics.json"])
    poses = np.load(weights / "poses.npy")
    assert poses.dtype == np.float32
    close(poses, file["post/poses"], 1e-4)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    ates = file["metric/net_ates"]
    equal([metrics["ate_mean"], metrics["ate_std"]], [ates.mean(), ates.std()], 1e-3)
    close(trajectory_errors(file["input/gt_poses"], poses), ates, 1e-3)
    line = next(line for line in str(file["metric/net_printed"]).splitlines() if "error" in line)
    assert line in capsys.readouterr().out.splitlines()


def odometry_tree(root: Path, pictures: list[Image.Image], poses: np.ndarray) -> Path:
    """Sequence 9's left pictures (PNG whatever their name: Pillow looks at the content), poses and list."""
    (root / "sequences/09/image_2").mkdir(parents=True)
    for index, picture in enumerate(pictures):
        picture.save(root / f"sequences/09/image_2/{index:06d}.jpg", "PNG")
    (root / "poses").mkdir()
    np.savetxt(root / "poses/09.txt", poses)
    (root / "splits/odom").mkdir(parents=True)
    lines = "".join(f"9 {index} l\n" for index in range(len(pictures) - 1))
    (root / "splits/odom/test_files_09.txt").write_text(lines)
    return root


def pose_words(root: Path, weights: Path) -> list[str]:
    where = ["--weights", weights, "--data_path", root, "--split_dir", root / "splits", "--eval_split", "odom_9"]
    return [*map(str, where), "--num_workers", "0"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """An official mono folder with encoder, depth and pose networks, whose disparities are about 1."""
    parts = ("encoder", "depth", "pose_encoder", "pose")
    return official_folder(tmp_path_factory.mktemp("official") / "weights", golden("committed", "demo"), parts)


@pytest.fixture
def drive(tmp_path):
    """Three drawn pictures in KITTI raw's layout, and ground truth for them in the split's folder."""
    root = raw_tree(tmp_path / "data", {number: drawn_picture(number) for number in range(3)})
    gt = 5 + 40 * np.random.default_rng(0).random((3, 63, 207), np.float32)
    write_inputs(root, gt, np.zeros(0))
    return root


def words_of(root: Path, weights: Path, *words: str) -> list[str]:
    where = ["--weights", weights, "--data_path", root, "--split_dir", root / "splits", "--num_workers", 0]
    return [*map(str, where), *words, "--eval_out_dir", f"{root}/out", "--output", f"{root}/out/metrics.json"]


def run_evaluation(root: Path, weights: Path, *words: str) -> dict:
    evaluate.main(words_of(root, weights, *words))
    return json.loads((root / "out/metrics.json").read_text())


def test_evaluation_is_the_networks(drive, weights, capsys):
    metrics = run_evaluation(drive, weights, "--save_pred_disps", "--height", "96")
    said = capsys.readouterr().out
    assert "the weights are for 128x64: going on with that, not with 128x96" in said
    assert "without stereo pairs" in said and metrics["scaling"] == "median"
    disparities = np.load(drive / "out/disps_eigen_split.npy")
    model = inference.load_network(parse_options(["--weights", str(weights)]))
    predict = inference.dygraph_predictor(model)
    for number, disparity in enumerate(disparities):
        picture = Image.open(drive / DRIVE / f"image_02/data/{number:010d}.jpg").convert("RGB")
        small = np.asarray(picture.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS), np.float32) / 255
        raw = predict(small.transpose(2, 0, 1)[None])
        close(disparity, 0.01 + 9.99 * raw[0, 0], 1e-5)
    gt = np.load(drive / "splits/eigen/gt_depths.npz", allow_pickle=True)["data"]
    expected = mean_errors([evaluate_image(*pair, "eigen", Scaling()) for pair in zip(gt, disparities, strict=True)])
    equal([metrics[name] for name in ERRORS], list(expected.values()))
    written = np.load(drive / "out/disps_eigen_split.npy")
    evaluate.main(
        [*words_of(drive, weights), "--ext_disp_to_eval", f"{drive}/out/disps_eigen_split.npy", "--eval_mono"]
    )
    again = json.loads((drive / "out/metrics.json").read_text())
    assert again == metrics and len(written) == 3


def test_engines_agree(drive, weights):
    dygraph = run_evaluation(drive, weights, "--post_process")
    exported = run_evaluation(drive, weights, "--post_process", "--engine", "inference")
    equal([exported[name] for name in ERRORS], [dygraph[name] for name in ERRORS], 1e-4)


def test_stereo_weights_say_so(drive, tmp_path, capsys):
    stereo = official_folder(tmp_path / "stereo", golden("committed", "demo"), stereo=True)
    metrics = run_evaluation(drive, stereo)
    assert metrics["scaling"] == "stereo" and "with stereo pairs, hence --eval_stereo" in capsys.readouterr().out
    mono = official_folder(tmp_path / "mono", golden("committed", "demo"))  # no pose networks, mono all the same
    assert run_evaluation(drive, mono)["scaling"] == "median"


def test_predictions_alone(drive, weights, capsys):
    words = ["--save_pred_disps", "--no_eval"]
    with pytest.raises(InputError, match="--output"):
        evaluate.main(words_of(drive, weights, *words))
    (drive / "splits/eigen/gt_depths.npz").unlink()  # not needed
    evaluate.main([*words_of(drive, weights, *words)[:-2]])
    assert np.load(drive / "out/disps_eigen_split.npy").shape == (3, HEIGHT, WIDTH)
    assert "Evaluation disabled" in capsys.readouterr().out


def test_ground_truth_of_the_scans(drive, weights, capsys):
    """Without gt_depths.npz, the scans of the data set serve."""
    calibration = golden("committed", "data")
    for name in ("calib_cam_to_cam.txt", "calib_velo_to_cam.txt"):
        (drive / DRIVE).parent.joinpath(name).write_text(str(calibration[f"data/{name}"]))
    (drive / DRIVE / "velodyne_points/data").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(3):
        x = rng.uniform(3, 60, 2000)
        points = np.stack([x, rng.normal(0, 0.3, 2000) * x, rng.normal(-0.02, 0.05, 2000) * x, x], 1)
        points.astype("<f4").tofile(drive / DRIVE / f"velodyne_points/data/{number:010d}.bin")
    (drive / "splits/eigen/gt_depths.npz").unlink()
    metrics = run_evaluation(drive, weights)
    assert "computing ground truth" in capsys.readouterr().out
    assert min(row["pixels"] for row in metrics["per_image"]) > 100 and metrics["abs_rel"] > 0


def test_empty_ground_truth_is_told(drive, weights, capsys):
    gt = np.full((3, 63, 207), 5.0, np.float32)
    gt[1] = 0
    write_inputs(drive, gt, np.zeros(0))
    metrics = run_evaluation(drive, weights)
    assert metrics["abs_rel"] is None and metrics["per_image"][1]["pixels"] == 0
    assert metrics["per_image"][0]["abs_rel"] is not None
    assert "picture 1 " in capsys.readouterr().out


# ----------------------------------------------------------------------------------------------------------- bad input


def fails(main, words, *parts: str) -> None:
    with pytest.raises(InputError) as caught:
        main([str(word) for word in words])
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message, message


@pytest.mark.parametrize(
    "words, said",
    [
        (["--eval_mono", "--eval_stereo"], "exclude each other"),
        ([], "--eval_mono or --eval_stereo is missing"),
        (["--eval_mono", "--gt_path", "nowhere.npz"], "nowhere.npz"),
        (["--eval_mono", "--eval_split", "eigen_benchmark"], "gt_depths.npz: no such file"),
        (["--eval_mono", "--eval_split", "odom_9"], "evaluate_pose.py"),
        (["--eval_mono", "--eval_eigen_to_benchmark"], "eigen_to_benchmark_ids.npy"),
    ],
)
def test_bad_options(words, said, tmp_path):
    where = write_inputs(tmp_path, np.ones((2, 30, 40), np.float32), np.ones((2, 4, 6), np.float32))
    fails(evaluate.main, [*where, *words], said)


def test_missing_weights(tmp_path):
    fails(evaluate.main, ["--eval_mono"], "--weights is missing", "--ext_disp_to_eval")
    fails(evaluate.main, ["--weights", tmp_path / "none", "--eval_mono"], str(tmp_path / "none"), "no such file")
    fails(evaluate_pose.main, ["--eval_split", "odom_9"], "--weights is missing")


def test_re_indexing_is_for_files(weights):
    fails(evaluate.main, ["--weights", weights, "--eval_mono", "--eval_eigen_to_benchmark"], "--ext_disp_to_eval")


@pytest.mark.parametrize(
    "content, said",
    [
        (np.ones((2, 1, 4, 6), np.float32), "shape [2, 1, 4, 6]"),
        (np.ones((2, 4, 6), np.int64), "float32 or float64"),
        (np.full((2, 4, 6), np.nan, np.float32), "not finite"),
        (np.ones((0, 4, 6), np.float32), "shape [0, 4, 6]"),
        (np.ones((3, 4, 6), np.float32), "2 maps for 3 disparities"),
        (b"no array", "cannot be read"),
        (b"", "cannot be read"),
    ],
)
def test_bad_disparities(content, said, tmp_path):
    where = write_inputs(tmp_path, np.ones((2, 30, 40), np.float32), np.zeros(0))
    if isinstance(content, bytes):
        (tmp_path / "disps.npy").write_bytes(content)
    else:
        np.save(tmp_path / "disps.npy", content)
    fails(evaluate.main, [*where, "--eval_mono"], said)


@pytest.mark.parametrize("ids", [np.array([0, 2]), np.array([-1]), np.array([[0]]), np.array([0.5]), np.zeros(0, int)])
def test_bad_benchmark_ids(ids, tmp_path):
    where = write_inputs(tmp_path, [], np.ones((2, 4, 6), np.float32))
    (tmp_path / "splits/benchmark").mkdir()
    np.save(tmp_path / "splits/benchmark/eigen_to_benchmark_ids.npy", ids)
    fails(evaluate.main, [*where, "--eval_split", "benchmark", "--eval_eigen_to_benchmark"], "not a list of rows")


def test_ground_truth_of_another_split_is_seen_before_predicting(drive, weights, capsys):
    write_inputs(drive, np.ones((2, 63, 207), np.float32), np.zeros(0))
    fails(evaluate.main, words_of(drive, weights), "2 maps for 3 disparities")
    assert "Predicting" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "text, said",
    [
        (None, "cannot be read"),
        ("", "numbers [0]"),
        ("1 2 3\n4 5 6\n", "numbers [2, 3]"),
        ("1 0 0 0 0 1 0 0 0 0 1 x\n", "not rows of 12 numbers"),
        ("1 0 0 0 0 1 0 0 0 0 1 nan\n" * 2, "finite"),
        ("1 0 0 0 0 1 0 0 0 0 1 0\n" * 2, "2 pairs of pictures for 2 poses"),
    ],
)
def test_bad_poses(text, said, weights, tmp_path):
    root = odometry_tree(tmp_path / "data", [drawn_picture(number) for number in range(3)], np.zeros((3, 12)))
    (root / "poses/09.txt").unlink()
    if text is not None:
        (root / "poses/09.txt").write_text(text)
    fails(evaluate_pose.main, pose_words(root, weights), said)


def test_poses_of_other_splits(weights, tmp_path):
    fails(evaluate_pose.main, ["--weights", weights, "--data_path", tmp_path, "--eval_split", "eigen"], "no trajectory")


def test_weights_without_pose_networks(tmp_path):
    bare = official_folder(tmp_path / "bare", golden("committed", "demo"), stereo=True)
    poses = np.tile(np.eye(4)[:3].ravel(), (3, 1))
    root = odometry_tree(tmp_path / "data", [drawn_picture(number) for number in range(3)], poses)
    fails(evaluate_pose.main, pose_words(root, bare), "without a pose network")
