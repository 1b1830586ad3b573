"""The torch side of the seven stages: the twin in reference/, or with --reference the official code itself."""

import argparse
import copy
import io
import json
import zlib
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import torch

from shared.align.formula import formula_state
from shared.align.record import Record
from shared.stages import Context
from shared.weights import atomic_write, atomic_write_text, read_torch

from . import feeds
from options import parse_options
from reference import data as reading
from reference import evaluation, losses, network, official, training
from reference.dla import peaks
from reference.losses import TERMS

_TWIN = SimpleNamespace(
    build_reference=network.build_reference,
    build_criterion=losses.build_criterion,
    build_optimizer=training.build_optimizer,
    parameter_groups=training.parameter_groups,
    rates=training.rates,
    HierarchicalTaskLearning=training.HierarchicalTaskLearning,
    sample=reading.sample,
)


def _code(context: Context) -> SimpleNamespace:
    """The functions of the torch side: the twin's, or the official checkout's."""
    return official.load(context.options.reference) if context.options.reference else _TWIN


# ------------------------------------------------------------------------------------------------------ what both read


def prepare(context: Context) -> None:
    """Make the mini data set, the official-format weights and the files to evaluate, and choose smooth batches."""
    _code(context)  # refuses a --reference that is no official checkout
    if not context.options.data_path:
        from mini.draw import ensure_mini

        ensure_mini()
    torch.manual_seed(feeds.SEED)
    _write(feeds.weights_file(context, "train"), network.build_reference(parse_options([])))
    if not context.options.weights:
        _write(feeds.weights_file(context), _drawn_network(context))
    folders = feeds.result_folders(context)
    for name, *texts in feeds.result_files():
        for folder, text in zip(folders, texts, strict=True):
            atomic_write_text(folder / name, text)
    context = replace(context, dtype="float64")
    model = _loaded(context, _TWIN)
    found = {name: _clearest_peaks(model, name, case) for name, case in feeds.FORWARD.items() if case.mode != "train"}
    found["backward"] = _smoothest_batch(model)
    atomic_write_text(feeds.choice_file(context), json.dumps(found) + "\n")


def _drawn_network(context: Context) -> torch.nn.Module:
    """Formula weights that act like trained ones: open units, boxes of some cells, small variances, several classes."""
    model = network.build_reference(parse_options([]))
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    state = formula_state(shapes, feeds.SEED, gain=2.0)
    for name in state:
        if name.endswith("bias") and name.replace("bias", "running_var") in shapes:
            state[name] = state[name] + np.float32(2)  # of a norm: most units stay open, far from the kink
        if name.endswith(("depth.4.weight", "size_3d.4.weight", "heading.4.weight", "offset_3d.4.weight")):
            state[name] = state[name] * np.float32(0.3)
    state["mean_size"] = model.mean_size.detach().numpy()
    state["size_2d.2.bias"] = np.array([7, 6], np.float32)
    state["heatmap.2.bias"] = np.array([-2, -2.2, -1.8], np.float32)
    model.load_state_dict({name: torch.from_numpy(np.array(array)) for name, array in state.items()})
    _calibrate(model)
    return model


def _calibrate(model: torch.nn.Module) -> None:
    """Let the running statistics be those of one batch."""
    norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        model.train()(**_inputs("calibration", feeds.FORWARD["train"], 0, "float32"))
    for norm in norms:
        norm.momentum = 0.1
        norm.num_batches_tracked.zero_()


def _clearest_peaks(model: torch.nn.Module, name: str, case: feeds.Case) -> int:
    """The candidate whose peaks differ most, from each other and from their neighbours.

    Which of two nearly equal cells comes first is a matter of rounding, and with it which rows there are.
    """
    clearest = []
    for candidate in range(feeds.PEAK_CANDIDATES):
        with torch.no_grad():
            heat = network.probabilities(model.eval()(**_inputs(name, case, candidate, "float64"))["heatmap"])
        score, _, _ = peaks(heat, case.k + 1)
        padded = torch.nn.functional.pad(heat, (1, 1, 1, 1), value=0)
        around = torch.stack(
            [
                padded[..., row : row + heat.shape[2], column : column + heat.shape[3]]
                for row in range(3)
                for column in range(3)
                if (row, column) != (1, 1)
            ]
        ).amax(0)
        lead = (heat - around).abs()[heat >= score[:, -1].min()].min()
        clearest.append(float(torch.minimum((score[:, :-1] - score[:, 1:]).min(), lead)))
    return int(np.argmax(clearest))


