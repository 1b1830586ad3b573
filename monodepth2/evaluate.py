"""Depth errors of given weights on KITTI: the seven of the paper's tables.

    python evaluate.py --weights W --data_path KITTI --eval_mono
    python evaluate.py --weights W --data_path KITTI --post_process --engine inference --output metrics.json
    python evaluate.py --ext_disp_to_eval mono_640x192_eigen.npy --eval_mono
    python evaluate.py --ext_disp_to_eval D.npy --eval_eigen_to_benchmark --eval_split eigen_benchmark --eval_mono

Without --eval_mono and --eval_stereo the weights decide: those trained with stereo pairs know the scale. Ground truth
comes from --gt_path (export_gt_depth.py makes it), or, where that file is missing, from the data set. --eval_split
benchmark scores nothing, but writes the pictures that KITTI's server takes.
"""

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import paddle

from shared import InputError, run
from shared.files import reading
from shared.weights import atomic_write, atomic_write_text

from datasets import EpochBatchSampler, build_dataset, build_loader, ground_truth, read_gt_depths
from datasets.splits import ODOMETRY
from inference import NO_WEIGHTS, build_predictor, load_network, output_folder, parse_for_weights, predict_disparities
from metrics import ERRORS, MAX_DEPTH, STEREO_SCALE, ImageResult, Scaling, evaluate_image, mean_errors
from models import Monodepth2
from options import build_parser

BATCH = 16
BENCHMARK_SIZE = (1216, 352)  # width and height of the server's pictures


def choose_scaling(options: argparse.Namespace, model: Monodepth2 | None) -> tuple[str, Scaling]:
    """("median" | "stereo" | "none", how predictions get their unit) (NOTES 7.2).

    InputError for both of --eval_mono and --eval_stereo, or neither where no network's weights can decide.
    """
    if options.eval_mono and options.eval_stereo:
        raise InputError("--eval_mono and --eval_stereo exclude each other; give one of them")
    stereo = options.eval_stereo
    if not options.eval_mono and not options.eval_stereo:
        if model is None:
            raise InputError("--eval_mono or --eval_stereo is missing: disparities of a file do not say their scale")
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
    """Scaled disparities [N, h, w], floating, of a .npy file. InputError for anything else, and for NaN."""
    with reading(Path(path), "cannot be read as .npy; save it with numpy.save"):
        disparities = np.load(path, allow_pickle=False)
    if not isinstance(disparities, np.ndarray) or disparities.dtype not in (np.float32, np.float64):
        raise InputError(f"{path}: not an array of float32 or float64; save disparities with numpy.save")
    if disparities.ndim != 3 or not disparities.size:
        raise InputError(f"{path}: has shape {list(disparities.shape)}, wanted [pictures, height, width]")
    if not np.isfinite(disparities).all():
        raise InputError(f"{path}: holds values that are not finite; disparities must be")
    return disparities


def to_benchmark(disparities: np.ndarray, options: argparse.Namespace) -> np.ndarray:
    """Those of the 697 Eigen pictures that the improved ground truth has: rows of `disparities`.

    InputError where SPLIT_DIR/benchmark/eigen_to_benchmark_ids.npy is missing or names a row that is not there.
    """
    path = Path(options.split_dir) / "benchmark" / "eigen_to_benchmark_ids.npy"
    with reading(path, "cannot be read; take it from the official splits"):
        ids = np.load(path, allow_pickle=False)
    if ids.ndim != 1 or ids.dtype.kind not in "iu" or not ids.size or ids.min() < 0 or ids.max() >= len(disparities):
        count = len(disparities)
        raise InputError(f"{path}: not a list of rows of {count} disparities; give those of the Eigen split's pictures")
    return disparities[ids]


def predicted_disparities(
    model: Monodepth2, options: argparse.Namespace, gt: Sequence[np.ndarray] | None
) -> np.ndarray:
    """Of all pictures of the split, by the network. InputError before it runs if `gt` has another number of maps."""
    dataset = build_dataset(options, "test", [("color", 0, 0)])
    if gt is not None:
        check_count(len(dataset), gt, options)
    loader = build_loader(dataset, EpochBatchSampler(len(dataset), BATCH, shuffle=False), options.num_workers)
    predict = build_predictor(model, options, options.engine)
    print(f"-> Predicting {len(dataset)} pictures at {options.width}x{options.height} ({options.engine})")
    batches = (batch["color", 0, 0].numpy() for batch in loader)
    return predict_disparities(predict, batches, options, len(loader))


