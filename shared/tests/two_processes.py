"""For tests: two processes on the CPU, started by Paddle's launcher, against one.

A folder's tests/two_processes.py is what the launcher starts. It gives `main` a comparison of its own training step,
and trains by its own train.py.
"""

import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
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


def equal(
    title: str, together: Mapping[str, np.ndarray], alone: Mapping[str, np.ndarray], limit: float, least: float
) -> bool:
    """Whether what two processes found is what one finds, tensor by tensor; the largest difference is printed.

    A difference is relative to the tensor's norm, or to `least` where that is larger.
    """
    assert alone.keys() == together.keys(), sorted(alone.keys() ^ together.keys())
    differences = {
        name: np.linalg.norm(together[name] - value) / max(np.linalg.norm(value), least)
        for name, value in alone.items()
    }
    worst = max(differences, key=differences.get)
    verdict = "equal" if differences[worst] <= limit else "DIFFERENT"
    print(
        f"{dist.get_world_size()} processes against one, {title}: {len(alone)} tensors {verdict}, "
        f"largest relative difference {differences[worst]:.2e} of {worst} (limit {limit:.0e})"
    )
    return differences[worst] <= limit


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
