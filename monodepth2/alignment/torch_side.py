"""The torch side of the seven stages: the twin in reference/, or with --reference the official code itself."""

import argparse
import copy
import io
import zlib
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import torch

from shared.align.formula import formula_state
from shared.align.record import Record
from shared.stages import Context
from shared.weights import atomic_write, atomic_write_text

from . import feeds
from convert import STORED, read_official
from options import SUBMODELS, parse_options, sources
from reference import data as reading
from reference import evaluation, losses, network, official, training
from reference.geometry import disp_to_depth, transformation_from_parameters

CALIBRATION_ITEMS = 6
_TWIN = SimpleNamespace(
    build_reference=network.build_reference,
    build_criterion=losses.build_criterion,
    build_optimizer=training.build_optimizer,
)


def _code(context: Context) -> SimpleNamespace:
    """The functions of the torch side: the twin's, or the official checkout's."""
    return official.load(context.options.reference) if context.options.reference else _TWIN


# ------------------------------------------------------------------------------------------------------ what both read


def prepare(context: Context) -> None:
    """Make the mini data set and the official-format weights that both sides load."""
    _code(context)  # refuses a --reference that is no official checkout
    if not context.options.data_path:
        from mini.draw import ensure_mini

        ensure_mini()
    torch.manual_seed(feeds.SEED)
    train_options = parse_options(feeds.TRAIN_ARGV)
    _write(context.output_dir / "weights" / "train", network.build_reference(train_options), train_options)
    for name, options in feeds.networks(context):
        if not context.options.weights:
            model = network.build_reference(options)
            model.load_state_dict(_formula_state(model))
            _calibrate(model, _batch(context, options, feeds.chosen(16, CALIBRATION_ITEMS)))
            _write(feeds.weights_folder(context, name), model, options)
    for name, options in feeds.networks(context, feeds.TRAINED):
        choice = _smoothest_batch(replace(context, dtype="float64"), name, options)
        atomic_write_text(feeds.choice_file(context, name), f"{choice}\n")


def _formula_state(model: torch.nn.Module) -> dict:
    """Formula weights; disparities begin where depths are about 1 rather than 0.15, as in the golden figures."""
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    state = formula_state(shapes, feeds.SEED, gain=2.0)
    for name in state:
        if name.startswith("depth.decoder.") and shapes[name] == (1,):
            state[name] = np.full((1,), -2.5, np.float32)
    return {name: torch.from_numpy(np.array(array)) for name, array in state.items()}


def _calibrate(model: torch.nn.Module, batch: dict) -> None:
    """Let the running statistics be those of these pictures, so that drawn weights act like trained ones."""
    norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        model.train()(batch)
    for norm in norms:
        norm.momentum = 0.1
        norm.num_batches_tracked.zero_()


def _smoothest_batch(context: Context, name: str, options: argparse.Namespace) -> list[int]:
    """The candidate batch whose gradient moves least when all weights move by rounding errors of float32.

    The loss has kinks: rectifiers, absolute values, the smaller of two errors. Where a value lies within rounding of
    one, float32 and float64 rightly differ; as in every gradient check, the point is chosen where the function is
    smooth.
    """
    noise = [torch.from_numpy(array) for array in feeds.noise(options, context.dtype)]
    criterion = losses.build_criterion(options)
    model = _loaded(context, _TWIN, name, options).train()
    moved = copy.deepcopy(model)
    torch.manual_seed(feeds.SEED)
    with torch.no_grad():
        for parameter in moved.parameters():
            parameter.mul_(1 + 1e-7 * torch.randn_like(parameter))

    def gradients(network_, batch: dict) -> dict:
        network_.zero_grad()
        criterion(network_(batch), batch, noise)["loss"].backward()
        return {key: p.grad.clone() for key, p in network_.named_parameters() if p.grad is not None}

    worst = []
    count = len(_lines(context, options, "val"))
    candidates = feeds.candidates(count)
    for indices in candidates:
        batch = _batch(context, options, indices)
        here, there = gradients(model, batch), gradients(moved, batch)
        worst.append(max(float((here[k] - there[k]).norm() / here[k].norm().clamp_min(1e-9)) for k in here))
    return candidates[int(np.argmin(worst))]


def _write(folder, model: torch.nn.Module, options: argparse.Namespace) -> None:
    """An official folder: a .pth file for each sub-network, the input's size in encoder.pth."""
    state = model.state_dict()
    for part in SUBMODELS:
        own = {k.removeprefix(f"{part}."): value for k, value in state.items() if k.startswith(f"{part}.")}
        if own:
            extra = {name: getattr(options, name) for name in STORED} if part == "encoder" else {}
            buffer = io.BytesIO()
            torch.save(own | extra, buffer)
            atomic_write(folder / f"{part}.pth", lambda file, buffer=buffer: file.write(buffer.getvalue()))


