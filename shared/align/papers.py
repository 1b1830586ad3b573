"""What the alignment packages of the papers do alike. What is fed, recorded and tolerated is each paper's own.

Neither framework is imported here: the functions take networks of either side.
"""

import copy
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from shared.align.curves import Panel, plot_curves
from shared.align.record import Record
from shared.diff import Tolerance, Tolerances
from shared.stages import Context, Stage
from shared.weights import read_torch

EQUAL = Tolerance(absolute=0)


def seven_stages(
    forward: Callable[[str], Tolerances],
    loss: Callable[[str], Tolerances],
    backward: Callable[[str], Tolerances],
    train: Callable[[str], Tolerances],
    panels: Sequence[Panel],
    metric: Tolerances,
    data: Callable[[str], Tolerances] = lambda dtype: EQUAL,
    apart: str = "1e-8",
) -> tuple[Stage, ...]:
    """The stages in their order, with the bounds of each by dtype; `panels` and `apart` are those of `plot_curves`."""
    return (
        Stage("structure", lambda dtype: EQUAL, per_dtype=False),
        Stage("data", data, per_dtype=False),
        Stage("forward", forward),
        Stage("metric", lambda dtype: metric),
        Stage("loss", loss),
        Stage("backward", backward),
        Stage("train", train, plot=partial(plot_curves, panels=panels, apart=apart)),
    )


def train_bounds(**ends: Tolerance) -> Callable[[str], Tolerances]:
    """The bounds of the train stage: tight ones of the first losses, and `ends` of what was learnt, by name.

    Training amplifies rounding until two runs differ, two of torch as well (`train_control`, drawn in the plot).
    """

    def bounds(dtype: str) -> Tolerances:
        first = {"float32": Tolerance(1e-3), "float64": Tolerance(1e-6)}[dtype]
        named = {f"mini/{name}": bound for name, bound in ends.items()}
        return {"mini/first_losses": first, **named, "mini/learns": EQUAL, "curve/": Tolerance(0.5)}

    return bounds


def torch_structure(model: Any, weights: Path | None) -> dict[str, Any]:
    """A torch network's names and shapes, and the bits of the official file `weights`, for the stage structure."""
    official = read_torch(weights).tensors if weights else {}
    return _structure({name: tuple(value.shape) for name, value in model.state_dict().items()}, official)


def paddle_structure(mapping: Any, weights: Path | None) -> dict[str, Any]:
    """The same of a Paddle network (`shared.convert.plan` of it): under torch's names, the file converted and back."""
    back: Mapping[str, np.ndarray] = {}
    if weights:
        tensors, torch_only, report = mapping.to_paddle(read_torch(weights).tensors)
        report.raise_if_bad(weights)
        back, _ = mapping.to_torch(tensors, torch_only)
    return _structure(mapping.torch_shapes(), back)


def _structure(shapes: Mapping[str, tuple], arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    record: dict[str, Any] = {"tensors": list(shapes)}
    record |= {f"shape/{name}": np.array(shape, np.int64) for name, shape in shapes.items()}
    return record | {f"bits/{name}": zlib.crc32(np.ascontiguousarray(array)) for name, array in arrays.items()}


def calibrate(model: Any, run: Callable[[], Any], norms: Iterable[Any]) -> None:
    """Let the running statistics of `norms`, of a torch network, be those of the batch that `run()` shows to it.

    So drawn weights act like trained ones.
    """
    import torch

    norms = list(norms)
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    model.train()
    with torch.no_grad():
        run()
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        if getattr(norm, "num_batches_tracked", None) is not None:
            norm.num_batches_tracked.zero_()


def train_control(
    context: Context, model: Any, train: Callable[[Any], Mapping], seed: int, apart: float = 1e-8
) -> None:
    """In float64, train a copy of a torch network that starts `apart` away, and keep its record for the plot.

    How far torch parts from itself is what a training's comparison cannot be better than.
    """
    import torch

    if context.dtype != "float64":
        return
    torch.manual_seed(seed)
    control = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in control.parameters():
            parameter.mul_(1 + apart * torch.randn_like(parameter))
    Record(train(control)).save(context.output_dir / "train_control.npz")
