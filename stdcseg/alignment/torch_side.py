"""The torch side of the seven stages: the twin in reference/, or with --reference the official code itself."""

import argparse
import copy
import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

from shared.align.formula import formula_state
from shared.align.papers import calibrate, torch_structure, train_control
from shared.files import atomic_write_text
from shared.stages import Context
from shared.weights import as_numpy, read_torch, write_torch

from . import feeds, recording
from options import parse_options
from reference import evaluation, losses, network, training
from reference.data import listing, sample
from reference.official import official_code

CALIBRATION_IMAGES = 4  # and as many of noise
CALIBRATION_SIZE = (128, 256)
_TWIN = SimpleNamespace(
    build_reference=network.build_reference,
    build_reference_classifier=network.build_reference_classifier,
    build_criterion=losses.build_criterion,
    build_optimizer=training.build_optimizer,
    parameter_groups=training.parameter_groups,
    set_learning_rate=training.set_learning_rate,
)


class TorchSide:
    """What `recording` asks of a side."""

    no_grad = staticmethod(torch.no_grad)
    einsum = staticmethod(torch.einsum)

    def __init__(self, options: argparse.Namespace | None = None):
        """With `options` that name an official checkout, its code; else the twin."""
        self.code = official_code(options.reference, options.base) if options and options.reference else _TWIN

    def tensor(self, array: np.ndarray, gradient: bool = False) -> torch.Tensor:
        return torch.from_numpy(array.copy()).requires_grad_(gradient)

    # ------------------------------------------------------------------ networks

    def build(self, form: str, options) -> torch.nn.Module:
        code = self.code
        return (code.build_reference_classifier if form == "classifier" else code.build_reference)(options)

    def load(self, context: Context, backbone: str, form: str, options) -> torch.nn.Module:
        model = self.build(form, options)
        state = read_torch(feeds.weights_file(context, backbone, form)).tensors
        model.load_state_dict({name: torch.from_numpy(np.array(array)) for name, array in state.items()})
        if form == "classifier":
            model.dropout.p = 0.0
        return model.to(getattr(torch, context.dtype))

    def structure(self, model, file) -> dict:
        return torch_structure(model, file)

    def parameter_count(self, model) -> int:
        return sum(p.numel() for p in model.parameters())

    def features(self, model, images) -> dict:
        return model.features_at(images)

    def segment(self, model, images, outputs: dict):
        return outputs["out"]

    def state(self, model) -> dict:
        return {name: value for name, value in model.state_dict().items() if "backbone.x" not in name}

    def gradients(self, model) -> dict:
        return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

    # ------------------------------------------------------------------ data and metric

    def names(self, options, split: str) -> list[str]:
        return [name for name, _, _ in listing(options.data_path, split)]

    def samples(self, options, split: str, epoch: int, indices: list[int]) -> list:
        return [sample(options.data_path, split, index, options, options.seed, epoch) for index in indices]

    def metrics(self, pairs: list) -> dict:
        tensors = [(torch.from_numpy(np.array(p)), torch.from_numpy(t)) for p, t in pairs]
        counts = sum(evaluation.histogram(p, t, feeds.CLASSES) for p, t in tensors)
        return {"histogram": counts, "iou": evaluation.iou(counts), "miou": evaluation.mean_iou(counts)}

    def predict(self, segment: Callable, images, scales, flip, crop) -> np.ndarray:
        size = images.shape[2:]
        if crop:
            scores = sum(evaluation.scaled_window_scores(segment, images, scale, crop, flip) for scale in scales)
            return scores.argmax(1)
        if len(scales) == 1 and not flip:
            return evaluation.predict_at(segment, images, scales[0], size)
        return evaluation.predict_summed(segment, images, scales, size, flip)

    # ------------------------------------------------------------------ losses and training

    def criterion(self, thresh: float = 0.7, n_min: int = 0) -> torch.nn.Module:
        options = parse_options([])
        options.ohem_thresh, options.n_min = thresh, n_min
        return self.code.build_criterion(options)

    def kernel(self, criterion) -> torch.Tensor:
        return criterion.fuse_kernel

    def scale_kernel(self, criterion, factor: float) -> None:
        criterion.fuse_kernel.data.mul_(factor)

    def detail_target(self, labels, criterion):
        return losses.detail_target(labels, criterion.fuse_kernel)

    def _code_for(self, options) -> SimpleNamespace:
        """The official code has its own schedule and groups only."""
        return _TWIN if options.lr_scheduler != "warmup_poly" or options.train_backbone_norms else self.code

    def training(self, model, options, dtype: str) -> SimpleNamespace:
        code = self._code_for(options)
        criterion = code.build_criterion(options)
        optimizer = code.build_optimizer(model, criterion, options)
        return SimpleNamespace(model=model.train(), criterion=criterion, optimizer=optimizer, code=code)

    def groups(self, model, criterion, options) -> list[tuple[list[str], float, float]]:
        """(names, factor of the learning rate, weight decay) of each group."""
        groups = self._code_for(options).parameter_groups(model, criterion, options)
        return [(group["names"], group["lr_mul"], group["weight_decay"]) for group in groups]

    def train_step(self, run: SimpleNamespace, images, labels, step: int, options) -> tuple[float, float]:
        rate = run.code.set_learning_rate(run.optimizer, step, options)
        return training.train_step(run.model, run.criterion, run.optimizer, images, labels), rate

    def epoch_of_batches(self, options, kept: list[int], epoch: int):
        order = np.random.default_rng([options.seed, epoch]).permutation(len(kept))
        for keys in order.reshape(-1, options.n_img_per_gpu):
            yield self.samples(options, "train", epoch, [kept[key] for key in keys])

    def batch(self, samples: list, dtype: str) -> tuple[torch.Tensor, torch.Tensor]:
        images, labels = zip(*samples, strict=True)
        return torch.stack(images).to(getattr(torch, dtype)), torch.stack(labels)

    def miou(self, model, images, labels, options) -> float:
        with torch.no_grad():
            outputs = model.train()(evaluation.resize(images, feeds.VAL_SIZE))
        predicted = evaluation.resize(outputs["out"], labels.shape[1:]).argmax(1)
        iou = evaluation.iou(evaluation.histogram(predicted, labels, options.num_classes))
        return float(iou[~iou.isnan()].mean())