def _loaded(context: Context, code: SimpleNamespace, name: str, options: argparse.Namespace) -> torch.nn.Module:
    model = code.build_reference(options)
    state = read_official(feeds.weights_folder(context, name)).tensors
    tensors = {key: torch.from_numpy(np.array(array)) for key, array in state.items() if key not in STORED}
    model.load_state_dict(tensors)
    return model.to(getattr(torch, context.dtype))


def _lines(context: Context, options: argparse.Namespace, part: str) -> list:
    where = feeds.reading(context, options)
    path = reading.Path(where.split_dir, where.split, f"{part}_files.txt")
    return [line for line in path.read_text().splitlines() if line.strip()]


def _batch(context: Context, options: argparse.Namespace, indices: list[int], part: str = "val") -> dict:
    where = feeds.reading(context, options)
    return _stacked([reading.item(where, part, index) for index in indices], context.dtype)


def _stacked(items: list[dict], dtype: str) -> dict:
    return {key: torch.stack([item[key] for item in items]).to(getattr(torch, dtype)) for key in items[0]}


# -------------------------------------------------------------------------------------------------------------- stages


def structure(context: Context) -> dict:
    record = {}
    for name, options in feeds.networks(context):
        model = _code(context).build_reference(options)
        state = model.state_dict()
        record[f"{name}/tensors"] = list(state)
        for tensor, value in state.items():
            record[f"{name}/shape/{tensor}"] = np.array(value.shape, np.int64)
        record[f"{name}/parameters"] = sum(p.numel() for p in model.parameters())
        for tensor, array in read_official(feeds.weights_folder(context, name)).tensors.items():
            if tensor not in STORED:
                record[f"{name}/bits/{tensor}"] = zlib.crc32(np.ascontiguousarray(array).tobytes())
    return record


def data(context: Context) -> dict:
    record = {}
    for name, part, argv in feeds.DATA_CASES:
        options = feeds.data_options(context, argv.split())
        count = len(reading.Path(options.split_dir, options.split, f"{part}_files.txt").read_text().split("\n")) - 1
        for epoch in (0, 1):
            for index in feeds.chosen(count, 3):
                for key, value in reading.item(options, part, index, epoch).items():
                    record[f"{name}/epoch{epoch}/{index}/{_named(key)}"] = value.numpy()
    if not context.options.data_path:
        options = feeds.data_options(context)
        lines = reading.Path(options.split_dir, "mini", "test_files.txt").read_text().splitlines()
        for index, line in enumerate(lines[:3]):
            folder, number, _ = line.split()
            date = reading.Path(options.data_path, folder.split("/")[0])
            depth = reading.depth_map(date, reading.scan_path(options, folder, int(number)), 2, vel_depth=True)
            record[f"ground_truth/{index}"] = depth.astype(np.float32)
    return record


def _named(key) -> str:
    return key if isinstance(key, str) else "_".join(map(str, key))


def forward(context: Context) -> dict:
    record, code = {}, _code(context)
    for name, options in feeds.networks(context):
        model = _loaded(context, code, name, options)
        batch = _batch(context, options, feeds.chosen(8, feeds.BATCH))
        for mode in ("eval", "train"):
            model.train(mode == "train")
            with torch.no_grad():
                if mode == "eval":
                    for level, feature in enumerate(model.encoder(batch["color_aug", 0, 0])):
                        record[f"{name}/eval/feature{level}"] = feature.numpy()
                outputs = model(batch)
            record |= {f"{name}/{mode}/{_named(key)}": value.numpy() for key, value in outputs.items()}
    return record


def metric(context: Context) -> dict:
    record = {}
    for name, gt, prediction in feeds.depth_cases(context.dtype):
        errors = evaluation.depth_errors(torch.from_numpy(gt), torch.from_numpy(prediction))
        record[f"errors/{name}"] = errors.double().numpy()
    gt, disparity = feeds.picture_case(context.dtype)
    for factor, median in feeds.SCALINGS:
        for split in ("eigen", "eigen_benchmark"):
            errors, ratio = evaluation.score(disparity, gt, split, factor, median)
            record[f"picture/{split}/{factor:g}_{median}"] = np.array([*errors.double().tolist(), ratio])
    depth, gt = feeds.monitor_case(context.dtype)
    found = evaluation.monitor(torch.from_numpy(depth), torch.from_numpy(gt))
    record["monitor"] = np.array([float(value) for value in found.values()])
    record["flip"] = evaluation.flip_mean(*(torch.from_numpy(array) for array in feeds.flip_case())).numpy()
    return record


