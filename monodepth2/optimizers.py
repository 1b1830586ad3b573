"""Optimiser and learning-rate schedule (NOTES 6.1, 6.2)."""

import argparse

import paddle
from paddle.optimizer import lr as schedules

from models import Monodepth2

DROP = 0.1


class StepDecay(schedules.LRScheduler):
    """learning_rate * 0.1^(epoch // step_size); call `step()` after every epoch.

    The paper's 20 epochs are 15 + 5. `ahead` counts one epoch more, 14 + 6, as the reference does under torch 1.1 and
    later.
    """

    def __init__(self, learning_rate: float, step_size: int, ahead: bool = False):
        self.step_size, self.ahead = step_size, ahead
        super().__init__(learning_rate)

    def get_lr(self) -> float:
        return self.base_lr * DROP ** ((self.last_epoch + self.ahead) // self.step_size)


def build_scheduler(options: argparse.Namespace) -> StepDecay:
    """The schedule of the options, stepped once per epoch."""
    return StepDecay(options.learning_rate, options.scheduler_step_size, options.scheduler_step_at == "start")


def build_optimizer(model: Monodepth2, options: argparse.Namespace, learning_rate) -> paddle.optimizer.Adam:
    """Adam over all parameters, as in the reference; `learning_rate` is a float or a scheduler.

    The ResNets' unused classifiers are among them; without a gradient they do not change.
    """
    return paddle.optimizer.Adam(learning_rate, beta1=0.9, beta2=0.999, epsilon=1e-8, parameters=model.parameters())
