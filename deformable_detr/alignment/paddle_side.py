"""The Paddle side of the seven stages: this folder's own network, losses, data, metrics and training step."""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import paddle

from shared.align.papers import paddle_structure
from shared.convert import plan
from shared.running.launch import build_scaler
from shared.stages import Context
from shared.weights import as_numpy

import ops
from . import feeds, recording
from convert import load_official
from datasets import build_dataset, pad_images, read_annotations
from engine import predict, train_step
from losses import build_criterion
from losses import criterion as criterion_module
from metrics import detection_rows, evaluate_detections
from models import PostProcess, build_model
from optimizers import build_optimizer, build_scheduler, parameter_groups


def _load(options: argparse.Namespace, file: Path, dtype: str):
    model = build_model(options)
    load_official(model, file)
    model.to(dtype=dtype)
    return model


def _network(context: Context, name: str, options: argparse.Namespace):
    return _load(options, feeds.weights_file(context, name), context.dtype)


def _open_split(options: argparse.Namespace, split: str) -> recording.Split:
    dataset = build_dataset(options, split)

    def read(epoch: int, index: int) -> tuple:
        dataset.set_epoch(epoch)
        return dataset[index]

    return dataset.ids, read


@contextmanager
def _other_processes(counts: tuple[int, ...]) -> Iterator[None]:
    """As if these processes, with that many boxes each, took part in the sum over processes."""

    def all_reduce(total) -> None:
        total.add_(paddle.to_tensor(float(sum(counts)), total.dtype))

    kept = criterion_module.dist
    criterion_module.dist = SimpleNamespace(get_world_size=lambda: 1 + len(counts), all_reduce=all_reduce)
    try:
        yield
    finally:
        criterion_module.dist = kept


class _Criterion:
    """SetCriterion with the boxes that other processes hold as an argument."""

    def __init__(self, options: argparse.Namespace):
        self.criterion = build_criterion(options)
        self.matcher = self.criterion.matcher

    def __call__(self, outputs: dict, targets: list[dict], elsewhere: tuple[int, ...] = ()) -> dict:
        with _other_processes(elsewhere):
            return self.criterion(outputs, targets)


def _gradients(model) -> dict:
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return plan(model).gradients_to_torch(gradients)


def _statistics(model) -> dict:
    state, _ = plan(model).to_torch({name: as_numpy(value) for name, value in model.state_dict().items()})
    return {name: value for name, value in state.items() if "running" in name}


SIDE = recording.Side(
    network=_network,
    criterion=_Criterion,
    operator=ops.ms_deform_attn,
    post_process=PostProcess(),
    open_split=_open_split,
    pad=pad_images,
    tensor=lambda array, gradient=False: paddle.to_tensor(array, stop_gradient=not gradient),
    no_grad=paddle.no_grad,
    hook="register_forward_post_hook",
    gradients=_gradients,
    statistics=_statistics,
)


def structure(context: Context) -> dict:
    def describe(options: argparse.Namespace, weights: Path) -> tuple:
        model = build_model(options)
        groups = [sum(int(p.size) for _, p in group) for group in parameter_groups(model, options)]
        return paddle_structure(plan(model), weights), sum(groups), groups

    return recording.structure(context, describe)


data = partial(recording.data, side=SIDE)
forward = partial(recording.forward, side=SIDE)
loss = partial(recording.loss, side=SIDE)


def metric(context: Context) -> dict:
    def coco_numbers(file: Path, detections: list[dict], image_ids: list | None) -> np.ndarray:
        rows = [(entry["image_id"], *entry["bbox"], entry["score"], entry["category_id"]) for entry in detections]
        none = detection_rows(0, np.empty(0), np.empty(0), np.empty((0, 4)))
        rows = np.array(rows, np.float64) if rows else none
        return np.array(list(evaluate_detections(read_annotations(file), rows, image_ids).numbers.values()))

    return recording.metric(context, SIDE, coco_numbers)


def backward(context: Context) -> dict:
    return recording.backward(context, SIDE, _steps)


def _steps(model, batch: tuple, options: argparse.Namespace) -> tuple:
    scheduler = build_scheduler(options)
    optimizer = build_optimizer(model, options, scheduler)
    training = model, build_criterion(options), optimizer, build_scaler(options)
    groups = [[p for _, p in group] for group in parameter_groups(model, options)]
    before = [[p.numpy().copy() for p in group] for group in groups]
    steps = [train_step(*training, batch, options, number) for number in range(feeds.OPTIMISER_STEPS)]
    moved = feeds.distances(before, [[p.numpy() for p in group] for group in groups])
    factors, rates = np.array([group["learning_rate"] for group in optimizer._param_groups]), []
    for _ in range(options.epochs):
        rates.append(scheduler.get_lr() * factors)  # a group's rate is a factor of the optimiser's (NOTES 8.2)
        scheduler.step()
    return [step["loss"] for step in steps], [step["grad_norm"] for step in steps], rates, moved


def train(context: Context) -> dict:
    options = feeds.data_options(context, feeds.TRAIN_ARGV)
    model, criterion = _load(options, feeds.first_weights(context), context.dtype), build_criterion(options)
    training = model, criterion, build_optimizer(model, options, options.lr), build_scaler(options)

    def loss_of(batch: tuple) -> float:
        images, mask, targets = batch
        model.eval()
        return float(criterion(predict(model, images, mask), targets)["loss"])

    def step(batch: tuple, number: int) -> float:
        return train_step(*training, batch, options, number)["loss"]

    return recording.train(options, context.dtype, SIDE, step, loss_of)
