"""Trajectory error of given weights on KITTI odometry, over snippets of five frames (NOTES 7.8).

    python evaluate_pose.py --weights W --data_path KITTI_ODOMETRY --eval_split odom_9 --output metrics.json

The data set is sequences/SEQ/image_2 with poses/SEQ.txt. Motions [frames - 1, 4, 4] are written to poses.npy beside the
weights, or in --eval_out_dir. The images' size is --height and --width where given, else that of the weights.
"""

from shared import InputError, run, set_up

set_up()

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from shared.files import atomic_write, reading, write_json
from shared.running.launch import use_device
from shared.running.sampling import EpochBatchSampler

from convert import load_network, parse_options_for_weights
from datasets import build_dataset, build_loader
from datasets.splits import ODOMETRY, read_split
from engine import predict_motions
from metrics import trajectory_errors
from options import build_parser, output_folder


def read_poses(options: argparse.Namespace) -> np.ndarray:
    """Ground truth float64 [frames, 12] of an odometry split's sequence: rows of 3x4, camera to world.

    InputError for another split, and where DATA_PATH/poses/SEQ.txt is missing or is not rows of 12 numbers.
    """
    if options.eval_split not in ODOMETRY:
        raise InputError(f"--eval_split {options.eval_split}: not a trajectory; give one of {', '.join(ODOMETRY)}")
    if not options.data_path:
        raise InputError("--data_path is missing: give the folder of KITTI odometry, with sequences/ and poses/")
    sequence = read_split(options.split_dir, options.eval_split, "test")[0].folder
    path = Path(options.data_path) / "poses" / f"{sequence:>02}.txt"
    with reading(path, "cannot be read as rows of 12 numbers; put KITTI odometry's ground-truth poses there"):
        rows = [row.split() for row in path.read_text(encoding="utf-8").splitlines()]
        poses = np.array([row for row in rows if row], np.float64)
    if poses.shape[1:] != (12,) or len(poses) < 2 or not np.isfinite(poses).all():
        raise InputError(
            f"{path}: numbers {list(poses.shape)}, wanted at least two rows of 12 finite ones; fetch it again"
        )
    return poses


def predicted_motions(options: argparse.Namespace, frames: int) -> np.ndarray:
    """Motions float32 [frames - 1, 4, 4] by the network; InputError unless the split has one image for each pose."""
    model = load_network(options)
    if not hasattr(model, "pose"):
        raise InputError(f"--weights {options.weights}: trained on stereo pairs alone, without a pose network")
    if options.pose_model_input != "pairs":
        raise InputError(f"--weights {options.weights}: its pose network takes all frames at once; give one of pairs")
    dataset = build_dataset(options, "test", [("color", 0, 0), ("color", 1, 0)])
    if len(dataset) != frames - 1:
        counts = f"lists {len(dataset)} pairs of images for {frames} poses"
        raise InputError(f"--eval_split {options.eval_split}: {counts}; wanted {frames - 1} pairs")
    sampler = EpochBatchSampler(len(dataset), options.batch_size, shuffle=False)
    loader = build_loader(dataset, sampler, options.num_workers)
    print(f"-> Computing pose predictions of {len(dataset)} pairs at {options.width}x{options.height}")
    return predict_motions(model, loader)


def main(argv: Sequence[str] | None = None) -> None:
    parser = build_parser(__doc__, ("run", "network", "reading", "optimisation", "evaluation"))
    parser.add_argument("--output", default=None, metavar="JSON", help="also write the metrics to this file")
    options = parse_options_for_weights(argv, parser)
    use_device(options.device)
    gt = read_poses(options)
    motions = predicted_motions(options, len(gt))
    errors = trajectory_errors(gt, motions)
    mean, spread = float(np.mean(errors)), float(np.std(errors))
    print(f"\n   Trajectory error: {mean:0.3f}, std: {spread:0.3f}\n")
    path = output_folder(options, options.weights) / "poses.npy"
    atomic_write(path, lambda file: np.save(file, motions))
    print(f"-> Predictions saved to {path}")
    if options.output:
        metrics = {"ate_mean": mean, "ate_std": spread, "snippets": len(errors), "split": options.eval_split}
        write_json(options.output, metrics)


if __name__ == "__main__":
    run(main)
