"""The frame of every benchmark.py: its common options, sides that take turns in processes of their own, the report.

What a side does and what is measured is each paper's own: `build_case([side, *task], options)` returns a function, one
call of which is measured.
"""

import argparse
import importlib
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from shared import HelpFormatter
from shared.deploying.measure import (
    compare_speed,
    environment,
    measure_processes,
    resident_bytes,
    run_child,
    serve,
    speed_table,
)
from shared.files import write_json
from shared.running.options import positive_float, positive_int

TORCH, DYGRAPH, INFERENCE, ONNX = "torch eager", "Paddle dygraph", "Paddle Inference", "ONNX Runtime"
REST = 0.4  # seconds before each call: Paddle's idle threads spin on for 0.2

BuildCase = Callable[[Sequence[str], argparse.Namespace], Callable[[], object]]


def build_parser(description: str, sections: Sequence[str], repeats: int = 10, seconds: float = 60):
    """A parser with what every benchmark.py takes; the paper adds sizes and batches."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=HelpFormatter, usage="%(prog)s [options]", allow_abbrev=False
    )
    add, cores = parser.add_argument, len(os.sched_getaffinity(0))
    add("--section", nargs="+", choices=sections, default=list(sections), help="what to measure")
    add("--repeats", type=positive_int, metavar="N", default=repeats, help="measured calls of each side")
    add("--seconds", type=positive_float, metavar="S", default=seconds, help="most seconds for one comparison")
    add("--threads", type=positive_int, metavar="N", default=cores, help="cores and threads of each side")
    add("--output", metavar="JSON", help="also write the figures to this file")
    add("--serve", nargs="+", help=argparse.SUPPRESS)
    add("--hold", nargs="+", help=argparse.SUPPRESS)
    return parser


class Bench:
    """Comparisons of a benchmark.py; the sides are children that run the same script with --serve or --hold."""

    def __init__(self, script: str, argv: Sequence[str], options: argparse.Namespace):
        self.command, self.options = [sys.executable, script, *argv], options

    def compare(
        self, sides: Sequence[str], task: Sequence, items: int | None = None, warmup: int = 2, memory: bool = False
    ) -> list[dict]:
        """Rows of `speed_table` for one task; the first side is the one compared with.

        `items` is what one call processes; with `memory`, `peak_bytes` is what each side held at most beyond its
        imported library.
        """
        commands = {side: [*self.command, "--serve", side, *map(str, task)] for side in sides}
        repeats, seconds = self.options.repeats, self.options.seconds
        times = measure_processes(commands, repeats=repeats, warmup=warmup, seconds=seconds, rest=REST)
        rows = compare_speed(times, sides[0], items)
        for row in rows if memory else ():
            row["peak_bytes"] = self.peak_bytes(row["name"], task)
        return rows

    def peak_bytes(self, side: str, task: Sequence) -> int:
        """The most bytes that a process of this side held beyond what `hold` says."""
        child = run_child([*self.command, "--hold", side, *map(str, task)])
        return child.peak_bytes - child.result


def show(title: str, rows: Sequence[Mapping], note: str = "") -> dict:
    """Print the table of a comparison under its title; {title: rows} for the report."""
    print(f"\n{title}\n{speed_table(rows, rows[0]['name'])}{note and chr(10) + note}", flush=True)
    return {title: rows}


def verdict(rows: Sequence[Mapping], name: str, wanted: float) -> str:
    """One line: how many times as fast as the first row's side `name` is, and whether that is enough."""
    speed = next(row["speed"] for row in rows if row["name"] == name)
    answer = "met" if speed >= wanted else "not met"
    return f"{name}: {speed:.2f} times {rows[0]['name']} (wanted {wanted}): {answer}"


def hold(case: Sequence[str], options: argparse.Namespace, build_case: BuildCase, inputs_count: bool) -> None:
    """Run a case three times; prints the bytes held before: with the case's inputs if they do not count."""
    importlib.import_module("torch" if case[0] == TORCH else "paddle")
    before = resident_bytes()
    call = build_case(case, options)
    if not inputs_count:
        before = resident_bytes()
    for _ in range(3):
        call()
    print(json.dumps(before))


def run_benchmark(
    script: str,
    argv: Sequence[str] | None,
    options: argparse.Namespace,
    build_case: BuildCase,
    sections: Mapping[str, Callable[[Bench], dict]],
    about: Mapping[str, object],
    inputs_count: Callable[[Sequence[str]], bool] = lambda case: True,
) -> None:
    """The end of every benchmark.py: serve as a side, or run the sections and write the report.

    `about` says which network is measured; `inputs_count(case)` whether the memory of a case's inputs counts.
    """
    if options.serve:
        return serve(build_case(options.serve, options))
    if options.hold:
        return hold(options.hold, options, build_case, inputs_count(options.hold))
    # inherited by the children; Paddle takes one thread where this variable is not set
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.threads])
    bench = Bench(script, list(sys.argv[1:] if argv is None else argv), options)
    report = {"environment": environment(), **about}
    print("  ".join(f"{name} {value}" for name, value in {**about, **report["environment"]}.items()), flush=True)
    for name, section in sections.items():
        if name in options.section:
            report |= section(bench)
    if options.output:
        write_json(Path(options.output), report)
    return None
