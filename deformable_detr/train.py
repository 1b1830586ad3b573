"""Train Deformable DETR on COCO 2017.

    python train.py --data_path COCO --output_dir output/r50_deformable_detr
    python train.py --data_path COCO --num_feature_levels 1 --output_dir output/single_scale
    python train.py --data_path COCO --num_feature_levels 1 --dilation --output_dir output/single_scale_dc5
    python train.py --data_path COCO --with_box_refine --output_dir output/refinement
    python train.py --data_path COCO --with_box_refine --two_stage --output_dir output/two_stage
    python train.py ... --resume output/r50_deformable_detr/latest
    python -m paddle.distributed.launch --devices 0,1,2,3,4,5,6,7 train.py --device gpu ...

The published figures are of 32 pictures a step in all (16 processes of 2); the rate is not scaled with that number.
Exit status: 0 done, 2 bad input, 3 the training diverged, 130 or 143 interrupted (a checkpoint was saved).
"""

import argparse
import sys
from collections.abc import Sequence

import paddle
import paddle.distributed as dist

from shared import InputError, run
from shared.running.options import require_files

from options import build_parser, parse_options, remembered_options
from trainer import Diverged, Interrupted, Trainer


def options_of(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options, with those of the checkpoint in --resume as default. InputError for paths that are not there."""
    groups = ("run", "output", "network", "sizes", "reading", "augmentation", "optimisation", "losses", "training")
    parser = build_parser(__doc__, groups)
    options = parse_options(argv, parser)
    require_files(options, ("weights", "resume"), "check the path")
    if options.resume:
        options = parse_options(argv, parser, remembered_options(options.resume))
    if not options.data_path:
        raise InputError("--data_path is missing: give COCO's folder (python draw_mini.py draws a small one)")
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
