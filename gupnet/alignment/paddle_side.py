"""The Paddle side of the seven stages: this folder's own network, losses, data and metrics."""

import zlib

import numpy as np
import paddle

from shared.convert import plan
from shared.stages import Context
from shared.weights import as_numpy, read_torch

from . import feeds
from convert import load_official
from datasets import build_dataset
from decoding import decode_detections, extract_dets_from_outputs, result_lines
from losses import TERMS, HierarchicalTaskLearning, build_criterion
from metrics import average_precisions, precision_curves, read_folders
from models import build_model, find_peaks
from optimizers import EpochSchedule, build_optimizer, parameter_groups
from options import parse_options


def _loaded(context: Context, name: str = "drawn"):
    model = build_model(parse_options([]))
    load_official(model, feeds.weights_file(context, name))
    model.to(dtype=context.dtype)
    return model


def _official(model) -> dict[str, np.ndarray]:
    """The network's tensors by their official names."""
    state, _ = plan(model).to_torch({name: as_numpy(value) for name, value in model.state_dict().items()})
    return state


def _copied(model) -> dict:
    return {name: value.clone() for name, value in model.state_dict().items()}


def _tensors(arrays: dict) -> dict:
    return {name: paddle.to_tensor(array) for name, array in arrays.items()}


def _inputs(name: str, case: feeds.Case, candidate: int, dtype: str) -> dict:
    """Keyword arguments of the network."""
    ranges, calibs = feeds.cameras(dtype)
    arrays = {"images": feeds.noise(name, case.size, candidate, dtype), "coord_ranges": ranges, "calibs": calibs}
    found = _tensors(arrays) | {"K": case.k, "mode": case.mode}
    if case.mode == "train":
        found["targets"] = _tensors(feeds.targets(name, case.size, case.objects, dtype))
    return found


def _frames(samples: list, dtype: str) -> dict:
    """Keyword arguments of the network for samples of the data set."""

    def stacked(arrays):
        array = np.stack(list(arrays))
        return paddle.to_tensor(array.astype(dtype) if array.dtype == np.float32 else array)

    wanted = [sample.targets for sample in samples]
    return {
        "images": stacked(sample.image for sample in samples),
        "coord_ranges": stacked(sample.coord_range for sample in samples),
        "calibs": stacked(sample.calib for sample in samples),
        "targets": {name: stacked(one[name] for one in wanted) for name in wanted[0]},
    }


# -------------------------------------------------------------------------------------------------------------- stages


def structure(context: Context) -> dict:
    model = build_model(parse_options([]))
    state = _official(model)
    trained = [p for p in model.parameters() if not p.stop_gradient]
    record = {"tensors": list(state), "parameters": sum(int(np.prod(p.shape)) for p in trained)}
    for name, array in state.items():
        record[f"shape/{name}"] = np.array(array.shape, np.int64)
    path = feeds.weights_file(context)
    tensors, torch_only, report = plan(model).to_paddle(read_torch(path).tensors)
    report.raise_if_bad(path)
    back, _ = plan(model).to_torch(tensors, torch_only)
    for name, array in back.items():
        record[f"bits/{name}"] = zlib.crc32(np.ascontiguousarray(array).tobytes())
    return record


def data(context: Context) -> dict:
    record = {}
    for name, split, argv in feeds.DATA_CASES:
        dataset = build_dataset(feeds.data_options(context, argv.split()), split)
        record[f"{name}/numbers"] = np.array(dataset.ids)
        for epoch in (0, 1) if split == "train" else (0,):
            dataset.set_epoch(epoch)
            for index in feeds.chosen(len(dataset), 3):
                image, calib, coord_range, targets, info = dataset[index]
                found = {"image": image, "calib": calib, "coord_range": coord_range} | targets | info
                record |= {f"{name}/epoch{epoch}/{index}/{key}": value for key, value in found.items()}
    return record