def _smoothest_batch(model: torch.nn.Module) -> int:
    """The candidate batch whose gradient moves least when all weights move by some rounding errors of float32.

    The losses have kinks: rectifiers, absolute values, the larger of four cells. Where a value lies within rounding of
    one, float32 and float64 rightly differ; as in every gradient check, the point is chosen where the function is
    smooth.
    """
    model = copy.deepcopy(model).train()
    moved = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in moved.parameters():
            parameter.mul_(1 + 2e-6 * torch.randn_like(parameter))

    def gradients(network_, candidate: int) -> dict:
        network_.zero_grad()
        inputs = _inputs("backward", feeds.BACKWARD, candidate, "float64")
        losses.build_criterion(None)(network_(**inputs), inputs["targets"])["loss"].backward()
        return {key: p.grad.clone() for key, p in network_.named_parameters() if p.grad is not None}

    worst = []
    for candidate in range(feeds.BATCH_CANDIDATES):
        here, there = gradients(model, candidate), gradients(moved, candidate)
        worst.append(max(float((here[k] - there[k]).norm() / here[k].norm().clamp_min(1e-3)) for k in here))
    return int(np.argmin(worst))


def _write(path, model: torch.nn.Module) -> None:
    """An official checkpoint: epoch, model_state, optimizer_state."""
    buffer = io.BytesIO()
    torch.save({"epoch": 0, "model_state": model.state_dict(), "optimizer_state": {}}, buffer)
    atomic_write(path, lambda file: file.write(buffer.getvalue()))


def _loaded(context: Context, code: SimpleNamespace, name: str = "drawn") -> torch.nn.Module:
    model = code.build_reference(parse_options([]))
    state = read_torch(feeds.weights_file(context, name)).tensors
    model.load_state_dict({key: torch.from_numpy(np.array(array)) for key, array in state.items()})
    return model.to(getattr(torch, context.dtype))


def _tensors(arrays: dict) -> dict:
    return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}


def _inputs(name: str, case: feeds.Case, candidate: int, dtype: str) -> dict:
    """Keyword arguments of the network."""
    ranges, calibs = feeds.cameras(dtype)
    arrays = {"images": feeds.noise(name, case.size, candidate, dtype), "coord_ranges": ranges, "calibs": calibs}
    found = _tensors(arrays) | {"K": case.k, "mode": case.mode}
    if case.mode == "train":
        found["targets"] = _tensors(feeds.targets(name, case.size, case.objects, dtype))
    return found


def _frames(samples: list[tuple], dtype: str) -> dict:
    """Keyword arguments of the network for samples of the data set."""

    def stacked(arrays) -> torch.Tensor:
        value = torch.from_numpy(np.stack(list(arrays)))
        return value.to(getattr(torch, dtype)) if value.is_floating_point() else value

    images, calibs, ranges, wanted, _ = zip(*samples, strict=True)
    targets = {name: stacked(one[name] for one in wanted) for name in wanted[0]}
    return {"images": stacked(images), "coord_ranges": stacked(ranges), "calibs": stacked(calibs), "targets": targets}


# -------------------------------------------------------------------------------------------------------------- stages


def structure(context: Context) -> dict:
    model = _code(context).build_reference(parse_options([]))
    state = model.state_dict()
    record = {"tensors": list(state), "parameters": sum(p.numel() for p in model.parameters() if p.requires_grad)}
    for name, value in state.items():
        record[f"shape/{name}"] = np.array(value.shape, np.int64)
    for name, array in read_torch(feeds.weights_file(context)).tensors.items():
        record[f"bits/{name}"] = zlib.crc32(np.ascontiguousarray(array).tobytes())
    return record


def data(context: Context) -> dict:
    record, code = {}, _code(context)
    for name, split, argv in feeds.DATA_CASES:
        options = feeds.data_options(context, argv.split())
        numbers = reading.frames(options, split)
        record[f"{name}/numbers"] = np.array(numbers)
        for epoch in (0, 1) if split == "train" else (0,):
            for index in feeds.chosen(len(numbers), 3):
                draws = reading.draws(options.seed, epoch, index) if split == "train" else None
                image, calib, coord_range, targets, info = code.sample(options, split, index, draws)
                found = {"image": image, "calib": calib, "coord_range": coord_range} | targets | info
                record |= {f"{name}/epoch{epoch}/{index}/{key}": np.asarray(value) for key, value in found.items()}
    return record


