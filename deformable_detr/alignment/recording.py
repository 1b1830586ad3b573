"""What both sides record in each stage, from the parts that a side gives; neither framework is imported here."""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from shared.stages import Context
from shared.weights import as_numpy

from . import feeds

#: (ids of a split's images, read(epoch, index) -> (image [3, H, W], target dict of arrays))
Split = tuple[list, Callable[[int, int], tuple]]


class Side(NamedTuple):
    """The parts of one side. Tensors, networks and criteria are its framework's; names are the official ones."""

    network: Callable[[Context, str, argparse.Namespace], Any]  # with the weights of a name, in the context's dtype
    criterion: Callable[[argparse.Namespace], Any]  # criterion(outputs, targets, elsewhere=()), with its `matcher`
    operator: Callable[..., Any]  # (value, spatial_shapes, level_start_index, sampling_locations, attention_weights)
    post_process: Callable[..., list[dict]]  # (outputs, sizes)
    open_split: Callable[[argparse.Namespace, str], Split]
    pad: Callable[[Sequence[np.ndarray]], tuple]  # images -> (batch, mask)
    tensor: Callable[..., Any]  # (array, gradient=False)
    no_grad: Callable[[], Any]
    hook: str  # the method that registers a hook after a layer's forward
    gradients: Callable[[Any], dict]  # of a network, by name
    statistics: Callable[[Any], dict]  # running means and variances of a network, by name


def batch_of(side: Side, items: Sequence[tuple], dtype: str) -> tuple:
    """(images, mask, targets) of items (image, target), floats in that dtype."""
    images, mask = side.pad([image for image, _ in items])
    targets = [
        {"labels": side.tensor(target["labels"]), "boxes": side.tensor(target["boxes"].astype(dtype))}
        for _, target in items
    ]
    return side.tensor(images.astype(dtype)), side.tensor(mask), targets


def network_batch(context: Context, side: Side, name: str, options: argparse.Namespace) -> tuple:
    """The validation batch that a network gets."""
    ids, read = side.open_split(feeds.reading(context, options), "val")
    return batch_of(side, [read(0, index) for index in feeds.batch_choice(context, name, len(ids))], context.dtype)


def structure(context: Context, describe: Callable[[argparse.Namespace, Path], tuple]) -> dict:
    """`describe(options, weights)` gives the tensors, the number of trainable values and those of each group."""
    record = {}
    for name, options in feeds.networks(context):
        tensors, trained, groups = describe(options, feeds.weights_file(context, name))
        record |= {f"{name}/{key}": value for key, value in tensors.items()}
        record |= {f"{name}/trained": trained, f"{name}/groups": np.array(groups)}
    return record


def data(context: Context, side: Side) -> dict:
    record = {}
    for name, split, argv, count in feeds.DATA_CASES:
        ids, read = side.open_split(feeds.data_options(context, argv.split()), split)
        record[f"{name}/ids"] = np.array(ids)
        for epoch in (0, 1) if split == "train" else (0,):
            images = []
            for index in feeds.chosen(len(ids), count):
                image, target = read(epoch, index)
                images.append(image)
                for key, value in (target | {"image": image}).items():
                    record[f"{name}/epoch{epoch}/{index}/{key}"] = value
            images, mask = side.pad(images[:3])
            record |= {f"{name}/epoch{epoch}/images": images, f"{name}/epoch{epoch}/mask": mask}
    return record


def forward(context: Context, side: Side) -> dict:
    record = {}
    for name, options in feeds.networks(context):
        model = side.network(context, name, options)
        images, mask, _ = network_batch(context, side, name, options)
        for mode in ("eval", "train") if options.backbone_norm == "batch" else ("eval",):
            model.train() if mode == "train" else model.eval()
            with side.no_grad():
                outputs, parts = outputs_and_parts(model, feeds.watched(options), side.hook, images, mask)
            for layer, value in feeds.without_padding(parts, mask.numpy(), options.num_feature_levels).items():
                record[f"{name}/{mode}/{layer}"] = value
            record |= {f"{name}/{mode}/{key}": value for key, value in _flat(outputs).items()}
        if mode == "train":
            record |= {f"{name}/statistics/{key}": value for key, value in side.statistics(model).items()}
    for name in feeds.OPERATOR:
        record[f"operator/{name}"] = _operate(side, name, context.dtype)[0]
    return record


def outputs_and_parts(model, watched: Sequence[str], register: str, *inputs) -> tuple[dict, dict[str, list]]:
    """(the outputs of `model(*inputs)`, {layer: its output at every call}); `register` is the hook's method.

    Position encodings (`backbone.1`) come as [N, C, h, w], whichever side keeps its channels last.
    """
    parts: dict[str, list[np.ndarray]] = {}

    def keep(name: str, channels_last: bool):
        def hook(layer, inputs_, output):
            array = np.array(as_numpy(output.detach()))
            parts.setdefault(name, []).append(array.transpose(0, 3, 1, 2) if channels_last else array)

        return hook

    paddle = hasattr(model, "named_sublayers")
    layers = dict(model.named_sublayers() if paddle else model.named_modules())
    hooks = [getattr(layers[name], register)(keep(name, paddle and name == "backbone.1")) for name in watched]
    outputs = model(*inputs)
    for hook in hooks:
        hook.remove()
    return outputs, parts


def _flat(outputs: dict, prefix: str = "") -> dict:
    """The network's outputs by one name each."""
    flat = {f"{prefix}{key}": outputs[key] for key in ("pred_logits", "pred_boxes")}
    for index, aux in enumerate(outputs.get("aux_outputs", ())):
        flat |= _flat(aux, f"{prefix}aux{index}/")
    if "enc_outputs" in outputs:
        flat |= _flat(outputs["enc_outputs"], f"{prefix}enc/")
    return flat


