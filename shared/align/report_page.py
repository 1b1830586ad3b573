"""The report as one HTML file that needs nothing beside it: styles, pictures and every tensor's figures are inside."""

import base64
import html
import io
import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from shared.deploying.measure import environment
from shared.files import reading
from shared.report import (
    BENCHMARK_HEADER,
    COMMITTED,
    STAGE_HEADER,
    Paper,
    benchmark_rows,
    machine_line,
    stage_rows,
    summary,
)

WIDEST = 1100  # pixels of a picture on the page

_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.6rem; } h2 { margin-top: 2.5rem; border-bottom: 1px solid #8888; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .85rem; white-space: nowrap; }
th, td { padding: .2rem .6rem; text-align: left; border-bottom: 1px solid #8883; }
td.n { text-align: right; font-variant-numeric: tabular-nums; }
.pass { color: #1a7f37; } .FAIL { color: #cf222e; font-weight: bold; } .none { color: #888; }
img { max-width: 100%; height: auto; }
summary { cursor: pointer; padding: .3rem 0; }
.note { color: #777; font-size: .85rem; overflow-wrap: anywhere; }
nav a { margin-right: 1rem; }
"""

# A stage's figures become a table when it is opened: thousands of rows would slow the page for nothing.
_SCRIPT = """
document.querySelectorAll('details[data-figures]').forEach(function (details) {
  details.addEventListener('toggle', function () {
    var place = details.querySelector('.wide');
    if (!details.open || place.firstChild) return;
    var table = document.createElement('table');
    var rows = [['', 'tensor', 'shape', 'mean', 'max', 'relative', 'bound']].concat(
      JSON.parse(document.getElementById(details.dataset.figures).textContent));
    rows.forEach(function (row, number) {
      var line = table.insertRow();
      row.forEach(function (value, column) {
        var cell = document.createElement(number ? 'td' : 'th');
        cell.textContent = value;
        if (number && column == 0) cell.className = value;
        if (number && column > 2 && column < 6) cell.className = 'n';
        line.appendChild(cell);
      });
    });
    place.appendChild(table);
  });
});
"""


def page(papers: Sequence[Paper]) -> str:
    """The whole page. InputError where a picture cannot be read."""
    links = " ".join(f'<a href="#{_text(paper.name)}">{_text(paper.name)}</a>' for paper in papers)
    body = [
        "<h1>PyTorch papers in PaddlePaddle: the alignment report</h1>",
        f"<p><strong>{_text(summary(papers))}</strong></p><nav>{links}</nav>",
        f'<p class="note">Written on: {_text(machine_line(environment()))}</p>',
        _table(STAGE_HEADER, stage_rows(papers)),
        *(_section(paper) for paper in papers),
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Alignment report</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(body)
        + f"\n<script>{_SCRIPT}</script>\n</body>\n</html>\n"
    )


def _section(paper: Paper) -> str:
    parts = [f'<h2 id="{_text(paper.name)}">{_text(paper.name)}</h2>']
    if paper.origin:
        parts.append(f'<p class="note">Alignment: {paper.origin}; {_text(machine_line(paper.environment))}</p>')
    else:
        parts.append(f"<p>Not aligned yet: <code>make align-{_text(paper.name)}</code></p>")
    for stage, tensors in paper.tensors.items():
        key = f"{paper.name}-{stage}"
        figures = json.dumps([_figures(tensor) for tensor in tensors], separators=(",", ":")).replace("</", "<\\/")
        parts.append(
            f'<details data-figures="{_text(key)}"><summary>{_text(stage)}: all {len(tensors)} tensors</summary>'
            f'<div class="wide"></div></details><script type="application/json" id="{_text(key)}">{figures}</script>'
        )
    if paper.curves:
        parts.append(f"<h3>Both sides' training</h3>{_picture(paper.curves, f'training curves of {paper.name}')}")
    if paper.pictures:
        parts.append("<h3>Demo</h3>")
        parts += [_picture(path, f"{paper.name}: {path.stem}") for path in paper.pictures]
    rows = benchmark_rows(paper)
    if rows:
        machine = machine_line(paper.benchmark.get("environment", {}))
        parts.append(f'<h3>Speed and memory</h3><p class="note">{COMMITTED}; {_text(machine)}</p>')
        parts.append(_table(BENCHMARK_HEADER, rows))
    return "\n".join(parts)


def _figures(tensor: dict[str, Any]) -> list[str]:
    shape = "x".join(str(side) for side in tensor["shape"] or ())
    numbers = [_cell(tensor[key]) for key in ("mean_abs", "max_abs", "relative")]
    bound = tensor["tolerance"] if isinstance(tensor["tolerance"], str) else _bound(tensor["tolerance"])
    return ["pass" if tensor["passed"] else "FAIL", tensor["name"], shape, *numbers, tensor["reason"] or bound]


def _bound(tolerance: dict[str, Any] | None) -> str:
    stated = [
        f"{name} <= {tolerance[name]:g}" for name in ("relative", "absolute") if (tolerance or {}).get(name) is not None
    ]
    return " or ".join(stated)


def _table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = ["<tr>" + "".join(f"<th>{_text(title)}</th>" for title in header) + "</tr>"]
    for row in rows:
        cells = []
        for value in row:
            kind = ' class="n"' if isinstance(value, int | float) else ""
            if value in ("pass", "FAIL", "none"):
                kind = f' class="{value}"'
            cells.append(f"<td{kind}>{_text(_cell(value))}</td>")
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return f'<div class="wide"><table>{"".join(lines)}</table></div>'


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _picture(path: Path, title: str) -> str:
    """The picture in the page, at most WIDEST pixels wide."""
    with reading(path, "cannot be read as a picture; make it again"), Image.open(path) as opened:
        image = opened.convert("RGB")
        image.thumbnail((WIDEST, 4 * WIDEST))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<p><img alt="{_text(title)}" src="data:image/jpeg;base64,{data}"></p>'


def _text(value: Any) -> str:
    return html.escape(str(value))
