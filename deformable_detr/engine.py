"""A training step, a batch of predictions, an evaluation: what trainer, evaluate, demo, align and benchmark call."""

import argparse
import math
from collections.abc import Callable

import numpy as np
import paddle
import paddle.distributed as dist
from tqdm import tqdm

from shared.running.launch import Diverged, in_float32, mixed_precision
from shared.running.processes import gather, mean_over_processes
from shared.running.sampling import EpochBatchSampler

from datasets import Batch, CocoDetection, build_loader
from losses import NotFinite, SetCriterion
from metrics import CocoMetrics, detection_rows, evaluate_detections, merge
from models import DeformableDETR, PostProcess
from optimizers import average_gradients, clip_gradients, first_not_finite

#: a network, or an exported one: numpy arrays (images, mask) in, {name: array} out
Network = DeformableDETR | Callable[[np.ndarray, np.ndarray], dict[str, np.ndarray]]


def train_step(
    model: DeformableDETR,
    criterion: SetCriterion,
    optimizer: paddle.optimizer.Optimizer,
    scaler: paddle.amp.GradScaler,
    batch: Batch,
    options: argparse.Namespace,
    step: int,
) -> dict[str, float]:
    """One update of the weights by a batch; `step` counts from 0 and seeds the dropout.

    Returns every term of the loss, unweighted, the weighted sum `loss`, and `grad_norm`, the L2 norm of all gradients
    before the clip. Diverged when an output, a term or a gradient is NaN or Inf; the weights are then as before.
    """
    images, mask, targets = batch
    model.train()
    paddle.seed(((options.seed * 1_000_003 + step) * dist.get_world_size() + dist.get_rank()) % 2**31)
    with mixed_precision(options):
        outputs = model(images, mask)
    try:
        terms = criterion(in_float32(outputs) if options.amp else outputs, targets)
    except NotFinite as error:
        raise diverged(error.name, step, optimizer) from error
    values = {name: float(value) for name, value in terms.items()}
    for name, value in values.items():
        if not math.isfinite(value):
            raise diverged(name, step, optimizer)
    scaler.scale(terms["loss"]).backward()
    average_gradients(model)
    scaler.unscale_(optimizer)
    values["grad_norm"] = clip_gradients(model, options.clip_max_norm)
    if not math.isfinite(values["grad_norm"]) and not scaler.is_enable():
        raise diverged(f"the gradient of {first_not_finite(model)}", step, optimizer)
    scaler.step(optimizer)
    scaler.update()
    optimizer.clear_grad()
    return values


def diverged(name: str, step: int, optimizer: paddle.optimizer.Optimizer) -> Diverged:
    """The error that says which tensor is NaN or Inf, and what to do."""
    return Diverged(
        f"{name} is NaN or Inf at step {step}: the training has diverged; check the boxes of the annotations, lower "
        f"--lr (now {optimizer.get_lr():g}), and --resume from the last checkpoint"
    )


def predict(network: Network, images: paddle.Tensor, mask: paddle.Tensor) -> dict:
    """The outputs of a batch, without gradients: images float32 [N, 3, H, W], mask bool [N, H, W] -> at least
    `pred_logits` [N, Q, classes] and `pred_boxes` [N, Q, 4]."""
    if isinstance(network, paddle.nn.Layer):
        with paddle.no_grad():
            return network(images, mask)
    return {name: paddle.to_tensor(array) for name, array in network(images.numpy(), mask.numpy()).items()}


def evaluate(
    network: Network, dataset: CocoDetection, options: argparse.Namespace, criterion: SetCriterion | None = None
) -> tuple[CocoMetrics, dict[str, float]]:
    """COCO's metrics of a network on a data set, and with `criterion` its losses; the same in every process.

    Each process evaluates its share in batches of --batch_size; the losses are means over the batches, then over the
    processes. NotFinite as the criterion raises it.
    """
    if isinstance(network, paddle.nn.Layer):
        network.eval()
    rank, world = dist.get_rank(), dist.get_world_size()
    sampler = EpochBatchSampler(
        len(dataset), options.batch_size, shuffle=False, rank=rank, world=world, contiguous=True
    )
    loader = build_loader(dataset, sampler, options.num_workers)
    ids, rows, sums = [], [np.empty((0, 7))], {}
    post_process = PostProcess()
    bar = tqdm(loader, desc="evaluate", unit="batch", leave=False, disable=None if rank == 0 else True)
    for images, mask, targets in bar:
        outputs = predict(network, images, mask)
        if criterion:
            for name, value in criterion(outputs, targets).items():
                sums[name] = sums.get(name, 0.0) + float(value)
        sizes = np.stack([target["orig_size"].numpy() for target in targets])
        for target, detections in zip(targets, post_process(outputs, sizes), strict=True):
            ids.append(target["image_id"].item())
            rows.append(detection_rows(ids[-1], **detections))
    parts = zip(gather(np.array(ids, np.int64)), gather(np.concatenate(rows)), strict=True)
    image_ids, detections = merge(list(parts))
    losses = mean_over_processes({name: value / len(sampler) for name, value in sums.items()})
    return evaluate_detections(dataset.coco, detections, image_ids), losses
