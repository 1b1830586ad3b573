"""The torch side of the seven stages: the twin in reference/, or with --reference the official code itself.

The official code takes part in structure, forward, loss and backward; its data need torchvision, and its training a
GPU (NOTES 9.6), so the twin stands for both there, and for the metric.
"""

import argparse
import json
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

from shared.stages import Context
from shared.weights import as_numpy, read_torch

from . import feeds
from .drawing import batch_of, choose_batch, draw_weights, load
from .parts import outputs_and_parts
from .torch_training import draws_of, prepare_training, train
from reference import data as reading
from reference import evaluation, losses, network, official, training
from reference.operator import ms_deform_attn_torch

__all__ = ["backward", "data", "forward", "loss", "metric", "prepare", "structure", "train"]

_TWIN = SimpleNamespace(
    build_reference=network.build_reference,
    build_criterion=losses.build_criterion,
    post_process=losses.post_process,
    operator=ms_deform_attn_torch,
)


def _code(context: Context) -> SimpleNamespace:
    """The functions of the torch side: the twin's, or the official checkout's."""
    return official.load(context.options.reference) if context.options.reference else _TWIN


def prepare(context: Context) -> None:
    """Make the mini data set, the official-format weights that both sides load, and choose batches."""
    _code(context)  # refuses a --reference that is no official checkout
    if not context.options.data_path:
        from mini.draw import ensure_mini

        ensure_mini()
    stages = set(context.options.stage)
    if "train" in stages:
        prepare_training(context)
    wanted, chosen = [], []
    if {"forward", "backward"} & stages:
        chosen += feeds.networks(context, feeds.TRAINED)
    if "backward" in stages:
        chosen += feeds.stepped(context)
    if {"structure", "forward"} & stages:
        wanted += feeds.networks(context)
    if not context.options.weights:
        for name, options in dict([*wanted, *chosen]).items():
            draw_weights(context, options, name)
    for name, options in chosen:
        choose_batch(context, name, options)


def _loaded(context: Context, code: SimpleNamespace, name: str, options: argparse.Namespace) -> torch.nn.Module:
    return load(code.build_reference(options), context, feeds.weights_file(context, name))


def _count(context: Context, options: argparse.Namespace) -> int:
    return len(reading.Reading(feeds.reading(context, options), "val"))


def _batch(context: Context, name: str, options: argparse.Namespace) -> tuple:
    return batch_of(context, options, feeds.batch_choice(context, name, _count(context, options)))


# -------------------------------------------------------------------------------------------------------------- stages


def structure(context: Context) -> dict:
    record = {}
    for name, options in feeds.networks(context):
        model = _code(context).build_reference(options)
        state = model.state_dict()
        record[f"{name}/tensors"] = list(state)
        for tensor, value in state.items():
            record[f"{name}/shape/{tensor}"] = np.array(value.shape, np.int64)
        for tensor, array in read_torch(feeds.weights_file(context, name)).tensors.items():
            record[f"{name}/bits/{tensor}"] = zlib.crc32(np.ascontiguousarray(array).tobytes())
        record[f"{name}/trained"] = sum(p.numel() for p in model.parameters() if p.requires_grad)
        groups = training.parameter_groups(model, options)
        record[f"{name}/groups"] = np.array([sum(p.numel() for p in group["params"]) for group in groups])
    return record


def data(context: Context) -> dict:
    record = {}
    for name, split, argv, count in feeds.DATA_CASES:
        options = feeds.data_options(context, argv.split())
        source = reading.Reading(options, split)
        record[f"{name}/ids"] = np.array([entry["id"] for entry in source.images])
        for epoch in (0, 1) if split == "train" else (0,):
            items = []
            for index in feeds.chosen(len(source), count):
                items.append(source.item(index, draws_of(options, epoch, index)))
                image, target = items[-1]
                for key, value in (target | {"image": image}).items():
                    record[f"{name}/epoch{epoch}/{index}/{key}"] = value
            images, mask, _ = reading.batch(items[:3])
            record |= {f"{name}/epoch{epoch}/images": images, f"{name}/epoch{epoch}/mask": mask}
    return record


def _flat(outputs: dict, prefix: str = "") -> dict[str, torch.Tensor]:
    """The network's outputs by one name each."""
    found = {f"{prefix}{key}": outputs[key] for key in ("pred_logits", "pred_boxes")}
    for index, aux in enumerate(outputs.get("aux_outputs", ())):
        found |= _flat(aux, f"{prefix}aux{index}/")
    if "enc_outputs" in outputs:
        found |= _flat(outputs["enc_outputs"], f"{prefix}enc/")
    return found


def forward(context: Context) -> dict:
    record, code = {}, _code(context)
    for name, options in feeds.networks(context):
        model = _loaded(context, code, name, options)
        images, mask, _ = _batch(context, name, options)
        for mode in ("eval", "train") if options.backbone_norm == "batch" else ("eval",):
            with torch.no_grad():
                outputs, seen = outputs_and_parts(model.train(mode == "train"), feeds.watched(options), images, mask)
            for layer, value in feeds.without_padding(seen, mask.numpy(), options.num_feature_levels).items():
                record[f"{name}/{mode}/{layer}"] = value
            record |= {f"{name}/{mode}/{key}": value.numpy() for key, value in _flat(outputs).items()}
        if mode == "train":
            for key, value in model.state_dict().items():
                if "running" in key:
                    record[f"{name}/statistics/{key}"] = value.numpy()
    for name in feeds.OPERATOR:
        record[f"operator/{name}"] = _operate(code, name, context.dtype)[0].detach().numpy()
    return record


