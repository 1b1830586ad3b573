"""From a command line to a run: the device, the processes, requests to stop, exit statuses."""

import argparse
import signal
import sys
from collections.abc import Callable
from typing import Any

import paddle
import paddle.distributed as dist

from shared import InputError
from shared.running.processes import largest


class Diverged(RuntimeError):
    """A loss, an output or a gradient of a training is NaN or Inf."""


class Interrupted(Exception):
    """A signal asked a training to stop, and a checkpoint was saved. `args[0]` is the signal's number."""


def use_device(device: str) -> None:
    """Compute on "cpu" or "gpu". InputError for a GPU that this Paddle cannot use."""
    if device == "gpu" and not paddle.is_compiled_with_cuda():
        raise InputError("--device gpu: this Paddle is the CPU build; run make setup PADDLE=gpu, or use --device cpu")
    if device == "gpu" and not paddle.device.cuda.device_count():
        raise InputError("--device gpu: no GPU is visible to this process; use --device cpu")
    paddle.set_device(device)


class StopRequest:
    """SIGINT and SIGTERM as a request to stop after a whole step, in all processes after the same one.

    A context manager: the signals' handlers are the process's own again when it ends.
    """

    def __init__(self) -> None:
        self._signal = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: object) -> None:
        self._signal = number

    def check(self, save: Callable[[], None]) -> None:
        """Call after each step: when any process was asked to stop, `save()`, then Interrupted in all of them."""
        number = largest(self._signal)
        if number:
            save()
            raise Interrupted(number)


def run_training(options: argparse.Namespace, make_trainer: Callable[[argparse.Namespace], Any]) -> int:
    """Train with `make_trainer(options)`, which has `train()`, `step` and `output_dir`; the exit status of train.py.

    0 done, 3 the training diverged, 130 or 143 interrupted with a checkpoint saved. InputError for bad input.
    """
    use_device(options.device)
    if dist.ParallelEnv().world_size > 1:
        dist.init_parallel_env()
    trainer = make_trainer(options)
    try:
        trainer.train()
    except Diverged as error:
        print(f"error: {error}", file=sys.stderr)
        return 3
    except Interrupted as stop:
        latest = trainer.output_dir / "latest"
        print(f"interrupted after step {trainer.step}; continue with --resume {latest}", file=sys.stderr)
        return 128 + stop.args[0]
    return 0


def mixed_precision(options: argparse.Namespace) -> Any:
    """The context of a forward pass: under --amp float16 on a GPU and bfloat16 on a CPU (Paddle 3.3 has none there)."""
    return paddle.amp.auto_cast(enable=options.amp, dtype="float16" if options.device == "gpu" else "bfloat16")


def build_scaler(options: argparse.Namespace) -> paddle.amp.GradScaler:
    """The loss scaler; it does nothing without --amp, nor on a CPU."""
    return paddle.amp.GradScaler(enable=options.amp and options.device == "gpu")


def in_float32(outputs: Any) -> Any:
    """Outputs of mixed precision as losses take them: dictionaries and lists of tensors, floats cast to float32."""
    if isinstance(outputs, dict):
        return {name: in_float32(value) for name, value in outputs.items()}
    if isinstance(outputs, list | tuple):
        return type(outputs)(in_float32(value) for value in outputs)
    return outputs.astype("float32") if outputs.is_floating_point() else outputs
