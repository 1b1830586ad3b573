"""What the picture of a train stage shows, and where."""

import numpy as np
import pytest
from matplotlib.axes import Axes
from PIL import Image

from shared.align.curves import Panel, plot_curves
from shared.align.record import Record

PANELS = (
    Panel("loss", "loss", "step", "nats"),
    Panel("acc", "accuracy", "epoch", "percent", first=1, level=(10.0, "chance")),
    Panel("error", "error", "step", "m", steps="steps"),
)


def curves(shift: float, *prefixes: str) -> Record:
    record = Record()
    for prefix in prefixes:
        record.add(f"{prefix}curve/loss", np.arange(4.0) + shift)
        record.add(f"{prefix}curve/acc", np.array([50.0, 60.0]) + shift)
        record.add(f"{prefix}curve/error", np.array([3.0, 2.0]) + shift)
        record.add(f"{prefix}curve/steps", np.array([2, 4]))
    return record


@pytest.mark.parametrize("dtypes", [["float32"], ["float32", "float64"]])
def test_curves_of_both_sides(tmp_path, monkeypatch, dtypes):
    drawn, plot = [], Axes.plot

    def noted(axes, x, y, **style):
        drawn.append((style["label"], list(x), list(y)))
        return plot(axes, x, y, **style)

    monkeypatch.setattr(Axes, "plot", noted)
    curves(0.5, "").save(tmp_path / "train_control.npz")
    prefixes = [f"{dtype}/" for dtype in dtypes]
    plot_curves(curves(0, *prefixes), curves(0.25, *prefixes), tmp_path, PANELS, apart="1e-7")
    one = [
        ("torch", [0, 1, 2, 3], [0.25, 1.25, 2.25, 3.25]),
        ("Paddle", [0, 1, 2, 3], [0, 1, 2, 3]),
        ("torch", [1, 2], [50.25, 60.25]),
        ("Paddle", [1, 2], [50, 60]),
        ("torch", [2, 4], [3.25, 2.25]),
        ("Paddle", [2, 4], [3, 2]),
    ]
    assert drawn[:6] == one
    controls = [entry for entry in drawn[6:] if entry[0] == "torch from a start 1e-7 away"]
    assert len(drawn) == (6 if len(dtypes) == 1 else 15)
    assert [entry[2] for entry in controls] == ([[0.5, 1.5, 2.5, 3.5], [50.5, 60.5], [3.5, 2.5]] if drawn[6:] else [])
    with Image.open(tmp_path / "train_curves.png") as picture:
        assert picture.size == (12 * 110, round(3.6 * 110) * len(dtypes))
