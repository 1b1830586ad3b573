"""The stages of the alignment and the bounds of their records."""

import argparse
from pathlib import Path

from shared.align.curves import Panel
from shared.align.papers import EQUAL, seven_stages, train_bounds
from shared.diff import Tolerance

from options import NETWORK_OPTIONS, add_network_options

FOLDER = Path(__file__).resolve().parents[1]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of this paper's align.py besides the common ones."""
    add_network_options(parser)
    parser.set_defaults(backbone=None)  # both
    text = "Cityscapes, or a folder of its layout; default: the drawn mini data set"
    parser.add_argument("--data_path", default=None, metavar="DIR", help=text)


def _forward(dtype: str):
    limit = {"float32": Tolerance(1e-5), "float64": Tolerance(1e-7)}[dtype]
    # after a global average the variance is that of four numbers, which magnifies rounding
    return {".*/statistics/": Tolerance({"float32": 1e-4, "float64": 1e-7}[dtype]), "": limit}


def _loss(dtype: str):
    value = {"float32": Tolerance(1e-6, 1e-7, allow_nan=True), "float64": Tolerance(1e-8, 1e-12, allow_nan=True)}[dtype]
    return {".*/gradient": Tolerance(1e-5 if dtype == "float32" else 1e-8, 1e-7), ".*/target": EQUAL, "": value}


def _backward(dtype: str):
    gradient = {"float32": Tolerance(1e-3, 1e-5), "float64": Tolerance(1e-6, 1e-9)}[dtype]
    loss = {"float32": Tolerance(1e-3), "float64": Tolerance(1e-6)}[dtype]
    first = {"float32": Tolerance(1e-4), "float64": Tolerance(1e-7)}[dtype]
    return {".*/lr": Tolerance(1e-12), ".*/gradient/": gradient, ".*/groups/": EQUAL, ".*/step0/": first, "": loss}


_train = train_bounds(last_losses=Tolerance(0.25), final_miou=Tolerance(absolute=0.10))


STAGES = seven_stages(
    _forward,
    _loss,
    _backward,
    _train,
    panels=(
        Panel("loss", "training loss", "step", "sum of all terms"),
        Panel("miou", "mIoU on val (batch statistics)", "step", "classes that occur", steps="steps"),
    ),
    metric=Tolerance(absolute=1e-6, allow_nan=True),
)

__all__ = ["FOLDER", "NETWORK_OPTIONS", "STAGES", "add_options"]
