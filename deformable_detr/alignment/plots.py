"""Both sides' training curves in one picture."""

from collections.abc import Mapping
from pathlib import Path

from shared.record import Record
from shared.weights import atomic_write


def plot_training(paddle: Mapping, torch: Mapping, output_dir: Path) -> None:
    """Write output_dir/train_curves.png: loss by step and loss on val, a row a dtype."""
    from matplotlib.figure import Figure

    dtypes = [dtype for dtype in ("float32", "float64") if f"{dtype}/curve/loss" in paddle]
    figure = Figure(figsize=(10, 3.6 * len(dtypes)), layout="constrained")
    for (loss_axes, val_axes), dtype in zip(figure.subplots(len(dtypes), 2, squeeze=False), dtypes, strict=True):
        sides = [
            ("torch", torch, f"{dtype}/", {"color": "#e07b39", "linewidth": 4, "alpha": 0.45}),
            ("Paddle", paddle, f"{dtype}/", {"color": "#1f4e9c", "linewidth": 1.2}),
        ]
        if dtype == "float64":
            control = Record.load(output_dir / "train_control.npz")
            style = {"color": "#555555", "linewidth": 0.8, "linestyle": "--"}
            sides.append(("torch from a start 1e-7 away", control, "", style))
        for name, record, prefix, style in sides:
            loss_axes.plot(record[f"{prefix}curve/loss"], label=name, **style)
            val_axes.plot(record[f"{prefix}curve/steps"], record[f"{prefix}curve/val_loss"], label=name, **style)
        loss_axes.set(title=f"{dtype}: training loss", xlabel="step", ylabel="weighted sum of all terms")
        val_axes.set(title=f"{dtype}: loss on val", xlabel="step", ylabel="weighted sum of all terms")
        for axes in (loss_axes, val_axes):
            axes.grid(alpha=0.25)
            axes.legend(frameon=False)
    atomic_write(output_dir / "train_curves.png", lambda file: figure.savefig(file, format="png", dpi=110))
