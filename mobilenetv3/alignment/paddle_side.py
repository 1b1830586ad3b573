"""The Paddle side of the seven stages: this folder's own code."""

import paddle

from shared.align.papers import paddle_structure
from shared.convert import plan
from shared.running.sampling import EpochBatchSampler
from shared.stages import Context
from shared.weights import as_numpy

from . import feeds, recording
from convert import IGNORE, RENAME, load_official
from datasets import build_dataset, collate
from datasets.folder import ImageFolder
from datasets.transforms import build_transform
from ema import ExponentialMovingAverage
from engine import Position, build_training, train_step
from losses import CrossEntropyLoss, build_criterion
from metrics import SmoothedValue, accuracy
from models import build_model
from options import parse_options


def _load(context: Context, model: str, variant: str, options):
    network = build_model(options)
    load_official(network, feeds.weights_file(context, model, variant))
    return network.to(dtype=context.dtype)


SIDE = recording.Side(_load, paddle.to_tensor, paddle.no_grad)


def structure(context: Context) -> dict:
    record = {}
    for model, variant, options in feeds.networks(context):
        network = build_model(options)
        weights = None if variant else feeds.weights_file(context, model)
        parameters = sum(int(p.size) for p in network.parameters() if not p.stop_gradient)
        same = paddle_structure(plan(network, RENAME, IGNORE), weights)
        record[f"{model}{variant and '/' + variant}"] = same | {"parameters": parameters}
    return record


def data(context: Context) -> dict:
    record = {}
    for split in ("train", "val"):
        dataset = build_dataset(feeds.data_options(context), split)
        record |= feeds.listed(split, dataset.classes, dataset.samples)
    for name, split, options in feeds.data_cases(context):
        dataset = build_dataset(options, split)
        for epoch in (0, 1):
            dataset.set_epoch(epoch)
            for index in feeds.spread(dataset.targets, feeds.DATA_SAMPLES):
                record[f"{name}/epoch{epoch}/{index}/image"], label = dataset[index]
                record[f"{name}/epoch{epoch}/{index}/label"] = label
    return record


def _samples(options, split: str, dtype: str, *chosen) -> tuple:
    """Images under the evaluation preset, and labels, of the samples that `feeds.spread(labels, *chosen)` gives."""
    dataset = ImageFolder(f"{options.data_path}/{split}", build_transform(options, train=False))
    images, labels = collate([dataset[index] for index in feeds.spread(dataset.targets, *chosen)])
    return images.astype(dtype), labels


def forward(context: Context) -> dict:
    pictures, _ = _samples(feeds.data_options(context), "val", context.dtype, feeds.FORWARD_PICTURES)
    return recording.forward(context, SIDE, pictures)


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
        record |= {f"{name}/{term}": value for term, value in terms.items()}
        record[f"{name}/gradient"] = x.grad
    return record


def backward(context: Context) -> dict:
    return recording.backward(context, SIDE, _gradients, _steps)


def _gradients(network, images, target) -> tuple:
    value = CrossEntropyLoss()(network(images), target)["loss"]
    value.backward()
    gradients = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
    return value, plan(network, RENAME, IGNORE).gradients_to_torch(gradients)


def _steps(network, average_network, recipe, images, target) -> tuple:
    average = ExponentialMovingAverage(average_network, feeds.EMA_DECAY)
    training = build_training(recipe, network, average)
    losses, rates = [], []
    for step in range(feeds.OPTIMISER_STEPS):  # the schedule is stepped after each, as after an epoch
        rates.append(training.optimizer.get_lr())
        losses.append(train_step(training, images, target, recipe, Position(step, 0, step)).loss)
        training.scheduler.step()
    mapping = plan(network, RENAME, IGNORE)
    states = [{n: as_numpy(v) for n, v in net.state_dict().items()} for net in (network, average.average)]
    return losses, rates, *(mapping.to_torch(state)[0] for state in states)


def train(context: Context) -> dict:
    options = feeds.data_options(context, *feeds.TRAIN_ARGV)
    network = build_model(options)
    load_official(network, context.output_dir / "weights" / "train.pth")
    training = build_training(options, network.to(dtype=context.dtype))
    train_images, train_labels = _samples(options, "train", context.dtype, feeds.TRAIN_PICTURES, feeds.TRAIN_CLASSES)
    val_images, val_labels = _samples(options, "val", context.dtype, feeds.VAL_PICTURES, feeds.TRAIN_CLASSES)
    sampler = EpochBatchSampler(len(train_labels), options.batch_size, seed=options.seed)

    losses, curve = [], []
    for epoch in range(options.epochs):
        sampler.set_epoch(epoch)
        for step_in_epoch, keys in enumerate(sampler):
            at = Position(epoch, step_in_epoch, len(losses))
            losses.append(train_step(training, train_images[keys], train_labels[keys], options, at).loss)
        training.scheduler.step()
        # in train mode, on statistics of the batch: the running ones need more steps than this training has
        with paddle.no_grad():
            curve.append(accuracy(network(val_images).numpy(), val_labels.numpy())[0])
    return feeds.training_record(losses, curve)
