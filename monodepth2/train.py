"""Train Monodepth2 on KITTI (raw data with velodyne scans for the monitor, or odometry sequences).

    python train.py --data_path KITTI --model_name mono_640x192
    python train.py --data_path KITTI --frame_ids 0 --use_stereo --split eigen_full --model_name stereo_640x192
    python train.py --data_path KITTI --use_stereo --model_name mono+stereo_640x192
    python train.py --data_path KITTI --use_stereo --height 320 --width 1024 --batch_size 4 --num_epochs 2 \\
        --learning_rate 5e-5 --load_weights_folder output/mono+stereo_640x192/best
    python train.py ... --resume output/mono_640x192/latest
    python -m paddle.distributed.launch --devices 0,1 train.py --device gpu ...

The network's options come from --resume or --weights where given; the command line wins.
Exit status: 0 done, 2 bad input, 3 the training diverged, 130 or 143 interrupted (a checkpoint was saved).
"""

from shared import run, set_up

set_up()

import argparse
from collections.abc import Sequence
from pathlib import Path

from shared.running.launch import run_training

from convert import parse_options_for_weights
from options import build_parser
from trainer import Trainer

GROUPS = ("run", "output", "network", "reading", "augmentation", "optimisation", "losses", "training")


def options_of(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options of a training; InputError for weights that are not there or not understood."""
    options = parse_options_for_weights(argv, build_parser(__doc__, GROUPS), needed=False)
    options.output_dir = options.output_dir or str(Path(options.log_dir) / options.model_name)
    return options


def main(argv: Sequence[str] | None = None) -> int:
    return run_training(options_of(argv), Trainer)


if __name__ == "__main__":
    run(main)
