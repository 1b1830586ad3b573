"""The moving average of the weights over the steps of a training (NOTES 6.8)."""

import paddle
from paddle import nn


def adjusted_decay(decay: float, world: int, batch: int, steps: int, epochs: int) -> float:
    """The decay of one update that makes `decay` independent of batch size and number of epochs (NOTES 6.8)."""
    return 1 - min(1.0, (1 - decay) * world * batch * steps / epochs)


class ExponentialMovingAverage:
    """Exponential moving average over parameters and buffers: avg = d avg + (1 - d) new; an update at count 0 copies.

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
