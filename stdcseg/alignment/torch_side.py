"""The torch side of the seven stages: the twin in reference/, or with --reference the official code itself."""

import argparse
import copy
import functools
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
from shared.weights import as_numpy, atomic_write, atomic_write_text, read_torch

from . import feeds
from .parts import outputs_and_parts
from options import parse_options
from reference import evaluation, losses, network, official, training
from reference.data import listing, sample

CALIBRATION_PICTURES = 4  # and as many of noise
CALIBRATION_SIZE = (128, 256)
_OFFICIAL = ("build_reference", "build_reference_classifier", "build_criterion", "build_optimizer", "parameter_groups")
_TWIN = SimpleNamespace(
    build_reference=network.build_reference,
    build_reference_classifier=network.build_reference_classifier,
    build_criterion=losses.build_criterion,
    build_optimizer=training.build_optimizer,
    parameter_groups=training.parameter_groups,
    set_learning_rate=training.set_learning_rate,
)


def _code(context: Context) -> SimpleNamespace:
    """The functions of the torch side: the twin's, or the official checkout's."""
    directory = context.options.reference
    if not directory:
        return _TWIN
    builders = {name: functools.partial(getattr(official, name), directory=directory) for name in _OFFICIAL}
    return SimpleNamespace(**builders, set_learning_rate=official.set_learning_rate)


# ------------------------------------------------------------------------------------------------------ what both read


def prepare(context: Context) -> None:
    """Make the mini data set and the official-format weight files that both sides load."""
    _criterion(_code(context))  # refuses a --reference that is no official checkout
    options = feeds.data_options(context)
    if not context.options.data_path:
        from mini.draw import ensure_mini

        ensure_mini(options.data_path)
    torch.manual_seed(feeds.SEED)
    train_options = parse_options(feeds.TRAIN_ARGV)
    _write(context.output_dir / "weights" / "train.pth", network.build_reference(train_options).state_dict())
    if not context.options.weights:
        _draw_weights(context, options)
    for backbone in feeds.backbones(context):
        if "segmentation" in feeds.forms(context):
            choice = _smoothest_batch(replace(context, dtype="float64"), backbone)
            atomic_write_text(feeds.choice_file(context, backbone), json.dumps(choice) + "\n")


def _draw_weights(context: Context, options: argparse.Namespace) -> None:
    pictures = _pictures(options, "val", CALIBRATION_PICTURES, CALIBRATION_SIZE)
    noise = feeds.noise("calibration", tuple(pictures.shape), "float32")
    pictures = torch.cat([pictures, torch.from_numpy(noise)])
    for backbone, form, net_options in feeds.networks(context):
        model = _build(_TWIN, form, net_options)
        model.load_state_dict(_formula_state(model))
        _calibrate(model, pictures)
        _write(feeds.weights_file(context, backbone, form), model.state_dict())


def _formula_state(model: torch.nn.Module) -> dict:
    """Formula weights; the aliases share theirs. Norm biases of 1 keep most units open, as in a trained network."""
    shapes, names = {}, {}
    for name, value in model.state_dict(keep_vars=True).items():
        names.setdefault(id(value), name)
        shapes[names[id(value)]] = tuple(value.shape)
    state = formula_state(shapes, feeds.SEED, gain=2.0)
    for name in state:
        if name.endswith("bias"):
            state[name] = state[name] + np.float32(1)
    return {
        name: torch.from_numpy(np.array(state[names[id(value)]]))
        for name, value in model.state_dict(keep_vars=True).items()
    }


