"""An official checkout in the torch twin's place: `python align.py --reference DIR`.

`load(DIR)` gives builders with the calls of `network`, `losses` and `training`; what they return runs the classes of
nianticlabs/monodepth2, written for torch 0.4. Its Trainer is built without data and gives its networks, optimiser and
losses. Replaced from here: modules that are not installed (torchvision's ResNet is the twin's), torch 0.4's sampling
(NOTES 4.6), the noise, and its calls of CUDA. Nothing is written to disk.
"""

import argparse
import contextlib
import importlib
import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from types import ModuleType, SimpleNamespace

import torch
from torch import nn

from shared import InputError
from shared.align.official import imports_from, replaced, require_checkout, stand_ins

from . import resnet

_WHERE = (
    "git clone https://github.com/nianticlabs/monodepth2 (commit b676244e5a1ca55564eb5d16ab521a48f823af31) and give "
    "that folder"
)
_MODULES = ("trainer", "layers", "options", "networks", "datasets", "utils", "kitti_utils")
# options that the official parser has too and that its networks and losses read
_OPTIONS = (
    "num_layers height width scales frame_ids use_stereo pose_model_type pose_model_input predictive_mask min_depth "
    "max_depth disparity_smoothness v1_multiscale avg_reprojection disable_automasking no_ssim batch_size "
    "learning_rate scheduler_step_size"
).split()


class _Nothing(list):
    """An empty data set, loader or log: takes any arguments, has any method."""

    def __init__(self, *args, **kwargs):
        super().__init__()


def _stand_ins() -> dict[str, ModuleType]:
    """Modules that the checkout imports: torchvision's ResNet is the twin's, the rest is never called."""
    modules = {
        "torchvision": {},
        "torchvision.transforms": {},
        "torchvision.models": {"ResNet": resnet.ResNet},
        "torchvision.models.resnet": {"BasicBlock": resnet.BasicBlock, "Bottleneck": resnet.Bottleneck},
        "tensorboardX": {"SummaryWriter": _Nothing},
        "IPython": {"embed": None},
        "skimage": {},
        "skimage.transform": {},
    }
    for layers, (block, blocks) in resnet.BLOCKS.items():
        modules["torchvision.models"][f"resnet{layers}"] = lambda pretrained, b=block, n=blocks: resnet.ResNet(b, n)
    return stand_ins(modules)


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """The official code makes matrices and points of the default dtype."""
    kept = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(kept)


@cache
def _source(directory: Path) -> SimpleNamespace:
    packages = [name for name in _MODULES if (directory / name / "__init__.py").is_file()]
    files = [f"{name}/__init__.py" if name in packages else f"{name}.py" for name in _MODULES]
    require_checkout(directory, files, "monodepth2", _WHERE)
    try:
        with imports_from(directory, _MODULES, _stand_ins()):
            trainer, layers, options = (importlib.import_module(name) for name in _MODULES[:3])
        # its constructor reads the split's lists and opens the data set and the logs: none are used here
        trainer.readlines = trainer.DataLoader = trainer.SummaryWriter = _Nothing
        trainer.datasets = SimpleNamespace(KITTIRAWDataset=_Nothing, KITTIOdomDataset=_Nothing)
        trainer.Trainer.save_opts = lambda self: None
        return SimpleNamespace(
            trainer=trainer.Trainer,
            back_projection=layers.BackprojectDepth,
            projection=layers.Project3D,
            parser=options.MonodepthOptions().parser,
        )
    except (ImportError, AttributeError, SyntaxError) as error:
        raise InputError(f"--reference {directory}: its code is not as expected ({error}); {_WHERE}") from error


def _refuse_what_crashes(options: argparse.Namespace) -> None:
    """InputError for the combinations that end the official code in an exception (NOTES 1.3)."""
    moving = len(options.frame_ids) - 1
    separate = moving > 0 and options.pose_model_type == "separate_resnet"
    for crashes, combination in (
        (options.pose_model_type == "posecnn" and options.use_stereo, "--pose_model_type posecnn with --use_stereo"),
        (options.pose_model_type == "shared" and options.predictive_mask, "--predictive_mask with shared pose model"),
        (separate and options.num_layers not in (18, 50), f"--num_layers {options.num_layers} with separate_resnet"),
        (separate and options.pose_model_input == "all" and moving > 2, "--pose_model_input all with over 3 frames"),
    ):
        if crashes:
            raise InputError(f"{combination}: the official code cannot run it; omit --reference or this option")


