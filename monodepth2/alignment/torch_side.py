"""The torch side of the seven stages: the twin in reference/, or with --reference the official code itself."""

import argparse
import copy
import io
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

from shared.align.formula import formula_state
from shared.align.papers import calibrate, train_control
from shared.files import atomic_write, atomic_write_text
from shared.stages import Context

from . import feeds, recording
from convert import STORED, read_official
from options import SUBMODELS, parse_options
from reference import data as reading
from reference import evaluation, losses, network, official, training
from reference.geometry import disp_to_depth, transformation_from_parameters

CALIBRATION_ITEMS = 6
TWIN_CODE = SimpleNamespace(
    build_reference=network.build_reference,
    build_criterion=losses.build_criterion,
    build_optimizer=training.build_optimizer,
)


class TorchSide:
    """What `recording` asks of a side; `code` builds networks, losses and optimisers."""

    no_grad = staticmethod(torch.no_grad)
    item, motion = staticmethod(reading.item), staticmethod(transformation_from_parameters)

    def __init__(self, code: SimpleNamespace):
        self.build, self.criterion = code.build_reference, code.build_criterion
        self._build_optimizer = code.build_optimizer

    def tensor(self, array: np.ndarray, gradient: bool = False) -> torch.Tensor:
        return torch.from_numpy(array).requires_grad_(gradient)

    def collate(self, items: list[dict], dtype: str) -> dict:
        return {key: torch.stack([item[key] for item in items]).to(getattr(torch, dtype)) for key in items[0]}

    # ------------------------------------------------------------------ networks

    def load(self, context: Context, name: str, options: argparse.Namespace) -> torch.nn.Module:
        return _fill(self.build(options), feeds.weights_folder(context, name), context.dtype)

    def shapes(self, model: torch.nn.Module) -> dict:
        return {name: tuple(value.shape) for name, value in model.state_dict().items()}

    def parameter_count(self, model: torch.nn.Module) -> int:
        return sum(p.numel() for p in model.parameters())

    def bits(self, model: torch.nn.Module, folder: Path) -> dict:
        return {name: array for name, array in read_official(folder).tensors.items() if name not in STORED}

    def gradients(self, model: torch.nn.Module) -> dict:
        return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

    # ------------------------------------------------------------------ data and metric

    def count(self, options: argparse.Namespace, part: str) -> int:
        return len(reading.lines_of(options, part))

    def ground_truth(self, options: argparse.Namespace, count: int) -> list[np.ndarray]:
        maps = []
        for folder, number, _ in reading.lines_of(options, "test")[:count]:
            date = Path(options.data_path, folder.split("/")[0])
            depth = reading.depth_map(date, reading.scan_path(options, folder, number), 2, vel_depth=True)
            maps.append(depth.astype(np.float32))
        return maps

    def depth_errors(self, gt: np.ndarray, prediction: np.ndarray) -> list[float]:
        return evaluation.depth_errors(torch.from_numpy(gt), torch.from_numpy(prediction)).double().tolist()

    def score(self, gt, disparity, split: str, factor: float, median: bool) -> tuple[list, float]:
        errors, ratio = evaluation.score(disparity, gt, split, factor, median)
        return errors.double().tolist(), ratio

    def monitor(self, depth: np.ndarray, gt: np.ndarray) -> list[float]:
        return evaluation.monitor(torch.from_numpy(depth), torch.from_numpy(gt)).double().tolist()

    def flip(self, plain: np.ndarray, mirrored: np.ndarray) -> torch.Tensor:
        return evaluation.flip_mean(torch.from_numpy(plain), torch.from_numpy(mirrored))

    # ------------------------------------------------------------------ training

    def training(self, model: torch.nn.Module, options: argparse.Namespace) -> tuple:
        return model, self.criterion(options), self._build_optimizer(model, options)

    def train_step(self, state: tuple, batch: dict, options, step: int, noise: list) -> dict[str, float]:
        return training.train_step(*state, batch, noise)

    def rates(self, state: tuple, options: argparse.Namespace) -> list[float]:
        """The learning rate of each epoch."""
        return [training.learning_rate(epoch, options) for epoch in range(options.num_epochs)]

    def abs_rel(self, model: torch.nn.Module, batch: dict, gt: list[np.ndarray], options: argparse.Namespace) -> float:
        with torch.no_grad():
            disp = model.eval().predict_disparity(batch["color", 0, 0])["disp", 0]
        scaled, _ = disp_to_depth(disp, options.min_depth, options.max_depth)
        pairs = zip(scaled[:, 0].numpy(), gt, strict=True)
        errors = [evaluation.score(*pair, "eigen", 5.4, False)[0][0] for pair in pairs]
        return float(torch.stack(errors).double().mean())


def _side(context: Context) -> TorchSide:
    """The twin's side, or the official checkout's."""
    return TorchSide(official.load(context.options.reference) if context.options.reference else TWIN_CODE)