def _calibrate(model: torch.nn.Module, images: torch.Tensor) -> None:
    """Let the running statistics be those of these pictures, so that drawn weights act like trained ones."""
    norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d | network.InPlaceABN)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    model.train()
    with torch.no_grad():
        model(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        if isinstance(norm, torch.nn.BatchNorm2d):
            norm.num_batches_tracked.zero_()


def _smoothest_batch(context: Context, backbone: str) -> int:
    """The candidate batch that stays farthest from the kinks of all ReLUs, in train and in eval mode.

    A gradient jumps at a kink, so where a value lies within rounding of one, float32 and float64 rightly differ; as in
    every gradient check, the point is chosen where the function is smooth.
    """
    model = _loaded(context, _TWIN, backbone, "segmentation", feeds.network_options(context, backbone, feeds.DETAILS))
    margins: list[float] = []

    def measure(layer, inputs, output):
        margins.append(float((output.abs() / output.std()).min()))

    for name, layer in model.named_modules():
        # the norms before a ReLU; a depthwise convolution's norm and an attention's have none behind them
        if name.endswith(".bn") and not name.endswith("backbone.bn"):
            layer.register_forward_hook(measure)
    smallest = []
    for candidate in range(feeds.BATCH_CANDIDATES):
        images = torch.from_numpy(feeds.noise(f"batch{candidate}", feeds.BATCH_SHAPE, "float64"))
        margins.clear()
        with torch.no_grad():
            for mode in (True, False):
                copy.deepcopy(model).train(mode)(images)
        smallest.append(min(margins))
    return int(np.argmax(smallest))


def _write(path, state: dict) -> None:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    atomic_write(path, lambda file: file.write(buffer.getvalue()))


def _build(code: SimpleNamespace, form: str, options) -> torch.nn.Module:
    return (code.build_reference_classifier if form == "classifier" else code.build_reference)(options)


def _loaded(context: Context, code: SimpleNamespace, backbone: str, form: str, options) -> torch.nn.Module:
    model = _build(code, form, options)
    state = read_torch(feeds.weights_file(context, backbone, form)).tensors
    model.load_state_dict({name: torch.from_numpy(np.array(array)) for name, array in state.items()})
    if form == "classifier":
        model.dropout.p = 0.0
    return model.to(getattr(torch, context.dtype))


# -------------------------------------------------------------------------------------------------------------- stages


def structure(context: Context) -> dict:
    record = {}
    for backbone, form, options in feeds.networks(context):
        model = _build(_code(context), form, options)
        state = model.state_dict()
        name = f"{backbone}/{form}"
        record[f"{name}/tensors"] = list(state)
        for tensor, value in state.items():
            record[f"{name}/shape/{tensor}"] = np.array(value.shape, np.int64)
        record[f"{name}/parameters"] = sum(p.numel() for p in model.parameters())
        official_file = read_torch(feeds.weights_file(context, backbone, form)).tensors
        for tensor, array in official_file.items():
            record[f"{name}/bits/{tensor}"] = zlib.crc32(np.ascontiguousarray(array).tobytes())
    return record


def data(context: Context) -> dict:
    record = {}
    root = feeds.data_options(context).data_path
    for split in ("train", "val"):
        record[f"{split}/names"] = [name for name, _, _ in listing(root, split)]
    for name, split, argv in feeds.DATA_CASES:
        options = feeds.data_options(context, argv.split())
        count = len(listing(root, split))
        for epoch in (0, 1):
            for index in feeds.chosen(count, 4):
                image, label = sample(root, split, index, options, options.seed, epoch)
                record[f"{name}/epoch{epoch}/{index}/image"] = image.numpy()
                record[f"{name}/epoch{epoch}/{index}/label"] = label.numpy()
    return record


def forward(context: Context) -> dict:
    record, code = {}, _code(context)
    for backbone, form, options in feeds.networks(context):
        model = _loaded(context, code, backbone, form, options).eval()
        for name, images in _inputs(context, form).items():
            images = torch.from_numpy(images)
            with torch.no_grad():
                if form == "classifier":
                    values = {"logits": model(images)} | model.features_at(images)
                else:
                    values, parts = outputs_and_parts(model, images)
                    values["segment"] = values["out"]
                    record |= {f"{backbone}/{name}/{part}": value for part, value in parts.items()}
            record |= {f"{backbone}/{form}/{name}/{key}": value.numpy() for key, value in values.items()}
        if form == "segmentation":
            record |= _variants(context, code, backbone)
    return record


def _inputs(context: Context, form: str) -> dict[str, np.ndarray]:
    if form == "classifier":
        return {"noise": feeds.noise("classifier", feeds.CLASSIFIER_SHAPE, context.dtype)}
    return {
        "noise": feeds.noise("noise", feeds.NOISE_SHAPE, context.dtype),
        "picture": _pictures(feeds.data_options(context), "val", 1).numpy().astype(context.dtype),
    }


def _pictures(options: argparse.Namespace, split: str, most: int, size: tuple | None = None) -> torch.Tensor:
    count = len(listing(options.data_path, split))
    pictures = [sample(options.data_path, split, i, options, 0, 0)[0] for i in feeds.chosen(count, most)]
    if size:
        pictures = [evaluation.resize(picture[None], size)[0] for picture in pictures]
    return torch.stack(pictures)


def _variants(context: Context, code: SimpleNamespace, backbone: str) -> dict:
    record = {}
    for variant, argv in feeds.VARIANTS.items():
        options = feeds.network_options(context, backbone, argv)
        model = _loaded(context, code, backbone, "segmentation", options).train()
        with torch.no_grad():
            outputs = model(torch.from_numpy(feeds.noise("variant", feeds.VARIANT_SHAPE, context.dtype)))
        name = f"{backbone}/variant/{variant}"
        record |= {f"{name}/{key}": value.numpy() for key, value in outputs.items()}
        for tensor, value in model.state_dict().items():
            if tensor.endswith(("running_mean", "running_var")) and "backbone.x" not in tensor:
                record[f"{name}/statistics/{tensor}"] = value.numpy()
    return record


def metric(context: Context) -> dict:
    record = {}
    whole = torch.zeros(feeds.CLASSES, feeds.CLASSES, dtype=torch.int64)
    for case, predicted, target in feeds.label_maps():
        counts = evaluation.histogram(torch.from_numpy(predicted), torch.from_numpy(target), feeds.CLASSES)
        whole = whole + counts
        record |= {f"{case}/histogram": counts.numpy(), f"{case}/iou": evaluation.iou(counts).numpy()}
        record[f"{case}/miou"] = evaluation.mean_iou(counts)
    record |= {"whole/histogram": whole.numpy(), "whole/iou": evaluation.iou(whole).numpy()}
    record["whole/miou"] = evaluation.mean_iou(whole)

    weight = torch.from_numpy(feeds.mixture(context.dtype))

    def segment(images):
        return torch.einsum("kc,nchw->nkhw", weight, images)

    images = torch.from_numpy(feeds.noise("metric", feeds.METRIC_SHAPE, context.dtype))
    size = feeds.METRIC_SHAPE[2:]
    target = torch.from_numpy(feeds.labels("protocols", (1, *size)))
    for scales, flip, crop in feeds.PROTOCOLS:
        if crop:
            scores = sum(evaluation.scaled_window_scores(segment, images, scale, crop, flip) for scale in scales)
            predicted = scores.argmax(1)
        elif len(scales) == 1 and not flip:
            predicted = evaluation.predict_at(segment, images, scales[0], size)
        else:
            predicted = evaluation.predict_summed(segment, images, scales, size, flip)
        name = "_".join(["scale" if len(scales) == 1 else "scales", *(f"{scale:g}" for scale in scales)])
        name += ("_flip" if flip else "") + (f"_crop_{crop}" if crop else "")
        record[f"{name}/histogram"] = evaluation.histogram(predicted, target, feeds.CLASSES).numpy()
    return record


def _criterion(code: SimpleNamespace, thresh: float = 0.7, n_min: int = 0):
    options = parse_options([])
    options.ohem_thresh, options.n_min = thresh, n_min
    return code.build_criterion(options)


def loss(context: Context) -> dict:
    record, code = {}, _code(context)
    for name, (values, target, thresh, n_min) in feeds.ohem_cases(context.dtype).items():
        x = torch.from_numpy(values).requires_grad_()
        value = _criterion(code, thresh, n_min).ohem(x, torch.from_numpy(target))
        record[f"ohem/{name}/loss"] = value.detach().numpy()
        if n_min:
            value.backward()
            record[f"ohem/{name}/gradient"] = x.grad.numpy()
    for name, (values, target, factor) in feeds.detail_cases(context.dtype).items():
        target = torch.from_numpy(target)
        criterion = _criterion(code)
        criterion.fuse_kernel.data.mul_(factor)
        record[f"detail/{name}/target"] = losses.detail_target(target, criterion.fuse_kernel).detach().numpy()
        for index, term in enumerate(("bce", "dice")):
            x = torch.from_numpy(values).requires_grad_()
            value = criterion.detail(x, target)[index]
            value.backward()
            record[f"detail/{name}/{term}"] = value.detach().numpy()
            record[f"detail/{name}/{term}/gradient"] = x.grad.numpy()
    outputs, target = feeds.whole_loss(context.dtype)
    outputs = {name: torch.from_numpy(value).requires_grad_() for name, value in outputs.items()}
    criterion = _criterion(code, n_min=target.size // 16)
    terms = criterion(outputs, torch.from_numpy(target))
    terms["loss"].backward()
    record |= {f"whole/{term}": value.detach().numpy() for term, value in terms.items()}
    record |= {f"whole/{name}/gradient": value.grad.numpy() for name, value in outputs.items()}
    record["whole/fuse_kernel/gradient"] = criterion.fuse_kernel.grad.numpy()
    return record


def backward(context: Context) -> dict:
    record, code = {}, _code(context)
    for backbone in feeds.backbones(context):
        if "segmentation" not in feeds.forms(context):
            continue
        images, target = (torch.from_numpy(array) for array in feeds.batch(context, backbone))
        options = feeds.network_options(context, backbone, feeds.DETAILS)
        for mode in ("train", "eval"):
            model = _loaded(context, code, backbone, "segmentation", options).train(mode == "train")
            terms = _criterion(code, n_min=target.numel() // 16)(model(images), target)
            terms["loss"].backward()
            record |= {f"{backbone}/{mode}/{term}": value.detach().numpy() for term, value in terms.items()}
            for name, parameter in model.named_parameters():
                if parameter.grad is not None:
                    record[f"{backbone}/{mode}/gradient/{name}"] = parameter.grad.numpy()
        for name, argv in feeds.optimisers(context, backbone).items():
            # the official code knows its own schedule and groups only
            source = code if name == "warmup_poly" else _TWIN
            steps = _optimiser_steps(context, source, backbone, argv, images, target)
            record |= {f"{backbone}/{name}/{key}": value for key, value in steps.items()}
    return record


def _optimiser_steps(context: Context, code: SimpleNamespace, backbone: str, argv: list[str], images, target) -> dict:
    recipe = feeds.network_options(context, backbone, argv)
    recipe.n_min = target.numel() // 16
    model = _loaded(context, code, backbone, "segmentation", recipe).train()
    criterion = code.build_criterion(recipe)
    groups = code.parameter_groups(model, criterion, recipe)
    optimizer = code.build_optimizer(model, criterion, recipe)
    values, rates, sums = [], [], {}
    for step in range(feeds.OPTIMISER_STEPS):
        rate = code.set_learning_rate(optimizer, step, recipe)
        rates.append([rate * group["lr_mul"] for group in groups])
        value = criterion(model(images), target)["loss"]
        optimizer.zero_grad()
        value.backward()
        values.append(value.item())
        optimizer.step()
        for part in feeds.measured_parts(step, context.dtype):
            chosen = [v for name, v in model.state_dict().items() if name.endswith(part) and "backbone.x" not in name]
            sums[f"step{step}/{part}"] = np.array([value.double().norm().item() for value in chosen])
    sums |= {f"groups/{index}": group["names"] for index, group in enumerate(groups)}
    sums["fuse_kernel"] = as_numpy(criterion.fuse_kernel.detach())
    return {"loss": np.array(values), "lr": np.array(rates)} | sums


def train(context: Context) -> dict:
    options = feeds.data_options(context, feeds.TRAIN_ARGV)
    model = network.build_reference(options)
    model.load_state_dict(torch.load(context.output_dir / "weights" / "train.pth", weights_only=True))
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
    criterion = losses.build_criterion(options)
    optimizer = training.build_optimizer(model, criterion, options)
    counts = {split: len(listing(options.data_path, split)) for split in ("train", "val")}
    val = [sample(options.data_path, "val", i, options, 0, 0) for i in feeds.chosen(counts["val"], feeds.VAL_PICTURES)]
    val_images, val_labels = _batch(val, dtype)
    val_images = evaluation.resize(val_images, feeds.VAL_SIZE)
    kept = feeds.chosen(counts["train"], feeds.TRAIN_PICTURES)

    def miou() -> float:
        with torch.no_grad():
            predicted = evaluation.resize(model.train()(val_images)["out"], val_labels.shape[1:]).argmax(1)
        found = evaluation.iou(evaluation.histogram(predicted, val_labels, options.num_classes))
        return float(found[~found.isnan()].mean())

    values, steps, curve = [], [0], [miou()]
    epoch = 0
    while len(values) < options.max_iter:
        order = np.random.default_rng([options.seed, epoch]).permutation(len(kept))
        for keys in order.reshape(-1, options.n_img_per_gpu):
            picked = [sample(options.data_path, "train", kept[key], options, options.seed, epoch) for key in keys]
            images, target = _batch(picked, dtype)
            training.set_learning_rate(optimizer, len(values), options)
            value = criterion(model(images), target)["loss"]
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            values.append(value.item())
            if len(values) % 40 == 0:
                steps.append(len(values))
                curve.append(miou())
        epoch += 1
    return feeds.training_record(values, curve[-1], curve[0], steps, curve)


def _batch(samples: list, dtype: str) -> tuple[torch.Tensor, torch.Tensor]:
    images, target = zip(*samples, strict=True)
    return torch.stack(images).to(getattr(torch, dtype)), torch.stack(target)