def _stage(record: Callable, context: Context) -> dict:
    return record(TorchSide(context.options), context)


structure, data, forward = (partial(_stage, f) for f in (recording.structure, recording.data, recording.forward))
metric, loss, backward = (partial(_stage, f) for f in (recording.metric, recording.loss, recording.backward))


def train(context: Context) -> dict:
    side = TorchSide()
    model = network.build_reference(feeds.data_options(context, feeds.TRAIN_ARGV))
    model.load_state_dict(torch.load(context.output_dir / "weights" / "train.pth", weights_only=True))
    model.to(getattr(torch, context.dtype))
    train_control(context, model, partial(recording.train, side, context), feeds.SEED)
    return recording.train(side, context, model)


# ------------------------------------------------------------------------------------------------------ what both read


def prepare(context: Context) -> None:
    """Make the mini data set and the official-format weight files that both sides load."""
    TorchSide(context.options).criterion()  # refuses a --reference that is not an official checkout
    options = feeds.data_options(context)
    if not context.options.data_path:
        from mini.draw import ensure_mini

        ensure_mini(options.data_path)
    torch.manual_seed(feeds.SEED)
    train_options = parse_options(feeds.TRAIN_ARGV)
    _write(context.output_dir / "weights" / "train.pth", network.build_reference(train_options))
    if not context.options.weights:
        _draw_weights(context, options)
    for backbone in feeds.backbones(context):
        if "segmentation" in feeds.forms(context):
            choice = _smoothest_batch(replace(context, dtype="float64"), backbone)
            atomic_write_text(feeds.choice_file(context, backbone), json.dumps(choice) + "\n")


def _write(path: Path, model: torch.nn.Module) -> None:
    write_torch(path, {name: as_numpy(value) for name, value in model.state_dict().items()})


def _draw_weights(context: Context, options: argparse.Namespace) -> None:
    twin = TorchSide()
    indices = feeds.chosen(len(twin.names(options, "val")), CALIBRATION_IMAGES)
    images = [image for image, _ in twin.samples(options, "val", 0, indices)]
    images = torch.stack([evaluation.resize(image[None], CALIBRATION_SIZE)[0] for image in images])
    noise = feeds.noise("calibration", tuple(images.shape), "float32")
    images = torch.cat([images, torch.from_numpy(noise)])
    for backbone, form, net_options in feeds.networks(context):
        model = twin.build(form, net_options)
        model.load_state_dict(_formula_state(model))
        norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d | network.InPlaceABN)]
        calibrate(model, partial(model, images), norms)
        _write(feeds.weights_file(context, backbone, form), model)


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


def _smoothest_batch(context: Context, backbone: str) -> int:
    """The candidate batch that stays farthest from the kinks of all ReLUs, in train and in eval mode.

    A gradient jumps at a kink, so where a value lies within rounding of one, float32 and float64 rightly differ; as in
    every gradient check, the point is chosen where the function is smooth.
    """
    model = TorchSide().load(context, backbone, "segmentation", feeds.network_options(context, backbone, feeds.DETAILS))
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
