"""torch's own Adam and the reference's schedule (NOTES 6.1, 6.2)."""

import argparse
from collections.abc import Mapping, Sequence

import torch
from torch import nn

_DROP = 0.1


def build_optimizer(model: nn.Module, options: argparse.Namespace) -> torch.optim.Adam:
    """One group of all parameters, in the order of the sub-networks; those without a gradient do not change."""
    return torch.optim.Adam(model.parameters(), lr=options.learning_rate)


def train_step(
    model: nn.Module,
    criterion: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: Mapping,
    noise: Sequence[torch.Tensor] | None = None,
) -> dict[str, float]:
    """One update; the terms of the loss before it. The gradients stay in the parameters."""
    terms = criterion(model.train()(batch), batch, noise)
    optimizer.zero_grad()
    terms["loss"].backward()
    optimizer.step()
    return {name: value.item() for name, value in terms.items()}


def learning_rate(epoch: int, options: argparse.Namespace) -> float:
    """The rate of `epoch` (0-based), as torch's StepLR multiplies it out (NOTES 6.2).

    With `--scheduler_step_at start` the schedule is one epoch ahead.
    """
    counted = epoch + (options.scheduler_step_at == "start")
    rate = options.learning_rate
    for _ in range(counted // options.scheduler_step_size):
        rate *= _DROP
    return rate
