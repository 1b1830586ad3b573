"""The runner behind every align.py: options, one process a side, diff, logs, table, exit status.

A paper's folder says what it compares, by convention:

- `alignment.STAGES`, a sequence of `Stage`: names, tolerances, in order;
- `alignment.add_options(parser)`: what shapes the network or names the data in that paper;
- `alignment.torch_side` and `alignment.paddle_side`: modules with one function a stage, `stage(context) -> Record`
  (a mapping of arrays will do); `torch_side.prepare(context)` runs before both and makes what they read.

Each side runs in a process of its own and leaves a record; only the records are compared. So official code with
clashing module names can be the torch side too.

However an alignment ends, no process of it is left. Each side leads a process group, which is killed when the runner
ends, fails, or is told to stop (SIGINT, SIGTERM); and Linux kills the side itself when the runner has died (SIGKILL).
"""

import argparse
import contextlib
import ctypes
import importlib
import itertools
import math
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from shared import HelpFormatter, InputError
from shared.align.record import Record
from shared.deploying.measure import environment
from shared.diff import Diff, Tolerances, compare
from shared.files import write_error, write_json
from shared.tables import text_table

DTYPES = ("float32", "float64")
SIDES = ("paddle", "torch")
ANY_DTYPE = "any"
RUNNER = "ALIGNMENT_RUNNER"  # the variable that tells a side the process that started it


@dataclass(frozen=True)
class Stage:
    """One question of the alignment.

    `tolerance(dtype)` gives the bounds of that stage's names. A stage with `per_dtype` False (its answer has nothing to
    do with floating point) runs once. `plot(paddle, torch, output_dir)` may draw the two records, once all is judged.
    """

    name: str
    tolerance: Callable[[str], Tolerances]
    per_dtype: bool = True
    plot: Callable[[Mapping, Mapping, Path], None] | None = None

    def dtypes(self, asked: Sequence[str]) -> Sequence[str]:
        return asked if self.per_dtype else (ANY_DTYPE,)


@dataclass(frozen=True)
class Context:
    """What a stage's function is told: the dtype to compute in, where to read and write, and all options."""

    dtype: str
    output_dir: Path
    options: argparse.Namespace


def build_parser(folder: Path, stages: Sequence[Stage], description: str) -> argparse.ArgumentParser:
    """The options that every align.py has."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=HelpFormatter, allow_abbrev=False, usage="%(prog)s [options]"
    )
    names = [stage.name for stage in stages]
    listed = f"which stages to run, of {', '.join(names)}; all if not given"
    both = f"in {' or '.join(DTYPES)}; both if not given"
    parser.add_argument("--stage", nargs="+", choices=names, default=names, metavar="NAME", help=listed)
    parser.add_argument("--dtype", nargs="+", choices=DTYPES, default=list(DTYPES), metavar="DTYPE", help=both)
    parser.add_argument("--reference", metavar="DIR", help="a checkout of the official repository as the torch side")
    parser.add_argument("--weights", metavar="W", help="official checkpoint to align on, instead of drawn weights")
    parser.add_argument("--output_dir", metavar="O", default=str(folder / "result"), help="records, logs, align.json")
    parser.add_argument("--side", choices=("prepare", *SIDES), help=argparse.SUPPRESS)
    return parser


def main(folder: Path, description: str, argv: Sequence[str] | None = None) -> int:
    """Run the stages of the paper in `folder`, whose `alignment` package must be importable.

    Returns 0 when all passed, 1 when a stage differs or a side crashed; InputError for bad input.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    alignment = importlib.import_module("alignment")
    parser = build_parser(folder, alignment.STAGES, description)
    alignment.add_options(parser)
    options = parser.parse_args(argv)
    options.dtype = list(dict.fromkeys(options.dtype))
    stages = [stage for stage in alignment.STAGES if stage.name in options.stage]
    if options.side:
        return _run_side(options.side, stages, options)
    if options.reference:
        _check_reference(folder, options.reference)
    output_dir = Path(options.output_dir)
    report_file = output_dir / "align.json"
    try:
        (output_dir / "log").mkdir(parents=True, exist_ok=True)
        report_file.unlink(missing_ok=True)  # if a side crashes, no verdict of an earlier run is left to be believed
    except OSError as error:
        raise write_error(output_dir, error) from error
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, len(os.sched_getaffinity(0)) // len(SIDES)))
    seconds = _run_processes(folder, stages, options, argv, threads)
    if seconds is None:
        return 1
    verdicts = _judge(stages, options.dtype, output_dir, seconds)
    passed = all(stage["passed"] for stage in verdicts)
    machine = environment() | {"threads": threads}
    write_json(report_file, {"paper": folder.name, "passed": passed, "stages": verdicts, "environment": machine})
    print(table(verdicts), flush=True)
    for stage in stages:  # last, for records that differ may lack what a plot shows
        if stage.plot:
            stage.plot(*_load(stage, output_dir), output_dir)
    return 0 if passed else 1