def write_benchmark(disparities: np.ndarray, folder: Path) -> None:
    """KITTI's 16-bit pictures of depth, 256 a metre, in `folder` (NOTES 7.6).

    Scaled by the stereo factor whatever the training, as in the reference.
    """
    for position, disparity in enumerate(disparities):
        with np.errstate(divide="ignore"):
            depth = STEREO_SCALE / cv2.resize(disparity, BENCHMARK_SIZE)
        picture = (depth.clip(0, MAX_DEPTH) * 256).astype(np.uint16)
        _, content = cv2.imencode(".png", picture)
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


def check_count(pictures: int, gt: Sequence, options: argparse.Namespace) -> None:
    """InputError unless there is one depth map for each picture."""
    if pictures != len(gt):
        where = options.gt_path or f"of split {options.eval_split}"
        raise InputError(f"ground truth {where}: {len(gt)} maps for {pictures} disparities; give those of one split")


# ------------------------------------------------------------------------------------------------------------- report


def report(results: Sequence[ImageResult], split: str, scaling: str) -> dict:
    """Print the reference's lines (NOTES 7.5) and return what metrics.json holds."""
    means = mean_errors(results)
    metrics = {name: None if math.isnan(value) else value for name, value in means.items()}
    metrics |= {"images": len(results), "split": split, "scaling": scaling}
    empty = [number for number, result in enumerate(results) if not result.pixels]
    if empty:
        more = f" and {len(empty) - 1} more" if len(empty) > 1 else ""
        print(
            f"note: picture {empty[0]}{more} (counted from 0) has no pixel of ground truth that counts: means are NaN"
        )
    if scaling == "median":
        ratios = np.array([result.ratio for result in results])
        middle = np.median(ratios)
        spread = np.std(ratios / middle)
        print(f" Scaling ratios | med: {middle:0.3f} | std: {spread:0.3f}")
        if not empty:
            metrics |= {"ratio_median": float(middle), "ratio_std": float(spread)}
    print("\n  " + ("{:>8} | " * len(ERRORS)).format(*ERRORS))
    print(("&{: 8.3f}  " * len(ERRORS)).format(*means.values()) + "\\\\")
    rows = [{name: None if math.isnan(x) else x for name, x in result.errors.items()} for result in results]
    metrics["per_image"] = [row | {"pixels": result.pixels} for row, result in zip(rows, results, strict=True)]
    return metrics


def main(argv: Sequence[str] | None = None) -> None:
    parser = build_parser(__doc__, ("run", "network", "reading", "evaluation"))
    parser.add_argument("--engine", default="dygraph", choices=["dygraph", "inference"], help="what computes")
    parser.add_argument("--output", default=None, metavar="JSON", help="also write the metrics to this file")
    options = parse_for_weights(argv, parser)
    external = options.ext_disp_to_eval
    if not external and not options.weights:
        raise InputError(NO_WEIGHTS + ", or --ext_disp_to_eval")
    if options.eval_eigen_to_benchmark and not external:
        raise InputError("--eval_eigen_to_benchmark re-indexes external disparities; give --ext_disp_to_eval too")
    scores = not options.no_eval and options.eval_split != "benchmark"
    if options.output and not scores:
        raise InputError("--output: nothing is scored with --no_eval or --eval_split benchmark; leave one out")
    if options.eval_split in ODOMETRY:
        raise InputError(f"--eval_split {options.eval_split}: trajectories, not depth; use evaluate_pose.py")

    paddle.set_device(options.device)
    model = None if external else load_network(options)
    gt = None
    if scores:
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
        path = folder / f"disps_{options.eval_split}_split.npy"
        atomic_write(path, lambda file: np.save(file, disparities))
        print(f"-> Saved predicted disparities to {path}")
    if options.no_eval:
        print("-> Evaluation disabled. Done.")
        return
    if options.eval_split == "benchmark":
        write_benchmark(disparities, folder / "benchmark_predictions")
        print(
            f"-> Wrote {len(disparities)} pictures to {folder / 'benchmark_predictions'}; no ground truth to score with"
        )
        return
    check_count(len(disparities), gt, options)
    split = options.eval_split
    results = [evaluate_image(*pair, split, scaling) for pair in zip(gt, disparities, strict=True)]
    metrics = report(results, split, kind)
    if options.output:
        atomic_write_text(options.output, json.dumps(metrics, indent=1) + "\n")


if __name__ == "__main__":
    run(main)
