"""Both sides' training curves in one picture."""

from collections.abc import Mapping
from pathlib import Path

from shared.record import Record
from shared.weights import atomic_write

from .feeds import TRAIN_CLASSES


def plot_training(paddle: Mapping, torch: Mapping, output_dir: Path) -> None:
    """Write output_dir/train_curves.png: loss by step and top-1 by epoch, a row a dtype."""
    from matplotlib.figure import Figure

    dtypes = [dtype for dtype in ("float32", "float64") if f"{dtype}/curve/loss" in paddle]
    figure = Figure(figsize=(10, 3.6 * len(dtypes)), layout="constrained")
    for (loss_axes, accuracy_axes), dtype in zip(figure.subplots(len(dtypes), 2, squeeze=False), dtypes, strict=True):
        sides = [
            ("torch", torch, f"{dtype}/", {"color": "#e07b39", "linewidth": 4, "alpha": 0.45}),
            ("Paddle", paddle, f"{dtype}/", {"color": "#1f4e9c", "linewidth": 1.2}),
        ]
        if dtype == "float64":
            control = Record.load(output_dir / "train_control.npz")
            style = {"color": "#555555", "linewidth": 0.8, "linestyle": "--"}
            sides.append(("torch from a start 1e-8 away", control, "", style))
        for name, record, prefix, style in sides:
            loss_axes.plot(record[f"{prefix}curve/loss"], label=name, **style)
            curve = record[f"{prefix}curve/acc1"]
            accuracy_axes.plot(range(1, len(curve) + 1), curve, label=name, **style)
        loss_axes.set(title=f"{dtype}: training loss", xlabel="step", ylabel="cross-entropy")
        accuracy_axes.set(title=f"{dtype}: top-1 on val (batch statistics)", xlabel="epoch", ylabel="percent")
        accuracy_axes.axhline(100 / TRAIN_CLASSES, color="grey", linewidth=0.8, linestyle=":", label="chance")
        for axes in (loss_axes, accuracy_axes):
            axes.grid(alpha=0.25)
            axes.legend(frameon=False)
    atomic_write(output_dir / "train_curves.png", lambda file: figure.savefig(file, format="png", dpi=110))
