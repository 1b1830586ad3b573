"""evaluate.py and evaluate_pose.py: the official code's figures, the network's own disparities, and bad input."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

import evaluate
import evaluate_pose
from convert import load_network
from data_sets import (
    DRIVE,
    SIZE,
    drawn_image,
    drawn_scan,
    image_path,
    official_folder,
    picture_test,
    refused,
    write_calibration,
    write_image,
    write_scan,
)
from demo import predict_image
from engine import dygraph_predictor
from golden_files import DATA, close, equal, files_of, golden
from metrics import ERRORS, Scaling, evaluate_image, mean_errors, trajectory_errors
from options import parse_options

POSE_PARTS = ("encoder", "depth", "pose_encoder", "pose")
folders = pytest.mark.parametrize("folder", files_of("eval"))
with_pictures = pytest.mark.parametrize("folder", [name for name in files_of("eval") if name != "committed"])

#: mode of the golden file -> (options, split, name of the scaling)
MODES = {
    "eigen_mono": ("--eval_mono", "eigen", "median"),
    "eigen_stereo": ("--eval_stereo", "eigen", "stereo"),
    "eigen_benchmark_mono": ("--eval_mono", "eigen_benchmark", "median"),
    "eigen_mono_unscaled": ("--eval_mono --disable_median_scaling --pred_depth_scale_factor 2.5", "eigen", "none"),
    "eigen_mono_factor": ("--eval_mono --pred_depth_scale_factor 2.5", "eigen", "median"),
}


def write_inputs(root: Path, gt, disparities, split: str = "eigen") -> list[str]:
    """Ground truth in the split's folder and disparities of a file; the options that name them."""
    (root / "splits" / split).mkdir(parents=True, exist_ok=True)
    maps = np.empty(len(gt), object)
    maps[:] = list(gt)
    np.savez_compressed(root / "splits" / split / "gt_depths.npz", data=maps)
    np.save(root / "disps.npy", disparities)
    return ["--ext_disp_to_eval", f"{root}/disps.npy", "--split_dir", f"{root}/splits", "--eval_split", split]


@folders
@pytest.mark.parametrize("mode", MODES)
def test_command(folder, mode, tmp_path, capsys):
    """The reference's lines on the terminal, the same figures in metrics.json."""
    file = golden(folder, "eval")
    words, split, scaling = MODES[mode]
    where = write_inputs(tmp_path, file["input/gt_depths"], file["input/pred_disps"], split)
    evaluate.main([*where, *words.split(), "--output", f"{tmp_path}/out/metrics.json"])
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
    assert (metrics["images"], metrics["scaling"], metrics["split"]) == (3, scaling, split)
    assert ("ratio_median" in metrics) == (scaling == "median")


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


# ------------------------------------------------------------------------------------------- with the network's weights


def raw_tree(root: Path, pictures: dict[int, Path | Image.Image]) -> Path:
    """A drive's left pictures by frame index, and eigen's list of them."""
    for index, picture in pictures.items():
        write_image(image_path(root, 2, index), picture)
    (root / "splits/eigen").mkdir(parents=True)
    (root / "splits/eigen/test_files.txt").write_text("".join(f"{DRIVE} {index:010d} l\n" for index in pictures))
    return root


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
    where = ["--weights", weights, "--data_path", root, "--split_dir", root / "splits", "--gt_path"]
    words = [*map(str, where), f"{tmp_path}/gt.npz", *words, "--eval_mono", "--save_pred_disps", "--num_workers", "0"]
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
    weights = official_folder(tmp_path / "weights", file, POSE_PARTS)
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
    return official_folder(tmp_path_factory.mktemp("official") / "weights", parts=POSE_PARTS)


@pytest.fixture
def drive(tmp_path):
    """Three drawn pictures in KITTI raw's layout, and ground truth for them in the split's folder."""
    root = raw_tree(tmp_path / "data", {number: drawn_image(207, 63, number) for number in range(3)})
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
    predictor = dygraph_predictor(load_network(parse_options(["--weights", str(weights)])))
    for number, disparity in enumerate(disparities):
        raw = predict_image(predictor, Image.open(image_path(drive, 2, number)), SIZE)
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


@pytest.mark.parametrize("engine", ["inference", "onnx"])
def test_engines_agree(drive, weights, engine):
    dygraph = run_evaluation(drive, weights, "--post_process")
    exported = run_evaluation(drive, weights, "--post_process", "--engine", engine)
    equal([exported[name] for name in ERRORS], [dygraph[name] for name in ERRORS], 1e-4)


