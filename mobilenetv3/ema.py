"""Averages of weights: over the steps of a training, and over several checkpoints (NOTES 6.2, 6.8)."""

from collections.abc import Mapping, Sequence

import numpy as np
import paddle
from paddle import nn


def adjusted_decay(decay: float, world: int, batch: int, steps: int, epochs: int) -> float:
    """The decay of one update that makes `decay` independent of batch size and number of epochs (NOTES 6.8)."""
    return 1 - min(1.0, (1 - decay) * world * batch * steps / epochs)


class ExponentialMovingAverage:
    """Exponential moving average over parameters and buffers: avg = d avg + (1 - d) new; the first update copies.

    `average` is a second network of the same shape; it holds the average and can be evaluated. Integer buffers are
    averaged in floating point and truncated, as torch does when it copies into int64.
    """

    def __init__(self, average: nn.Layer, decay: float):
        self.average = average
        self.decay = decay
        self.count = 0
        average.eval()

    @paddle.no_grad()
    def update(self, model: nn.Layer) -> None:
        """Average in the current weights of `model`."""
        targets = self.average.state_dict()
        for name, new in model.state_dict().items():
            value = new if self.count == 0 else self.decay * targets[name] + (1 - self.decay) * new
            paddle.assign(value.astype(targets[name].dtype), targets[name])
        self.count += 1

    def restart(self) -> None:
        """Make the next update copy again (the reference does so during the learning rate's warm-up)."""
        self.count = 0


def average_checkpoints(states: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Mean of several state dicts: per tensor the sum over n, float16 widened to float32, integers rounded down.

    Raises ValueError when the dicts do not hold the same names.
    """
    first = states[0]
    for other in states[1:]:
        if other.keys() != first.keys():
            raise ValueError(f"state dicts differ in {sorted(other.keys() ^ first.keys())[:3]}")
    averaged = {}
    for name in first:
        tensors = [np.asarray(state[name]) for state in states]
        if np.issubdtype(tensors[0].dtype, np.integer):
            averaged[name] = np.asarray(sum(t.astype(np.int64) for t in tensors) // len(tensors))
            continue
        if tensors[0].dtype == np.float16:
            tensors = [t.astype(np.float32) for t in tensors]
        averaged[name] = np.asarray(sum(tensors[1:], tensors[0].copy()) / tensors[0].dtype.type(len(tensors)))
    return averaged
