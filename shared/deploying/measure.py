"""Speed and memory, side by side: what is behind every benchmark.py.

The sides take turns, so that a machine that slows down slows all of them; medians are compared, not means. Peak memory
is taken from a process of its own for each side (`run_child`), since a process never gives back its peak.
"""

import importlib.metadata
import importlib.util
import json
import math
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from shared.tables import text_table


@dataclass(frozen=True)
class Timing:
    """The seconds of every measured call of one side, in the order in which they ran."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return float(np.median(self.seconds))

    @property
    def quartiles(self) -> tuple[float, float]:
        lower, upper = np.percentile(self.seconds, [25, 75])
        return float(lower), float(upper)


def measure(
    cases: Mapping[str, Callable[[], Any]],
    repeats: int = 20,
    warmup: int = 3,
    seconds: float = math.inf,
    rest: float = 0.0,
) -> dict[str, Timing]:
    """Time every case, in turn (A B A B ...), `repeats` times each after `warmup` rounds that do not count.

    No round is begun once `seconds` have passed since the first measured one began; at least one is run. A case must
    end only when its work is done: on a GPU it synchronises the device itself. Before each measured call comes a pause
    of `rest` seconds, in which threads of the case before that still spin on the cores go to sleep; it does not count.
    """
    if repeats < 1 or not cases:
        raise ValueError("measure needs a case and at least one repeat")
    for _ in range(warmup):
        for case in cases.values():
            case()
    times: dict[str, list[float]] = {name: [] for name in cases}
    start = time.perf_counter()
    for turn in range(repeats):
        if turn and time.perf_counter() - start >= seconds:
            break
        for name, case in cases.items():
            time.sleep(rest)
            begin = time.perf_counter()
            case()
            times[name].append(time.perf_counter() - begin)
    return {name: Timing(tuple(taken)) for name, taken in times.items()}


def compare_speed(timings: Mapping[str, Timing], baseline: str, items: int | None = None) -> list[dict[str, Any]]:
    """One row a side, ready for JSON and for `speed_table`.

    `speed` is the baseline's median over the side's: 2.0 is twice as fast. `items`: what one call processes (images),
    which adds `items_per_second`.
    """
    rows = []
    for name, timing in timings.items():
        lower, upper = timing.quartiles
        row = {"name": name, "median_s": timing.median, "lower_quartile_s": lower, "upper_quartile_s": upper}
        row["repeats"] = len(timing.seconds)
        row["speed"] = timings[baseline].median / timing.median
        if items is not None:
            row["items_per_second"] = items / timing.median
        rows.append(row)
    return rows


def speed_table(rows: Sequence[Mapping[str, Any]], baseline: str) -> str:
    """The terminal table of `compare_speed`'s rows, in milliseconds; with `peak MiB` where they have `peak_bytes`."""
    columns = [
        ("ms", lambda row: row["median_s"] * 1e3),
        ("quartiles", lambda row: f"{row['lower_quartile_s'] * 1e3:.4g} .. {row['upper_quartile_s'] * 1e3:.4g}"),
        (f"speed / {baseline}", lambda row: row["speed"]),
    ]
    if any("items_per_second" in row for row in rows):
        columns.append(("items/s", lambda row: row["items_per_second"]))
    if any("peak_bytes" in row for row in rows):
        columns.append(("peak MiB", lambda row: round(row["peak_bytes"] / 2**20)))
    header = ["", *(title for title, _ in columns)]
    return text_table(header, [[row["name"], *(cell(row) for _, cell in columns)] for row in rows])


class _Side:
    """A child process that runs its case once for every line it is sent."""

    def __init__(self, command: Sequence[str]):
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self._expect("ready")

    def _expect(self, word: str) -> None:
        for line in self.process.stdout:
            if line.strip() == word:
                return
        raise RuntimeError(f"{' '.join(self.process.args)}: ended with {self.process.wait()}")

    def __call__(self) -> None:
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        self._expect("done")

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def measure_processes(commands: Mapping[str, Sequence[str | Path]], **settings) -> dict[str, Timing]:
    """`measure`, each side in a process of its own, so that no two OpenMP runtimes share one.

    commands: {side: command that ends in `serve`}; settings: those of `measure`. Raises RuntimeError when a process
    ends before it was asked to.
    """
    sides: dict[str, _Side] = {}
    try:
        for name, command in commands.items():
            sides[name] = _Side([str(word) for word in command])
        return measure(sides, **settings)
    finally:
        for side in sides.values():
            side.close()


def serve(case: Callable[[], Any]) -> None:
    """The end of `measure_processes` in the child: one call of `case` for every line on stdin."""
    print("ready", flush=True)
    for _ in sys.stdin:
        case()
        print("done", flush=True)


def resident_bytes() -> int:
    """The memory that this process holds now; Linux only."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Child:
    """What `run_child` found: the JSON value that the child printed last, and the most memory it held at once."""

    result: Any
    peak_bytes: int


# Linux counts the memory of the process that starts a program into that program's peak, and a benchmark has already
# imported Paddle. So a bare interpreter of a few MiB stands between: it starts the program and waits for it.
_LAUNCHER = """
import os, sys
report, command = int(sys.argv[1]), sys.argv[2:]
os.set_inheritable(report, False)
status, usage = os.wait4(os.posix_spawnp(command[0], command, os.environ), 0)[1:]
os.write(report, str(usage.ru_maxrss).encode())
sys.exit(abs(os.waitstatus_to_exitcode(status)))
"""


def run_child(command: Sequence[str | Path]) -> Child:
    """Run a program whose last line on stdout is JSON; Linux only. stderr passes through.

    The peak is the resident memory of that program and of what it waited for, the larger of them. Raises RuntimeError
    when the program cannot be started, fails, or ends with a line that is not JSON.
    """
    command = [str(word) for word in command]
    reader, writer = os.pipe()
    launcher = [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(writer), *command]
    with os.fdopen(reader) as report:
        try:
            finished = subprocess.run(launcher, stdout=subprocess.PIPE, text=True, pass_fds=[writer])
        finally:
            os.close(writer)
        peak = report.read()
    if finished.returncode:
        raise RuntimeError(f"{' '.join(command)}: exit status {finished.returncode}")
    try:
        return Child(json.loads(finished.stdout.splitlines()[-1]), int(peak) * 1024)
    except (IndexError, json.JSONDecodeError) as error:
        raise RuntimeError(f"{' '.join(command)}: its last line is not JSON") from error


def has_onnx() -> bool:
    """Whether paddle2onnx and ONNX Runtime are installed."""
    return all(map(importlib.util.find_spec, ("paddle2onnx", "onnxruntime")))


def environment() -> dict[str, Any]:
    """What a reader of a figure must know: versions, processor, cores, threads. No host name, no paths."""
    versions = {"python": platform.python_version()}
    for package in ("numpy", "paddlepaddle", "paddlepaddle-gpu", "torch"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    cpuinfo = Path("/proc/cpuinfo")
    models = (
        [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")] if cpuinfo.exists() else []
    )
    return versions | {
        "os": f"{platform.system()} {platform.release()}",
        "cpu": models[0].partition(":")[2].strip() if models else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": os.environ.get("OMP_NUM_THREADS", "default"),
    }
