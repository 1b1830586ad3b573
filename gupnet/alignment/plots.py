"""Both sides' training curves in one picture."""

from collections.abc import Mapping
from pathlib import Path

from shared.record import Record
from shared.weights import atomic_write

_FIGURES = (
    ("loss", "all seven losses, unweighted", "sum"),
    ("pictured", "losses that count from the start", "sum"),
    ("recall", "objects of val under a peak", "share"),
    ("depth_error", "error of depth on val", "metres"),
)


def plot_training(paddle: Mapping, torch: Mapping, output_dir: Path) -> None:
    """Write output_dir/train_curves.png: losses by epoch (0: before training) and figures on val, a row a dtype."""
    from matplotlib.figure import Figure

    dtypes = [dtype for dtype in ("float32", "float64") if f"{dtype}/curve/loss" in paddle]
    figure = Figure(figsize=(16, 3.4 * len(dtypes)), layout="constrained")
    for row, dtype in zip(figure.subplots(len(dtypes), len(_FIGURES), squeeze=False), dtypes, strict=True):
        sides = [
            ("torch", torch, f"{dtype}/", {"color": "#e07b39", "linewidth": 4, "alpha": 0.45}),
            ("Paddle", paddle, f"{dtype}/", {"color": "#1f4e9c", "linewidth": 1.2}),
        ]
        if dtype == "float64":
            control = Record.load(output_dir / "train_control.npz")
            style = {"color": "#555555", "linewidth": 0.8, "linestyle": "--"}
            sides.append(("torch from a start 1e-8 away", control, "", style))
        for axes, (name, title, unit) in zip(row, _FIGURES, strict=True):
            for side, record, prefix, style in sides:
                axes.plot(record[f"{prefix}curve/{name}"], label=side, **style)
            axes.set(title=f"{dtype}: {title}", xlabel="epoch", ylabel=unit)
            axes.grid(alpha=0.25)
            axes.legend(frameon=False)
    atomic_write(output_dir / "train_curves.png", lambda file: figure.savefig(file, format="png", dpi=110))
