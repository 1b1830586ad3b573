"""An official checkout instead of the torch twin: `python align.py --reference DIR`.

`official_code` gives the functions of `network`, `losses` and `training`; what they return is called in the same way,
but runs the classes of MichaelFan01/STDC-Seg, written for torch 1.1 and a GPU. This module replaces its compiled norm
by the same arithmetic (NOTES 4.11) and its GPU by the CPU, and gives the outputs for combinations of boundary options
for which its network returns None (NOTES 2.4).
"""

import argparse
import importlib
import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from types import ModuleType, SimpleNamespace

import torch
from torch import nn

from shared import InputError
from shared.align.official import imports_from, replaced, require_checkout

from .losses import ReferenceCriterion

_WHERE = (
    "git clone https://github.com/MichaelFan01/STDC-Seg (commit 59ff37fbd693b99972c76fcefe97caa14aeb619f) and give "
    "that folder"
)
_MODULES = ("models.model_stages", "modules.bn", "nets.stdcnet", "loss.loss", "loss.detail_loss", "optimizer_loss")
_FEATURES = tuple(f"feat{stride}" for stride in (2, 4, 8, 16, 32))
_OUTPUTS = ("out", "out16", "out32", "detail2", "detail4", "detail8")


def _in_place_norm(x, weight, bias, mean, var, training, momentum, eps, activation, slope):
    """The compiled norm with activation "none", the only one that the network uses (NOTES 4.11)."""
    return nn.functional.batch_norm(x, mean, var, weight.abs() + eps, bias, training, momentum, eps)


def _stand_ins() -> dict[str, ModuleType]:
    """Stand-ins for modules that the checkout imports: the compiled norm, and torchvision, which it never uses."""
    norm = ModuleType("modules.functions")
    norm.inplace_abn = norm.inplace_abn_sync = _in_place_norm
    for name in ("relu", "leaky_relu", "elu", "none"):
        setattr(norm, f"ACT_{name.upper()}", name)
    modules = {"modules.functions": norm}
    if not importlib.util.find_spec("torchvision"):
        modules["torchvision"] = ModuleType("torchvision")
    return modules


@contextmanager
def _on_cpu() -> Iterator[None]:
    """GPU calls act on the CPU, and binary cross-entropy keeps the dtype of its logits (NOTES 8.10)."""
    functional, cross_entropy = nn.functional, nn.functional.binary_cross_entropy_with_logits
    with (
        replaced(torch.Tensor, cuda=lambda tensor: tensor),
        replaced(torch.cuda, FloatTensor=torch.FloatTensor),
        replaced(functional, binary_cross_entropy_with_logits=lambda x, t: cross_entropy(x, t.to(x.dtype))),
    ):
        yield


def official_code(directory: str | Path, base: int) -> SimpleNamespace:
    """The functions of `network`, `losses` and `training`, from the checkout in `directory`.

    InputError if it is not such a checkout, or for a `base` width that the official network does not have.
    """
    if base != 64:
        raise InputError(f"--base {base}: the official network has only 64; omit --reference or --base")
    classes = _load(Path(directory).resolve())
    return SimpleNamespace(
        build_reference=partial(_build_network, classes),
        build_reference_classifier=partial(_build_classifier, classes),
        build_criterion=partial(OfficialCriterion, classes),
        build_optimizer=partial(_build_optimizer, classes),
        parameter_groups=partial(_parameter_groups, classes),
        set_learning_rate=_set_learning_rate,
    )


