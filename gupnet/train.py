"""Train GUPNet on KITTI's object set.

    python train.py --data_path KITTI --pretrain_path dla34-ba72cf86.pth --output_dir OUT
    python train.py --data_path KITTI --pretrain_path dla34-ba72cf86.pth --writelist Car --output_dir OUT
    python train.py ... --resume OUT/latest
    python -m paddle.distributed.launch --devices 0,1,2 train.py --device gpu ...

Exit status: 0 done, 2 bad input, 3 the training diverged, 130 or 143 interrupted (a checkpoint was saved).
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
