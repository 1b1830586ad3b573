"""The torch side of the seven stages: the twin in reference/, and torch's own losses, optimisers and schedules."""

import argparse
import copy
import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from shared.align.formula import formula_state
from shared.align.papers import calibrate, torch_structure, train_control
from shared.files import atomic_write_text
from shared.stages import Context
from shared.weights import as_numpy, read_torch, write_torch

from . import feeds, recording
from mini.draw import ensure_mini
from options import parse_options
from reference.data import listing, sample
from reference.network import build_reference
from reference.training import build_average, build_optimizer, build_scheduler, topk_accuracy, train_step

CALIBRATION_PICTURES = 8  # and as many of noise


def prepare(context: Context) -> None:
    """Make the mini data set and the official-format weight files that both sides load."""
    options = feeds.data_options(context)
    if not context.options.data_path:
        ensure_mini(options.data_path)
    torch.manual_seed(feeds.SEED)
    start = build_reference(parse_options(feeds.TRAIN_ARGV))
    write_torch(context.output_dir / "weights" / "train.pth", _state(start))
    if not context.options.weights:
        _draw_weights(context, options)
    for model in feeds.models(context):
        network = _load(replace(context, dtype="float64"), model, "", feeds.network_options(context, model))
        atomic_write_text(feeds.choice_file(context, model), json.dumps(_smoothest_batch(network)) + "\n")


def _smoothest_batch(network: torch.nn.Module) -> int:
    """The candidate batch that stays farthest from the kinks of all activations, in train and in eval mode.

    A gradient jumps at a kink, so where a value lies within rounding of one, float32 and float64 rightly differ; as in
    every gradient check, the point is chosen where the function is smooth.
    """
    margins: list[float] = []

    def measure(layer, inputs):
        kinks = (0.0,) if isinstance(layer, torch.nn.ReLU) else (-3.0, 3.0)
        scale = inputs[0].std()
        margins.append(min(float(((inputs[0] - kink).abs() / scale).min()) for kink in kinks))

    for layer in network.modules():
        if isinstance(layer, torch.nn.ReLU | torch.nn.Hardswish):
            layer.register_forward_pre_hook(measure)
    smallest = []
    for candidate in range(feeds.BATCH_CANDIDATES):
        images = torch.from_numpy(feeds.noise(f"batch{candidate}", feeds.BATCH_SHAPE, "float64"))
        margins.clear()
        with torch.no_grad():
            for training in (True, False):
                copy.deepcopy(network).train(training)(images)
        smallest.append(min(margins))
    return int(np.argmax(smallest))


def _draw_weights(context: Context, options: argparse.Namespace) -> None:
    pictures, _ = _samples(options, "val", "float32", CALIBRATION_PICTURES)
    noise = feeds.noise("calibration", tuple(pictures.shape), "float32")
    pictures = torch.cat([pictures, torch.from_numpy(noise)])
    for model, variant, network_options in feeds.networks(context):
        network = build_reference(network_options)
        shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
        _fill(network, formula_state(shapes, feeds.SEED, gain=2.0))
        if not variant:
            norms = [module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)]
            calibrate(network, partial(network, pictures), norms)
        write_torch(feeds.weights_file(context, model, variant), _state(network))


def _state(network: torch.nn.Module) -> dict[str, np.ndarray]:
    return {name: as_numpy(tensor) for name, tensor in network.state_dict().items()}


def _fill(network: torch.nn.Module, arrays: dict[str, np.ndarray]) -> None:
    network.load_state_dict({name: torch.from_numpy(np.array(array)) for name, array in arrays.items()})


def _read(path: Path, options: argparse.Namespace, dtype: str) -> torch.nn.Module:
    network = build_reference(options)
    _fill(network, read_torch(path).tensors)
    return network.to(getattr(torch, dtype))


def _load(context: Context, model: str, variant: str, options: argparse.Namespace) -> torch.nn.Module:
    return _read(feeds.weights_file(context, model, variant), options, context.dtype)


SIDE = recording.Side(_load, torch.from_numpy, torch.no_grad)


def _samples(options: argparse.Namespace, split: str, dtype: str, *chosen) -> tuple:
    """Images under the evaluation preset, and labels, of the samples that `feeds.spread(labels, *chosen)` gives."""
    folder = f"{options.data_path}/{split}"
    indices = feeds.spread([label for _, label in listing(folder)[1]], *chosen)
    images, labels = zip(*(sample(folder, index, options, 0, 0, train=False) for index in indices), strict=True)
    return torch.stack(images).to(getattr(torch, dtype)), torch.tensor(labels)


def structure(context: Context) -> dict:
    record = {}
    for model, variant, options in feeds.networks(context):
        network = build_reference(options)
        weights = None if variant else feeds.weights_file(context, model)
        parameters = sum(p.numel() for p in network.parameters())
        record[f"{model}{variant and '/' + variant}"] = torch_structure(network, weights) | {"parameters": parameters}
    return record


