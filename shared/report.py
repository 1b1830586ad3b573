"""One page that tells how every paper stands.

    python -m shared.report FOLDER ...             write report.html and report.md under build/
    python -m shared.report --table FOLDER ...     print one table: paper x stage x dtype, figure and verdict

Each folder is asked for what its own runs left in `result/` (align.py) and `output/demo`; where it was not run on this
machine, the logs that are committed with it stand in, and the page says so. Exit status of --table: 0 when every
stage of every folder passed, 1 when one differs or was not run.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shared import HelpFormatter, InputError, run
from shared.deploying.measure import environment, text_table
from shared.files import atomic_write_text, reading

PICTURES = (".png", ".jpg", ".jpeg")
HERE, COMMITTED = "run on this machine", "committed log"


@dataclass
class Paper:
    """What one folder has to show. `origin`: HERE or COMMITTED, of the alignment; "" where there is none."""

    name: str
    origin: str = ""
    stages: list[dict[str, Any]] = field(default_factory=list)
    environment: dict[str, Any] = field(default_factory=dict)
    tensors: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    curves: Path | None = None
    pictures: list[Path] = field(default_factory=list)
    benchmark: dict[str, Any] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        return bool(self.stages) and all(stage["passed"] for stage in self.stages)


def read_paper(folder: Path, committed: bool = True) -> Paper:
    """Collect what `folder` has; without `committed` only what was run here. InputError for a file that is damaged."""
    paper = Paper(folder.name)
    sources = [(HERE, folder / "result"), *([(COMMITTED, folder / "logs")] if committed else [])]
    for origin, source in sources:
        if (source / "align.json").is_file():
            report = _json(source / "align.json")
            with reading(source / "align.json", "not the report of an align.py; run it again"):
                paper.stages, paper.environment = list(report["stages"]), dict(report["environment"])
                for stage in paper.stages:
                    _ = stage["passed"], stage["stage"], stage["dtype"], stage["tensors"], stage["worst"]
            paper.origin = origin
            break
    if paper.origin == HERE:
        for name in dict.fromkeys(stage["stage"] for stage in paper.stages):
            path = folder / "result" / "log" / f"{name}_diff.json"
            if path.is_file():
                paper.tensors[name] = _json(path).get("tensors", [])
    curves = [source / "train_curves.png" for _, source in sources]
    paper.curves = next((path for path in curves if path.is_file()), None)
    drawn = sorted(path for path in (folder / "output" / "demo").glob("*") if path.suffix in PICTURES)
    paper.pictures = sorted((folder / "logs").glob("demo*.png")) or drawn[:2]
    if (folder / "logs" / "benchmark.json").is_file():
        paper.benchmark = _json(folder / "logs" / "benchmark.json")
    return paper


def _json(path: Path) -> dict:
    with reading(path, "cannot be read; run again what wrote it"):
        return dict(json.loads(path.read_text(encoding="utf-8")))


# ------------------------------------------------------------------------------------------------------ the tables

STAGE_HEADER = ("", "paper", "stage", "dtype", "tensors", "relative", "max", "nearest to its bound")


def stage_rows(papers: Sequence[Paper]) -> list[tuple]:
    """A row a paper, stage and dtype, under STAGE_HEADER; a paper without an alignment has one that says so."""
    rows = []
    for paper in papers:
        if not paper.stages:
            rows.append(
                ("none", paper.name, "-", "-", 0, float("nan"), float("nan"), f"make align-{paper.name} runs it")
            )
        for stage in paper.stages:
            worst = stage["worst"] or {}
            told = worst.get("name", "nothing to compare")
            if worst and not worst["passed"]:
                told += f": {worst['reason']}"
            figures = [_number(worst.get(key)) for key in ("relative", "max_abs")]
            verdict = "pass" if stage["passed"] else "FAIL"
            rows.append((verdict, paper.name, stage["stage"], stage["dtype"], stage["tensors"], *figures, told))
    return rows


def _number(value: Any) -> float:
    """A figure of a JSON report, where NaN is null and infinities are text."""
    return float("nan") if value is None else float(value)


def summary(papers: Sequence[Paper]) -> str:
    """One sentence on all stages of all papers."""
    stages = [stage for paper in papers for stage in paper.stages]
    failed = sum(not stage["passed"] for stage in stages)
    absent = [paper.name for paper in papers if not paper.stages]
    logs = [paper.name for paper in papers if paper.origin == COMMITTED]
    text = f"{failed} of {len(stages)} stages FAILED" if failed else f"all {len(stages)} stages passed"
    text += f"; from committed logs: {', '.join(logs)}" if logs else ""
    return text + (f"; not run: {', '.join(absent)}" if absent else "")


def benchmark_rows(paper: Paper) -> list[tuple]:
    """(what is measured, side, ms, times the first side's speed, peak MiB or NaN) of the paper's benchmark."""
    rows = []
    for section, sides in paper.benchmark.items():
        if not isinstance(sides, list):
            continue
        for side in sides:
            if not isinstance(side, dict) or "median_s" not in side:
                continue
            peak = side["peak_bytes"] / 2**20 if "peak_bytes" in side else float("nan")
            rows.append((section, side["name"], 1e3 * side["median_s"], side["speed"], peak))
    return rows


BENCHMARK_HEADER = ("measured", "side", "ms", "speed", "peak MiB")


def machine_line(values: dict[str, Any]) -> str:
    """Versions and machine in one line."""
    return "  ".join(f"{name} {value}" for name, value in values.items())


def markdown(papers: Sequence[Paper]) -> str:
    """The report as Markdown: the tables, without pictures and single tensors."""
    lines = ["# Alignment report", "", summary(papers), "", f"Written on: {machine_line(environment())}", ""]
    lines += [*_indented(text_table(STAGE_HEADER, stage_rows(papers))), ""]
    for paper in papers:
        lines += [f"## {paper.name}", ""]
        if paper.origin:
            lines += [f"Alignment: {paper.origin}; {machine_line(paper.environment)}", ""]
        rows = benchmark_rows(paper)
        if rows:
            of = machine_line(paper.benchmark.get("environment", {}))
            lines += [f"Benchmark: {COMMITTED}; {of}", "", *_indented(text_table(BENCHMARK_HEADER, rows)), ""]
    return "\n".join(lines)


def _indented(text: str) -> list[str]:
    return [f"    {line}" for line in text.splitlines()]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m shared.report", description=__doc__, formatter_class=HelpFormatter, allow_abbrev=False
    )
    parser.add_argument("folders", nargs="+", metavar="FOLDER", help="folders of papers")
    parser.add_argument("--table", action="store_true", help="print the table of what was run here; write nothing")
    parser.add_argument("--output_dir", default="build", metavar="DIR", help="where report.html and report.md go")
    options = parser.parse_args(argv)
    for folder in options.folders:
        if not Path(folder).is_dir():
            raise InputError(f"{folder}: no such folder; name the papers' folders")
    papers = [read_paper(Path(folder), committed=not options.table) for folder in options.folders]
    if options.table:
        print(f"{text_table(STAGE_HEADER, stage_rows(papers))}\n{summary(papers)}")
        return 0 if all(paper.passed for paper in papers) else 1
    from shared.align.report_page import page

    output = Path(options.output_dir)
    atomic_write_text(output / "report.md", markdown(papers))
    atomic_write_text(output / "report.html", page(papers))
    print(f"{summary(papers)}\nwrote {output / 'report.html'} and {output / 'report.md'}")
    return 0


if __name__ == "__main__":
    run(main)