def _check_reference(folder: Path, checkout: str) -> None:
    if not (folder / "reference" / "official.py").is_file():
        raise InputError(f"--reference: {folder.name} has no adapter for an official checkout; its torch twin serves")
    if not Path(checkout).is_dir():
        raise InputError(f"--reference {checkout}: no such folder; give a checkout of the official repository")


def verdict(stage: str, dtype: str, diff: Diff, seconds: Mapping[str, float]) -> dict[str, Any]:
    """What align.json says of a stage in a dtype; `seconds` by side, NaN where unknown."""
    worst = diff.worst
    return {
        "stage": stage,
        "dtype": dtype,
        "passed": diff.passed,
        "tensors": len(diff.tensors),
        "failures": [tensor.name for tensor in diff.failures],
        "worst": worst.as_dict() | {"tolerance": str(worst.tolerance)} if worst else None,
        "seconds": dict(seconds),
    }


#: the columns of `stage_row`
STAGE_COLUMNS = ("", "stage", "dtype", "tensors", "relative", "max", "nearest to its bound")


def stage_row(stage: Mapping[str, Any]) -> tuple:
    """A stage and dtype of align.json under STAGE_COLUMNS: its figures are those that come nearest to their bound."""
    worst = stage["worst"] or {}
    nearest = worst.get("name", "nothing to compare")
    if worst and not worst["passed"]:
        nearest += f": {worst['reason']}"
    # in JSON, NaN is null and an infinity is text
    figures = [float("nan" if worst.get(key) is None else worst[key]) for key in ("relative", "max_abs")]
    return "pass" if stage["passed"] else "FAIL", stage["stage"], stage["dtype"], stage["tensors"], *figures, nearest


def table(stages: Sequence[Mapping[str, Any]]) -> str:
    """One line for the `verdict` on each stage and dtype, with the seconds of both sides; the last line sums up."""
    rows = []
    for stage in stages:
        *figures, nearest = stage_row(stage)
        rows.append((*figures, *(stage["seconds"][side] for side in SIDES), nearest))
    header = (*STAGE_COLUMNS[:-1], *(f"{side} s" for side in SIDES), STAGE_COLUMNS[-1])
    failed = sum(not stage["passed"] for stage in stages)
    summary = f"{failed} of {len(rows)} FAILED" if failed else f"all {len(rows)} passed"
    return f"{text_table(header, rows)}\n{summary}"


# ---------------------------------------------------------------------------------------------- inside a side's process


def _run_side(side: str, stages: Sequence[Stage], options: argparse.Namespace) -> int:
    """Compute this side's records; a line on stdout after each stage tells the parent."""
    _end_with(int(os.environ[RUNNER]))
    # Only those lines go to the parent. What the side prints, in Python or below, goes to its log, beside stderr.
    with os.fdopen(os.dup(1), "w") as parent:
        sys.stdout.flush()
        os.dup2(2, 1)
        module = importlib.import_module("alignment.torch_side" if side == "prepare" else f"alignment.{side}_side")
        output_dir = Path(options.output_dir)
        if side == "prepare":
            module.prepare(Context(DTYPES[0], output_dir, options))
            return 0
        for stage in stages:
            whole = Record()
            for dtype in stage.dtypes(options.dtype):
                began = time.perf_counter()
                context = Context(DTYPES[0] if dtype == ANY_DTYPE else dtype, output_dir, options)
                for name, value in Record(getattr(module, stage.name)(context)).items():
                    whole.add(f"{dtype}/{name}", value)
                print(f"done {stage.name} {dtype} {time.perf_counter() - began:.3f}", file=parent, flush=True)
            whole.save(output_dir / f"{stage.name}_{side}.npz")
    return 0


def _end_with(runner: int) -> None:
    """Have this process killed when the runner, its parent, has died, also when that was before this call."""
    PR_SET_PDEATHSIG = 1
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != runner:
        os.kill(os.getpid(), signal.SIGKILL)


# ---------------------------------------------------------------------------------------------------- in the parent


