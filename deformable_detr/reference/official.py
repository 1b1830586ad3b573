"""An official checkout in the torch twin's place: `python align.py --reference DIR`.

`load(DIR)` gives builders with the calls of `network` and `losses`; what they return runs the classes of
fundamentalvision/Deformable-DETR. Put in here, from outside and at run time: torchvision, whose ResNet is the twin's;
the checkout's own function in plain torch for its compiled operator, which has no CPU form (NOTES 9.6); and other
processes that hold targets. Its optimiser and schedule cannot be called, the twin's take their place. Nothing is
written to disk.
"""

import argparse
import contextlib
import importlib
import io
import warnings
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from types import ModuleType, SimpleNamespace

import torch
from torch import nn

from shared import InputError
from shared.align.official import imports_from, replaced, require_checkout, stand_ins

from . import box_ops, resnet

_WHERE = (
    "git clone https://github.com/fundamentalvision/Deformable-DETR (commit "
    "11169a60c33333af00a4849f1808023eba96a931) and give that folder"
)
_FILES = (
    "main.py",
    "util/misc.py",
    "util/box_ops.py",
    "models/__init__.py",
    "models/backbone.py",
    "models/deformable_detr.py",
    "models/deformable_transformer.py",
    "models/matcher.py",
    "models/position_encoding.py",
    "models/ops/modules/ms_deform_attn.py",
    "models/ops/functions/ms_deform_attn_func.py",
)
_PACKAGES = ("models", "util", "torchvision", "MultiScaleDeformableAttention")


class _LayerGetter(nn.ModuleDict):
    """The children of a network up to the last one asked for; called, it returns {new name: output}."""

    def __init__(self, model: nn.Module, return_layers: Mapping[str, str]):
        wanted, kept = set(return_layers), OrderedDict()
        for name, child in model.named_children():
            kept[name] = child
            wanted.discard(name)
            if not wanted:
                break
        super().__init__(kept)
        self.return_layers = dict(return_layers)

    def forward(self, x):
        outputs = OrderedDict()
        for name, layer in self.items():
            x = layer(x)
            if name in self.return_layers:
                outputs[self.return_layers[name]] = x
        return outputs


def _resnet(make, replace_stride_with_dilation, pretrained, norm_layer) -> resnet.ResNet:
    """torchvision's call; weights come from a file later, so `pretrained` is ignored."""
    return make(replace_stride_with_dilation, norm_layer)


def _stand_ins() -> dict[str, ModuleType]:
    """Modules that the checkout imports and that are not installed here."""
    modules = {
        # the checkout compares the first three characters as a number; from 0.7 on it needs nothing else
        "torchvision": {"__version__": "1.0"},
        "torchvision.models": {name: partial(_resnet, make) for name, make in resnet.RESNETS.items()},
        "torchvision.models._utils": {"IntermediateLayerGetter": _LayerGetter},
        "torchvision.ops": {},
        "torchvision.ops.boxes": {"box_area": box_ops.box_area},
        "MultiScaleDeformableAttention": {},
    }
    return stand_ins(modules)


@contextmanager
def _imports_from(directory: Path) -> Iterator[None]:
    with imports_from(directory, _PACKAGES, _stand_ins()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@cache
def _source(directory: Path) -> SimpleNamespace:
    require_checkout(directory, _FILES, "Deformable-DETR", _WHERE)
    try:
        with _imports_from(directory):
            detector = importlib.import_module("models.deformable_detr")
            attention = importlib.import_module("models.ops.modules.ms_deform_attn")
            plain = importlib.import_module("models.ops.functions.ms_deform_attn_func").ms_deform_attn_core_pytorch
            misc = importlib.import_module("util.misc")

        def operator(value, spatial_shapes, level_start_index, sampling_locations, attention_weights, im2col_step):
            return plain(value, spatial_shapes, sampling_locations, attention_weights)

        attention.MSDeformAttnFunction = SimpleNamespace(apply=operator)
        return SimpleNamespace(build=detector.build, module=detector, nested=misc.NestedTensor, operator=plain)
    except (ImportError, AttributeError, SyntaxError) as error:
        raise InputError(f"--reference {directory}: its code is not the expected ({error}); {_WHERE}") from error


def _built(source: SimpleNamespace, options: argparse.Namespace) -> tuple:
    """The official network, criterion and post-processing for these options, on the CPU."""
    for beyond, text in (
        (options.backbone in ("resnet18", "resnet34"), f"--backbone {options.backbone}"),
        (options.backbone_norm != "frozen", f"--backbone_norm {options.backbone_norm}"),
        (options.num_classes != 91, f"--num_classes {options.num_classes}"),
        (options.two_stage and options.hidden_dim != 256, f"--two_stage with --hidden_dim {options.hidden_dim}"),
    ):
        if beyond:
            raise InputError(f"{text}: the official code cannot build it; leave out --reference or this option")
    # options of the reference that this folder lacks (NOTES 1.5)
    rest = {"dataset_file": "coco", "masks": False, "frozen_weights": None, "mask_loss_coef": 1, "dice_loss_coef": 1}
    theirs = argparse.Namespace(**vars(options) | rest | {"device": "cpu"})
    with contextlib.redirect_stdout(io.StringIO()):
        return source.build(theirs)


def _network(source: SimpleNamespace, options: argparse.Namespace) -> nn.Module:
    """The official network, called like `network.DeformableDETR`; its tensors keep their names."""
    model, _, _ = _built(source, options)

    class OfficialNetwork(type(model)):
        def forward(self, images: torch.Tensor, mask: torch.Tensor) -> dict:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of torch.meshgrid, about a later torch
                return super().forward(source.nested(images, mask))

    model.__class__ = OfficialNetwork
    return model


class OfficialCriterion(nn.Module):
    """The official losses, called like `losses.SetCriterion`."""

    def __init__(self, source: SimpleNamespace, options: argparse.Namespace):
        super().__init__()
        self.module = source.module
        _, self.criterion, _ = _built(source, options)
        self.matcher = self.criterion.matcher

    def forward(self, outputs: Mapping, targets: Sequence[Mapping], elsewhere: Sequence[int] = ()) -> dict:
        def gather(count: torch.Tensor) -> None:
            count += sum(elsewhere)

        patches = {
            "is_dist_avail_and_initialized": lambda: bool(elsewhere),
            "get_world_size": lambda: 1 + len(elsewhere),
        }
        with replaced(self.module, **patches), replaced(torch.distributed, all_reduce=gather):
            terms = self.criterion(outputs, targets)
        weights = self.criterion.weight_dict
        return terms | {"loss": sum(weights[name] * terms[name] for name in terms if name in weights)}


def load(directory: str | Path) -> SimpleNamespace:
    """What runs the code of a checkout of fundamentalvision/Deformable-DETR in the twin's place.

    build_reference, build_criterion, post_process and operator take what those of `network`, `losses` and `operator`
    take. InputError where `directory` is no such checkout, and from the builders for options that the official code
    does not know.
    """
    source = _source(Path(directory).resolve())
    return SimpleNamespace(
        build_reference=partial(_network, source),
        build_criterion=partial(OfficialCriterion, source),
        post_process=source.module.PostProcess(),
        operator=source.operator,
    )
