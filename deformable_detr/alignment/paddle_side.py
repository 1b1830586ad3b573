"""The Paddle side of the seven stages: this folder's own network, losses, data and metrics."""

import argparse
import json
import zlib
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import paddle

from shared.convert import plan
from shared.stages import Context
from shared.weights import as_numpy, read_torch

import ops
from . import feeds
from .parts import outputs_and_parts
from convert import load_official
from datasets import build_dataset, collate, read_annotations
from losses import build_criterion
from losses import criterion as criterion_module
from metrics import detection_rows, evaluate_detections
from models import PostProcess, build_model
from optimizers import build_optimizer, build_scheduler, clip_gradients, parameter_groups


def _loaded(context: Context, options: argparse.Namespace, file: Path):
    model = build_model(options)
    load_official(model, file)
    model.to(dtype=context.dtype)
    return model


def _network(context: Context, name: str, options: argparse.Namespace):
    return _loaded(context, options, feeds.weights_file(context, name))


def _batch(context: Context, name: str, options: argparse.Namespace) -> tuple:
    dataset = build_dataset(feeds.reading(context, options), "val")
    return _tensors([dataset[index] for index in feeds.batch_choice(context, name, len(dataset))], context.dtype)


def _tensors(items: list[tuple], dtype: str) -> tuple:
    images, mask = collate([image for image, _ in items])
    targets = [
        {"labels": paddle.to_tensor(one["labels"]), "boxes": paddle.to_tensor(one["boxes"].astype(dtype))}
        for _, one in items
    ]
    return paddle.to_tensor(images.astype(dtype)), paddle.to_tensor(mask), targets


# -------------------------------------------------------------------------------------------------------------- stages


def structure(context: Context) -> dict:
    record = {}
    for name, options in feeds.networks(context):
        model = build_model(options)
        layout = plan(model)
        state, _ = layout.to_torch({key: as_numpy(value) for key, value in model.state_dict().items()})
        record[f"{name}/tensors"] = list(state)
        for tensor, array in state.items():
            record[f"{name}/shape/{tensor}"] = np.array(array.shape, np.int64)
        file = feeds.weights_file(context, name)
        tensors, torch_only, report = layout.to_paddle(read_torch(file).tensors)
        report.raise_if_bad(file)
        for tensor, array in layout.to_torch(tensors, torch_only)[0].items():
            record[f"{name}/bits/{tensor}"] = zlib.crc32(np.ascontiguousarray(array).tobytes())
        groups = [sum(int(p.size) for _, p in group) for group in parameter_groups(model, options)]
        record |= {f"{name}/trained": sum(groups), f"{name}/groups": np.array(groups)}
    return record


def data(context: Context) -> dict:
    record = {}
    for name, split, argv, count in feeds.DATA_CASES:
        dataset = build_dataset(feeds.data_options(context, argv.split()), split)
        record[f"{name}/ids"] = np.array(dataset.ids)
        for epoch in (0, 1) if split == "train" else (0,):
            dataset.set_epoch(epoch)
            items = []
            for index in feeds.chosen(len(dataset), count):
                items.append(dataset[index])
                image, target = items[-1]
                for key, value in (target | {"image": image}).items():
                    record[f"{name}/epoch{epoch}/{index}/{key}"] = value
            images, mask = collate([image for image, _ in items[:3]])
            record |= {f"{name}/epoch{epoch}/images": images, f"{name}/epoch{epoch}/mask": mask}
    return record


def _flat(outputs: dict, prefix: str = "") -> dict:
    """The network's outputs by one name each."""
    found = {f"{prefix}{key}": outputs[key] for key in ("pred_logits", "pred_boxes")}
    for index, aux in enumerate(outputs.get("aux_outputs", ())):
        found |= _flat(aux, f"{prefix}aux{index}/")
    if "enc_outputs" in outputs:
        found |= _flat(outputs["enc_outputs"], f"{prefix}enc/")
    return found


