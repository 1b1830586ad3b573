"""Depth errors of given weights on KITTI: the seven of the paper's tables.

    python evaluate.py --weights W --data_path KITTI --eval_mono
    python evaluate.py --weights W --data_path KITTI --post_process --engine inference --output metrics.json
    python evaluate.py --ext_disp_to_eval mono_640x192_eigen.npy --eval_mono
    python evaluate.py --ext_disp_to_eval D.npy --eval_eigen_to_benchmark --eval_split eigen_benchmark --eval_mono

Without --eval_mono and --eval_stereo the weights decide: those trained with stereo pairs give metric depth. Ground
truth comes from --gt_path (export_gt_depth.py makes it), or, where that file is missing, from the data set.
--eval_split benchmark writes the images that KITTI's server takes, and scores nothing.
"""

from shared import InputError, run, set_up

set_up()

import argparse
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from shared.files import atomic_write, reading, write_json
from shared.running.launch import use_device
from shared.running.sampling import EpochBatchSampler

from convert import load_network, parse_options_for_weights
from datasets import build_dataset, build_loader
from datasets.ground_truth import ground_truth, read_gt_depths
from datasets.splits import ODOMETRY
from deploy import build_predictor
from engine import evaluate, predict_split
from metrics import ERRORS, MAX_DEPTH, STEREO_SCALE, ImageResult, Scaling, mean_errors
from models import Monodepth2
from options import WEIGHTS_HINT, build_parser, output_folder

BATCH = 16
BENCHMARK_SIZE = (1216, 352)  # width and height of the server's images


def choose_scaling(options: argparse.Namespace, model: Monodepth2 | None) -> tuple[str, Scaling]:
    """("median" | "stereo" | "none", how predictions are scaled) (NOTES 7.2).

    InputError for both --eval_mono and --eval_stereo, and for neither where there are no weights to decide.
    """
    if options.eval_mono and options.eval_stereo:
        raise InputError("--eval_mono and --eval_stereo exclude each other; give one")
    stereo = options.eval_stereo
    if not options.eval_mono and not options.eval_stereo:
        if model is None:
            raise InputError("--eval_mono or --eval_stereo is missing: disparities of a file have no known scale")
        stereo = bool(model.use_stereo)
        kind = "with stereo pairs" if stereo else "without stereo pairs"
        print(f"-> the weights were trained {kind}, hence --eval_{'stereo' if stereo else 'mono'}")
    if stereo:
        print(f"   Stereo evaluation - no median scaling, scaling by {STEREO_SCALE}")
        return "stereo", Scaling(STEREO_SCALE, median=False)
    if options.disable_median_scaling:
        print(f"   Mono evaluation - no median scaling, scaling by {options.pred_depth_scale_factor:g}")
        return "none", Scaling(options.pred_depth_scale_factor, median=False)
    print("   Mono evaluation - using median scaling")
    return "median", Scaling(options.pred_depth_scale_factor)


# -------------------------------------------------------------------------------------------------------- disparities


def read_disparities(path: str) -> np.ndarray:
    """Scaled disparities [N, h, w], float32 or float64, of a .npy file. InputError for anything else, NaN and Inf."""
    with reading(Path(path), "cannot be read as .npy; save it with numpy.save"):
        disparities = np.load(path, allow_pickle=False)
    if not isinstance(disparities, np.ndarray) or disparities.dtype not in (np.float32, np.float64):
        raise InputError(f"{path}: not an array of float32 or float64; save disparities with numpy.save")
    if disparities.ndim != 3 or not disparities.size:
        raise InputError(f"{path}: has shape {list(disparities.shape)}, wanted [images, height, width]")
    if not np.isfinite(disparities).all():
        raise InputError(f"{path}: holds NaN or Inf; disparities must be finite")
    return disparities


def to_benchmark(disparities: np.ndarray, options: argparse.Namespace) -> np.ndarray:
    """The rows of `disparities`, of the 697 Eigen images, for which the improved ground truth exists (NOTES 7.6).

    InputError where SPLIT_DIR/benchmark/eigen_to_benchmark_ids.npy is missing or names a row that does not exist.
    """
    path = Path(options.split_dir) / "benchmark" / "eigen_to_benchmark_ids.npy"
    with reading(path, "cannot be read; take it from the official splits"):
        ids = np.load(path, allow_pickle=False)
    if ids.ndim != 1 or ids.dtype.kind not in "iu" or not ids.size or ids.min() < 0 or ids.max() >= len(disparities):
        count = len(disparities)
        raise InputError(f"{path}: not a list of rows of {count} disparities; give those of the Eigen split's images")
    return disparities[ids]


def predicted_disparities(
    model: Monodepth2, options: argparse.Namespace, gt: Sequence[np.ndarray] | None
) -> np.ndarray:
    """Of all images of the split, by the network. InputError before it runs if `gt` has another number of maps."""
    dataset = build_dataset(options, "test", [("color", 0, 0)])
    if gt is not None:
        check_count(len(dataset), gt, options)
    loader = build_loader(dataset, EpochBatchSampler(len(dataset), BATCH, shuffle=False), options.num_workers)
    predictor = build_predictor(model, options)
    print(f"-> Predicting {len(dataset)} images at {options.width}x{options.height} ({options.engine})")
    return predict_split(predictor, loader, options)