def _trainer(source: SimpleNamespace, options: argparse.Namespace):
    """The official Trainer for these options, freshly initialised, on the CPU and without data."""
    _refuse_what_crashes(options)
    theirs = source.parser.parse_args([])
    for name in _OPTIONS:
        value = getattr(options, name)
        setattr(theirs, name, list(value) if isinstance(value, list) else value)  # they append to theirs
    theirs.weights_init, theirs.no_cuda = "scratch", True
    with contextlib.redirect_stdout(io.StringIO()):
        return source.trainer(theirs)


class OfficialNetwork(nn.Module):
    """The official networks, called like `network.ReferenceMonodepth2`."""

    def __init__(self, source: SimpleNamespace, options: argparse.Namespace):
        super().__init__()
        self.pose_type = options.pose_model_type
        self.trainer = _trainer(source, options)
        # forward stops before the losses, which the criterion computes
        self.trainer.generate_images_pred = lambda inputs, outputs: None
        self.trainer.compute_losses = lambda inputs, outputs: {}
        for name, network in self.trainer.models.items():
            self.add_module(name, network)

    def predict_disparity(self, images):
        return self.depth(self.encoder(images))

    def predict_pose(self, images):
        if self.pose_type == "posecnn":
            return self.pose(images)
        if self.pose_type == "shared":
            return self.pose([self.encoder(image) for image in images.split(3, dim=1)])
        return self.pose([self.pose_encoder(images)])

    def forward(self, inputs: Mapping) -> dict:
        images = inputs["color_aug", 0, 0]
        self.trainer.opt.batch_size = len(images)  # the shared encoder's features are split by it
        with _default_dtype(images.dtype):
            outputs, _ = self.trainer.process_batch(dict(inputs))
        masks = outputs.pop("predictive_mask", {})
        return outputs | {("predictive_mask", scale): mask for (_, scale), mask in masks.items()}


class OfficialCriterion(nn.Module):
    """The official losses, called like `losses.ReferenceCriterion`."""

    def __init__(self, source: SimpleNamespace, options: argparse.Namespace):
        super().__init__()
        self.source, self.options = source, options
        self.trainer = _trainer(source, options)

    def _prepare(self, batch: int) -> None:
        """The official projections are built for one batch size and one dtype."""
        for scale in self.trainer.backproject_depth:
            size = (batch, self.options.height >> scale, self.options.width >> scale)
            self.trainer.backproject_depth[scale] = self.source.back_projection(*size)
            self.trainer.project_3d[scale] = self.source.projection(*size)

    @contextmanager
    def _torch_of_then(self, noise: Sequence[torch.Tensor] | None) -> Iterator[None]:
        sample = partial(nn.functional.grid_sample, align_corners=self.options.align_corners)
        draws = iter(noise if noise is not None else ())
        randn = torch.randn if noise is None else lambda *shape, **settings: next(draws)
        with (
            replaced(nn.functional, grid_sample=sample),
            replaced(torch, randn=randn),
            replaced(torch.Tensor, cuda=lambda tensor: tensor),
        ):
            yield

    def details(self, outputs: Mapping, inputs: Mapping, noise: Sequence[torch.Tensor] | None = None) -> dict:
        """The losses and intermediate results, named as by `losses.ReferenceCriterion.details`."""
        found = {key: value for key, value in outputs.items() if key[0] != "predictive_mask"}
        if self.options.predictive_mask:
            scales = self.options.scales
            found["predictive_mask"] = {("disp", scale): outputs["predictive_mask", scale] for scale in scales}
        disparity = outputs["disp", self.options.scales[0]]
        with _default_dtype(disparity.dtype), self._torch_of_then(noise):
            self._prepare(len(disparity))
            self.trainer.generate_images_pred(inputs, found)
            terms = self.trainer.compute_losses(inputs, found)
        kept = ("depth", "sample", "color")
        intermediate = {
            k: value for k, value in found.items() if k[0] in kept or str(k).startswith("identity_selection")
        }
        return terms | intermediate

    def forward(self, outputs: Mapping, inputs: Mapping, noise: Sequence[torch.Tensor] | None = None) -> dict:
        found = self.details(outputs, inputs, noise)
        return {name: found[name] for name in ("loss", *(f"loss/{scale}" for scale in self.options.scales))}


def load(directory: str | Path) -> SimpleNamespace:
    """The builders of a checkout of nianticlabs/monodepth2: build_reference, build_criterion, build_optimizer.

    They take what those of `network`, `losses` and `training` take; InputError where `directory` is no such checkout,
    and from the builders for combinations of options that the official code cannot run.
    """
    source = _source(Path(directory).resolve())
    return SimpleNamespace(
        build_reference=partial(OfficialNetwork, source),
        build_criterion=partial(OfficialCriterion, source),
        build_optimizer=lambda model, options: model.trainer.model_optimizer,
    )
