"""An official checkout in the torch twin's place: `python align.py --reference DIR`.

`load(DIR)` gives builders that are called like those of `network`, `losses`, `training` and `data` and run the classes
of SuperMHP/GUPNet, written for torch 1.1 on a GPU. Replaced are: torchvision's RoIAlign, by the twin's; the GPU, by the
CPU; the download of ImageNet weights, by nothing; float32, by the network's dtype.
"""

import argparse
import importlib
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from torch import nn

from shared import InputError
from shared.align.official import imports_from, require_checkout, stand_ins

from . import data, training
from .losses import TERMS
from .roi import roi_align

_WHERE = (
    "git clone https://github.com/SuperMHP/GUPNet (commit d0e02cad228f7878ebddde01b394a508fdcf8990) "
    "and give that folder"
)
_MODULES = (
    "models.gupnet", "backbones.dla", "losses.loss_function", "helpers.optimizer_helper", "helpers.scheduler_helper",
    "datasets.kitti",
)  # fmt: skip


def _roi_align(features: torch.Tensor, boxes: torch.Tensor, size: list[int]) -> torch.Tensor:
    """Called as torchvision's, with its defaults."""
    assert list(size) == [7, 7]
    return roi_align(features, boxes)


#: modules that the checkout imports and that are not installed or not called
_STAND_INS = {
    "torchvision": {},
    "torchvision.ops": {"roi_align": _roi_align},
    "torchvision.ops.roi_align": {},
    "matplotlib": {},
    "matplotlib.pyplot": {},
    "pdb": {},
}


@contextmanager
def _on_the_cpu(dtype: torch.dtype) -> Iterator[None]:
    """The official code asks for a GPU, and makes tensors without a dtype."""
    kept, cuda = torch.get_default_dtype(), torch.Tensor.cuda
    torch.set_default_dtype(dtype)
    torch.Tensor.cuda = lambda tensor: tensor
    try:
        yield
    finally:
        torch.set_default_dtype(kept)
        torch.Tensor.cuda = cuda


@cache
def _source(directory: Path) -> SimpleNamespace:
    code = directory / "code" if (directory / "code").is_dir() else directory
    files = [f"lib/{name.replace('.', '/')}.py" for name in _MODULES]
    require_checkout(code, files, "GUPNet", _WHERE)
    try:
        with imports_from(code, ["lib"], stand_ins(_STAND_INS)):
            found = {name.split(".")[1]: importlib.import_module(f"lib.{name}") for name in _MODULES}
        found["dla"].DLA.load_pretrained_model = lambda self, **file: None
        return SimpleNamespace(
            network=found["gupnet"].GUPNet,
            losses=found["loss_function"].GupnetLoss,
            learning=found["loss_function"].Hierarchical_Task_Learning,
            optimizer=found["optimizer_helper"].build_optimizer,
            schedulers=found["scheduler_helper"].build_lr_scheduler,
            dataset=found["kitti"].KITTI,
        )
    except (ImportError, AttributeError, SyntaxError) as error:
        raise InputError(f"--reference {directory}: its code is not the expected ({error}); {_WHERE}") from error


def _network(source: SimpleNamespace, options: argparse.Namespace) -> nn.Module:
    """The official network, called like the twin."""
    sizes = np.array([data.MEAN_SIZES[name] for name in data.NAMES])
    model = source.network(backbone="dla34", neck="DLAUp", mean_size=sizes)
    forward = model.forward

    def on_the_cpu(images, coord_ranges, calibs, targets=None, K=50, mode="train"):
        if targets is not None:
            targets = targets | {"mask_2d": targets["mask_2d"].bool()}  # torch no longer has uint8 masks
        with _on_the_cpu(images.dtype):
            return forward(images, coord_ranges, calibs, targets, K, mode)

    model.forward = on_the_cpu
    return model


