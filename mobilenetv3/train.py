"""Train MobileNetV3 on a folder of images (train/ and val/, one folder per class).

    python train.py --data_path data/mini --num_classes 10 --output_dir output/mini
    python train.py ... --resume output/mini/latest
    python -m paddle.distributed.launch --nproc_per_node 2 train.py ...

Exit status: 0 done, 2 bad input, 3 the training diverged, 130 or 143 interrupted (a checkpoint was saved).
"""

from shared import InputError, run, set_up

set_up()

from collections.abc import Sequence

import paddle

from shared.running.launch import run_training

from options import build_parser, parse_options_for_weights
from trainer import Trainer


def main(argv: Sequence[str] | None = None) -> int:
    options = parse_options_for_weights(argv, build_parser(__doc__), needed=False)
    if options.test_only and not (options.weights or options.resume):
        raise InputError("--test_only needs --weights or --resume")
    if options.use_deterministic_algorithms:
        paddle.set_flags({"FLAGS_cudnn_deterministic": True})
    return run_training(options, Trainer)


if __name__ == "__main__":
    run(main)
