"""Train STDC-Seg on Cityscapes (leftImg8bit/ and gtFine/).

    python train.py --data_path CITYSCAPES --backbone STDCNet813 --pretrain_path STDCNet813M_73.91.tar \\
        --use_boundary_8 true --max_iter 60000 --output_dir output/stdc1
    python train.py ... --resume output/stdc1/latest
    python -m paddle.distributed.launch --devices 0,1,2 train.py --device gpu ...

Exit status: 0 done, 2 bad input, 3 the training diverged, 130 or 143 interrupted (a checkpoint was saved).
"""

from shared import InputError, run, set_up

set_up()

from collections.abc import Sequence

from shared.running.launch import run_training

from options import build_parser, parse_options_for_weights
from trainer import Trainer


def main(argv: Sequence[str] | None = None) -> int:
    options = parse_options_for_weights(argv, build_parser(__doc__), needed=False)
    if options.warmup_steps >= options.max_iter:
        raise InputError(
            f"--warmup_steps {options.warmup_steps} must be below --max_iter {options.max_iter}: the decay comes after"
        )
    return run_training(options, Trainer)


if __name__ == "__main__":
    run(main)
