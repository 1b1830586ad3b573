"""Train STDC-Seg on Cityscapes (leftImg8bit/ and gtFine/).

    python train.py --data_path CITYSCAPES --backbone STDCNet813 --pretrain_path STDCNet813M_73.91.tar \\
        --use_boundary_8 true --max_iter 60000 --output_dir output/stdc1
    python train.py ... --resume output/stdc1/latest
    python -m paddle.distributed.launch --devices 0,1,2 train.py --device gpu ...

Exit status: 0 done, 2 bad input, 3 the training diverged, 130 or 143 interrupted (a checkpoint was saved).
"""

import sys
from collections.abc import Sequence

import paddle
import paddle.distributed as dist

from shared import InputError, run

from options import build_parser, parse_options_for_weights
from trainer import Diverged, Interrupted, Trainer


def main(argv: Sequence[str] | None = None) -> int:
    options = parse_options_for_weights(argv, build_parser(__doc__), required=False)
    if options.device == "gpu" and not paddle.is_compiled_with_cuda():
        raise InputError("--device gpu: this Paddle is the CPU build; install paddlepaddle-gpu or use --device cpu")
    if options.warmup_steps >= options.max_iter:
        raise InputError(
            f"--warmup_steps {options.warmup_steps} must be below --max_iter {options.max_iter}: the decay comes after"
        )
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
