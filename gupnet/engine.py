"""The training step, prediction and evaluation: plain functions, called by trainer, scripts, alignment and tests."""

import argparse
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import paddle
import paddle.distributed as dist
from tqdm import tqdm

from shared.norms import use_synchronised_batch_norm
from shared.running.launch import Diverged, build_scaler, in_float32, mixed_precision
from shared.running.loader import Loader
from shared.running.processes import sum_gradients

from datasets import Batch
from decoding import decode_detections, extract_dets_from_outputs, write_results
from losses import TERMS, Counts, GupnetLoss, build_criterion
from metrics.average_precision import Metrics, evaluate_folders
from models import BrokenBoxes, GUPNet
from optimizers import EpochSchedule, build_optimizer

#: (images, coord_ranges, calibs) -> the outputs of the mode "test": the network itself, or an exported graph
Network = Callable[[paddle.Tensor, paddle.Tensor, paddle.Tensor], Mapping[str, paddle.Tensor]]


class Training(NamedTuple):
    """What a training step works with."""

    options: argparse.Namespace
    model: GUPNet
    criterion: GupnetLoss
    schedule: EpochSchedule  # call `step(epoch)` before each epoch
    optimizer: paddle.optimizer.Optimizer
    scaler: paddle.amp.GradScaler


def build_training(model: GUPNet, options: argparse.Namespace) -> Training:
    """Losses, schedule and optimiser for `model`, whose tensors become those of the first process."""
    if options.sync_bn:
        use_synchronised_batch_norm(model)
    for layer in model.idle_layers():  # they need no gradients, nor sums of them over processes
        for parameter in layer.parameters():
            parameter.stop_gradient = True
    if dist.get_world_size() > 1:
        for tensor in model.state_dict().values():
            dist.broadcast(tensor, 0)
    schedule = EpochSchedule(options)
    optimizer = build_optimizer(model, options, schedule)
    return Training(options, model, build_criterion(options), schedule, optimizer, build_scaler(options))


def train_step(training: Training, batch: Batch, weights: dict[str, float]) -> dict[str, float]:
    """One update with these weights of the losses.

    Returns the losses, unweighted, and `loss`, their weighted sum: of all processes together, which compute what one
    process would with all images, given sync_bn. Raises Diverged, before the update, where one is NaN or Inf.
    """
    optimizer, scaler = training.optimizer, training.scaler
    terms = _losses(training, batch, weights)
    values = _values(terms, weights)
    scaler.scale(terms["loss"]).backward()
    sum_gradients(training.model.parameters())
    scaler.step(optimizer)
    scaler.update()
    optimizer.clear_grad(set_to_zero=False)  # NOTES 8.10
    return values


@paddle.no_grad()
def measure_losses(training: Training, batch: Batch) -> dict[str, float]:
    """The losses of a batch in training mode, without an update: batch norms' statistics move (NOTES 5.11)."""
    return _values(_losses(training, batch, {}), {})


def _losses(training: Training, batch: Batch, weights: dict[str, float]) -> dict[str, paddle.Tensor]:
    """The losses of this process's images, divided by the counts of all processes (NOTES 5.6, 5.7)."""
    options, model, criterion = training.options, training.model, training.criterion
    model.train()
    try:
        with mixed_precision(options):
            outputs = model(batch.images, batch.coord_ranges, batch.calibs, batch.targets, mode="train")
    except BrokenBoxes as error:
        raise Diverged("the boxes of offset2d_loss and size2d_loss") from error
    if options.amp:
        outputs = in_float32(outputs)
    counts = criterion.counts(batch.targets)
    if dist.get_world_size() > 1:
        both = paddle.stack(list(counts))
        dist.all_reduce(both)
        counts = Counts(both[0], both[1])
    return criterion(outputs, batch.targets, weights, counts)


def _values(terms: dict[str, paddle.Tensor], weights: dict[str, float]) -> dict[str, float]:
    """The losses as numbers, summed over processes. Diverged, which names them, where some are NaN or Inf."""
    names = (*TERMS, "loss")
    stacked = paddle.stack([terms[name].detach() for name in names])
    if dist.get_world_size() > 1:
        dist.all_reduce(stacked)
    values = dict(zip(names, stacked.tolist(), strict=True))
    bad = [name for name, value in values.items() if not math.isfinite(value)]
    if bad:
        causes = [f"{name} weighs {weight}" for name, weight in weights.items() if not math.isfinite(weight)]
        raise Diverged(", ".join(bad) + (f" ({', '.join(causes)})" if causes else ""))
    return values


# ---------------------------------------------------------------- prediction and evaluation


def in_test_mode(model: GUPNet) -> Network:
    """The network in the mode "test". Batch norms follow its train() and eval()."""
    return lambda images, coord_ranges, calibs: model(images, coord_ranges, calibs, mode="test")


@paddle.no_grad()
def predict(network: Network, batch: Batch, threshold: float) -> dict[int, np.ndarray]:
    """{frame: detections [n, 14]} of a batch with at least this score, as `decode_detections` gives them."""
    outputs = network(batch.images, batch.coord_ranges, batch.calibs)
    detections = extract_dets_from_outputs(outputs).numpy()
    return decode_detections(detections, batch.info, batch.calibs.numpy(), threshold)


def predict_split(network: Network, loader: Loader, threshold: float, folder: Path) -> int:
    """Write the result files of all frames of `loader` to `folder`, in place of others. The number of detections.

    Every process runs the network, the first one writes. InputError for files that cannot be read or written.
    """
    results: dict[int, np.ndarray] = {}
    for batch in tqdm(loader, desc="evaluate", unit="batch", leave=False, disable=None):
        results |= predict(network, batch, threshold)
    if dist.get_rank() == 0:
        write_results(folder, results)
    return sum(map(len, results.values()))


def evaluate(network: Network, loader: Loader, threshold: float, folder: Path) -> Metrics:
    """`predict_split`, and KITTI's metrics of the files; {} in all processes but the first."""
    predict_split(network, loader, threshold, folder)
    if dist.get_rank() != 0:
        return {}
    return evaluate_folders(loader.dataset.folder / "label_2", folder)
