"""torch's own optimisers, schedules and averages, set up as the reference's script does, and its accuracy."""

import argparse

import torch
from torch.optim import lr_scheduler
from torch.optim.swa_utils import AveragedModel


def build_optimizer(network: torch.nn.Module, options: argparse.Namespace) -> torch.optim.Optimizer:
    """The optimiser of --opt over all parameters (NOTES 6.1)."""
    common = {"lr": options.lr, "weight_decay": options.weight_decay}
    if options.opt == "rmsprop":
        return torch.optim.RMSprop(network.parameters(), alpha=0.9, eps=0.0316, momentum=options.momentum, **common)
    if options.opt == "adamw":
        return torch.optim.AdamW(network.parameters(), **common)
    nesterov = options.opt.endswith("nesterov")
    return torch.optim.SGD(network.parameters(), momentum=options.momentum, nesterov=nesterov, **common)


def build_scheduler(optimizer: torch.optim.Optimizer, options: argparse.Namespace) -> lr_scheduler.LRScheduler:
    """The schedule by epoch, with its warm-up in front."""
    warmup = options.lr_warmup_epochs
    main = {
        "steplr": lambda: lr_scheduler.StepLR(optimizer, options.lr_step_size, options.lr_gamma),
        "exponentiallr": lambda: lr_scheduler.ExponentialLR(optimizer, options.lr_gamma),
        "cosineannealinglr": lambda: lr_scheduler.CosineAnnealingLR(optimizer, options.epochs - warmup, options.lr_min),
    }[options.lr_scheduler]()
    if not warmup:
        return main
    kind = {"linear": lr_scheduler.LinearLR, "constant": lr_scheduler.ConstantLR}[options.lr_warmup_method]
    first = kind(optimizer, options.lr_warmup_decay, total_iters=warmup)
    return lr_scheduler.SequentialLR(optimizer, [first, main], milestones=[warmup])


def train_step(
    network: torch.nn.Module, optimizer: torch.optim.Optimizer, images: torch.Tensor, target: torch.Tensor
) -> float:
    """One update on images [N, 3, H, W] and labels int64 [N]; returns the loss before it."""
    loss = torch.nn.functional.cross_entropy(network(images), target)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


def build_average(network: torch.nn.Module, decay: float) -> AveragedModel:
    """Moving average over parameters and buffers (NOTES 6.8)."""

    def average(old, new, count):
        return decay * old + (1 - decay) * new

    return AveragedModel(network, avg_fn=average, use_buffers=True)


def topk_accuracy(logits: torch.Tensor, target: torch.Tensor, ks: tuple[int, ...]) -> list[float]:
    """Percentage of rows whose target is among the k largest logits, for each k."""
    correct = logits.topk(max(ks), dim=1).indices == target.view(-1, 1)
    return [float(correct[:, :k].any(1).float().sum() * (100.0 / target.numel())) for k in ks]