class OfficialCriterion:
    """The official losses, called like `losses.ReferenceCriterion`; the weighted sum is the official trainer's."""

    def __init__(self, source: SimpleNamespace, options: argparse.Namespace):
        self.source = source

    def __call__(self, outputs: Mapping, targets: Mapping, weights: Mapping[str, float] | None = None) -> dict:
        dtype = outputs["heatmap"].dtype
        given = {**outputs, "heatmap": outputs["heatmap"].clone()}  # it is overwritten with its sigmoid
        targets = {name: value.to(dtype) if value.is_floating_point() else value for name, value in targets.items()}
        targets["mask_2d"] = targets["mask_2d"].bool()
        with _on_the_cpu(dtype):
            total, found = self.source.losses(0)(given, targets)
        terms = {term: found[term] for term in TERMS}
        if weights is not None:
            total = sum(weights[term] * value for term, value in terms.items())
        return terms | {"loss": total}


class OfficialTaskLearning:
    """The official weights of the terms, called like `training.HierarchicalTaskLearning`; max_epoch is fixed."""

    def __init__(self, source: SimpleNamespace, max_epoch: int = 140, dtype: torch.dtype = torch.float32):
        if max_epoch != 140:
            raise InputError(f"--max_epoch {max_epoch}: the official code always has 140; drop --reference")
        self.inner, self.dtype = source.learning(dict.fromkeys(TERMS)), dtype

    def compute_weight(self, losses: Mapping[str, float], epoch: int) -> dict[str, float]:
        given = {term: torch.tensor(float(losses[term]), dtype=self.dtype) for term in TERMS}
        return {term: float(weight) for term, weight in self.inner.compute_weight(given, epoch).items()}


def _optimizer(source: SimpleNamespace, model: nn.Module, options: argparse.Namespace) -> torch.optim.Optimizer:
    settings = {"type": options.optimizer, "lr": options.lr, "weight_decay": options.weight_decay}
    return source.optimizer(settings, model)


def _groups(source: SimpleNamespace, model: nn.Module, options: argparse.Namespace) -> list[dict]:
    """The official optimiser's groups, with the names of their parameters."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = _optimizer(source, model, options).param_groups
    return [group | {"names": [names[id(parameter)] for parameter in group["params"]]} for group in groups]


def _rates(source: SimpleNamespace, options: argparse.Namespace) -> list[float]:
    """The rate of every epoch, as the official trainer steps its two schedulers."""
    if options.decay_start != "warmup_end":
        return training.rates(options)  # the official code has no such option
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=options.lr)
    settings = {name: getattr(options, name) for name in ("warmup", "decay_rate", "decay_list")}
    drops, warmup = source.schedulers(settings, optimizer, last_epoch=-1)
    found = []
    for epoch in range(options.max_epoch):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        (warmup if warmup is not None and epoch < training.WARMUP_EPOCHS else drops).step()
    return found


def _sample(source: SimpleNamespace, options: argparse.Namespace, split: str, index: int, rng=None) -> tuple:
    """A sample of the official data set, called like `data.sample`; numpy's global generator has the state of `rng`."""
    names = ("use_3d_center", "class_merging", "use_dontcare", "random_flip", "random_crop", "scale", "shift")
    settings = {name: getattr(options, name) for name in names} | {"writelist": list(options.writelist)}
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "KITTI").symlink_to(data.root(options).resolve())
        dataset = source.dataset(folder, split, settings)
        dataset.resolution = np.array(options.input_size)
        dataset.data_augmentation = rng is not None
        kept = np.random.get_state()
        try:
            if rng is not None:
                np.random.set_state(rng.get_state())
            return dataset[index]
        finally:
            np.random.set_state(kept)


def load(directory: str | Path) -> SimpleNamespace:
    """The builders of a checkout of SuperMHP/GUPNet, with the twin's arguments; InputError if it is not one."""
    source = _source(Path(directory).resolve())
    return SimpleNamespace(
        build_reference=partial(_network, source),
        build_criterion=partial(OfficialCriterion, source),
        build_optimizer=partial(_optimizer, source),
        parameter_groups=partial(_groups, source),
        rates=partial(_rates, source),
        HierarchicalTaskLearning=partial(OfficialTaskLearning, source),
        sample=partial(_sample, source),
    )