def _fill(model: torch.nn.Module, folder: Path, dtype: str) -> torch.nn.Module:
    """`model` with the weights of an official folder."""
    state = read_official(folder).tensors
    model.load_state_dict({key: torch.from_numpy(np.array(a)) for key, a in state.items() if key not in STORED})
    return model.to(getattr(torch, dtype))


# ------------------------------------------------------------------------------------ what both sides read


def prepare(context: Context) -> None:
    """Draw the mini data set and write the official-format weights that both sides load."""
    _side(context)  # refuses a --reference that is no official checkout
    if not context.options.data_path:
        from mini.draw import ensure_mini

        ensure_mini()
    side = TorchSide(TWIN_CODE)
    torch.manual_seed(feeds.SEED)
    train_options = parse_options(feeds.TRAIN_ARGV)
    _write(context.output_dir / "weights" / "train", side.build(train_options), train_options)
    for name, options in feeds.networks(context):
        if not context.options.weights:
            model = side.build(options)
            model.load_state_dict(_formula_state(model))
            batch = recording.batch_of(side, context, options, feeds.chosen(16, CALIBRATION_ITEMS))
            norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
            calibrate(model, lambda model=model, batch=batch: model(batch), norms)
            _write(feeds.weights_folder(context, name), model, options)
    for name, options in feeds.networks(context, feeds.TRAINED):
        choice = _smoothest_batch(side, replace(context, dtype="float64"), name, options)
        atomic_write_text(feeds.choice_file(context, name), f"{choice}\n")


def _formula_state(model: torch.nn.Module) -> dict:
    """Formula weights, with depths of about 1 instead of 0.15, as in the golden figures (NOTES 9.1)."""
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    state = formula_state(shapes, feeds.SEED, gain=2.0)
    for name in state:
        if name.startswith("depth.decoder.") and shapes[name] == (1,):
            state[name] = np.full((1,), -2.5, np.float32)
    return {name: torch.from_numpy(np.array(array)) for name, array in state.items()}


def _smoothest_batch(side: TorchSide, context: Context, name: str, options: argparse.Namespace) -> list[int]:
    """The candidate batch whose gradient changes least when all weights are disturbed by float32's rounding.

    The loss has kinks: rectifiers, absolute values, the smaller of two errors. Where a value lies within rounding of
    one, float32 and float64 may differ; as in every gradient check, a point is chosen where the function is smooth.
    """
    noise = [torch.from_numpy(array) for array in feeds.noise(options, context.dtype)]
    criterion = losses.build_criterion(options)
    model = side.load(context, name, options).train()
    disturbed = copy.deepcopy(model)
    torch.manual_seed(feeds.SEED)
    with torch.no_grad():
        for parameter in disturbed.parameters():
            parameter.mul_(1 + 1e-7 * torch.randn_like(parameter))

    def gradients(model: torch.nn.Module, batch: dict) -> dict:
        model.zero_grad()
        criterion(model(batch), batch, noise)["loss"].backward()
        return {key: gradient.clone() for key, gradient in side.gradients(model).items()}

    worst = []
    candidates = feeds.candidates(side.count(feeds.reading(context, options), "val"))
    for indices in candidates:
        batch = recording.batch_of(side, context, options, indices)
        here, there = gradients(model, batch), gradients(disturbed, batch)
        worst.append(max(float((here[k] - there[k]).norm() / here[k].norm().clamp_min(1e-9)) for k in here))
    return candidates[int(np.argmin(worst))]


def _write(folder: Path, model: torch.nn.Module, options: argparse.Namespace) -> None:
    """An official folder: a .pth file for each sub-network, the input's size in encoder.pth."""
    state = model.state_dict()
    for part in SUBMODELS:
        own = {k.removeprefix(f"{part}."): value for k, value in state.items() if k.startswith(f"{part}.")}
        if own:
            extra = {name: getattr(options, name) for name in STORED} if part == "encoder" else {}
            buffer = io.BytesIO()
            torch.save(own | extra, buffer)
            atomic_write(folder / f"{part}.pth", lambda file, buffer=buffer: file.write(buffer.getvalue()))


# ------------------------------------------------------------------------------------ stages


def _stage(record: Callable, context: Context) -> dict:
    return record(_side(context), context)


structure, data, forward = (
    partial(_stage, record) for record in (recording.structure, recording.data, recording.forward)
)
metric, loss, backward = (partial(_stage, record) for record in (recording.metric, recording.loss, recording.backward))


def train(context: Context) -> dict:
    side, options = TorchSide(TWIN_CODE), feeds.data_options(context, feeds.TRAIN_ARGV)
    model = _fill(side.build(options), context.output_dir / "weights" / "train", context.dtype)
    # how far torch parts from itself: drawn beside the two curves
    train_control(context, model, lambda copied: recording.train(side, context, copied, options), feeds.SEED)
    return recording.train(side, context, model, options)
