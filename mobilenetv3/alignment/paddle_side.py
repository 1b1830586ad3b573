"""The Paddle side of the seven stages: this folder's own code."""

import zlib

import numpy as np
import paddle

from shared.convert import plan
from shared.stages import Context
from shared.weights import as_numpy, read_torch

from . import feeds
from convert import IGNORE, RENAME, load_official
from datasets import EpochBatchSampler, build_dataset
from datasets.folder import ImageFolder
from datasets.transforms import build_transform
from ema import ExponentialMovingAverage
from losses import CrossEntropyLoss, build_criterion
from metrics import SmoothedValue, accuracy
from models import build_model
from optimizers import build_optimizer, build_scheduler
from options import parse_options


def _loaded(context: Context, model: str, variant: str, options):
    network = build_model(options)
    load_official(network, feeds.weights_file(context, model, variant))
    network.to(dtype=context.dtype)
    return network


def structure(context: Context) -> dict:
    record = {}
    for model, variant, options in feeds.networks(context):
        network = build_model(options)
        mapping = plan(network, RENAME, IGNORE)
        name = f"{model}{variant and '/' + variant}"
        record[f"{name}/tensors"] = list(mapping.torch_shapes())
        for tensor, shape in mapping.torch_shapes().items():
            record[f"{name}/shape/{tensor}"] = np.array(shape, np.int64)
        record[f"{name}/parameters"] = sum(int(p.size) for p in network.parameters() if not p.stop_gradient)
        if not variant:
            official = read_torch(feeds.weights_file(context, model)).tensors
            converted, torch_only, report = mapping.to_paddle(official)
            report.raise_if_bad(feeds.weights_file(context, model))
            back, _ = mapping.to_torch(converted, torch_only)
            for tensor, array in back.items():
                record[f"{name}/bits/{tensor}"] = zlib.crc32(array.tobytes())
    return record


def data(context: Context) -> dict:
    record = {}
    for split in ("train", "val"):
        dataset = build_dataset(feeds.data_options(context), split)
        record[f"{split}/classes"] = dataset.classes
        record[f"{split}/samples"] = [f"{label} {_relative(path)}" for path, label in dataset.samples]
    for name, split, argv in feeds.DATA_CASES:
        options = feeds.data_options(context, *argv)
        dataset = build_dataset(options, split)
        for epoch in (0, 1):
            dataset.set_epoch(epoch)
            for index in feeds.chosen(len(dataset), 6):
                image, label = dataset[index]
                record[f"{name}/epoch{epoch}/{index}/image"] = image
                record[f"{name}/epoch{epoch}/{index}/label"] = label
    return record


def _relative(path: str) -> str:
    return "/".join(str(path).split("/")[-2:])


def forward(context: Context) -> dict:
    record = {}
    for model, variant, options in feeds.networks(context):
        network = _loaded(context, model, variant, options)
        if variant:  # batch norm in train mode: drawn weights, no running statistics to fit them
            images = paddle.to_tensor(feeds.noise("variant", feeds.VARIANT_SHAPE, context.dtype))
            network.train()
            with paddle.no_grad():
                record[f"{model}/{variant}/logits"] = network(images).numpy()
            continue
        network.eval()
        for name, images in _pictures(context).items():
            x = paddle.to_tensor(images)
            with paddle.no_grad():
                for index, stage in enumerate(network.features):
                    x = stage(x)
                    record[f"{model}/{name}/features.{index}"] = x.numpy()[:1]
                pooled = network.avgpool(x).flatten(1)
                record[f"{model}/{name}/pooled"] = pooled.numpy()
                record[f"{model}/{name}/penultimate"] = network.classifier[1](network.classifier[0](pooled)).numpy()
                record[f"{model}/{name}/logits"] = network(paddle.to_tensor(images)).numpy()
    return record


def _pictures(context: Context) -> dict[str, np.ndarray]:
    """Noise, and pictures of the data set under the evaluation preset."""
    options = feeds.data_options(context)
    dataset = build_dataset(options, "val")
    pictures = [dataset[index][0] for index in feeds.chosen(len(dataset), 4)]
    return {
        "noise": feeds.noise("noise", feeds.NOISE_SHAPE, context.dtype),
        "pictures": np.stack(pictures).astype(context.dtype),
    }


def metric(context: Context) -> dict:
    values, target = feeds.logits(50, 12, context.dtype), feeds.labels("metric", 50, 12)
    acc1, acc5, loss = SmoothedValue(), SmoothedValue(), SmoothedValue(4)
    record = {}
    criterion = CrossEntropyLoss()
    for step, start in enumerate(range(0, 50, 16)):  # the last batch is short
        rows = slice(start, start + 16)
        top1, top5 = accuracy(values[rows], target[rows])
        acc1.update(top1, len(target[rows]))
        acc5.update(top5, len(target[rows]))
        loss.update(float(criterion(paddle.to_tensor(values[rows]), paddle.to_tensor(target[rows]))["loss"]))
        record |= {f"batch{step}/acc1": top1, f"batch{step}/acc5": top5}
    record |= {"acc1": acc1.global_avg, "acc5": acc5.global_avg, "acc1_median": acc1.median}
    return record | {"top3": accuracy(values, target, (3,))[0], "loss": loss.global_avg, "loss_median": loss.median}