@cache
def _load(directory: Path) -> SimpleNamespace:
    files = [name.replace(".", "/") + ".py" for name in _MODULES]
    require_checkout(directory, files, "STDC-Seg", _WHERE)
    try:
        with imports_from(directory, _MODULES, _stand_ins()):
            modules = {name: importlib.import_module(name) for name in _MODULES}
        network, losses = modules["models.model_stages"], modules["loss.loss"]
        return SimpleNamespace(
            network=_network_class(network.BiSeNet),
            classifiers={name: _classifier_class(getattr(network, name)) for name in ("STDCNet813", "STDCNet1446")},
            ohem=losses.OhemCELoss,
            detail=modules["loss.detail_loss"].DetailAggregateLoss,
            optimizer=modules["optimizer_loss"].Optimizer,
        )
    except (ImportError, AttributeError, SyntaxError) as error:
        raise InputError(f"--reference {directory}: not the expected code ({error}); {_WHERE}") from error


def _network_class(official: type) -> type:
    class OfficialNetwork(official):
        """The official network, called like `network.ReferenceBiSeNet`."""

        outputs: tuple[str, ...]

        def forward(self, images):
            values = dict(zip(_OUTPUTS, super().forward(images), strict=True))
            return {name: values[name] for name in self.outputs}

    return OfficialNetwork


def _classifier_class(official: type) -> type:
    class OfficialClassifier(official):
        """The official backbone, called like `network.STDCNet`."""

        def features_at(self, images):
            return dict(zip(_FEATURES, super().forward(images), strict=True))

        def forward(self, images):
            return self.forward_impl(images)

    return OfficialClassifier


def _build_network(classes: SimpleNamespace, options: argparse.Namespace) -> nn.Module:
    # all detail heads are switched on, because for some combinations the official network returns None
    network = classes.network(
        options.backbone,
        options.num_classes,
        use_conv_last=options.use_conv_last,
        **{f"use_boundary_{stride}": True for stride in (2, 4, 8)},
    )
    details = [f"detail{stride}" for stride in (2, 4, 8) if getattr(options, f"use_boundary_{stride}")]
    network.outputs = ("out", "out16", "out32", *details)
    return network


def _build_classifier(classes: SimpleNamespace, options: argparse.Namespace) -> nn.Module:
    return classes.classifiers[options.backbone](use_conv_last=options.use_conv_last)


class OfficialCriterion(ReferenceCriterion):
    """The official losses, called like `losses.ReferenceCriterion`."""

    def __init__(self, classes: SimpleNamespace, options: argparse.Namespace):
        super().__init__(options)
        with _on_cpu():
            self.hard_pixels = classes.ohem(self.thresh, self.n_min)
            self.boundaries = classes.detail()
        self.fuse_kernel = self.boundaries.fuse_kernel.requires_grad_(options.fuse_kernel == "decayed")

    def ohem(self, logits, labels):
        return self.hard_pixels(logits, labels)

    def detail(self, logits, labels):
        with _on_cpu():
            return self.boundaries(logits, labels)


def _build_optimizer(classes: SimpleNamespace, network, criterion: OfficialCriterion, options: argparse.Namespace):
    """The official optimiser over the official groups and schedule: `zero_grad`, `step`."""
    names = ("lr", "momentum", "weight_decay", "warmup_steps", "warmup_start_lr", "max_iter", "power")
    return classes.optimizer(network, criterion.boundaries, *(getattr(options, name) for name in names))


def _parameter_groups(classes, network, criterion: OfficialCriterion, options: argparse.Namespace) -> list[dict]:
    """The official groups in the form of `training.parameter_groups`."""
    names = {parameter: name for name, parameter in network.named_parameters()} | {criterion.fuse_kernel: "fuse_kernel"}
    return [
        {
            "names": [names[parameter] for parameter in group["params"]],
            "params": group["params"],
            "weight_decay": group["weight_decay"],
            "lr_mul": 10 if group.get("lr_mul") else 1,
        }
        for group in _build_optimizer(classes, network, criterion, options).optim.param_groups
    ]


def _set_learning_rate(optimizer, iteration: int, options: argparse.Namespace) -> float:
    """Set the iteration of the next `step`; returns its base rate. The optimiser was built with `options`."""
    optimizer.it = iteration
    return optimizer.get_lr()
