"""Train Monodepth2 on KITTI (raw data with velodyne scans for the monitor, or odometry sequences).

    python train.py --data_path KITTI --model_name mono_640x192
    python train.py --data_path KITTI --frame_ids 0 --use_stereo --split eigen_full --model_name stereo_640x192
    python train.py --data_path KITTI --use_stereo --model_name mono+stereo_640x192
    python train.py --data_path KITTI --use_stereo --height 320 --width 1024 --batch_size 4 --num_epochs 2 \\
        --learning_rate 5e-5 --load_weights_folder output/mono+stereo_640x192/best
    python train.py ... --resume output/mono_640x192/latest
    python -m paddle.distributed.launch --devices 0,1 train.py --device gpu ...

Exit status: 0 done, 2 bad input, 3 the training diverged, 130 or 143 interrupted (a checkpoint was saved).
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import paddle
import paddle.distributed as dist

from shared import InputError, run
from shared.running.options import require_files

from options import build_parser, parse_options, remembered_options
from trainer import Diverged, Interrupted, Trainer


def options_of(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options, with those of the checkpoint in --resume as default. InputError for paths that are not there."""
    parser = build_parser(
        __doc__, ("run", "output", "network", "reading", "augmentation", "optimisation", "losses", "training")
    )
    options = parse_options(argv, parser)
    require_files(options, ("weights", "resume"), "check the path")
    if options.resume:
        options = parse_options(argv, parser, remembered_options(options.resume))
    if not options.data_path:
        raise InputError("--data_path is missing: give KITTI's folder (python draw_mini.py draws a small one)")
    options.output_dir = options.output_dir or str(Path(options.log_dir) / options.model_name)
    return options


def main(argv: Sequence[str] | None = None) -> int:
    options = options_of(argv)
    if options.device == "gpu" and not paddle.is_compiled_with_cuda():
        raise InputError("--device gpu: this Paddle is the CPU build; install paddlepaddle-gpu or use --device cpu")
    paddle.set_device(options.device)
    if paddle.distributed.ParallelEnv().world_size > 1:
        dist.init_parallel_env()
    trainer = Trainer(options)
    try:
        trainer.train()
    except Diverged as error:
        print(f"error: {error}", file=sys.stderr)
        return 3
    except Interrupted as stop:
        print(
            f"interrupted after step {trainer.step}; go on with --resume {trainer.output_dir / 'latest'}",
            file=sys.stderr,
        )
        return 128 + stop.args[0]
    return 0


if __name__ == "__main__":
    run(main)
