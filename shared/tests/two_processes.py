"""For tests: two processes on the CPU, started by Paddle's launcher, against one.

A folder's tests/two_processes.py is what the launcher starts. It gives `main` a comparison of its own training step,
and trains by its own train.py.
"""

import argparse
import contextlib
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from unittest import mock

import numpy as np
import paddle
import paddle.distributed as dist


def launch(script: Path, folder: Path, *argv) -> str:
    """Run `script argv...` in two processes whose working folder is `folder`; what they printed.

    AssertionError with all of it where one of them failed.
    """
    start = ["-m", "paddle.distributed.launch", "--nproc_per_node", 2, "--log_dir", folder / "log", script]
    command = [sys.executable, *map(str, [*start, *argv])]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=folder)
    logs = [file.read_text() for file in sorted((folder / "log").glob("workerlog.*"))]
    assert finished.returncode == 0, "\n".join([finished.stdout, finished.stderr, *logs])
    return finished.stdout


def network_in_float64(build_model: Callable, options: argparse.Namespace) -> paddle.nn.Layer:
    """A network in train mode, the same in every process."""
    paddle.seed(0)
    network = build_model(options)
    network.to(dtype="float64")
    network.train()
    return network


def gradients_of(network: paddle.nn.Layer) -> dict[str, np.ndarray]:
    """Gradients of the parameters, and statistics of the batch norms."""
    found = {name: p.grad.numpy() for name, p in network.named_parameters() if p.grad is not None}
    return found | _statistics_of(network)


def _statistics_of(network: paddle.nn.Layer) -> dict[str, np.ndarray]:
    return {n: t.numpy() for n, t in network.state_dict().items() if n.endswith(("_mean", "_variance"))}


def first_moments(network: paddle.nn.Layer, optimizer: paddle.optimizer.Adam) -> dict[str, np.ndarray]:
    """What a step leaves: Adam's first moments, which are the gradients but for a factor; statistics of the norms."""
    names = {parameter.name: name for name, parameter in network.named_parameters()}
    moments = {names[name]: tensor.numpy() for name, tensor in optimizer._accumulators["moment1"].items()}
    return moments | _statistics_of(network)


def alone() -> contextlib.AbstractContextManager:
    """A context in which this process computes as if there were no other."""
    return mock.patch.object(dist, "get_world_size", lambda: 1)


def equal(
    title: str, together: Mapping[str, np.ndarray], alone: Mapping[str, np.ndarray], limit: float, least: float
) -> bool:
    """Whether what two processes found is what one finds, tensor by tensor; the largest difference is printed.

    A difference is relative to the tensor's norm, or to `least` where that is larger.
    """
    assert alone.keys() == together.keys(), sorted(alone.keys() ^ together.keys())
    assert sum(bool(np.any(value)) for value in alone.values()) > len(alone) // 2, "most of it is zeros"
    differences = {
        name: np.linalg.norm(together[name] - value) / max(np.linalg.norm(value), least)
        for name, value in alone.items()
    }
    worst = max(differences, key=lambda name: np.nan_to_num(differences[name], nan=np.inf))
    right = bool(differences[worst] <= limit)
    print(
        f"processes against one, {title}: {len(alone)} tensors {'equal' if right else 'DIFFERENT'}, "
        f"largest relative difference {differences[worst]:.2e} of {worst} (limit {limit:.0e})"
    )
    return right


def main(
    compare: Callable[[str], bool], cases: Sequence[str], train: Callable[[list[str]], int], argv: Sequence[str]
) -> int:
    """The comparison in each case; then trainings of `train`, one in one go and one that is stopped and resumed.

    `argv`: the folder of their outputs, `whole` and `stopped`; the steps of the stopped one and of both; options of
    train.py. Returns the exit status.
    """
    dist.init_parallel_env()
    verdicts = [compare(case) for case in cases]  # every process takes part in all of them
    if not all(verdicts):
        return 1
    folder, first, last, *words = argv
    resume = ["--resume", f"{folder}/stopped/latest"]
    for name, *further in (("whole", last), ("stopped", first), ("stopped", last, *resume)):
        status = train([*words, "--output_dir", f"{folder}/{name}", "--max_steps", *further])
        if status:
            return status
    return 0
