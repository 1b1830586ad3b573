"""One training step, the prediction of a batch, the evaluation of a data set.

The trainer, evaluate.py, demo.py, benchmark.py, the alignment and the tests all call these.
"""

import argparse
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import paddle
import paddle.distributed as dist
from tqdm import tqdm

from shared import InputError
from shared.running.launch import Diverged, build_scaler, in_float32, mixed_precision
from shared.running.sampling import EpochBatchSampler

from datasets import CityScapes, build_loader
from losses import Criterion
from metrics import ConfusionMatrix, Protocol, Segment
from models import BiSeNet
from optimizers import build_optimizer, build_scheduler, parameter_groups


class Training(NamedTuple):
    """Everything that a training step changes. `model` is the network or its paddle.DataParallel."""

    model: paddle.nn.Layer
    criterion: Criterion
    scheduler: paddle.optimizer.lr.LRScheduler
    optimizer: paddle.optimizer.Optimizer
    scaler: paddle.amp.GradScaler


def build_training(model: BiSeNet, criterion: Criterion, options: argparse.Namespace) -> Training:
    """Schedule, optimiser and loss scaler for `model` and `criterion`; what is not trained is frozen.

    Parameters in no group (the backbone's norms) and those that no loss reaches: no gradient of them is computed or
    sent to other processes.
    """
    groups = parameter_groups(model, criterion, options)
    trained = {id(parameter) for group in groups for parameter in group["params"]}
    idle = {id(parameter) for layer in model.idle_layers() for parameter in layer.parameters()}
    for parameter in model.parameters():
        if id(parameter) not in trained or id(parameter) in idle:
            parameter.stop_gradient = True
    scheduler = build_scheduler(options)
    optimizer = build_optimizer(model, criterion, options, scheduler)
    return Training(model, criterion, scheduler, optimizer, build_scaler(options))


def train_step(
    training: Training, images: paddle.Tensor, labels: paddle.Tensor, options: argparse.Namespace
) -> dict[str, float]:
    """One update on images float [N, 3, H, W] and labels int64 [N, H, W].

    Returns the terms of the loss before it, their sum as `loss`, and the base learning rate as `lr`. Diverged, with
    nothing updated, if the loss is NaN or Inf.
    """
    model, criterion, scheduler, optimizer, scaler = training
    rate = optimizer.get_lr()
    model.train()
    with mixed_precision(options):
        outputs = model(images)
    terms = criterion(in_float32(outputs) if options.amp else outputs, labels)
    values = {name: float(value) for name, value in terms.items()}
    if not math.isfinite(values["loss"]):
        told = ", ".join(f"{name} {value:g}" for name, value in values.items())
        raise Diverged(
            f"the loss is NaN or Inf at step {scheduler.last_epoch} ({told}): the training has diverged; lower --lr "
            f"(now {rate:g}) or raise --warmup_steps, and --resume from the last checkpoint"
        )
    scaler.scale(terms["loss"]).backward()
    scaler.step(optimizer)
    scaler.update()
    optimizer.clear_grad()
    scheduler.step()  # by iteration, not by epoch (NOTES 6.5)
    return values | {"lr": rate}


def dygraph_segment(model: BiSeNet) -> Segment:
    """images [N, 3, H, W] -> logits [N, K, H, W] by the network itself, in eval mode and without gradients."""

    def segment(images: paddle.Tensor) -> paddle.Tensor:
        model.eval()
        with paddle.no_grad():
            return model.segment(images)

    return segment


def predict(
    segment: Segment, images: paddle.Tensor, protocol: Protocol, size: Sequence[int] | None = None
) -> np.ndarray:
    """Label maps int64 [N, *size] of images [N, 3, H, W]; `size` is that of the images if not given.

    `segment` is `dygraph_segment` or an exported graph (`deploy.exported_segment`). InputError if a scale of the
    protocol leaves nothing of the images.
    """
    return protocol.predict(segment, images, tuple(size or images.shape[2:]))


def evaluate(
    segment: Segment, dataset: CityScapes, options: argparse.Namespace, protocols: Sequence[Protocol]
) -> list[ConfusionMatrix]:
    """The confusion matrix over `dataset` by each protocol, summed over all processes.

    Images are read one at a time and may differ in size. InputError, with the path of the image, for labels that are
    not a class of the network.
    """
    matrices = [ConfusionMatrix(options.num_classes) for _ in protocols]
    rank, world = dist.get_rank(), dist.get_world_size()
    sampler = EpochBatchSampler(len(dataset), 1, shuffle=False, rank=rank, world=world)
    own = len(range(rank, len(dataset), world))  # the sampler pads all ranks to one length: count no image twice
    loader = build_loader(dataset, sampler, options.n_workers_val)
    bar = tqdm(loader, desc="evaluate", unit="image", leave=False, disable=None if rank == 0 else True)
    for number, (images, labels) in enumerate(bar):
        if number == own:
            break
        labels = labels.numpy()
        try:
            for protocol, matrix in zip(protocols, matrices, strict=True):
                matrix.update(predict(segment, images, protocol, labels.shape[1:]), labels)
        except InputError as error:
            raise InputError(f"{dataset.image_path(rank + number * world)}: {error}") from error
    if world > 1:
        for matrix in matrices:
            total = paddle.to_tensor(matrix.matrix)
            dist.all_reduce(total)
            matrix.matrix = total.numpy()
    return matrices
