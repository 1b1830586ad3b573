"""What the stages record of a side: one function a stage, written once for both, so that their names agree.

A side (`paddle_side.PaddleSide`, `torch_side.TorchSide`) computes everything with its own code and framework. Values of
a record are arrays or tensors of either framework.
"""

import argparse
import zlib

import numpy as np

from shared.stages import Context
from shared.weights import as_numpy

from . import feeds
from options import sources


def _named(key) -> str:
    return key if isinstance(key, str) else "_".join(map(str, key))


def structure(side, context: Context) -> dict:
    record = {}
    for name, options in feeds.networks(context):
        model = side.build(options)
        shapes = side.shapes(model)
        record[f"{name}/tensors"] = list(shapes)
        record |= {f"{name}/shape/{tensor}": np.array(shape, np.int64) for tensor, shape in shapes.items()}
        record[f"{name}/parameters"] = side.parameter_count(model)
        for tensor, array in side.bits(model, feeds.weights_folder(context, name)).items():
            record[f"{name}/bits/{tensor}"] = zlib.crc32(np.ascontiguousarray(array).tobytes())
    return record


def data(side, context: Context) -> dict:
    record = {}
    for name, part, argv in feeds.DATA_CASES:
        options = feeds.data_options(context, argv.split())
        for epoch in (0, 1):
            for index in feeds.chosen(side.count(options, part), 3):
                item = side.item(options, part, index, epoch)
                record |= {f"{name}/epoch{epoch}/{index}/{_named(key)}": value for key, value in item.items()}
    if not context.options.data_path:
        for index, depth in enumerate(side.ground_truth(feeds.data_options(context), 3)):
            record[f"ground_truth/{index}"] = depth
    return record


def batch_of(side, context: Context, options: argparse.Namespace, indices: list[int]) -> dict:
    """Items of the validation list as a batch for networks of `options`."""
    where = feeds.reading(context, options)
    return side.collate([side.item(where, "val", index) for index in indices], context.dtype)


def forward(side, context: Context) -> dict:
    record = {}
    for name, options in feeds.networks(context):
        model = side.load(context, name, options)
        batch = batch_of(side, context, options, feeds.chosen(8, feeds.BATCH))
        for mode in ("eval", "train"):
            model.train() if mode == "train" else model.eval()
            with side.no_grad():
                if mode == "eval":
                    features = model.encoder(batch["color_aug", 0, 0])
                    record |= {f"{name}/eval/feature{level}": value for level, value in enumerate(features)}
                outputs = model(batch)
            record |= {f"{name}/{mode}/{_named(key)}": value for key, value in outputs.items()}
    return record


def metric(side, context: Context) -> dict:
    record = {}
    for name, gt, prediction in feeds.depth_cases(context.dtype):
        record[f"errors/{name}"] = np.array(side.depth_errors(gt, prediction))
    gt, disparity = feeds.image_case(context.dtype)
    for factor, median in feeds.SCALINGS:
        for split in ("eigen", "eigen_benchmark"):
            errors, ratio = side.score(gt, disparity, split, factor, median)
            record[f"picture/{split}/{factor:g}_{median}"] = np.array([*errors, ratio])
    record["monitor"] = np.array(side.monitor(*feeds.monitor_case(context.dtype)))
    record["flip"] = side.flip(*feeds.flip_case())
    return record


def loss(side, context: Context) -> dict:
    record = {}
    for name, options, edge in feeds.loss_cases():
        options.batch_size = feeds.BATCH
        batch = batch_of(side, context, options, feeds.chosen(8, feeds.BATCH))
        if edge == "black":
            batch = {key: value * 0 if key[0] == "color" else value for key, value in batch.items()}
        drawn = feeds.network_outputs(options, edge, context.dtype)
        outputs = {key: side.tensor(value, gradient=True) for key, value in drawn.items()}
        given = dict(outputs)
        for f in options.frame_ids[1:]:
            axisangle, translation = (outputs[kind, 0, f][:, 0] for kind in ("axisangle", "translation"))
            given["cam_T_cam", 0, f] = side.motion(axisangle, translation, f < 0)
        noise = [side.tensor(array) for array in feeds.noise(options, context.dtype)]
        details = side.criterion(options).details(given, batch, noise)
        details["loss"].backward()
        record |= {f"{name}/{key}": value for key, value in _loss_details(details, options, edge, context).items()}
        for key, value in outputs.items():
            if value.grad is not None and edge == "":
                record[f"{name}/gradient/{_named(key)}"] = value.grad
    return record


