"""Optimiser and learning-rate schedule (NOTES 6)."""

import argparse
import math

import paddle
from paddle import nn
from paddle.optimizer import lr as schedules

WARMUP_EPOCHS = 5
WARMUP_START = 1e-5
MOMENTUM = 0.9


class EpochSchedule(schedules.LRScheduler):
    """The learning rate of an epoch: a warm-up along a cosine, then drops. Call `step(epoch)` before each epoch.

    The reference starts to count the drops when the warm-up ends: `decay_list` [90, 120] drops the rate at epochs 95
    and 125 (`decay_start` "warmup_end", NOTES 6.3), or, as the list reads, at 90 and 120 ("first_epoch"). Without a
    warm-up the two are the same.
    """

    def __init__(self, options: argparse.Namespace):
        self.warmup, self.rate, self.drops = options.warmup, options.decay_rate, list(options.decay_list)
        self.counted_from = WARMUP_EPOCHS if options.warmup and options.decay_start == "warmup_end" else 0
        super().__init__(options.lr)

    def get_lr(self) -> float:
        epoch = self.last_epoch
        if self.warmup and epoch < WARMUP_EPOCHS:
            return WARMUP_START + (self.base_lr - WARMUP_START) * (1 - math.cos(math.pi * epoch / WARMUP_EPOCHS)) / 2
        return self.base_lr * self.rate ** sum(epoch - self.counted_from >= drop for drop in self.drops)


def parameter_groups(model: nn.Layer, weight_decay: float) -> list[dict]:
    """Biases, without decay, and all other parameters, batch norms' scales and the frozen mean sizes included.

    Batch norms' statistics, which are among Paddle's parameters (NOTES 8.2), are in neither.
    """
    statistics = ("._mean", "._variance")
    named = {name: value for name, value in model.named_parameters() if not name.endswith(statistics)}
    return [
        {"params": [p for name, p in named.items() if "bias" in name], "weight_decay": 0.0},
        {"params": [p for name, p in named.items() if "bias" not in name], "weight_decay": weight_decay},
    ]


def build_optimizer(model: nn.Layer, options: argparse.Namespace, learning_rate) -> paddle.optimizer.Optimizer:
    """Adam or SGD with momentum; `learning_rate` is a float or a scheduler.

    The decay is L2, added to the gradient: heads whose loss weighs 0 have gradients of exactly 0, which Adam then turns
    into steps of almost the full rate towards 0 (NOTES 6.2).
    """
    groups = parameter_groups(model, options.weight_decay)
    if options.optimizer == "sgd":
        return paddle.optimizer.Momentum(learning_rate, momentum=MOMENTUM, parameters=groups)
    return paddle.optimizer.Adam(learning_rate, beta1=0.9, beta2=0.999, epsilon=1e-8, parameters=groups)