def forward(context: Context) -> dict:
    record, code = {}, _code(context)
    model = _loaded(context, code)
    pristine = copy.deepcopy(model.state_dict())
    regions = []
    model.depth[0].register_forward_pre_hook(lambda layer, inputs: regions.append(inputs[0]))

    def outputs(name: str, inputs: dict) -> None:
        model.train(inputs.get("mode", "train") == "train")
        regions.clear()
        with torch.no_grad():
            found = model(**inputs)
            record.update({f"{name}/{key}": value.numpy() for key, value in found.items()})
            record.update({f"{name}/regions": value.numpy() for value in regions})
            if inputs.get("mode", "train") != "train":
                score, cell, kind = peaks(network.probabilities(found["heatmap"]), inputs["K"])
                record.update({f"{name}/peak_score": score, f"{name}/peak_cell": cell, f"{name}/peak_class": kind})

    chosen = feeds.choices(context)
    for name, case in feeds.FORWARD.items():
        model.load_state_dict(pristine)
        for tensor, values in case.biases.items():
            model.state_dict()[tensor].copy_(torch.tensor(values))
        inputs = _inputs(name, case, chosen.get(name, 0), context.dtype)
        outputs(name, inputs)
        if name in feeds.WATCHED:
            # that the pass has left
            record |= {f"{name}/{key}": v.clone() for key, v in model.state_dict().items() if "running" in key}
            model.load_state_dict(pristine)
            with torch.no_grad():
                levels = model.backbone(inputs["images"])
                record |= {f"{name}/level{index}": level.numpy() for index, level in enumerate(levels)}
                record[f"{name}/features"] = model.feat_up(levels[2:]).numpy()
    for size, count in feeds.FRAMES.items():
        model.load_state_dict(pristine)
        options = feeds.data_options(context, ["--input_size", *map(str, size)])
        indices = feeds.chosen(len(reading.frames(options, "val")), count)
        samples = [reading.sample(options, "val", index) for index in indices]
        outputs(f"frames{size[0]}", _frames(samples, context.dtype))
    return record


def metric(context: Context) -> dict:
    found, ratios, calibs = feeds.peak_outputs(context.dtype)
    rows = evaluation.extract(_tensors(found)).numpy()
    record = {"peaks": rows}
    for threshold in feeds.THRESHOLDS:
        for picture, (dets, ratio, calib) in enumerate(zip(rows, ratios, calibs, strict=True)):
            decoded = evaluation.decode(dets, ratio, calib, threshold)
            record[f"decoded/{threshold}/{picture}"] = np.array(decoded).reshape(-1, 14)
            record[f"lines/{threshold}/{picture}"] = feeds.words(evaluation.lines(decoded))
    for (kind, name), curves in evaluation.evaluate(*feeds.result_folders(context)).items():
        record[f"ap/{kind}/{name}/AP40"] = evaluation.ap40(curves)
        record[f"ap/{kind}/{name}/AP11"] = evaluation.ap11(curves)
        record[f"curve/{kind}/{name}"] = curves
    return record


def loss(context: Context) -> dict:
    record, code = {}, _code(context)
    for name, outputs, targets, weights in feeds.loss_cases(context.dtype):
        given = _tensors(outputs)
        leaves = {key: value.requires_grad_() for key, value in given.items() if value.is_floating_point()}
        terms = code.build_criterion(parse_options([]))(given, _tensors(targets), weights)
        terms["loss"].backward()
        record |= {f"{name}/{term}": value.detach().numpy() for term, value in terms.items()}
        if name != "no_object":
            record |= {f"{name}/gradient/{key}": value.grad.numpy() for key, value in leaves.items()}
    for name, horizon, epochs in feeds.task_losses():
        tasks = code.HierarchicalTaskLearning(horizon, getattr(torch, context.dtype))
        weights = [tasks.compute_weight(values, epoch) for epoch, values in enumerate(epochs)]
        record[f"tasks/{name}"] = np.array([[found[term] for term in TERMS] for found in weights])
    return record