def _run_processes(
    folder: Path, stages: Sequence[Stage], options: argparse.Namespace, argv: Sequence[str], threads: str
) -> dict | None:
    """Run prepare, then both sides at once. Returns {(side, stage, dtype): seconds}; None when a side crashed."""
    log = Path(options.output_dir) / "log"
    env = {**os.environ, "OMP_NUM_THREADS": threads, "PYTHONUNBUFFERED": "1", RUNNER: str(os.getpid())}
    runs = [(stage.name, dtype) for stage in stages for dtype in stage.dtypes(options.dtype)]
    seconds = {(side, *run): math.nan for side in SIDES for run in runs}
    with tqdm(total=len(seconds), desc=f"align {folder.name}", unit="stage", disable=None, leave=False) as bar:
        for group in (("prepare",), SIDES):
            with _processes() as children:
                for side in group:
                    children[side] = _start(folder, side, argv, env, log)
                readers = [
                    threading.Thread(target=_listen, args=(side, child, seconds, bar), daemon=True)
                    for side, child in children.items()
                ]
                for reader in readers:
                    reader.start()
                failed = _wait(children)
            for reader in readers:
                reader.join(timeout=10)  # not for ever: a process that left its group may hold the pipe open
            if failed:
                return _report_failure(failed, children[failed].returncode, log / f"{failed}.err")
    return seconds


@contextlib.contextmanager
def _processes() -> Iterator[dict[str, subprocess.Popen]]:
    """Processes by name, none of which is left after the block, nor any that they started, SIGTERM included."""
    children: dict[str, subprocess.Popen] = {}
    before = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        yield children
    finally:
        for child in children.values():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
        for child in children.values():
            child.wait()
        signal.signal(signal.SIGTERM, before)


def _start(folder: Path, side: str, argv: Sequence[str], env: Mapping, log: Path) -> subprocess.Popen:
    command = [sys.executable, str(folder / "align.py"), *argv, "--side", side]
    with (log / f"{side}.err").open("w") as errors:
        streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": errors}
        return subprocess.Popen(command, env=env, text=True, errors="replace", process_group=0, **streams)


def _listen(side: str, child: subprocess.Popen, seconds: dict, bar: tqdm) -> None:
    """Take the side's `done` lines, to the last one; what an import may have printed is passed over."""
    awaited = {run for run in seconds if run[0] == side}
    for line in child.stdout:
        match = re.fullmatch(r"done (\w+) (\w+) (\d+\.\d+)\n", line)
        run = (side, match[1], match[2]) if match else None
        if run in awaited:
            awaited.remove(run)
            seconds[run] = float(match[3])
            bar.set_postfix_str(f"{side}: {match[1]} {match[2]}")
            bar.update()
            if not awaited:
                return


def _wait(children: Mapping[str, subprocess.Popen]) -> str | None:
    """Wait for all; as soon as one fails, return its name."""
    while True:
        codes = {side: child.poll() for side, child in children.items()}
        failed = next((side for side, code in codes.items() if code), None)
        if failed or None not in codes.values():
            return failed
        time.sleep(0.05)


def _report_failure(side: str, status: int, errors: Path) -> None:
    """InputError where the side ended with one; else print the end of what it said, and how it ended."""
    text = errors.read_text(errors="replace").rstrip()
    told = f"\n{text}".split("\nerror: ")[1:]
    if status == 2 and told:
        # The last one, with its indented lines if it is a report; libraries may have talked after it.
        line, *rest = told[-1].split("\n")
        raise InputError("\n".join([line, *itertools.takewhile(lambda line: line.startswith(" "), rest)]))
    ended = f"ended with status {status}" if status > 0 else f"died of signal {-status} ({signal.strsignal(-status)})"
    hint = ", perhaps because memory ran out" if status == -signal.SIGKILL else ""
    end = f"{text[-4000:]}\n" if text else ""
    print(f"{end}error: the {side} side {ended}{hint}; all it said is in {errors}", file=sys.stderr)


def _load(stage: Stage, output_dir: Path) -> list[Record]:
    return [Record.load(output_dir / f"{stage.name}_{side}.npz") for side in SIDES]


def _judge(stages: Sequence[Stage], dtypes: Sequence[str], output_dir: Path, seconds: Mapping) -> list[dict[str, Any]]:
    """Compare the records of each stage and write its logs."""
    verdicts = []
    for stage in stages:
        records, tensors = _load(stage, output_dir), []
        for dtype in stage.dtypes(dtypes):
            paddle, torch = (_part(record, f"{dtype}/") for record in records)
            diff = compare(paddle, torch, stage.tolerance(DTYPES[0] if dtype == ANY_DTYPE else dtype))
            tensors += [replace(tensor, name=f"{dtype}/{tensor.name}") for tensor in diff.tensors]
            spent = {side: seconds[side, stage.name, dtype] for side in SIDES}
            verdicts.append(verdict(stage.name, dtype, diff, spent))
        whole = Diff(tensors)
        whole.write_log(output_dir / "log" / f"{stage.name}_diff.log")
        write_json(output_dir / "log" / f"{stage.name}_diff.json", whole.as_dict())
    return verdicts


def _part(record: Mapping, prefix: str) -> Record:
    """The arrays under `prefix`, which is taken off their names."""
    return Record({name.removeprefix(prefix): array for name, array in record.items() if name.startswith(prefix)})