def _operate(side: Side, name: str, dtype: str) -> tuple:
    """(output, the three inputs with a gradient, the output's gradient) of one case of the operator."""
    case = feeds.operator_case(name, dtype)
    floats = [side.tensor(case[key], True) for key in feeds.OPERATOR_FLOATS]
    shapes, starts = side.tensor(case["spatial_shapes"]), side.tensor(case["level_start_index"])
    return side.operator(floats[0], shapes, starts, *floats[1:]), floats, side.tensor(case["grad_output"])


def metric(context: Context, side: Side, coco_numbers: Callable[[Path, list[dict], list | None], np.ndarray]) -> dict:
    """`coco_numbers(annotation file, detections, image ids or None for all)` gives the twelve numbers."""
    record = {}
    file = Path(feeds.data_options(context).data_path, "annotations", "instances_val2017.json")
    content = json.loads(file.read_text())
    for name, *_ in feeds.DETECTIONS:
        detections = feeds.detections(content, name)
        if name == feeds.DETECTIONS[0][0]:
            record[f"{name}/all"] = coco_numbers(file, detections, None)
        record[f"{name}/seen"] = coco_numbers(file, detections, sorted({entry["image_id"] for entry in detections}))
    record["none"] = coco_numbers(file, [], None)
    return record | _post(context, side)


def _post(context: Context, side: Side) -> dict:
    outputs = {
        key: side.tensor(value) for key, value in feeds.random_outputs("post", context.dtype, 3, 120, 91).items()
    }
    images = side.post_process(outputs, side.tensor(np.array([[480, 640], [101, 77], [1, 2000]])))
    return {f"post/{index}/{key}": value for index, image in enumerate(images) for key, value in image.items()}


def loss(context: Context, side: Side) -> dict:
    record = {}
    for name, (_, _, _, elsewhere) in feeds.LOSSES.items():
        arrays, targets = feeds.loss_case(name, context.dtype)
        layers = {
            layer: {key: side.tensor(value, True) for key, value in outputs.items()}
            for layer, outputs in arrays.items()
        }
        targets = [{key: side.tensor(value) for key, value in target.items()} for target in targets]
        criterion = side.criterion(feeds.loss_options(name))
        terms = criterion(feeds.assembled(layers), targets, elsewhere)
        record |= {f"{name}/{key}": value for key, value in terms.items()}
        terms["loss"].backward()
        for layer, outputs in layers.items():
            for key, value in outputs.items():
                gradient = np.zeros_like(arrays[layer][key]) if value.grad is None else value.grad
                record[f"{name}/gradient/{layer or 'last'}/{key}"] = gradient
            objects = [target | {"labels": 0 * target["labels"]} for target in targets] if layer == "enc" else targets
            for image, match in enumerate(criterion.matcher(outputs, objects)):
                for what, index in zip(("query", "target"), match, strict=True):
                    record[f"{name}/match/{layer or 'last'}/{image}/{what}"] = index
    return record | _post(context, side)


def backward(context: Context, side: Side, steps: Callable[[Any, tuple, argparse.Namespace], tuple]) -> dict:
    """`steps(model, batch, options)` takes the optimiser steps: (losses, gradient norms, rates of every epoch, how far
    each group moved)."""
    record = {}
    for name in feeds.OPERATOR:
        if name != "borders":  # no gradient of a location is defined at a kink (NOTES 4.5)
            output, floats, gradient = _operate(side, name, context.dtype)
            output.backward(gradient)
            for key, value in zip(feeds.OPERATOR_FLOATS, floats, strict=True):
                record[f"operator/{name}/{key}"] = value.grad
    for name, options in feeds.networks(context, feeds.TRAINED):
        model, criterion = side.network(context, name, options), side.criterion(options)
        model.train()
        images, mask, targets = network_batch(context, side, name, options)
        terms = criterion(model(images, mask), targets)
        record |= {f"{name}/{term}": value for term, value in terms.items()}
        terms["loss"].backward()
        record |= {f"{name}/gradient/{tensor}": value for tensor, value in side.gradients(model).items()}
    for name, options in feeds.stepped(context):
        model = side.network(context, name, options)
        losses, norms, rates, moved = steps(model, network_batch(context, side, name, options), options)
        for key, value in {"losses": losses, "norms": norms, "moved": moved, "lr": rates}.items():
            record[f"{name}/{key}"] = np.array(value)
    return record


def train(
    options: argparse.Namespace,
    dtype: str,
    side: Side,
    step: Callable[[tuple, int], float],
    loss_of: Callable[[tuple], float],
) -> dict:
    """A training: `step(batch, number)` updates the weights and returns the loss, `loss_of(batch)` only computes it."""
    (train_ids, read), (val_ids, read_val) = (side.open_split(options, split) for split in ("train", "val"))
    val = [read_val(0, index) for index in feeds.chosen(len(val_ids), feeds.VAL_ITEMS)]
    losses, steps, curve = [], [0], [loss_of(batch_of(side, val, dtype))]
    for epoch, indices in feeds.training_batches(options, feeds.chosen(len(train_ids), feeds.TRAIN_ITEMS)):
        batch = batch_of(side, [read(epoch, index) for index in indices], dtype)
        losses.append(step(batch, len(losses)))
        if len(losses) % feeds.CURVE_EVERY == 0:
            steps.append(len(losses))
            curve.append(loss_of(batch_of(side, val, dtype)))
    return feeds.training_record(losses, steps, curve)
