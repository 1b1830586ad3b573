"""What each of the seven stages feeds, records and tolerates."""

import argparse

from shared.align.curves import Panel
from shared.align.papers import seven_stages, train_bounds
from shared.diff import Tolerance

from .feeds import TRAIN_CLASSES
from options import add_network_options


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of this paper's align.py besides the common ones."""
    add_network_options(parser)
    parser.set_defaults(model=None)  # both sizes
    parser.add_argument("--data_path", metavar="DIR", help="folder with train/ and val/; drawn when not given")


def _forward(dtype: str):
    return {"float32": Tolerance(1e-5), "float64": Tolerance(1e-7)}[dtype]


def _loss(dtype: str):
    value = {"float32": Tolerance(1e-6, 1e-7, allow_nan=True), "float64": Tolerance(1e-8, 1e-12, allow_nan=True)}[dtype]
    return {".*/gradient": Tolerance(1e-5 if dtype == "float32" else 1e-8, 1e-7, allow_nan=True), "": value}


def _backward(dtype: str):
    gradient = {"float32": Tolerance(1e-3, 1e-5), "float64": Tolerance(1e-6, 1e-9)}[dtype]
    loss = {"float32": Tolerance(1e-3), "float64": Tolerance(1e-6)}[dtype]
    return {".*/lr": Tolerance(absolute=1e-12), ".*/gradient/": gradient, "": loss}


# Torch against itself in float64, from a start 1e-8 away, differs by 1e-8 at step 20, 1e-5 at step 30, 7e-4 at step 40,
# and by 2.5 % of the last loss and 1.3 points of top-1 at the end (train_control.npz).
_train = train_bounds(last_epoch_loss=Tolerance(0.20), final_acc1=Tolerance(absolute=6.0))


#: of the picture of the train stage
PANELS = (
    Panel("loss", "training loss", "step", "cross-entropy"),
    Panel(
        "acc1", "top-1 on val (batch statistics)", "epoch", "percent", first=1, level=(100 / TRAIN_CLASSES, "chance")
    ),
)

STAGES = seven_stages(_forward, _loss, _backward, _train, PANELS, metric=Tolerance(absolute=1e-6))
