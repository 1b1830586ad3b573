"""The torch side of the seven stages: the twin in reference/, and torch's own losses, optimisers and schedules."""

import argparse
import copy
import io
import json
import zlib
from dataclasses import replace

import numpy as np
import torch

from shared.align.formula import formula_state
from shared.align.record import Record
from shared.stages import Context
from shared.weights import atomic_write, atomic_write_text, read_torch

from . import feeds
from options import parse_options
from reference.data import listing, sample
from reference.network import build_reference
from reference.training import build_average, build_optimizer, build_scheduler, topk_accuracy

CALIBRATION_PICTURES = 8  # and as many of noise


def prepare(context: Context) -> None:
    """Make the mini data set and the official-format weight files that both sides load."""
    options = feeds.data_options(context)
    if not context.options.data_path:
        from mini.draw import ensure_mini

        ensure_mini(options.data_path)
    train_options = parse_options(feeds.TRAIN_ARGV)
    torch.manual_seed(feeds.SEED)
    _write(context.output_dir / "weights" / "train.pth", build_reference(train_options).state_dict())
    if not context.options.weights:
        _draw_weights(context, options)
    for model in feeds.models(context):
        choice = _smoothest_batch(
            _loaded(replace(context, dtype="float64"), model, "", feeds.network_options(context, model))
        )
        atomic_write_text(feeds.choice_file(context, model), json.dumps(choice) + "\n")


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
    split = f"{options.data_path}/val"
    pictures = _pictures(split, options, CALIBRATION_PICTURES)
    noise = feeds.noise("calibration", tuple(pictures.shape), "float32")
    pictures = torch.cat([pictures, torch.from_numpy(noise)])
    for model, variant, network_options in feeds.networks(context):
        network = build_reference(network_options)
        shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
        state = {n: torch.from_numpy(a) for n, a in formula_state(shapes, feeds.SEED, gain=2.0).items()}
        network.load_state_dict(state)
        if not variant:
            _calibrate(network, pictures)
        _write(feeds.weights_file(context, model, variant), network.state_dict())


