"""torch's own AdamW in the official groups, one clip over all of them, and the schedule (NOTES 6)."""

import argparse

import torch
from torch import nn


def parameter_groups(model: nn.Module, options: argparse.Namespace) -> list[dict]:
    """Three groups {params, names, lr}: everything else, the backbone, the linear projections (NOTES 6.1)."""
    rates = (options.lr, options.lr_backbone, options.lr * options.lr_linear_proj_mult)
    groups = [{"params": [], "names": [], "lr": rate} for rate in rates]
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            backbone = any(part in name for part in options.lr_backbone_names)
            linear = any(part in name for part in options.lr_linear_proj_names)
            for index, wanted in enumerate((not backbone and not linear, backbone, linear)):
                if wanted:
                    groups[index]["params"].append(parameter)
                    groups[index]["names"].append(name)
    return groups


def build_optimizer(model: nn.Module, options: argparse.Namespace) -> torch.optim.Optimizer:
    """AdamW, or SGD with momentum; decay applies to every parameter."""
    groups = [{"params": group["params"], "lr": group["lr"]} for group in parameter_groups(model, options)]
    if options.sgd:
        return torch.optim.SGD(groups, lr=options.lr, momentum=0.9, weight_decay=options.weight_decay)
    return torch.optim.AdamW(groups, lr=options.lr, weight_decay=options.weight_decay)


def build_scheduler(optimizer: torch.optim.Optimizer, options: argparse.Namespace):
    """A tenth of all rates every options.lr_drop epochs; stepped once an epoch."""
    return torch.optim.lr_scheduler.StepLR(optimizer, options.lr_drop)


def step(model: nn.Module, optimizer: torch.optim.Optimizer, loss: torch.Tensor, options: argparse.Namespace) -> float:
    """One step by `loss`; returns the norm of all gradients together, before it is clipped."""
    optimizer.zero_grad()
    loss.backward()
    limit = options.clip_max_norm if options.clip_max_norm > 0 else float("inf")
    norm = nn.utils.clip_grad_norm_(model.parameters(), limit)
    optimizer.step()
    return float(norm)
