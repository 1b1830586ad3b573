"""A training step, a batch of predictions, an evaluation: what trainer, evaluate, demo, align and benchmark call."""

import argparse
import math
import zlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import paddle
import paddle.distributed as dist
from tqdm import tqdm

from shared.running.launch import Diverged, build_scaler, in_float32, mixed_precision
from shared.running.processes import total
from shared.running.sampling import EpochBatchSampler

from datasets import ImageFolder, build_loader
from datasets.mixing import Mixing, build_mixing
from ema import ExponentialMovingAverage
from losses import build_criterion
from metrics import accuracy
from optimizers import build_optimizer, build_scheduler, clip_gradients

#: a dygraph network, or an exported one: arrays in, logits out
Network = paddle.nn.Layer | Callable[[np.ndarray], np.ndarray]


class Training(NamedTuple):
    """What a training step works with; `model` may be wrapped in paddle.DataParallel."""

    model: paddle.nn.Layer
    criterion: paddle.nn.Layer
    optimizer: paddle.optimizer.Optimizer
    scheduler: paddle.optimizer.lr.LRScheduler  # stepped once per epoch, by the caller
    scaler: paddle.amp.GradScaler
    mixing: Mixing | None
    average: ExponentialMovingAverage | None


class Position(NamedTuple):
    """Where in a training a step is, counted from 0; its random numbers depend on this and on --seed only."""

    epoch: int
    step_in_epoch: int
    step: int


class Step(NamedTuple):
    """A step's loss, its logits [N, K] and its targets: [N], or [N, K] when mixed."""

    loss: float
    outputs: paddle.Tensor
    targets: paddle.Tensor


def build_training(
    options: argparse.Namespace, model: paddle.nn.Layer, average: ExponentialMovingAverage | None = None
) -> Training:
    """Loss, optimiser, schedule and mixing of `options` for `model`."""
    scheduler = build_scheduler(options)
    optimizer = build_optimizer(model, options, scheduler)
    parts = build_criterion(options), optimizer, scheduler, build_scaler(options), build_mixing(options)
    return Training(model, *parts, average)


def train_step(
    training: Training, images: paddle.Tensor, labels: paddle.Tensor, options: argparse.Namespace, at: Position
) -> Step:
    """One update of the weights on images [N, 3, H, W] and labels int64 [N]. Diverged when the loss is NaN or Inf."""
    model, criterion, optimizer, _, scaler, mixing, average = training
    if mixing:
        mixed = mixing(images.numpy(), labels.numpy(), at.epoch, at.step_in_epoch)
        images, labels = (paddle.to_tensor(array) for array in mixed)
    paddle.seed(zlib.crc32(f"{options.seed}/{at.step}/{dist.get_rank()}".encode()))  # of dropout
    model.train()
    with mixed_precision(options):
        outputs = model(images)
    if options.amp:
        outputs = in_float32(outputs)
    loss = criterion(outputs, labels)["loss"]
    value = float(loss)
    if not math.isfinite(value):
        raise Diverged(
            f"loss is {value} at epoch {at.epoch}, step {at.step}: the training has diverged; lower --lr "
            f"(now {optimizer.get_lr():g}) or use --clip_grad_norm, and --resume from the last checkpoint"
        )
    scaler.scale(loss).backward()
    if options.clip_grad_norm:
        scaler.unscale_(optimizer)
        clip_gradients(model.parameters(), options.clip_grad_norm)
    scaler.step(optimizer)
    scaler.update()
    optimizer.clear_grad()
    if average and at.step_in_epoch % options.model_ema_steps == 0:
        average.update(model)
        if at.epoch < options.lr_warmup_epochs:
            average.count = 0  # the next update copies again
    return Step(value, outputs, labels)


def predict(network: Network, images: paddle.Tensor) -> np.ndarray:
    """images [N, 3, H, W] -> logits [N, K]; a dygraph network is put into eval mode."""
    if not isinstance(network, paddle.nn.Layer):
        return network(images.numpy())
    network.eval()
    with paddle.no_grad():
        return network(images).numpy()


def evaluate(network: Network, dataset: ImageFolder, options: argparse.Namespace) -> dict[str, float]:
    """{"acc1", "acc5" (percent), "loss", "images"} of `network` over `dataset`, from all processes together.

    The loss is the mean over batches, each counting once, as the reference prints it (NOTES 7.2).
    """
    criterion = build_criterion(options)
    rank, world = dist.get_rank(), dist.get_world_size()
    sampler = EpochBatchSampler(len(dataset), options.batch_size, shuffle=False, rank=rank, world=world)
    remaining = len(range(rank, len(dataset), world))  # without the images that pad the ranks (NOTES 7.4)
    sums = np.zeros(5)  # acc1, acc5, images; loss, batches
    loader = build_loader(dataset, sampler, options.workers)
    for images, labels in tqdm(loader, "evaluate", unit="batch", leave=False, disable=None if rank == 0 else True):
        logits, targets = predict(network, images)[:remaining], labels.numpy()[:remaining]
        remaining -= len(targets)
        if not len(targets):
            continue
        loss = float(criterion(paddle.to_tensor(logits), paddle.to_tensor(targets))["loss"])
        acc1, acc5 = accuracy(logits, targets)
        sums += [acc1 * len(targets), acc5 * len(targets), len(targets), loss, 1]
    sums = total(sums)
    return {"acc1": sums[0] / sums[2], "acc5": sums[1] / sums[2], "loss": sums[3] / sums[4], "images": int(sums[2])}
