"""Both sides' training curves in one picture: the plot of every align.py's train stage."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from shared.align.record import Record
from shared.files import atomic_write


@dataclass(frozen=True)
class Panel:
    """What one column shows: the records' `DTYPE/curve/NAME`, over `DTYPE/curve/STEPS` or counted from `first`."""

    name: str
    title: str
    xlabel: str
    ylabel: str
    steps: str | None = None
    first: int = 0
    level: tuple[float, str] | None = None  # a dotted line: height and label


def plot_curves(
    paddle: Mapping, torch: Mapping, output_dir: Path, panels: Sequence[Panel], apart: str = "1e-8"
) -> None:
    """Write output_dir/train_curves.png, a row a dtype.

    The row of float64 also shows output_dir/train_control.npz (`curve/NAME`): torch from a start `apart` away.
    """
    from matplotlib.figure import Figure

    dtypes = [dtype for dtype in ("float32", "float64") if f"{dtype}/curve/{panels[0].name}" in paddle]
    figure = Figure(figsize=(max(10, 4 * len(panels)), 3.6 * len(dtypes)), layout="constrained")
    for row, dtype in zip(figure.subplots(len(dtypes), len(panels), squeeze=False), dtypes, strict=True):
        sides = [
            ("torch", torch, f"{dtype}/curve/", {"color": "#e07b39", "linewidth": 4, "alpha": 0.45}),
            ("Paddle", paddle, f"{dtype}/curve/", {"color": "#1f4e9c", "linewidth": 1.2}),
        ]
        if dtype == "float64":
            control = Record.load(output_dir / "train_control.npz")
            style = {"color": "#555555", "linewidth": 0.8, "linestyle": "--"}
            sides.append((f"torch from a start {apart} away", control, "curve/", style))
        for axes, panel in zip(row, panels, strict=True):
            for side, record, prefix, style in sides:
                values = record[prefix + panel.name]
                places = record[prefix + panel.steps] if panel.steps else range(panel.first, panel.first + len(values))
                axes.plot(places, values, label=side, **style)
            if panel.level:
                height, label = panel.level
                axes.axhline(height, color="grey", linewidth=0.8, linestyle=":", label=label)
            axes.set(title=f"{dtype}: {panel.title}", xlabel=panel.xlabel, ylabel=panel.ylabel)
            axes.grid(alpha=0.25)
            axes.legend(frameon=False)
    atomic_write(output_dir / "train_curves.png", lambda file: figure.savefig(file, format="png", dpi=110))
