"""The torch side of the seven stages: the twin in reference/, or with --reference the official code itself."""

import copy
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import torch

from shared.align import papers
from shared.align.formula import formula_state
from shared.files import atomic_write_text, write_json
from shared.stages import Context
from shared.weights import read_torch, write_torch

from . import feeds, records
from options import parse_options
from reference import data as reading
from reference import evaluation, losses, network, official, training
from reference.dla import peaks

_TWIN = SimpleNamespace(
    build_reference=network.build_reference,
    build_criterion=losses.build_criterion,
    build_optimizer=training.build_optimizer,
    parameter_groups=training.parameter_groups,
    rates=training.rates,
    HierarchicalTaskLearning=training.HierarchicalTaskLearning,
    sample=reading.sample,
)


def _tensors(arrays: dict) -> dict:
    """Arrays as tensors, in dictionaries too; other values as they are."""
    found = {}
    for name, value in arrays.items():
        value = torch.from_numpy(np.array(value)) if isinstance(value, np.ndarray) else value
        found[name] = _tensors(value) if isinstance(value, dict) else value
    return found


def _state(model: torch.nn.Module) -> dict[str, np.ndarray]:
    return {name: value.detach().numpy().copy() for name, value in model.state_dict().items()}


# ---------------------------------------------------------------- what both sides read


def prepare(context: Context) -> None:
    """Make the mini data set, the official-format weights and the files to evaluate, and choose among the images."""
    TorchSide(context)  # InputError for a --reference that is not an official checkout
    if not context.options.data_path:
        from mini.draw import ensure_mini

        ensure_mini()
    torch.manual_seed(feeds.SEED)
    write_torch(feeds.weights_file(context, "train"), _state(network.build_reference(parse_options([]))))
    if not context.options.weights:
        write_torch(feeds.weights_file(context), _state(_drawn_network(context)))
    folders = feeds.result_folders(context)
    for name, *texts in feeds.result_files():
        for folder, text in zip(folders, texts, strict=True):
            atomic_write_text(folder / name, text)
    side = TorchSide(replace(context, dtype="float64"))
    side.code = _TWIN
    model = side.load()
    choices = {name: _clearest_peaks(model, name, case) for name, case in feeds.FORWARD.items() if case.mode != "train"}
    choices["backward"] = _smoothest_batch(model)
    write_json(feeds.choice_file(context), choices)


def _drawn_network(context: Context) -> torch.nn.Module:
    """Formula weights that act like trained ones: active units, boxes of some cells, small variances, all classes."""
    model = network.build_reference(parse_options([]))
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    state = formula_state(shapes, feeds.SEED, gain=2.0)
    for name in state:
        if name.endswith("bias") and name.replace("bias", "running_var") in shapes:
            state[name] = state[name] + np.float32(2)  # of a batch norm: most ReLUs stay active, far from their kink
        if name.endswith(("depth.4.weight", "size_3d.4.weight", "heading.4.weight", "offset_3d.4.weight")):
            state[name] = state[name] * np.float32(0.3)
    state["mean_size"] = model.mean_size.detach().numpy()
    state["size_2d.2.bias"] = np.array([7, 6], np.float32)
    state["heatmap.2.bias"] = np.array([-2, -2.2, -1.8], np.float32)
    model.load_state_dict(_tensors(state))
    inputs = _tensors(feeds.inputs("calibration", feeds.FORWARD["train"], 0, "float32"))
    norms = [layer for layer in model.modules() if isinstance(layer, torch.nn.BatchNorm2d)]
    papers.calibrate(model, lambda: model(**inputs), norms)
    return model


def _clearest_peaks(model: torch.nn.Module, name: str, case: feeds.Case) -> int:
    """The candidate whose peaks differ most, from each other and from their neighbours.

    Rounding decides the order of two nearly equal cells, and so which rows there are.
    """
    clearest = []
    for candidate in range(feeds.PEAK_CANDIDATES):
        with torch.no_grad():
            inputs = _tensors(feeds.inputs(name, case, candidate, "float64"))
            heat = network.probabilities(model.eval()(**inputs)["heatmap"])
        score, _, _ = peaks(heat, case.k + 1)
        padded = torch.nn.functional.pad(heat, (1, 1, 1, 1), value=0)
        windows = padded.unfold(2, 3, 1).unfold(3, 3, 1).flatten(-2)
        around = windows[..., [0, 1, 2, 3, 5, 6, 7, 8]].amax(-1)
        lead = (heat - around).abs()[heat >= score[:, -1].min()].min()
        clearest.append(float(torch.minimum((score[:, :-1] - score[:, 1:]).min(), lead)))
    return int(np.argmax(clearest))


def _smoothest_batch(model: torch.nn.Module) -> int:
    """The candidate batch whose gradient moves least when all weights move by some rounding errors of float32.

    The losses have kinks: ReLU, absolute values, max-pooling. Where a value is within rounding of one, float32 and
    float64 rightly differ; as in every gradient check, the point is chosen where the function is smooth.
    """
    model = copy.deepcopy(model).train()
    moved = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in moved.parameters():
            parameter.mul_(1 + 2e-6 * torch.randn_like(parameter))

    def gradients(network_, candidate: int) -> dict:
        network_.zero_grad()
        inputs = _tensors(feeds.inputs("backward", feeds.BACKWARD, candidate, "float64"))
        losses.build_criterion(None)(network_(**inputs), inputs["targets"])["loss"].backward()
        return {key: p.grad.clone() for key, p in network_.named_parameters() if p.grad is not None}

    worst = []
    for candidate in range(feeds.BATCH_CANDIDATES):
        here, there = gradients(model, candidate), gradients(moved, candidate)
        worst.append(max(float((here[k] - there[k]).norm() / here[k].norm().clamp_min(1e-3)) for k in here))
    return int(np.argmin(worst))


