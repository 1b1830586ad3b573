"""Stage 7 in torch: a training of the twin, from weights that both sides load."""

import argparse
import copy
import hashlib
import random

import torch
from torch import nn

from shared.align.record import Record
from shared.stages import Context
from shared.weights import as_numpy, write_torch

from . import feeds
from .drawing import ROUNDING, as_tensors, load
from options import parse_options
from reference import data as reading
from reference import losses, network, training


def draws_of(options: argparse.Namespace, epoch: int, index: int) -> random.Random:
    """The data set's rule: the first 8 bytes of a hash of seed, epoch and index."""
    digest = hashlib.sha256(f"{options.seed}/{epoch}/{index}".encode()).digest()
    return random.Random(int.from_bytes(digest[:8], "big"))


def prepare_training(context: Context) -> None:
    """Fresh weights, but no sampling point exactly on a cell's centre, where it has no gradient (NOTES 4.5)."""
    options = parse_options(feeds.TRAIN_ARGV)
    torch.manual_seed(feeds.SEED)
    model = network.build_reference(options)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("sampling_offsets.bias"):
                parameter.add_(torch.empty_like(parameter).uniform_(-0.3, 0.3))
    tensors = {name: as_numpy(value) for name, value in model.state_dict().items()}
    write_torch(context.output_dir / "weights" / "train.pth", tensors)


def train(context: Context) -> dict:
    options = feeds.data_options(context, feeds.TRAIN_ARGV)
    model = load(network.build_reference(options), context, context.output_dir / "weights" / "train.pth")
    if context.dtype == "float64":
        # how far torch parts from itself when it starts a rounding error away: drawn beside the two curves
        torch.manual_seed(feeds.SEED)
        control = copy.deepcopy(model)
        with torch.no_grad():
            for parameter in control.parameters():
                parameter.mul_(1 + ROUNDING * torch.randn_like(parameter))
        Record(_train(control, options, context.dtype)).save(context.output_dir / "train_control.npz")
    return _train(model, options, context.dtype)


def _train(model: nn.Module, options: argparse.Namespace, dtype: str) -> dict:
    criterion, optimizer = losses.build_criterion(options), training.build_optimizer(model, options)
    train_set, val_set = (reading.Reading(options, split) for split in ("train", "val"))
    val = [val_set.item(index) for index in feeds.chosen(len(val_set), feeds.VAL_ITEMS)]

    def error() -> float:
        images, mask, targets = as_tensors(val, dtype)
        with torch.no_grad():
            return criterion(model.eval()(images, mask), targets)["loss"].item()

    values, steps, curve = [], [0], [error()]
    for epoch, indices in feeds.training_batches(options, feeds.chosen(len(train_set), feeds.TRAIN_ITEMS)):
        items = [train_set.item(index, draws_of(options, epoch, index)) for index in indices]
        images, mask, targets = as_tensors(items, dtype)
        loss = criterion(model.train()(images, mask), targets)["loss"]
        training.step(model, optimizer, loss, options)
        values.append(loss.item())
        if len(values) % feeds.CURVE_EVERY == 0:
            steps.append(len(values))
            curve.append(error())
    return feeds.training_record(values, steps, curve)