def data(context: Context) -> dict:
    record, root = {}, feeds.data_options(context).data_path
    for split in ("train", "val"):
        record |= feeds.listed(split, *listing(f"{root}/{split}"))
    for name, split, options in feeds.data_cases(context):
        labels = [label for _, label in listing(f"{root}/{split}")[1]]
        for epoch in (0, 1):
            for index in feeds.spread(labels, feeds.DATA_SAMPLES):
                image, label = sample(f"{root}/{split}", index, options, epoch, options.seed, train=split == "train")
                record[f"{name}/epoch{epoch}/{index}/image"] = image
                record[f"{name}/epoch{epoch}/{index}/label"] = np.int64(label)
    return record


def forward(context: Context) -> dict:
    pictures, _ = _samples(feeds.data_options(context), "val", context.dtype, feeds.FORWARD_PICTURES)
    return recording.forward(context, SIDE, pictures)


def metric(context: Context) -> dict:
    values = torch.from_numpy(feeds.logits(50, 12, context.dtype))
    target = torch.from_numpy(feeds.labels("metric", 50, 12))
    chunks = list(zip(values.split(16), target.split(16), strict=True))
    losses = torch.stack([torch.nn.functional.cross_entropy(v, t) for v, t in chunks]).double()
    tops = torch.tensor([topk_accuracy(v, t, (1, 5)) for v, t in chunks], dtype=torch.float64)
    record = {}
    for step, (top1, top5) in enumerate(tops.tolist()):
        record |= {f"batch{step}/acc1": top1, f"batch{step}/acc5": top5}
    acc1, acc5 = np.average(tops.numpy(), axis=0, weights=[len(t) for _, t in chunks]).tolist()
    record |= {"acc1": acc1, "acc5": acc5, "acc1_median": float(tops[:, 0].median())}
    record["top3"] = topk_accuracy(values, target, (3,))[0]
    return record | {"loss": float(losses.mean()), "loss_median": float(losses.median())}


def loss(context: Context) -> dict:
    record = {}
    for name, (values, target, smoothing) in feeds.loss_cases(context.dtype).items():
        x = torch.from_numpy(values).requires_grad_()
        value = torch.nn.functional.cross_entropy(x, torch.from_numpy(target), label_smoothing=smoothing)
        value.backward()
        record |= {f"{name}/cross_entropy": value, f"{name}/loss": value, f"{name}/gradient": x.grad}
    return record


def backward(context: Context) -> dict:
    return recording.backward(context, SIDE, _gradients, _steps)


def _gradients(network: torch.nn.Module, images: torch.Tensor, target: torch.Tensor) -> tuple:
    value = torch.nn.functional.cross_entropy(network(images), target)
    value.backward()
    return value, {name: parameter.grad for name, parameter in network.named_parameters()}


def _steps(network, average_network, recipe, images, target) -> tuple:
    optimizer = build_optimizer(network.train(), recipe)
    scheduler = build_scheduler(optimizer, recipe)
    average = build_average(average_network, feeds.EMA_DECAY)
    losses, rates = [], []
    for _ in range(feeds.OPTIMISER_STEPS):
        rates.append(optimizer.param_groups[0]["lr"])
        losses.append(train_step(network, optimizer, images, target))
        scheduler.step()
        average.update_parameters(network)
    return losses, rates, _state(network), _state(average.module)


def train(context: Context) -> dict:
    options = feeds.data_options(context, *feeds.TRAIN_ARGV)
    train_set = _samples(options, "train", context.dtype, feeds.TRAIN_PICTURES, feeds.TRAIN_CLASSES)
    val_set = _samples(options, "val", context.dtype, feeds.VAL_PICTURES, feeds.TRAIN_CLASSES)
    network = _read(context.output_dir / "weights" / "train.pth", options, context.dtype)
    train_control(context, network, lambda control: _train(control, train_set, val_set, options), feeds.SEED)
    return _train(network, train_set, val_set, options)


def _train(network: torch.nn.Module, train_set: tuple, val_set: tuple, options: argparse.Namespace) -> dict:
    optimizer = build_optimizer(network.train(), options)
    scheduler = build_scheduler(optimizer, options)
    images, target = train_set
    losses, curve = [], []
    for epoch in range(options.epochs):
        order = np.random.default_rng([options.seed, epoch]).permutation(len(target))
        for keys in torch.from_numpy(order).split(options.batch_size):
            losses.append(train_step(network, optimizer, images[keys], target[keys]))
        scheduler.step()
        with torch.no_grad():
            curve.append(topk_accuracy(network(val_set[0]), val_set[1], (1,))[0])
    return feeds.training_record(losses, curve)
