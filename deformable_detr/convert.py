"""Official checkpoint <-> .pdparams.

    python convert.py r50_deformable_detr-checkpoint.pth r50_deformable_detr.pdparams
    python convert.py r50_deformable_detr_plus_iterative_bbox_refinement-checkpoint.pth refined.pdparams
    python convert.py r50_deformable_detr.pdparams r50_deformable_detr.pth

A checkpoint of the reference holds the network under `model`, beside optimiser, schedule, epoch and command line. The
network alone is converted, and nothing of it may be left over on either side; heads with several names are written
under all of them (NOTES 3.1). The network's options are read from the tensors, but for --dilation, --nheads, the points
and, with two stages, --num_queries: an official checkpoint's command line has them; state them for files without one.
"""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from shared import HelpFormatter, InputError, convert, run
from shared.weights import WeightFile, read_weights

from models import build_model
from options import add_network_options, parse_options, remembered_options

#: left by a profiler (NOTES 1.3); and what a frozen batch norm lacks
IGNORE = (r"(^|\.)total_(params|ops)$",)
IGNORE_FROZEN = (*IGNORE, r"(^|\.)num_batches_tracked$")
#: parts of torchvision's ResNets that the backbone lacks
IGNORE_CLASSIFIER = (*IGNORE_FROZEN, r"^fc\.(weight|bias)$")
#: options that the tensors do not show and an official command line does
STATED = ("dilation", "nheads", "enc_n_points", "dec_n_points", "num_queries", "dropout", "aux_loss")


def load_official(model, path: str | Path) -> convert.Report:
    """Fill `model` from an official checkpoint, a `.pdparams` or a checkpoint folder, strictly.

    Raises InputError (ConversionError) when names, shapes or dtypes do not match; the model is then as it was.
    """
    _check_refinement(model, path)
    return convert.load_official(model, path, ignore=_ignored(model))


def load_backbone(model, path: str | Path) -> convert.Report:
    """Fill the ResNet of `model` from torchvision's ImageNet file of it; its classifier is left out (NOTES 1.4).

    Raises InputError (ConversionError) when the file is of another network.
    """
    return convert.load_official(model.backbone[0].body, path, ignore=IGNORE_CLASSIFIER)


def _check_refinement(model, path: str | Path) -> None:
    """InputError for weights without refinement where `model` refines: their one head would fit, as copies of it."""
    if model.transformer.decoder.bbox_embed is None:
        return
    if not any(name.startswith("transformer.decoder.bbox_embed.") for name in read_weights(path).tensors):
        raise InputError(f"{path}: does not match --with_box_refine: it was trained without; omit that option")


def _ignored(model) -> tuple[str, ...]:
    frozen = hasattr(model.backbone[0].body.bn1, "fold_into")
    return IGNORE_FROZEN if frozen else IGNORE


def stored_options(path: str | Path) -> dict:
    """The options of parse_options that can be read from weights.

    All from a checkpoint of train.py; from other files what their tensors and an official command line show. Raises
    InputError where they cannot be read or are not a Deformable DETR.
    """
    return remembered_options(str(path)) or describe(read_weights(path))


def describe(file: WeightFile) -> dict:
    """The network options that the tensors of `file` and an official command line in it show."""
    tensors = file.tensors

    def count(pattern: str) -> int:
        return len({match[1] for match in map(re.compile(pattern).match, tensors) if match})

    def size(name: str, axis: int) -> int:
        array = tensors.get(name)
        if array is None or array.ndim <= axis:
            raise InputError(f"{file.path}: has no {name} of a Deformable DETR; give weights of one")
        return array.shape[axis]

    width = size("transformer.level_embed", 1)
    blocks = count(r"backbone\.0\.body\.layer3\.(\d+)\.")
    deep = "backbone.0.body.layer3.0.conv3.weight" in tensors
    layers = {(2, False): 18, (6, False): 34, (6, True): 50, (23, True): 101, (36, True): 152}
    if (blocks, deep) not in layers:
        raise InputError(f"{file.path}: has no ResNet of 18, 34, 50, 101 or 152 layers; give Deformable DETR weights")
    classifier = tensors.get("class_embed.0.weight")
    if classifier is None or classifier.ndim != 2:
        raise InputError(f"{file.path}: has no class_embed.0.weight of a Deformable DETR; give weights of one")
    norm = "backbone.0.body.bn1."
    trained_norms = norm + "_mean" in tensors or norm + "num_batches_tracked" in tensors
    options = {
        "backbone": f"resnet{layers[blocks, deep]}",
        "backbone_norm": "batch" if trained_norms else "frozen",
        "position_embedding": "learned" if "backbone.1.row_embed.weight" in tensors else "sine",
        "num_feature_levels": size("transformer.level_embed", 0),
        "hidden_dim": width,
        "enc_layers": count(r"transformer\.encoder\.layers\.(\d+)\."),
        "dec_layers": count(r"transformer\.decoder\.layers\.(\d+)\."),
        "num_classes": max(set(classifier.shape) - {width}, default=width),
        "with_box_refine": any(name.startswith("transformer.decoder.bbox_embed.") for name in tensors),
        "two_stage": "transformer.enc_output.weight" in tensors,
    }
    if not options["two_stage"]:
        options["num_queries"] = size("query_embed.weight", 0)
    inner = tensors.get("transformer.encoder.layers.0.linear1.bias")
    if inner is not None:
        options["dim_feedforward"] = inner.shape[0]
    args = file.meta.get("args")
    if isinstance(args, dict):
        defaults = vars(parse_options([]))
        for name in STATED:
            if type(args.get(name)) is type(defaults[name]):
                options[name] = args[name]
    return options


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=HelpFormatter, usage="%(prog)s SRC DST [options]", allow_abbrev=False
    )
    text = "official checkpoint (.pth), or .pdparams, or checkpoint folder"
    parser.add_argument("source", metavar="SRC", help=text)
    parser.add_argument("target", metavar="DST", help="file to write; its suffix decides the direction")
    add_network_options(parser)
    source = parse_options(argv, parser).source
    if not Path(source).exists():
        raise InputError(f"{source}: no such file or folder")
    options = parse_options(argv, parser, stored_options(source))
    model = build_model(options)
    _check_refinement(model, source)
    report = convert.convert_file(source, options.target, model, ignore=_ignored(model))
    variant = " ".join(name for name in ("dilation", "with_box_refine", "two_stage") if getattr(options, name))
    print(f"{options.backbone}, {options.num_feature_levels} levels {variant}: {report}\nwrote {options.target}")


if __name__ == "__main__":
    run(main)