def write_benchmark(disparities: np.ndarray, folder: Path) -> None:
    """Write KITTI's 16-bit depth images, 256 per metre, to `folder` (NOTES 7.6)."""
    for position, disparity in enumerate(disparities):
        with np.errstate(divide="ignore"):
            depth = STEREO_SCALE / cv2.resize(disparity, BENCHMARK_SIZE)
        _, content = cv2.imencode(".png", (depth.clip(0, MAX_DEPTH) * 256).astype(np.uint16))
        atomic_write(folder / f"{position:010d}.png", lambda file, content=content: file.write(content.tobytes()))


# ------------------------------------------------------------------------------------------------------- ground truth


def read_ground_truth(options: argparse.Namespace) -> list[np.ndarray]:
    """Depth maps float32 [h, w] in metres: of --gt_path, of the split's folder, or of the data set's scans."""
    path = Path(options.gt_path or Path(options.split_dir) / options.eval_split / "gt_depths.npz")
    if options.gt_path or path.is_file():
        return read_gt_depths(path)
    if not options.data_path:
        raise InputError(f"{path}: no such file; make it with export_gt_depth.py, or give --gt_path or --data_path")
    print(f"-> no {path}: computing ground truth from {options.data_path}")
    return ground_truth(options.data_path, options.eval_split, options.split_dir)


def check_count(images: int, gt: Sequence, options: argparse.Namespace) -> None:
    """InputError unless there is one depth map for each image."""
    if images != len(gt):
        where = options.gt_path or f"of split {options.eval_split}"
        raise InputError(f"ground truth {where}: {len(gt)} maps for {images} disparities; give those of one split")


# ------------------------------------------------------------------------------------------------------------- report


def report(results: Sequence[ImageResult], split: str, scaling: str) -> dict:
    """Print the reference's lines (NOTES 7.5) and return what metrics.json holds."""
    means = mean_errors(results)
    metrics = means | {"images": len(results), "split": split, "scaling": scaling}
    empty = [index for index, result in enumerate(results) if not result.pixels]
    if empty:
        more = f" and {len(empty) - 1} more" if len(empty) > 1 else ""
        print(f"note: image {empty[0]}{more} (counted from 0) has no ground truth inside the mask: means are NaN")
    if scaling == "median":
        ratios = np.array([result.ratio for result in results])
        middle = np.median(ratios)
        spread = np.std(ratios / middle)
        print(f" Scaling ratios | med: {middle:0.3f} | std: {spread:0.3f}")
        if not empty:
            metrics |= {"ratio_median": float(middle), "ratio_std": float(spread)}
    print("\n  " + ("{:>8} | " * len(ERRORS)).format(*ERRORS))
    print(("&{: 8.3f}  " * len(ERRORS)).format(*means.values()) + "\\\\")
    metrics["per_image"] = [result.errors | {"pixels": result.pixels} for result in results]
    return metrics


def check_options(options: argparse.Namespace) -> None:
    """InputError for options that contradict each other."""
    external = options.ext_disp_to_eval
    if not external and not options.weights:
        raise InputError(f"--weights is missing: {WEIGHTS_HINT}, or --ext_disp_to_eval")
    if options.eval_eigen_to_benchmark and not external:
        raise InputError("--eval_eigen_to_benchmark re-indexes external disparities; give --ext_disp_to_eval too")
    if options.output and (options.no_eval or options.eval_split == "benchmark"):
        raise InputError("--output: nothing is scored with --no_eval or --eval_split benchmark; omit one of them")
    if options.eval_split in ODOMETRY:
        raise InputError(f"--eval_split {options.eval_split}: trajectories, not depth; use evaluate_pose.py")


def main(argv: Sequence[str] | None = None) -> None:
    parser = build_parser(__doc__, ("run", "network", "reading", "evaluation"))
    engines = ["dygraph", "inference", "onnx"]
    parser.add_argument("--engine", default="dygraph", choices=engines, help="what computes")
    parser.add_argument("--output", default=None, metavar="JSON", help="also write the metrics to this file")
    options = parse_options_for_weights(argv, parser, needed=False, own_size=True)
    check_options(options)
    use_device(options.device)
    external, split = options.ext_disp_to_eval, options.eval_split
    model, gt = None if external else load_network(options), None
    if not options.no_eval and split != "benchmark":
        kind, scaling = choose_scaling(options, model)
        gt = read_ground_truth(options)
    if external:
        print(f"-> Loading predictions from {external}")
        disparities = read_disparities(external)
        if options.eval_eigen_to_benchmark:
            disparities = to_benchmark(disparities, options)
    else:
        disparities = predicted_disparities(model, options, gt)
    folder = output_folder(options, options.weights or external)
    if options.save_pred_disps:
        path = folder / f"disps_{split}_split.npy"
        atomic_write(path, lambda file: np.save(file, disparities))
        print(f"-> Saved predicted disparities to {path}")
    if options.no_eval:
        print("-> Evaluation disabled. Done.")
        return
    if split == "benchmark":
        folder /= "benchmark_predictions"
        write_benchmark(disparities, folder)
        print(f"-> Wrote {len(disparities)} images to {folder}; no ground truth to score with")
        return
    check_count(len(disparities), gt, options)
    metrics = report(evaluate(disparities, gt, split, scaling), split, kind)
    if options.output:
        write_json(options.output, metrics)


if __name__ == "__main__":
    run(main)