def loss(context: Context) -> dict:
    record, code = {}, _code(context)
    for name, options, edge in feeds.loss_cases():
        options.batch_size = feeds.BATCH
        batch = _batch(context, options, feeds.chosen(8, feeds.BATCH))
        if edge == "black":
            batch = {key: value * 0 if key[0] == "color" else value for key, value in batch.items()}
        outputs = {
            key: torch.from_numpy(value).requires_grad_()
            for key, value in feeds.answers(options, edge, context.dtype).items()
        }
        given = dict(outputs)
        for f in options.frame_ids[1:]:
            axisangle, translation = (outputs[kind, 0, f][:, 0] for kind in ("axisangle", "translation"))
            given["cam_T_cam", 0, f] = transformation_from_parameters(axisangle, translation, invert=f < 0)
        noise = [torch.from_numpy(array) for array in feeds.noise(options, context.dtype)]
        found = code.build_criterion(options).details(given, batch, noise)
        found["loss"].backward()
        for scale in options.scales:
            record[f"{name}/loss/{scale}"] = found[f"loss/{scale}"].detach().numpy()
            record[f"{name}/depth/{scale}"] = found["depth", 0, scale].detach().numpy()
            if f"identity_selection/{scale}" in found:
                selection = found[f"identity_selection/{scale}"].double().numpy()
                if context.dtype == "float64":  # in float32 up to 0.1 % of the pixels differ (NOTES 9.5)
                    shape = (feeds.BATCH, *selection.shape[-2:])
                    record[f"{name}/identity_selection/{scale}"] = selection.reshape(shape)
                record[f"{name}/share_selected/{scale}"] = selection.mean()
            for f in sources(options):
                if edge != "behind_the_camera":
                    record[f"{name}/sample/{f}_{scale}"] = found["sample", f, scale].detach().numpy()
                record[f"{name}/color/{f}_{scale}"] = found["color", f, scale].detach().numpy()
        record[f"{name}/loss"] = found["loss"].detach().numpy()
        for key, value in outputs.items():
            if value.grad is not None and edge == "":
                record[f"{name}/gradient/{_named(key)}"] = value.grad.numpy()
    return record


def backward(context: Context) -> dict:
    record, code = {}, _code(context)
    for name, options in feeds.networks(context, feeds.TRAINED):
        options = feeds.network_options(context, name, f"--learning_rate {feeds.OPTIMISER_RATE}")
        options.batch_size = feeds.BATCH
        batch = _batch(context, options, feeds.batch_choice(context, name))
        noise = [torch.from_numpy(array) for array in feeds.noise(options, context.dtype)]
        model, criterion = _loaded(context, code, name, options).train(), code.build_criterion(options)
        optimizer = code.build_optimizer(model, options)
        values = []
        for step in range(feeds.OPTIMISER_STEPS):
            terms = criterion(model(batch), batch, noise)
            optimizer.zero_grad()
            terms["loss"].backward()
            if step == 0:
                record |= {f"{name}/{term}": value.detach().numpy().copy() for term, value in terms.items()}
                for tensor, parameter in model.named_parameters():
                    if parameter.grad is not None:
                        record[f"{name}/gradient/{tensor}"] = parameter.grad.numpy().copy()
            values.append(terms["loss"].item())
            optimizer.step()
        rates = [training.learning_rate(epoch, options) for epoch in range(options.num_epochs)]
        record |= {f"{name}/steps/losses": np.array(values), f"{name}/lr": np.array(rates)}
    return record


def train(context: Context) -> dict:
    options = feeds.data_options(context, feeds.TRAIN_ARGV)
    model = network.build_reference(options)
    state = read_official(context.output_dir / "weights" / "train").tensors
    model.load_state_dict({key: torch.from_numpy(np.array(a)) for key, a in state.items() if key not in STORED})
    model.to(getattr(torch, context.dtype))
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
    counts = {
        part: len(reading.Path(options.split_dir, options.split, f"{part}_files.txt").read_text().splitlines())
        for part in ("train", "val")
    }
    val = [reading.item(options, "val", index) for index in feeds.chosen(counts["val"], feeds.VAL_ITEMS)]
    kept = feeds.chosen(counts["train"], feeds.TRAIN_ITEMS)

    def error() -> float:
        with torch.no_grad():
            disp = model.eval().predict_disparity(_stacked(val, dtype)["color", 0, 0])["disp", 0]
        scaled, _ = disp_to_depth(disp, options.min_depth, options.max_depth)
        pairs = zip(val, scaled[:, 0].numpy(), strict=True)
        found = [evaluation.score(one, item["depth_gt"][0].numpy(), "eigen", 5.4, False)[0][0] for item, one in pairs]
        return float(torch.stack(found).double().mean())

    values, steps, curve = [], [0], [error()]
    epoch = 0
    while len(values) < feeds.TRAIN_STEPS:
        order = np.random.default_rng([options.seed, epoch]).permutation(len(kept))
        for keys in order.reshape(-1, options.batch_size):
            batch = _stacked([reading.item(options, "train", kept[key], epoch) for key in keys], dtype)
            noise = np.random.default_rng(len(values)).standard_normal(
                (len(options.scales), len(keys), len(sources(options)), options.height, options.width)
            )
            value = criterion(model.train()(batch), batch, [torch.from_numpy(array.astype(dtype)) for array in noise])
            optimizer.zero_grad()
            value["loss"].backward()
            optimizer.step()
            values.append(value["loss"].item())
            if len(values) % feeds.CURVE_EVERY == 0:
                steps.append(len(values))
                curve.append(error())
            if len(values) == feeds.TRAIN_STEPS:
                break
        epoch += 1
    return feeds.training_record(values, steps, curve)
