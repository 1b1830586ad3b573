"""Train MobileNetV3 on a folder of pictures (train/ and val/, one folder a class).

    python train.py --data_path data/mini --num_classes 10 --output_dir output/mini
    python train.py ... --resume output/mini/latest
    python -m paddle.distributed.launch --nproc_per_node 2 train.py ...

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
    options, _ = parse_options_for_weights(argv, build_parser(__doc__), required=False)
    if options.device == "gpu" and not paddle.is_compiled_with_cuda():
        raise InputError("--device gpu: this Paddle is the CPU build; install paddlepaddle-gpu or use --device cpu")
    if options.use_deterministic_algorithms:
        paddle.set_flags({"FLAGS_cudnn_deterministic": True})
    paddle.set_device(options.device)
    if paddle.distributed.ParallelEnv().world_size > 1:
        dist.init_parallel_env()
    trainer = Trainer(options)
    if options.test_only:
        if not (options.weights or options.resume):
            raise InputError("--test_only needs --weights or --resume")
        trainer.evaluate()
        return 0
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