def forward(context: Context) -> dict:
    record = {}
    for name, options in feeds.networks(context):
        model = _network(context, name, options)
        images, mask, _ = _batch(context, name, options)
        for mode in ("eval", "train") if options.backbone_norm == "batch" else ("eval",):
            model.eval() if mode == "eval" else model.train()
            with paddle.no_grad():
                outputs, seen = outputs_and_parts(model, feeds.watched(options), images, mask)
            for layer, value in feeds.without_padding(seen, mask.numpy(), options.num_feature_levels).items():
                record[f"{name}/{mode}/{layer}"] = value
            record |= {f"{name}/{mode}/{key}": value.numpy() for key, value in _flat(outputs).items()}
        if mode == "train":
            state, _ = plan(model).to_torch({key: as_numpy(value) for key, value in model.state_dict().items()})
            for key, value in state.items():
                if "running" in key:
                    record[f"{name}/statistics/{key}"] = value
    for name in feeds.OPERATOR:
        record[f"operator/{name}"] = _operate(name, context.dtype)[0].numpy()
    return record


def _operate(name: str, dtype: str) -> tuple:
    given = {key: paddle.to_tensor(value) for key, value in feeds.operator_case(name, dtype).items()}
    floats = [given[key] for key in ("value", "sampling_locations", "attention_weights")]
    for value in floats:
        value.stop_gradient = False
    output = ops.ms_deform_attn(floats[0], given["spatial_shapes"], given["level_start_index"], *floats[1:])
    return output, floats, given["grad_output"]


def metric(context: Context) -> dict:
    record = {}
    file = Path(feeds.data_options(context).data_path, "annotations", "instances_val2017.json")
    coco, content = read_annotations(file), json.loads(file.read_text())
    for name, *_ in feeds.DETECTIONS:
        found = feeds.detections(content, name)
        columns = [(one["image_id"], *one["bbox"], one["score"], one["category_id"]) for one in found]
        rows = np.array(columns, np.float64)
        if name == feeds.DETECTIONS[0][0]:
            record[f"{name}/all"] = np.array(list(evaluate_detections(coco, rows).numbers.values()))
        seen = evaluate_detections(coco, rows, sorted({one["image_id"] for one in found}))
        record[f"{name}/seen"] = np.array(list(seen.numbers.values()))
    none = detection_rows(0, np.empty(0), np.empty(0), np.empty((0, 4)))
    record["none"] = np.array(list(evaluate_detections(coco, none).numbers.values()))
    return record | _post(context)


def _post(context: Context) -> dict:
    given = {key: paddle.to_tensor(x) for key, x in feeds.answers("post", context.dtype, 3, 120, 91).items()}
    found = PostProcess()(given, np.array([[480, 640], [101, 77], [1, 2000]]))
    return {f"post/{index}/{key}": value for index, one in enumerate(found) for key, value in one.items()}


@contextmanager
def _other_processes(counts: tuple[int, ...]):
    """As if these processes, with that many boxes each, took part in the sum over processes."""

    def all_reduce(total) -> None:
        total.add_(paddle.to_tensor(float(sum(counts)), total.dtype))

    kept = criterion_module.dist
    criterion_module.dist = SimpleNamespace(get_world_size=lambda: 1 + len(counts), all_reduce=all_reduce)
    try:
        yield
    finally:
        criterion_module.dist = kept


def loss(context: Context) -> dict:
    record = {}
    for name, (_, _, _, elsewhere) in feeds.LOSSES.items():
        options = feeds.loss_options(name)
        layers, targets = feeds.loss_case(name, context.dtype)
        layers = {
            layer: {key: paddle.to_tensor(value, stop_gradient=False) for key, value in one.items()}
            for layer, one in layers.items()
        }
        targets = [{key: paddle.to_tensor(value) for key, value in one.items()} for one in targets]
        criterion = build_criterion(options)
        with _other_processes(elsewhere):
            terms = criterion(feeds.assembled(layers), targets)
        record |= {f"{name}/{key}": value.numpy() for key, value in terms.items()}
        terms["loss"].backward()
        for layer, one in layers.items():
            for key, value in one.items():
                gradient = paddle.zeros_like(value) if value.grad is None else value.grad
                record[f"{name}/gradient/{layer or 'last'}/{key}"] = gradient.numpy()
            wanted = [t | {"labels": paddle.zeros_like(t["labels"])} for t in targets] if layer == "enc" else targets
            for image, match in enumerate(criterion.matcher(one, wanted)):
                for what, index in zip(("query", "target"), match, strict=True):
                    record[f"{name}/match/{layer or 'last'}/{image}/{what}"] = index
    return record | _post(context)