def loss(context: Context) -> dict:
    record = {}
    for name, (values, target, smoothing) in feeds.loss_cases(context.dtype).items():
        x = paddle.to_tensor(values, stop_gradient=False)
        terms = build_criterion(parse_options(["--label_smoothing", str(smoothing)]))(x, paddle.to_tensor(target))
        terms["loss"].backward()
        record |= {f"{name}/{term}": value.numpy() for term, value in terms.items()}
        record[f"{name}/gradient"] = x.grad.numpy()
    return record


def backward(context: Context) -> dict:
    record = {}
    for model in feeds.models(context):
        options = feeds.network_options(context, model)
        images, target = (paddle.to_tensor(array) for array in feeds.batch(context, model))
        for mode in ("train", "eval"):
            network = _loaded(context, model, "", options)
            network.train() if mode == "train" else network.eval()
            value = CrossEntropyLoss()(network(images), target)["loss"]
            value.backward()
            record[f"{model}/{mode}/loss"] = value.numpy()
            gradients = {n: p.grad for n, p in network.named_parameters() if p.grad is not None}
            for name, gradient in plan(network, RENAME, IGNORE).gradients_to_torch(gradients).items():
                record[f"{model}/{mode}/gradient/{name}"] = gradient
        for name, argv in feeds.OPTIMISERS.items():
            steps = _optimiser_steps(context, model, options, argv, images, target)
            record |= {f"{model}/{name}/{key}": value for key, value in steps.items()}
    return record


def _optimiser_steps(context, model, options, argv, images, target) -> dict:
    network = _loaded(context, model, "", options)
    network.train()
    recipe = parse_options(argv)
    scheduler = build_scheduler(recipe)
    optimizer = build_optimizer(network, recipe, scheduler)
    average = ExponentialMovingAverage(_loaded(context, model, "", options), feeds.EMA_DECAY)
    losses, rates = [], []
    for _ in range(feeds.OPTIMISER_STEPS):
        value = CrossEntropyLoss()(network(images), target)["loss"]
        value.backward()
        losses.append(float(value))
        rates.append(optimizer.get_lr())
        optimizer.step()
        optimizer.clear_grad()
        scheduler.step()
        average.update(network)
    mapping = plan(network, RENAME, IGNORE)
    sums = {}
    for kind, source in (("", network), ("ema_", average.average)):
        tensors, _ = mapping.to_torch({n: as_numpy(v) for n, v in source.state_dict().items()})
        for part in ("running_mean", "running_var", "weight"):
            chosen = [a for n, a in tensors.items() if n.endswith(part)]
            sums[f"{kind}{part}_norms"] = np.array([np.linalg.norm(a.astype(np.float64)) for a in chosen])
    return {"loss": np.array(losses), "lr": np.array(rates)} | sums


def train(context: Context) -> dict:
    options = feeds.data_options(context, *feeds.TRAIN_ARGV)
    network = build_model(options)
    load_official(network, context.output_dir / "weights" / "train.pth")
    network.to(dtype=context.dtype)
    scheduler = build_scheduler(options)
    optimizer = build_optimizer(network, options, scheduler)
    criterion = build_criterion(options)
    transform = build_transform(options, train=False)
    train_set, val_set = (ImageFolder(f"{options.data_path}/{split}", transform) for split in ("train", "val"))
    pictures = [train_set[index] for index in feeds.training_pictures(train_set.targets, feeds.TRAIN_PICTURES)]
    val = [val_set[index] for index in feeds.training_pictures(val_set.targets, feeds.VAL_PICTURES)]
    val_images, val_labels = _batch(val, context.dtype)

    losses, curve = [], []
    for epoch in range(options.epochs):
        sampler = EpochBatchSampler(len(pictures), options.batch_size, seed=options.seed)
        sampler.set_epoch(epoch)
        network.train()
        for keys in sampler:
            images, target = _batch([pictures[key] for key in keys], context.dtype)
            value = criterion(network(images), target)["loss"]
            value.backward()
            optimizer.step()
            optimizer.clear_grad()
            losses.append(float(value))
        scheduler.step()
        # statistics of the batch: the running ones need more steps than this training has
        with paddle.no_grad():
            curve.append(accuracy(network(val_images).numpy(), val_labels.numpy())[0])
    return feeds.training_record(losses, curve)


def _batch(samples: list, dtype: str) -> tuple:
    images, target = zip(*samples, strict=True)
    return paddle.to_tensor(np.stack(images).astype(dtype)), paddle.to_tensor(np.array(target))
