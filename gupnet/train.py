"""Train GUPNet on KITTI's object set.

    python train.py --data_path KITTI --pretrain_path dla34-ba72cf86.pth --output_dir OUT
    python train.py --data_path KITTI --pretrain_path dla34-ba72cf86.pth --writelist Car --output_dir OUT
    python train.py ... --resume OUT/latest
    python -m paddle.distributed.launch --devices 0,1,2 train.py --device gpu ...

Exit status: 0 done, 2 bad input, 3 the training diverged, 130 or 143 interrupted (a checkpoint was saved).
"""

import argparse
import sys
from collections.abc import Sequence

import paddle
import paddle.distributed as dist

from shared import InputError, run

from learner import Diverged
from options import build_parser, parse_options_for_weights
from trainer import Interrupted, Trainer


def options_of(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options, with those of the checkpoint in --resume as default. InputError for paths that are not there."""
    options = parse_options_for_weights(argv, build_parser(__doc__), required=False)
    if not options.data_path:
        raise InputError("--data_path is missing: give KITTI's folder (python gupnet/draw_mini.py draws a small one)")
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