# ---------------------------------------------------------------- the stages


class _Training:
    """The twin's own loop: its losses and its optimiser, or the official code's."""

    def __init__(self, code: SimpleNamespace, model, options):
        self.model, self.options = model, options
        self.criterion, self.optimizer = code.build_criterion(options), code.build_optimizer(model, options)

    def set_epoch(self, epoch):
        training.set_learning_rate(self.optimizer, epoch, self.options)

    def step(self, inputs, weights):
        parts = self.model.train(), self.criterion, self.optimizer
        return training.train_step(*parts, _tensors(inputs), weights, update=weights is not None)


class TorchSide(records.Side):
    def __init__(self, context: Context):
        super().__init__(context)
        reference = context.options.reference
        self.code = official.load(reference) if reference else _TWIN

    def structure(self):
        model = self.code.build_reference(parse_options([]))
        trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
        return papers.torch_structure(model, feeds.weights_file(self.context)) | {"parameters": trained}

    def open_split(self, options, split):
        def read(epoch: int, index: int) -> tuple:
            draws = reading.draws(options.seed, epoch, index) if split == "train" else None
            return self.code.sample(options, split, index, draws)

        return reading.frames(options, split), read

    def load(self, name="drawn"):
        model = self.code.build_reference(parse_options([]))
        state = read_torch(feeds.weights_file(self.context, name)).tensors
        model.load_state_dict(_tensors(state))
        return model.to(getattr(torch, self.dtype)).train()

    def state(self, model):
        return _state(model)

    def fill(self, model, state):
        model.load_state_dict(_tensors(state))

    @torch.no_grad()
    def run(self, model, inputs):
        regions = {}
        hook = model.depth[0].register_forward_pre_hook(lambda layer, given: regions.update(regions=given[0].numpy()))
        outputs = model.train(inputs.get("mode", "train") == "train")(**_tensors(inputs))
        hook.remove()
        return {name: value.numpy() for name, value in outputs.items()} | regions

    @torch.no_grad()
    def parts(self, model, images):
        levels = model.backbone(torch.from_numpy(images))
        return [level.numpy() for level in levels], model.feat_up(levels[2:]).numpy()

    def peaks(self, heatmap, count):
        return tuple(value.numpy() for value in peaks(network.probabilities(torch.from_numpy(heatmap)), count))

    def metric(self):
        outputs, ratios, calibs = feeds.peak_outputs(self.dtype)
        rows = evaluation.extract(_tensors(outputs)).numpy()
        record = {"peaks": rows}
        for threshold in feeds.THRESHOLDS:
            for image, (dets, ratio, calib) in enumerate(zip(rows, ratios, calibs, strict=True)):
                decoded = evaluation.decode(dets, ratio, calib, threshold)
                record[f"decoded/{threshold}/{image}"] = np.array(decoded).reshape(-1, 14)
                record[f"lines/{threshold}/{image}"] = feeds.words(evaluation.lines(decoded))
        for (kind, name), curves in evaluation.evaluate(*feeds.result_folders(self.context)).items():
            record[f"ap/{kind}/{name}"] = {"AP40": evaluation.ap40(curves), "AP11": evaluation.ap11(curves)}
            record[f"curve/{kind}/{name}"] = curves
        return record

    def losses(self, outputs, targets, weights):
        given = _tensors(outputs)
        leaves = {key: value.requires_grad_() for key, value in given.items() if value.is_floating_point()}
        terms = self.code.build_criterion(parse_options([]))(given, _tensors(targets), weights)
        terms["loss"].backward()
        gradients = {key: value.grad.numpy() for key, value in leaves.items()}
        return {term: value.detach().numpy() for term, value in terms.items()}, gradients

    def gradients(self, model, inputs):
        inputs = _tensors(inputs)
        terms = self.code.build_criterion(parse_options([]))(model(**inputs), inputs["targets"])
        terms["loss"].backward()
        gradients = {name: p.grad.numpy() for name, p in model.named_parameters() if p.grad is not None}
        return {term: value.detach().numpy() for term, value in terms.items()}, gradients

    def task_learning(self, max_epoch, dtype):
        return self.code.HierarchicalTaskLearning(max_epoch, getattr(torch, dtype)).compute_weight

    def groups(self, options):
        groups = self.code.parameter_groups(self.load(), options)
        return [(group["names"], group["weight_decay"]) for group in groups]

    def rates(self, options):
        return self.code.rates(options)

    def training(self, model, options):
        return _Training(self.code, model, options)

    def train(self):
        self.code, model = _TWIN, self.load("train")
        papers.train_control(self.context, model, self.train_from, feeds.SEED)
        return self.train_from(model)


structure, data, forward, metric, loss, backward, train = records.stage_functions(TorchSide)
