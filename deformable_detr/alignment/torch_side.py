"""The torch side of the seven stages: the twin, or with --reference the official checkout.

The official code brings its network, losses, post-processing and operator; its optimiser and data pipeline need a GPU
(NOTES 9.6), so the twin stands for both there, and for the metric.
"""

import argparse
import hashlib
import json
import random
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from torch import nn

from shared.align.papers import torch_structure, train_control
from shared.stages import Context
from shared.weights import as_numpy, write_torch

from . import feeds, recording
from .drawing import ROUNDING, choose_batch, draw_weights, load
from options import parse_options
from reference import data as reading
from reference import evaluation, losses, network, official, training
from reference.operator import ms_deform_attn_torch


def _open_split(options: argparse.Namespace, split: str) -> recording.Split:
    source = reading.Reading(options, split)

    def draws(epoch: int, index: int) -> random.Random:
        # the data set's rule: the first 8 bytes of a hash of seed, epoch and index
        digest = hashlib.sha256(f"{options.seed}/{epoch}/{index}".encode()).digest()
        return random.Random(int.from_bytes(digest[:8], "big"))

    return [entry["id"] for entry in source.images], lambda epoch, index: source.item(index, draws(epoch, index))


def build_side(code: SimpleNamespace) -> recording.Side:
    """The parts of the torch side with these builders of network, losses, post-processing and operator."""

    def load_network(context: Context, name: str, options: argparse.Namespace) -> nn.Module:
        return load(code.build_reference(options), context, feeds.weights_file(context, name))

    return recording.Side(
        network=load_network,
        criterion=code.build_criterion,
        operator=lambda value, shapes, starts, *rest: code.operator(value, shapes, *rest),
        post_process=code.post_process,
        open_split=_open_split,
        pad=lambda images: reading.batch([(image, {}) for image in images])[:2],
        tensor=lambda array, gradient=False: torch.from_numpy(array).requires_grad_(gradient),
        no_grad=torch.no_grad,
        hook="register_forward_hook",
        gradients=lambda model: {name: p.grad for name, p in model.named_parameters() if p.grad is not None},
        statistics=lambda model: {name: value for name, value in model.state_dict().items() if "running" in name},
    )


_TWIN = SimpleNamespace(
    build_reference=network.build_reference,
    build_criterion=losses.build_criterion,
    post_process=losses.post_process,
    operator=ms_deform_attn_torch,
)
TWIN = build_side(_TWIN)


def _code(context: Context) -> SimpleNamespace:
    """The functions of the torch side: the twin's, or the official checkout's."""
    return official.load(context.options.reference) if context.options.reference else _TWIN


def prepare(context: Context) -> None:
    """Make the mini data set, the official-format weights that both sides load, and choose batches."""
    _code(context)  # refuses a --reference that is not an official checkout
    if not context.options.data_path:
        from mini.draw import ensure_mini

        ensure_mini()
    stages = set(context.options.stage)
    if "train" in stages:
        _draw_first_weights(context)
    drawn, chosen = [], []
    if {"forward", "backward"} & stages:
        chosen += feeds.networks(context, feeds.TRAINED)
    if "backward" in stages:
        chosen += feeds.stepped(context)
    if {"structure", "forward"} & stages:
        drawn += feeds.networks(context)
    if not context.options.weights:
        for name, options in dict([*drawn, *chosen]).items():
            draw_weights(context, TWIN, options, name)
    for name, options in chosen:
        choose_batch(context, TWIN, name, options)


def structure(context: Context) -> dict:
    def describe(options: argparse.Namespace, weights: Path) -> tuple:
        model = _code(context).build_reference(options)
        groups = [sum(p.numel() for p in group["params"]) for group in training.parameter_groups(model, options)]
        return torch_structure(model, weights), sum(p.numel() for p in model.parameters() if p.requires_grad), groups

    return recording.structure(context, describe)


data = partial(recording.data, side=TWIN)


def forward(context: Context) -> dict:
    return recording.forward(context, build_side(_code(context)))


def metric(context: Context) -> dict:
    def coco_numbers(file: Path, detections: list[dict], image_ids: list | None) -> np.ndarray:
        content = json.loads(file.read_text())
        images = [entry for entry in content["images"] if image_ids is None or entry["id"] in image_ids]
        return evaluation.coco_numbers(content | {"images": images}, detections)

    return recording.metric(context, TWIN, coco_numbers)


def loss(context: Context) -> dict:
    return recording.loss(context, build_side(_code(context)))


def backward(context: Context) -> dict:
    side = build_side(_code(context))

    def steps(model: nn.Module, batch: tuple, options: argparse.Namespace) -> tuple:
        return _steps(model.train(), side.criterion(options), batch, options)

    return recording.backward(context, side, steps)


def _steps(model: nn.Module, criterion: nn.Module, batch: tuple, options: argparse.Namespace) -> tuple:
    images, mask, targets = batch
    optimizer = training.build_optimizer(model, options)
    groups = [group["params"] for group in training.parameter_groups(model, options)]
    before = [[as_numpy(p.detach()).copy() for p in group] for group in groups]
    values, norms, rates = [], [], []
    for _ in range(feeds.OPTIMISER_STEPS):
        value = criterion(model(images, mask), targets)["loss"]
        values.append(value.item())
        norms.append(training.step(model, optimizer, value, options))
    moved = feeds.distances(before, [[as_numpy(p.detach()) for p in group] for group in groups])
    scheduler = training.build_scheduler(optimizer, options)
    for _ in range(options.epochs):
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.zero_grad()
        optimizer.step()
        scheduler.step()
    return values, norms, rates, moved


def _draw_first_weights(context: Context) -> None:
    """Fresh weights, but no sampling point exactly on a cell's centre, where it has no gradient (NOTES 4.5)."""
    torch.manual_seed(feeds.SEED)
    model = network.build_reference(parse_options(feeds.TRAIN_ARGV))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("sampling_offsets.bias"):
                parameter.add_(torch.empty_like(parameter).uniform_(-0.3, 0.3))
    write_torch(feeds.first_weights(context), {name: as_numpy(value) for name, value in model.state_dict().items()})


def train(context: Context) -> dict:
    options = feeds.data_options(context, feeds.TRAIN_ARGV)

    def run(model: nn.Module) -> dict:
        criterion, optimizer = losses.build_criterion(options), training.build_optimizer(model, options)

        def loss_of(batch: tuple) -> float:
            images, mask, targets = batch
            with torch.no_grad():
                return criterion(model.eval()(images, mask), targets)["loss"].item()

        def step(batch: tuple, number: int) -> float:
            images, mask, targets = batch
            value = criterion(model.train()(images, mask), targets)["loss"]
            training.step(model, optimizer, value, options)
            return value.item()

        return recording.train(options, context.dtype, TWIN, step, loss_of)

    model = load(network.build_reference(options), context, feeds.first_weights(context))
    train_control(context, model, run, feeds.SEED, ROUNDING)
    return run(model)