def forward(context: Context) -> dict:
    record = {}
    model = _loaded(context)
    pristine = _copied(model)
    regions = []
    model.depth.register_forward_pre_hook(lambda layer, inputs: regions.append(inputs[0]))

    def outputs(name: str, inputs: dict) -> None:
        looking = inputs.get("mode", "train") != "train"
        model.eval() if looking else model.train()
        regions.clear()
        with paddle.no_grad():
            found = model(**inputs)
            record.update({f"{name}/{key}": value.numpy() for key, value in found.items()})
            record.update({f"{name}/regions": value.numpy() for value in regions})
            if looking:
                score, cell, kind = find_peaks(found["heatmap"], inputs["K"])
                record.update({f"{name}/peak_score": score, f"{name}/peak_cell": cell, f"{name}/peak_class": kind})

    chosen = feeds.choices(context)
    for name, case in feeds.FORWARD.items():
        model.set_state_dict(pristine)
        for tensor, values in case.biases.items():
            model.state_dict()[tensor].set_value(np.array(values, context.dtype))
        inputs = _inputs(name, case, chosen.get(name, 0), context.dtype)
        outputs(name, inputs)
        if name in feeds.WATCHED:
            record |= {
                f"{name}/{key}": value for key, value in _official(model).items() if "running" in key
            }  # that the pass has left
            model.set_state_dict(pristine)
            with paddle.no_grad():
                levels = model.backbone(inputs["images"])
                record |= {f"{name}/level{index}": level.numpy() for index, level in enumerate(levels)}
                record[f"{name}/features"] = model.feat_up(levels[2:]).numpy()
    for size, count in feeds.FRAMES.items():
        model.set_state_dict(pristine)
        dataset = build_dataset(feeds.data_options(context, ["--input_size", *map(str, size)]), "val")
        samples = [dataset[index] for index in feeds.chosen(len(dataset), count)]
        outputs(f"frames{size[0]}", _frames(samples, context.dtype))
    return record


def metric(context: Context) -> dict:
    found, ratios, calibs = feeds.peak_outputs(context.dtype)
    rows = extract_dets_from_outputs(_tensors(found)).numpy()
    record = {"peaks": rows}
    info = {"img_id": np.arange(len(rows)), "bbox_downsample_ratio": ratios}
    for threshold in feeds.THRESHOLDS:
        decoded = decode_detections(rows, info, calibs, threshold)
        for picture, found_rows in decoded.items():
            record[f"decoded/{threshold}/{picture}"] = np.array(found_rows, np.float64).reshape(-1, 14)
            record[f"lines/{threshold}/{picture}"] = feeds.words(result_lines(found_rows))
    labels, results, _ = read_folders(*feeds.result_folders(context))
    curves = precision_curves(labels, results)
    for kind, metrics in average_precisions(curves).items():
        for name, figures in metrics.items():
            record[f"ap/{kind}/{name}/AP40"] = np.array(figures["AP40"])
            record[f"ap/{kind}/{name}/AP11"] = np.array(figures["AP11"])
            record[f"curve/{kind}/{name}"] = curves[kind][name]
    return record


def loss(context: Context) -> dict:
    record = {}
    for name, outputs, targets, weights in feeds.loss_cases(context.dtype):
        given = _tensors(outputs)
        leaves = {key: value for key, value in given.items() if value.is_floating_point()}
        for value in leaves.values():
            value.stop_gradient = False
        terms = build_criterion(parse_options([]))(given, _tensors(targets), weights)
        terms["loss"].backward()
        record |= {f"{name}/{term}": value.numpy() for term, value in terms.items()}
        if name != "no_object":
            record |= {f"{name}/gradient/{key}": value.grad.numpy() for key, value in leaves.items()}
    for name, horizon, epochs in feeds.task_losses():
        tasks = HierarchicalTaskLearning(horizon)
        weights = [tasks.compute_weight(values, epoch) for epoch, values in enumerate(epochs)]
        record[f"tasks/{name}"] = np.array([[found[term] for term in TERMS] for found in weights])
    return record


