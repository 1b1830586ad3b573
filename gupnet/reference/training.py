"""torch's optimisers, the schedule and hierarchical task learning, from NOTES 5.8 to 6.3."""

import argparse
import math
from collections.abc import Mapping

import torch
from torch import nn

from .losses import TERMS

_SIZES = ("size2d_loss", "offset2d_loss")
LOSS_GRAPH = {
    "offset3d_loss": _SIZES,
    "size3d_loss": _SIZES,
    "heading_loss": _SIZES,
    "depth_loss": (*_SIZES, "size3d_loss"),
}
WINDOW = 5
WARMUP_EPOCHS, WARMUP_START = 5, 1e-5


def parameter_groups(model: nn.Module, options: argparse.Namespace) -> list[dict]:
    """[biases, without decay; all others, with decay]: {"params", "names", "weight_decay"} each."""
    groups = []
    for biases in (True, False):
        own = [(name, p) for name, p in model.named_parameters() if ("bias" in name) is biases]
        names, parameters = [name for name, _ in own], [p for _, p in own]
        groups.append({"params": parameters, "names": names, "weight_decay": 0 if biases else options.weight_decay})
    return groups


def build_optimizer(model: nn.Module, options: argparse.Namespace) -> torch.optim.Optimizer:
    """Adam, or SGD with momentum 0.9; the decay is added to the gradient."""
    groups = [{key: group[key] for key in ("params", "weight_decay")} for group in parameter_groups(model, options)]
    if options.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=options.lr, momentum=0.9)
    return torch.optim.Adam(groups, lr=options.lr)


def train_step(model, criterion, optimizer, inputs: Mapping, weights=None, update: bool = True) -> dict[str, float]:
    """An update, unless `update` is False, by the network's keyword arguments `inputs`. Returns the losses."""
    with torch.set_grad_enabled(update):
        terms = criterion(model(**inputs), inputs["targets"], weights)
    if update:
        optimizer.zero_grad()
        terms["loss"].backward()
        optimizer.step()
    return {term: value.item() for term, value in terms.items()}


def learning_rate(epoch: int, options: argparse.Namespace) -> float:
    """The learning rate of `epoch`, from 0: cosine warm-up, then drops counted from its end or from the first epoch."""
    if options.warmup and epoch < WARMUP_EPOCHS:
        risen = (1 - math.cos(math.pi * epoch / WARMUP_EPOCHS)) / 2
        return WARMUP_START + (options.lr - WARMUP_START) * risen
    counted = epoch - (WARMUP_EPOCHS if options.warmup and options.decay_start == "warmup_end" else 0)
    return options.lr * options.decay_rate ** sum(counted >= drop for drop in options.decay_list)


def set_learning_rate(optimizer: torch.optim.Optimizer, epoch: int, options: argparse.Namespace) -> float:
    rate = learning_rate(epoch, options)
    for group in optimizer.param_groups:
        group["lr"] = rate
    return rate


def rates(options: argparse.Namespace) -> list[float]:
    """The learning rate of every epoch."""
    return [learning_rate(epoch, options) for epoch in range(options.max_epoch)]


class HierarchicalTaskLearning:
    """Weights of the terms before each epoch, from the losses of the epochs before (paper 3.4, NOTES 5.9).

    `compute_weight` is called once an epoch with {term: mean loss of the epoch before}, in order; it computes in the
    losses' dtype, float32 in the reference.
    """

    def __init__(self, max_epoch: int = 140, dtype: torch.dtype = torch.float32):
        self.max_epoch, self.dtype = max_epoch, dtype
        self.past_losses: list[torch.Tensor] = []
        self.init_diff: torch.Tensor | None = None

    def compute_weight(self, losses: Mapping[str, float], epoch: int) -> dict[str, float]:
        weights = {term: 0.0 if term in LOSS_GRAPH else 1.0 for term in TERMS}
        if len(self.past_losses) == WINDOW:
            window = torch.stack(self.past_losses)
            diff = (window[:-2] - window[2:]).mean(0)
            if self.init_diff is None:
                self.init_diff = diff
            control = dict(zip(TERMS, 1 - (diff / self.init_diff).relu(), strict=True))
            progress = min((epoch - WINDOW) / (self.max_epoch - WINDOW), 1.0)
            for term, pre_tasks in LOSS_GRAPH.items():
                weights[term] = float(progress ** (1 - math.prod(control[task] for task in pre_tasks)))
            self.past_losses.pop(0)
        self.past_losses.append(torch.tensor([float(losses[term]) for term in TERMS], dtype=self.dtype))
        return weights
