"""torch's own SGD with the reference's parameter groups and schedules (NOTES 6)."""

import argparse

import torch
from torch import nn

from .network import InPlaceABN

_HEAD_FACTOR = 10  # times the base rate, for the fusion module and the heads
_EARLIER_PORT_END = 1e-5  # last rate of Warmup_PolyDecay


def parameter_groups(network: nn.Module, criterion: nn.Module, options: argparse.Namespace) -> list[dict]:
    """The groups of NOTES 6.2 in their order, each with names, params, weight_decay and lr_mul.

    0 and 1: weights and norms of the context path; 2 and 3: those of the fusion module and the heads; 4: fuse_kernel,
    not there if it is fixed. The backbone's batch norms are in no group, unless options.train_backbone_norms puts them
    in 1.
    """
    groups = [
        {"names": [], "params": [], "weight_decay": decay, "lr_mul": factor}
        for factor in (1, _HEAD_FACTOR)
        for decay in (options.weight_decay, 0.0)
    ]
    for path, module in network.named_modules():  # each module once, though the backbone's have two names
        is_norm = isinstance(module, InPlaceABN | nn.BatchNorm1d | nn.BatchNorm2d)
        trained_norms = (InPlaceABN, nn.BatchNorm2d) if options.train_backbone_norms else InPlaceABN
        if is_norm and not isinstance(module, trained_norms):
            continue
        group = groups[(0 if path.startswith("cp.") else 2) + is_norm]
        for name, parameter in module.named_parameters(recurse=False):
            group["names"].append(f"{path}.{name}")
            group["params"].append(parameter)
    if criterion.fuse_kernel.requires_grad:
        kernel = {"names": ["fuse_kernel"], "params": [criterion.fuse_kernel]}
        groups.append(kernel | {"weight_decay": options.weight_decay, "lr_mul": 1})
    return groups


def build_optimizer(network: nn.Module, criterion: nn.Module, options: argparse.Namespace) -> torch.optim.SGD:
    """SGD over `parameter_groups`; `set_learning_rate` sets the rates before every step."""
    return torch.optim.SGD(parameter_groups(network, criterion, options), lr=options.lr, momentum=options.momentum)


def learning_rate(iteration: int, options: argparse.Namespace) -> float:
    """Base rate of step `iteration` (0-based) under options.lr_scheduler (NOTES 6.5, 6.6)."""
    first, top, warmup = options.warmup_start_lr, options.lr, options.warmup_steps
    exponential = options.lr_scheduler == "warmup_poly"
    if iteration < warmup:
        done = iteration / warmup
        return first * (top / first) ** done if exponential else first + (top - first) * done
    left = (1 - (iteration - warmup) / (options.max_iter - warmup)) ** options.power
    end = 0.0 if exponential else _EARLIER_PORT_END
    return (top - end) * left + end


def set_learning_rate(optimizer: torch.optim.Optimizer, iteration: int, options: argparse.Namespace) -> float:
    """Set the rate of every group for this step; returns the base rate."""
    rate = learning_rate(iteration, options)
    for group in optimizer.param_groups:
        group["lr"] = rate * group["lr_mul"]
    return rate


def train_step(network, criterion, optimizer, images: torch.Tensor, labels: torch.Tensor) -> float:
    """One update at the rates that the optimiser has; returns the loss before it."""
    optimizer.zero_grad()
    loss = criterion(network(images), labels)["loss"]
    loss.backward()
    optimizer.step()
    return loss.item()