def _operate(code: SimpleNamespace, name: str, dtype: str) -> tuple:
    given = {key: torch.from_numpy(value) for key, value in feeds.operator_case(name, dtype).items()}
    floats = [given[key].requires_grad_() for key in ("value", "sampling_locations", "attention_weights")]
    output = code.operator(floats[0], given["spatial_shapes"], *floats[1:])
    return output, floats, given["grad_output"]


def metric(context: Context) -> dict:
    record = {}
    file = Path(feeds.data_options(context).data_path, "annotations", "instances_val2017.json")
    content = json.loads(file.read_text())
    for name, *_ in feeds.DETECTIONS:
        found = feeds.detections(content, name)
        pictures = {one["image_id"] for one in found}
        if name == feeds.DETECTIONS[0][0]:
            record[f"{name}/all"] = evaluation.coco_numbers(content, found)
        part = content | {"images": [one for one in content["images"] if one["id"] in pictures]}
        record[f"{name}/seen"] = evaluation.coco_numbers(part, found)
    record["none"] = evaluation.coco_numbers(content, [])
    given = {key: torch.from_numpy(x) for key, x in feeds.answers("post", context.dtype, 3, 120, 91).items()}
    for index, one in enumerate(losses.post_process(given, torch.tensor([[480, 640], [101, 77], [1, 2000]]))):
        record |= {f"post/{index}/{key}": value.numpy() for key, value in one.items()}
    return record


def loss(context: Context) -> dict:
    record, code = {}, _code(context)
    for name, (_, _, _, elsewhere) in feeds.LOSSES.items():
        options = feeds.loss_options(name)
        layers, targets = feeds.loss_case(name, context.dtype)
        layers = {
            layer: {key: torch.from_numpy(value).requires_grad_() for key, value in one.items()}
            for layer, one in layers.items()
        }
        targets = [{key: torch.from_numpy(value) for key, value in one.items()} for one in targets]
        criterion, outputs = code.build_criterion(options), feeds.assembled(layers)
        terms = criterion(outputs, targets, elsewhere)
        record |= {f"{name}/{key}": np.array(value.detach()) for key, value in terms.items()}
        terms["loss"].backward()
        for layer, one in layers.items():
            for key, value in one.items():
                gradient = torch.zeros_like(value) if value.grad is None else value.grad
                record[f"{name}/gradient/{layer or 'last'}/{key}"] = gradient.numpy()
            wanted = [t | {"labels": torch.zeros_like(t["labels"])} for t in targets] if layer == "enc" else targets
            for image, match in enumerate(criterion.matcher(one, wanted)):
                for what, index in zip(("query", "target"), match, strict=True):
                    record[f"{name}/match/{layer or 'last'}/{image}/{what}"] = index.numpy()
    given = {key: torch.from_numpy(x) for key, x in feeds.answers("post", context.dtype, 3, 120, 91).items()}
    for index, one in enumerate(code.post_process(given, torch.tensor([[480, 640], [101, 77], [1, 2000]]))):
        record |= {f"post/{index}/{key}": value.numpy() for key, value in one.items()}
    return record


def backward(context: Context) -> dict:
    record, code = {}, _code(context)
    for name in feeds.OPERATOR:
        if name != "borders":  # no gradient of a location is defined at a kink (NOTES 4.5)
            output, floats, weight = _operate(code, name, context.dtype)
            output.backward(weight)
            for key, value in zip(("value", "sampling_locations", "attention_weights"), floats, strict=True):
                record[f"operator/{name}/{key}"] = value.grad.numpy()
    for name, options in feeds.networks(context, feeds.TRAINED):
        model, criterion = _loaded(context, code, name, options).train(), code.build_criterion(options)
        images, mask, targets = _batch(context, name, options)
        terms = criterion(model(images, mask), targets)
        record |= {f"{name}/{term}": np.array(value.detach()) for term, value in terms.items()}
        terms["loss"].backward()
        for tensor, parameter in model.named_parameters():
            if parameter.grad is not None:
                record[f"{name}/gradient/{tensor}"] = parameter.grad.numpy()
    for name, options in feeds.stepped(context):
        record |= {f"{name}/{key}": value for key, value in _steps(context, code, name, options).items()}
    return record


def _steps(context: Context, code: SimpleNamespace, name: str, options: argparse.Namespace) -> dict:
    """Ten steps: losses, gradient norms before the clip, how far each group moved, and fifty epochs' rates."""
    model, criterion = _loaded(context, code, name, options).train(), code.build_criterion(options)
    images, mask, targets = _batch(context, name, options)
    optimizer = training.build_optimizer(model, options)
    groups = [group["params"] for group in training.parameter_groups(model, options)]
    before = [[as_numpy(p.detach()).copy() for p in group] for group in groups]
    values, norms, rates = [], [], []
    for _ in range(feeds.OPTIMISER_STEPS):
        value = criterion(model(images, mask), targets)["loss"]
        values.append(value.item())
        norms.append(training.step(model, optimizer, value, options))
    now = [[as_numpy(p.detach()) for p in group] for group in groups]
    moved = feeds.distances(before, now)
    scheduler = training.build_scheduler(optimizer, options)
    for _ in range(options.epochs):
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.zero_grad()
        optimizer.step()
        scheduler.step()
    return {"losses": np.array(values), "norms": np.array(norms), "moved": moved, "lr": np.array(rates)}
