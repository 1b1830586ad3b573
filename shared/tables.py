"""Tables of figures as text: one way to write a number, on the terminal, in Markdown and on the report's page."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

from tabulate import tabulate


def cell(value: Any) -> str:
    """A value as text: floats with four digits, or without decimals from 10,000 on; NaN and None as "-"."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    if not isinstance(value, float):
        return str(value)
    return f"{value:.0f}" if 1e4 <= abs(value) < 1e9 else f"{value:.4g}"


def text_table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Aligned columns: text to the left, numbers to the right; as the first row, so all."""
    rows = list(rows)
    sides = ["right" if isinstance(value, int | float) else "left" for value in rows[0]] if rows else None
    texts = [[cell(value) for value in row] for row in rows]
    return tabulate(texts, header, tablefmt="plain", disable_numparse=True, colalign=sides)