def _loss_details(details: dict, options: argparse.Namespace, edge: str, context: Context) -> dict:
    record = {"loss": details["loss"]}
    for scale in options.scales:
        record |= {f"loss/{scale}": details[f"loss/{scale}"], f"depth/{scale}": details["depth", 0, scale]}
        if f"identity_selection/{scale}" in details:
            selection = as_numpy(details[f"identity_selection/{scale}"]).astype(np.float64)
            if context.dtype == "float64":  # in float32 up to 0.1 % of the pixels differ (NOTES 9.5)
                shape = (feeds.BATCH, *selection.shape[-2:])
                record[f"identity_selection/{scale}"] = selection.reshape(shape)
            record[f"share_selected/{scale}"] = selection.mean()
        for f in sources(options):
            if edge != "behind_the_camera":  # coordinates reach 1e7 there, where the border is sampled
                record[f"sample/{f}_{scale}"] = details["sample", f, scale]
            record[f"color/{f}_{scale}"] = details["color", f, scale]
    return record


def backward(side, context: Context) -> dict:
    """The gradients of one pass; then the losses of the shipped training step from the same weights, and the rates."""
    record = {}
    for name, options in feeds.networks(context, feeds.TRAINED):
        options = feeds.network_options(context, name, f"--learning_rate {feeds.OPTIMISER_RATE}")
        options.batch_size = feeds.BATCH
        batch = batch_of(side, context, options, feeds.batch_choice(context, name))
        noise = [side.tensor(array) for array in feeds.noise(options, context.dtype)]
        model = side.load(context, name, options)
        model.train()
        terms = side.criterion(options)(model(batch), batch, noise)
        terms["loss"].backward()
        record |= {f"{name}/{term}": value for term, value in terms.items()}
        record |= {f"{name}/gradient/{tensor}": value for tensor, value in side.gradients(model).items()}
        training = side.training(side.load(context, name, options), options)
        losses = [
            side.train_step(training, batch, options, step, noise)["loss"] for step in range(feeds.OPTIMISER_STEPS)
        ]
        record |= {f"{name}/steps/losses": np.array(losses), f"{name}/lr": np.array(side.rates(training, options))}
    return record


def train(side, context: Context, model, options: argparse.Namespace) -> dict:
    """A short training by the shipped step from equal weights, on equal items in equal order with equal noise."""
    training = side.training(model, options)
    val = [side.item(options, "val", i) for i in feeds.chosen(side.count(options, "val"), feeds.VAL_ITEMS)]
    kept = feeds.chosen(side.count(options, "train"), feeds.TRAIN_ITEMS)
    val_batch = side.collate(val, context.dtype)
    gt = [as_numpy(item["depth_gt"])[0] for item in val]

    losses, steps, curve, epoch = [], [0], [side.abs_rel(model, val_batch, gt, options)], 0
    while len(losses) < feeds.TRAIN_STEPS:
        order = np.random.default_rng([options.seed, epoch]).permutation(len(kept))
        for keys in order.reshape(-1, options.batch_size):
            batch = side.collate([side.item(options, "train", kept[key], epoch) for key in keys], context.dtype)
            noise = feeds.training_noise(options, len(losses), len(keys), context.dtype)
            noise = [side.tensor(array) for array in noise]
            losses.append(side.train_step(training, batch, options, len(losses), noise)["loss"])
            if len(losses) % feeds.CURVE_EVERY == 0:
                steps.append(len(losses))
                curve.append(side.abs_rel(model, val_batch, gt, options))
            if len(losses) == feeds.TRAIN_STEPS:
                break
        epoch += 1
    return feeds.training_record(losses, steps, curve)