def backward(context: Context) -> dict:
    code, options = _code(context), parse_options([])
    inputs = _inputs("backward", feeds.BACKWARD, feeds.choices(context)["backward"], context.dtype)
    criterion = code.build_criterion(options)
    model = _loaded(context, code).train()
    terms = criterion(model(**inputs), inputs["targets"])
    terms["loss"].backward()
    record = {f"terms/{term}": value.detach().numpy() for term, value in terms.items()}
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            record[f"gradient/{name}"] = parameter.grad.numpy()
    for number, group in enumerate(code.parameter_groups(model, options)):
        record[f"groups/{number}/names"] = sorted(group["names"])
        record[f"groups/{number}/weight_decay"] = float(group["weight_decay"])
    for name, argv in feeds.SCHEDULES.items():
        record[f"{name}/lr"] = np.array(code.rates(parse_options(argv.split())))
    for name, (argv, weights) in feeds.OPTIMISERS.items():
        recipe = parse_options(argv.split())
        model = _loaded(context, code).train()
        before = {key: value.double().clone() for key, value in model.state_dict().items()}
        optimizer = code.build_optimizer(model, recipe)
        values = []
        for _ in range(feeds.OPTIMISER_STEPS):
            found = criterion(model(**inputs), inputs["targets"], weights)
            optimizer.zero_grad()
            found["loss"].backward()
            optimizer.step()
            values.append([found[term].item() for term in (*TERMS, "loss")])
        record[f"{name}/losses"] = np.array(values)
        for key, value in model.state_dict().items():
            if key.startswith(("depth.", "heading.")) and key.endswith("weight"):
                record[f"{name}/walked/{key}"] = (value.double() - before[key]).numpy()
    return record


def train(context: Context) -> dict:
    options = feeds.data_options(context, feeds.TRAIN_ARGV)
    model = _loaded(context, _TWIN, "train")
    if context.dtype == "float64":
        # how far torch parts from itself when it starts a rounding error away: drawn beside the two curves
        torch.manual_seed(feeds.SEED)
        control = copy.deepcopy(model)
        with torch.no_grad():
            for parameter in control.parameters():
                parameter.mul_(1 + 1e-8 * torch.randn_like(parameter))
        Record(_train(control, options, context.dtype)).save(context.output_dir / "train_control.npz")
    return _train(model, options, context.dtype)


def _train(model: torch.nn.Module, options: argparse.Namespace, dtype: str) -> dict:
    criterion, optimizer = losses.build_criterion(options), training.build_optimizer(model, options)
    tasks = training.HierarchicalTaskLearning(options.max_epoch, torch.float64)
    counts = {split: len(reading.frames(options, split)) for split in ("train", "val")}
    kept = feeds.chosen(counts["train"], feeds.TRAIN_FRAMES)
    val = [reading.sample(options, "val", index) for index in feeds.chosen(counts["val"], feeds.VAL_FRAMES)]
    val = _frames(val, dtype)

    def batches(epoch: int):
        order = np.random.default_rng([options.seed, epoch]).permutation(len(kept))
        for keys in order.reshape(-1, options.batch_size):
            indices = [kept[key] for key in keys]
            yield _frames(
                [reading.sample(options, "train", i, reading.draws(options.seed, epoch, i)) for i in indices], dtype
            )

    def figures() -> dict[str, float]:
        """With the statistics of the batch, which so early are far from the running ones."""
        state = copy.deepcopy(model.state_dict())
        with torch.no_grad():
            found = model.train()(**val)
        model.load_state_dict(state)
        _, cells, kinds = peaks(network.probabilities(found["heatmap"]), feeds.VAL_PEAKS)
        wanted = {key: value.numpy() for key, value in val["targets"].items()}
        return feeds.figures(cells.numpy(), kinds.numpy(), wanted, found["depth"][:, 0].numpy())

    means, weights, curve = [], [], [figures()]
    for epoch in range(-1, options.max_epoch):  # the first pass learns nothing
        training.set_learning_rate(optimizer, max(epoch, 0), options)
        found = tasks.compute_weight(dict(zip(TERMS, means[-1], strict=True)), epoch) if means else None
        values = []
        for inputs in batches(max(epoch, 0)):
            with torch.set_grad_enabled(found is not None):
                terms = criterion(model.train()(**inputs), inputs["targets"], found)
            if found is not None:
                optimizer.zero_grad()
                terms["loss"].backward()
                optimizer.step()
            values.append([terms[term].item() for term in TERMS])
        means.append(np.mean(values, 0))
        if found is not None:
            weights.append(found)
            curve.append(figures())
    return feeds.training_record(np.array(means), weights, curve)