def test_stereo_weights_say_so(drive, tmp_path, capsys):
    stereo = official_folder(tmp_path / "stereo", stereo=True)
    metrics = run_evaluation(drive, stereo)
    assert metrics["scaling"] == "stereo" and "with stereo pairs, hence --eval_stereo" in capsys.readouterr().out
    mono = official_folder(tmp_path / "mono")  # no pose networks, mono all the same
    assert run_evaluation(drive, mono)["scaling"] == "median"


def test_predictions_alone(drive, weights, capsys):
    words = ["--save_pred_disps", "--no_eval"]
    refused(evaluate.main, words_of(drive, weights, *words), "--output")
    (drive / "splits/eigen/gt_depths.npz").unlink()  # not needed
    evaluate.main([*words_of(drive, weights, *words)[:-2]])
    assert np.load(drive / "out/disps_eigen_split.npy").shape == (3, *SIZE)
    assert "Evaluation disabled" in capsys.readouterr().out


def test_ground_truth_of_the_scans(drive, weights, capsys):
    """Without gt_depths.npz, the scans of the data set serve."""
    write_calibration((drive / DRIVE).parent)
    for number in range(3):
        write_scan(drive, drawn_scan(2000, number), number)
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
    assert "image 1 " in capsys.readouterr().out


# ----------------------------------------------------------------------------------------------------------- bad input


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
    refused(evaluate.main, [*where, *words], said)


def test_missing_weights(weights, tmp_path):
    refused(evaluate.main, ["--eval_mono"], "--weights is missing", "--ext_disp_to_eval")
    refused(evaluate.main, ["--weights", tmp_path / "none", "--eval_mono"], str(tmp_path / "none"), "no such file")
    refused(evaluate_pose.main, ["--eval_split", "odom_9"], "--weights is missing")
    words = ["--weights", weights, "--eval_mono", "--eval_eigen_to_benchmark"]
    refused(evaluate.main, words, "--ext_disp_to_eval")


@pytest.mark.parametrize(
    "content, said",
    [
        (np.ones((2, 1, 4, 6), np.float32), "shape [2, 1, 4, 6]"),
        (np.ones((2, 4, 6), np.int64), "float32 or float64"),
        (np.full((2, 4, 6), np.nan, np.float32), "NaN or Inf"),
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
    refused(evaluate.main, [*where, "--eval_mono"], said)


@pytest.mark.parametrize("ids", [np.array([0, 2]), np.array([-1]), np.array([[0]]), np.array([0.5]), np.zeros(0, int)])
def test_bad_benchmark_ids(ids, tmp_path):
    where = write_inputs(tmp_path, [], np.ones((2, 4, 6), np.float32))
    (tmp_path / "splits/benchmark").mkdir()
    np.save(tmp_path / "splits/benchmark/eigen_to_benchmark_ids.npy", ids)
    refused(evaluate.main, [*where, "--eval_split", "benchmark", "--eval_eigen_to_benchmark"], "not a list of rows")


def test_ground_truth_of_another_split_is_seen_before_predicting(drive, weights, capsys):
    write_inputs(drive, np.ones((2, 63, 207), np.float32), np.zeros(0))
    refused(evaluate.main, words_of(drive, weights), "2 maps for 3 disparities")
    assert "Predicting" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "text, said",
    [
        (None, "cannot be read"),
        ("", "numbers [0]"),
        ("1 2 3\n4 5 6\n", "numbers [2, 3]"),
        ("1 0 0 0 0 1 0 0 0 0 1 x\n", "rows of 12 numbers"),
        ("1 0 0 0 0 1 0 0 0 0 1 nan\n" * 2, "finite"),
        ("1 0 0 0 0 1 0 0 0 0 1 0\n" * 2, "2 pairs of images for 2 poses"),
    ],
)
def test_bad_poses(text, said, weights, tmp_path):
    root = odometry_tree(tmp_path / "data", [drawn_image(207, 63, number) for number in range(3)], np.zeros((3, 12)))
    (root / "poses/09.txt").unlink()
    if text is not None:
        (root / "poses/09.txt").write_text(text)
    refused(evaluate_pose.main, pose_words(root, weights), said)


def test_weights_and_splits_without_poses(weights, tmp_path):
    words = ["--weights", weights, "--data_path", tmp_path, "--eval_split", "eigen"]
    refused(evaluate_pose.main, words, "not a trajectory")
    poses = np.tile(np.eye(4)[:3].ravel(), (3, 1))
    root = odometry_tree(tmp_path / "data", [drawn_image(207, 63, number) for number in range(3)], poses)
    bare = official_folder(tmp_path / "bare", stereo=True)
    refused(evaluate_pose.main, pose_words(root, bare), "without a pose network")