def backward(context: Context) -> dict:
    record = {}
    for name in feeds.OPERATOR:
        if name != "borders":  # no gradient of a location is defined at a kink (NOTES 4.5)
            output, floats, weight = _operate(name, context.dtype)
            output.backward(weight)
            for key, value in zip(("value", "sampling_locations", "attention_weights"), floats, strict=True):
                record[f"operator/{name}/{key}"] = value.grad.numpy()
    for name, options in feeds.networks(context, feeds.TRAINED):
        model, criterion = _network(context, name, options), build_criterion(options)
        model.train()
        images, mask, targets = _batch(context, name, options)
        terms = criterion(model(images, mask), targets)
        record |= {f"{name}/{term}": value.numpy() for term, value in terms.items()}
        terms["loss"].backward()
        gradients = {key: p.grad for key, p in model.named_parameters() if p.grad is not None}
        for tensor, gradient in plan(model).gradients_to_torch(gradients).items():
            record[f"{name}/gradient/{tensor}"] = gradient
    for name, options in feeds.stepped(context):
        record |= {f"{name}/{key}": value for key, value in _steps(context, name, options).items()}
    return record


def _steps(context: Context, name: str, options: argparse.Namespace) -> dict:
    """Ten steps: losses, gradient norms before the clip, how far each group moved, and fifty epochs' rates."""
    model, criterion = _network(context, name, options), build_criterion(options)
    model.train()
    images, mask, targets = _batch(context, name, options)
    scheduler = build_scheduler(options)
    optimizer = build_optimizer(model, options, scheduler)
    groups = [[p for _, p in group] for group in parameter_groups(model, options)]
    before = [[p.numpy().copy() for p in group] for group in groups]
    values, norms, rates = [], [], []
    for _ in range(feeds.OPTIMISER_STEPS):
        value = criterion(model(images, mask), targets)["loss"]
        values.append(float(value))
        value.backward()
        norms.append(clip_gradients(model, options.clip_max_norm))
        optimizer.step()
        optimizer.clear_grad()
    moved = feeds.distances(before, [[p.numpy() for p in group] for group in groups])
    # Paddle's rate of a group is a factor of the common one (NOTES 8.2)
    factors = np.array([group["learning_rate"] for group in optimizer._param_groups])
    for _ in range(options.epochs):
        rates.append(scheduler.get_lr() * factors)
        scheduler.step()
    return {"losses": np.array(values), "norms": np.array(norms), "moved": moved, "lr": np.array(rates)}


def train(context: Context) -> dict:
    options = feeds.data_options(context, feeds.TRAIN_ARGV)
    model = _loaded(context, options, context.output_dir / "weights" / "train.pth")
    criterion, optimizer = build_criterion(options), build_optimizer(model, options, options.lr)
    train_set, val_set = build_dataset(options, "train"), build_dataset(options, "val")
    val = [val_set[index] for index in feeds.chosen(len(val_set), feeds.VAL_ITEMS)]

    def error() -> float:
        images, mask, targets = _tensors(val, context.dtype)
        model.eval()
        with paddle.no_grad():
            return float(criterion(model(images, mask), targets)["loss"])

    values, steps, curve = [], [0], [error()]
    for epoch, indices in feeds.training_batches(options, feeds.chosen(len(train_set), feeds.TRAIN_ITEMS)):
        train_set.set_epoch(epoch)
        images, mask, targets = _tensors([train_set[index] for index in indices], context.dtype)
        model.train()
        value = criterion(model(images, mask), targets)["loss"]
        value.backward()
        clip_gradients(model, options.clip_max_norm)
        optimizer.step()
        optimizer.clear_grad()
        values.append(float(value))
        if len(values) % feeds.CURVE_EVERY == 0:
            steps.append(len(values))
            curve.append(error())
    return feeds.training_record(values, steps, curve)