def _calibrate(network: torch.nn.Module, images: torch.Tensor) -> None:
    """Let the running statistics be those of these pictures, so that drawn weights act like trained ones."""
    norms = [module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    network.train()
    with torch.no_grad():
        network(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.num_batches_tracked.zero_()


def _write(path, state: dict) -> None:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    atomic_write(path, lambda file: file.write(buffer.getvalue()))


def _pictures(split: str, options: argparse.Namespace, most: int) -> torch.Tensor:
    count = len(listing(split)[1])
    return torch.stack([sample(split, i, options, 0, 0, train=False)[0] for i in feeds.chosen(count, most)])


def _loaded(context: Context, model: str, variant: str, options) -> torch.nn.Module:
    network = build_reference(options)
    state = read_torch(feeds.weights_file(context, model, variant)).tensors
    network.load_state_dict({name: torch.from_numpy(np.array(array)) for name, array in state.items()})
    return network.to(getattr(torch, context.dtype))


def structure(context: Context) -> dict:
    record = {}
    for model, variant, options in feeds.networks(context):
        network = build_reference(options)
        state = network.state_dict()
        name = f"{model}{variant and '/' + variant}"
        record[f"{name}/tensors"] = list(state)
        for tensor, value in state.items():
            record[f"{name}/shape/{tensor}"] = np.array(value.shape, np.int64)
        record[f"{name}/parameters"] = sum(p.numel() for p in network.parameters())
        if not variant:
            for tensor, value in torch.load(feeds.weights_file(context, model), weights_only=True).items():
                record[f"{name}/bits/{tensor}"] = zlib.crc32(value.numpy().tobytes())
    return record


def data(context: Context) -> dict:
    record = {}
    root = feeds.data_options(context).data_path
    for split in ("train", "val"):
        classes, samples = listing(f"{root}/{split}")
        record[f"{split}/classes"] = classes
        record[f"{split}/samples"] = [f"{label} {'/'.join(path.split('/')[-2:])}" for path, label in samples]
    for name, split, argv in feeds.DATA_CASES:
        options = feeds.data_options(context, *argv)
        count = len(listing(f"{root}/{split}")[1])
        for epoch in (0, 1):
            for index in feeds.chosen(count, 6):
                image, label = sample(
                    f"{root}/{split}", index, options, epoch=epoch, seed=options.seed, train=split == "train"
                )
                record[f"{name}/epoch{epoch}/{index}/image"] = image.numpy()
                record[f"{name}/epoch{epoch}/{index}/label"] = np.int64(label)
    return record


def forward(context: Context) -> dict:
    record = {}
    options = feeds.data_options(context)
    pictures = _pictures(f"{options.data_path}/val", options, 4).to(getattr(torch, context.dtype))
    inputs = {"noise": torch.from_numpy(feeds.noise("noise", feeds.NOISE_SHAPE, context.dtype)), "pictures": pictures}
    for model, variant, network_options in feeds.networks(context):
        network = _loaded(context, model, variant, network_options)
        with torch.no_grad():
            if variant:
                images = feeds.noise("variant", feeds.VARIANT_SHAPE, context.dtype)
                record[f"{model}/{variant}/logits"] = network.train()(torch.from_numpy(images)).numpy()
                continue
            network.eval()
            for name, images in inputs.items():
                x = images
                for index, stage in enumerate(network.features):
                    x = stage(x)
                    record[f"{model}/{name}/features.{index}"] = x.numpy()[:1]
                pooled = x.mean((2, 3))
                record[f"{model}/{name}/pooled"] = pooled.numpy()
                record[f"{model}/{name}/penultimate"] = network.classifier[:2](pooled).numpy()
                record[f"{model}/{name}/logits"] = network(images).numpy()
    return record


def metric(context: Context) -> dict:
    values = torch.from_numpy(feeds.logits(50, 12, context.dtype))
    target = torch.from_numpy(feeds.labels("metric", 50, 12))
    chunks = list(zip(values.split(16), target.split(16), strict=True))
    losses = torch.stack([torch.nn.functional.cross_entropy(v, t) for v, t in chunks])
    record, tops = {}, []
    for step, (v, t) in enumerate(chunks):
        top1, top5 = topk_accuracy(v, t, (1, 5))
        tops.append((top1, top5, len(t)))
        record |= {f"batch{step}/acc1": top1, f"batch{step}/acc5": top5}
    weights = np.array([n for _, _, n in tops])
    record["acc1"] = float(np.average([t[0] for t in tops], weights=weights))
    record["acc5"] = float(np.average([t[1] for t in tops], weights=weights))
    record["acc1_median"] = float(torch.tensor([t[0] for t in tops], dtype=torch.float64).median())
    record["top3"] = topk_accuracy(values, target, (3,))[0]
    return record | {"loss": float(losses.double().mean()), "loss_median": float(losses.double().median())}


def loss(context: Context) -> dict:
    record = {}
    for name, (values, target, smoothing) in feeds.loss_cases(context.dtype).items():
        x = torch.from_numpy(values).requires_grad_()
        value = torch.nn.functional.cross_entropy(x, torch.from_numpy(target), label_smoothing=smoothing)
        value.backward()
        record |= {f"{name}/cross_entropy": value.detach().numpy(), f"{name}/loss": value.detach().numpy()}
        record[f"{name}/gradient"] = x.grad.numpy()
    return record


def backward(context: Context) -> dict:
    record = {}
    for model in feeds.models(context):
        options = feeds.network_options(context, model)
        images, target = (torch.from_numpy(array) for array in feeds.batch(context, model))
        for mode in ("train", "eval"):
            network = _loaded(context, model, "", options).train(mode == "train")
            value = torch.nn.functional.cross_entropy(network(images), target)
            value.backward()
            record[f"{model}/{mode}/loss"] = value.detach().numpy()
            for name, parameter in network.named_parameters():
                record[f"{model}/{mode}/gradient/{name}"] = parameter.grad.numpy()
        for name, argv in feeds.OPTIMISERS.items():
            steps = _optimiser_steps(context, model, options, argv, images, target)
            record |= {f"{model}/{name}/{key}": value for key, value in steps.items()}
    return record


def _optimiser_steps(context, model, options, argv, images, target) -> dict:
    network = _loaded(context, model, "", options).train()
    recipe = parse_options(argv)
    optimizer = build_optimizer(network, recipe)
    scheduler = build_scheduler(optimizer, recipe)
    average = build_average(network, feeds.EMA_DECAY)
    losses, rates = [], []
    for _ in range(feeds.OPTIMISER_STEPS):
        value = torch.nn.functional.cross_entropy(network(images), target)
        optimizer.zero_grad()
        value.backward()
        losses.append(value.item())
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
        average.update_parameters(network)
    sums = {}
    for kind, source in (("", network), ("ema_", average.module)):
        for part in ("running_mean", "running_var", "weight"):
            chosen = [value for name, value in source.state_dict().items() if name.endswith(part)]
            sums[f"{kind}{part}_norms"] = np.array([value.double().norm().item() for value in chosen])
    return {"loss": np.array(losses), "lr": np.array(rates)} | sums


def train(context: Context) -> dict:
    options = feeds.data_options(context, *feeds.TRAIN_ARGV)
    dtype = getattr(torch, context.dtype)
    images, target = _training_tensors(f"{options.data_path}/train", options, feeds.TRAIN_PICTURES, dtype)
    val = _training_tensors(f"{options.data_path}/val", options, feeds.VAL_PICTURES, dtype)
    network = build_reference(options)
    network.load_state_dict(torch.load(context.output_dir / "weights" / "train.pth", weights_only=True))
    network.to(dtype)
    if context.dtype == "float64":
        # how far torch parts from itself when it starts a rounding error away: drawn beside the two curves
        torch.manual_seed(feeds.SEED)
        control = copy.deepcopy(network)
        with torch.no_grad():
            for parameter in control.parameters():
                parameter.mul_(1 + 1e-8 * torch.randn_like(parameter))
        Record(_train(control, images, target, val, options)).save(context.output_dir / "train_control.npz")
    return _train(network, images, target, val, options)


def _train(network, images, target, val, options: argparse.Namespace) -> dict:
    optimizer = build_optimizer(network.train(), options)
    scheduler = build_scheduler(optimizer, options)
    losses, curve = [], []
    for epoch in range(options.epochs):
        order = np.random.default_rng([options.seed, epoch]).permutation(len(target))
        for keys in torch.from_numpy(order).split(options.batch_size):
            value = torch.nn.functional.cross_entropy(network(images[keys]), target[keys])
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            losses.append(value.item())
        scheduler.step()
        with torch.no_grad():
            curve.append(topk_accuracy(network(val[0]), val[1], (1,))[0])
    return feeds.training_record(losses, curve)


def _training_tensors(split: str, options: argparse.Namespace, most: int, dtype: torch.dtype) -> tuple:
    kept = feeds.training_pictures([label for _, label in listing(split)[1]], most)
    images, target = zip(*(sample(split, index, options, 0, 0, train=False) for index in kept), strict=True)
    return torch.stack(images).to(dtype), torch.tensor(target)