def backward(context: Context) -> dict:
    options = parse_options([])
    inputs = _inputs("backward", feeds.BACKWARD, feeds.choices(context)["backward"], context.dtype)
    criterion = build_criterion(options)
    model = _loaded(context)
    model.train()
    terms = criterion(model(**inputs), inputs["targets"])
    terms["loss"].backward()
    record = {f"terms/{term}": value.numpy() for term, value in terms.items()}
    gradients = {key: p.grad for key, p in model.named_parameters() if p.grad is not None}
    for name, gradient in plan(model).gradients_to_torch(gradients).items():
        record[f"gradient/{name}"] = gradient
    # Paddle counts a norm's statistics among its parameters
    statistics = ("._mean", "._variance")
    names = {id(p): name for name, p in model.named_parameters() if not name.endswith(statistics)}
    for number, group in enumerate(parameter_groups(model, options.weight_decay)):
        record[f"groups/{number}/names"] = sorted(names[id(p)] for p in group["params"] if id(p) in names)
        record[f"groups/{number}/weight_decay"] = float(group["weight_decay"])
    for name, argv in feeds.SCHEDULES.items():
        record[f"{name}/lr"] = np.array(_rates(parse_options(argv.split())))
    for name, (argv, weights) in feeds.OPTIMISERS.items():
        recipe = parse_options(argv.split())
        model = _loaded(context)
        model.train()
        before = _official(model)
        optimizer = build_optimizer(model, recipe, recipe.lr)
        values = []
        for _ in range(feeds.OPTIMISER_STEPS):
            found = criterion(model(**inputs), inputs["targets"], weights)
            found["loss"].backward()
            optimizer.step()
            optimizer.clear_grad()
            values.append([float(found[term]) for term in (*TERMS, "loss")])
        record[f"{name}/losses"] = np.array(values)
        for key, value in _official(model).items():
            if key.startswith(("depth.", "heading.")) and key.endswith("weight"):
                record[f"{name}/walked/{key}"] = value.astype(np.float64) - before[key]
    return record


def _rates(options) -> list[float]:
    """Of every epoch."""
    schedule, found = EpochSchedule(options), []
    for epoch in range(options.max_epoch):
        schedule.step(epoch)
        found.append(schedule.get_lr())
    return found


def train(context: Context) -> dict:
    options = feeds.data_options(context, feeds.TRAIN_ARGV)
    model, schedule = _loaded(context, "train"), EpochSchedule(options)
    criterion, optimizer = build_criterion(options), build_optimizer(model, options, schedule)
    tasks = HierarchicalTaskLearning(options.max_epoch)
    train_set, val_set = build_dataset(options, "train"), build_dataset(options, "val")
    kept = feeds.chosen(len(train_set), feeds.TRAIN_FRAMES)
    val = _frames([val_set[index] for index in feeds.chosen(len(val_set), feeds.VAL_FRAMES)], context.dtype)
    model.train()

    def batches(epoch: int):
        train_set.set_epoch(epoch)
        order = np.random.default_rng([options.seed, epoch]).permutation(len(kept))
        for keys in order.reshape(-1, options.batch_size):
            yield _frames([train_set[kept[key]] for key in keys], context.dtype)

    def figures() -> dict[str, float]:
        """With the statistics of the batch, which so early are far from the running ones."""
        state = _copied(model)
        with paddle.no_grad():
            found = model(**val)
        model.set_state_dict(state)
        _, cells, kinds = find_peaks(found["heatmap"], feeds.VAL_PEAKS)
        wanted = {key: value.numpy() for key, value in val["targets"].items()}
        return feeds.figures(cells.numpy(), kinds.numpy(), wanted, found["depth"][:, 0].numpy())

    means, weights, curve = [], [], [figures()]
    for epoch in range(-1, options.max_epoch):  # the first pass learns nothing
        schedule.step(max(epoch, 0))
        found = tasks.compute_weight(dict(zip(TERMS, means[-1], strict=True)), epoch) if means else None
        values = []
        for inputs in batches(max(epoch, 0)):
            with paddle.set_grad_enabled(found is not None):
                terms = criterion(model(**inputs), inputs["targets"], found)
            if found is not None:
                terms["loss"].backward()
                optimizer.step()
                optimizer.clear_grad()
            values.append([float(terms[term]) for term in TERMS])
        means.append(np.mean(values, 0))
        if found is not None:
            weights.append(found)
            curve.append(figures())
    return feeds.training_record(np.array(means), weights, curve)
