"""One page that tells how every paper stands.

    python -m shared.report FOLDER ...             write report.html and report.md under build/
    python -m shared.report --table FOLDER ...     print one table: paper x stage x dtype, figure and verdict

Each folder is asked for what its own runs left in `result/` (align.py) and `output/demo`; where it was not run on this
machine, the logs that are committed with it stand in, and the page says so. Exit status of --table: 0 when every
stage of every folder passed, 1 when one differs or was not run.
"""

import argparse
import base64
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from shared import HelpFormatter, InputError, run
from shared.deploying.measure import environment
from shared.files import atomic_write_text, reading
from shared.stages import STAGE_COLUMNS, stage_row
from shared.tables import cell, text_table

PICTURES = (".png", ".jpg", ".jpeg")
HERE, COMMITTED = "run on this machine", "committed log"
WIDEST = 1100  # pixels of a picture on the page

STAGE_HEADER = ("", "paper", *STAGE_COLUMNS[1:])
TENSOR_HEADER = ("", "tensor", "shape", "mean", "max", "relative", "bound")
SPEED_HEADER = ("measured", "side", "ms", "speed", "peak MiB")


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

    @property
    def speeds(self) -> list[tuple]:
        """The benchmark's rows under SPEED_HEADER; the speed is how many times that of the first side."""
        rows = []
        for section, sides in self.benchmark.items():
            for side in sides if isinstance(sides, list) else ():
                if isinstance(side, dict) and "median_s" in side:
                    peak = side["peak_bytes"] / 2**20 if "peak_bytes" in side else float("nan")
                    rows.append((section, side["name"], 1e3 * side["median_s"], side["speed"], peak))
        return rows


def read_paper(folder: Path, committed: bool = True) -> Paper:
    """Collect what `folder` has; without `committed` only what was run here. InputError for a file that is damaged."""
    paper = Paper(folder.name)
    sources = {HERE: folder / "result"} | ({COMMITTED: folder / "logs"} if committed else {})
    paper.origin = next((origin for origin, source in sources.items() if (source / "align.json").is_file()), "")
    if paper.origin:
        file = sources[paper.origin] / "align.json"
        report = _read(file)
        with reading(file, "not the report of an align.py; run it again"):
            paper.stages, paper.environment = list(report["stages"]), dict(report["environment"])
            for stage in paper.stages:
                stage_row(stage)
    if paper.origin == HERE:
        for name in dict.fromkeys(stage["stage"] for stage in paper.stages):
            file = folder / "result" / "log" / f"{name}_diff.json"
            if file.is_file():
                paper.tensors[name] = _read(file).get("tensors", [])
    curves = [source / "train_curves.png" for source in sources.values()]
    paper.curves = next((path for path in curves if path.is_file()), None)
    drawn = sorted(path for path in (folder / "output" / "demo").glob("*") if path.suffix in PICTURES)
    paper.pictures = sorted((folder / "logs").glob("demo*.png")) or drawn[:2]
    if (folder / "logs" / "benchmark.json").is_file():
        paper.benchmark = _read(folder / "logs" / "benchmark.json")
    return paper


def _read(file: Path) -> dict:
    with reading(file, "cannot be read; run again what wrote it"):
        return dict(json.loads(file.read_text(encoding="utf-8")))


def stage_rows(papers: Sequence[Paper]) -> list[tuple]:
    """A row a paper, stage and dtype, under STAGE_HEADER; a paper without an alignment has one that says so."""
    rows = []
    for paper in papers:
        for verdict, *figures in map(stage_row, paper.stages):
            rows.append((verdict, paper.name, *figures))
        if not paper.stages:
            nothing = float("nan")
            rows.append(("none", paper.name, "-", "-", 0, nothing, nothing, f"make align-{paper.name} runs it"))
    return rows


def tensor_rows(tensors: Sequence[dict[str, Any]]) -> list[list[str]]:
    """A row a tensor of a stage's figures, under TENSOR_HEADER, as text."""
    rows = []
    for tensor in tensors:
        shape = "x".join(str(side) for side in tensor["shape"] or ())
        figures = [cell(tensor[key]) for key in ("mean_abs", "max_abs", "relative")]
        bounds = [
            f"{name} <= {tensor['tolerance'][name]:g}"
            for name in ("relative", "absolute")
            if tensor["tolerance"][name] is not None
        ]
        verdict = "pass" if tensor["passed"] else "FAIL"
        rows.append([verdict, tensor["name"], shape, *figures, tensor["reason"] or " or ".join(bounds)])
    return rows


def summary(papers: Sequence[Paper]) -> str:
    """One sentence on all stages of all papers."""
    stages = [stage for paper in papers for stage in paper.stages]
    failed = sum(not stage["passed"] for stage in stages)
    absent = [paper.name for paper in papers if not paper.stages]
    logs = [paper.name for paper in papers if paper.origin == COMMITTED]
    text = f"{failed} of {len(stages)} stages FAILED" if failed else f"all {len(stages)} stages passed"
    text += f"; from committed logs: {', '.join(logs)}" if logs else ""
    return text + (f"; not run: {', '.join(absent)}" if absent else "")


def machine_line(values: dict[str, Any]) -> str:
    """Versions and machine in one line."""
    return "  ".join(f"{name} {value}" for name, value in values.items())


def markdown(papers: Sequence[Paper]) -> str:
    """The report as Markdown: the tables, without pictures and single tensors."""
    parts = ["# Alignment report", summary(papers), f"Written on: {machine_line(environment())}"]
    parts.append(_code(text_table(STAGE_HEADER, stage_rows(papers))))
    for paper in papers:
        parts.append(f"## {paper.name}")
        if paper.origin:
            parts.append(f"Alignment: {paper.origin}; {machine_line(paper.environment)}")
        if paper.speeds:
            parts.append(f"Benchmark: {COMMITTED}; {machine_line(paper.benchmark.get('environment', {}))}")
            parts.append(_code(text_table(SPEED_HEADER, paper.speeds)))
    return "\n\n".join(parts) + "\n"


def _code(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())


def page(papers: Sequence[Paper]) -> str:
    """The report as one HTML file. InputError where a picture cannot be read."""
    templates = FileSystemLoader(Path(__file__).parent / "align")
    jinja = Environment(
        loader=templates, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    functions = {"cell": cell, "jpeg": _jpeg, "machine_line": machine_line, "tensor_rows": tensor_rows}
    headers = {"stage_header": STAGE_HEADER, "tensor_header": TENSOR_HEADER, "speed_header": SPEED_HEADER}
    return jinja.get_template("report.html.jinja").render(
        papers=papers,
        summary=summary(papers),
        environment=environment(),
        stage_rows=stage_rows(papers),
        committed=COMMITTED,
        **headers,
        **functions,
    )


def _jpeg(path: Path) -> str:
    """A picture, at most WIDEST pixels wide, as the base64 text of a JPEG."""
    with reading(path, "cannot be read as a picture; make it again"), Image.open(path) as opened:
        image = opened.convert("RGB")
        image.thumbnail((WIDEST, 4 * WIDEST))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return base64.b64encode(buffer.getvalue()).decode()


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
    output = Path(options.output_dir)
    atomic_write_text(output / "report.md", markdown(papers))
    atomic_write_text(output / "report.html", page(papers))
    print(f"{summary(papers)}\nwrote {output / 'report.html'} and {output / 'report.md'}")
    return 0


if __name__ == "__main__":
    run(main)
