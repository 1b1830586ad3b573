"""Train Deformable DETR on COCO 2017.

    python train.py --data_path COCO --output_dir output/r50_deformable_detr
    python train.py --data_path COCO --num_feature_levels 1 --output_dir output/single_scale
    python train.py --data_path COCO --num_feature_levels 1 --dilation --output_dir output/single_scale_dc5
    python train.py --data_path COCO --with_box_refine --output_dir output/refinement
    python train.py --data_path COCO --with_box_refine --two_stage --output_dir output/two_stage
    python train.py ... --resume output/r50_deformable_detr/latest
    python -m paddle.distributed.launch --devices 0,1,2,3,4,5,6,7 train.py --device gpu ...

The published figures are of 32 images a step in all (16 processes of 2); the learning rate is not scaled with that
number. Exit status: 0 done, 2 bad input, 3 the training diverged, 130 or 143 interrupted (a checkpoint was saved).
"""

from shared import run, set_up

set_up()

from collections.abc import Sequence

from shared.running.launch import run_training

from options import build_parser, parse_options_for_weights
from trainer import Trainer


def main(argv: Sequence[str] | None = None) -> int:
    return run_training(parse_options_for_weights(argv, build_parser(__doc__), needed=False), Trainer)


if __name__ == "__main__":
    run(main)
