"""Official checkpoint <-> .pdparams.

    python convert.py r50_deformable_detr-checkpoint.pth r50_deformable_detr.pdparams
    python convert.py r50_deformable_detr_plus_iterative_bbox_refinement-checkpoint.pth refined.pdparams
    python convert.py r50_deformable_detr.pdparams r50_deformable_detr.pth

A checkpoint of the reference holds the network under `model`, beside optimiser, schedule, epoch and command line. The
network alone is converted, and nothing of it may be left over on either side; heads with several names are written
under all of them (NOTES 3.1). The network's options are read from the tensors, but for --dilation, --nheads, the points
and, with two stages, --num_queries: an official checkpoint's command line has them; state them for files without one.
"""

from shared import InputError, run, set_up

set_up()

from collections.abc import Sequence
from pathlib import Path

from shared import convert
from shared.weights import WeightFile, read_weights

from models import build_model
from options import add_network_options, parse_options, stored_options

#: left by a profiler (NOTES 1.3); and what a frozen batch norm lacks
IGNORE = (r"(^|\.)total_(params|ops)$",)
IGNORE_FROZEN = (*IGNORE, r"(^|\.)num_batches_tracked$")
#: parts of torchvision's ResNets that the backbone lacks
IGNORE_CLASSIFIER = (*IGNORE_FROZEN, r"^fc\.(weight|bias)$")


def load_official(model, path: str | Path) -> convert.Report:
    """Fill `model` from an official checkpoint, a `.pdparams` or a checkpoint folder, strictly.

    Raises InputError (ConversionError) when names, shapes or dtypes do not match; the model is then as it was.
    """
    file = read_weights(path)
    _check_refinement(model, file)
    return convert.fill(model, file, ignore=_ignored(model))


def load_backbone(model, path: str | Path) -> convert.Report:
    """Fill the ResNet of `model` from torchvision's ImageNet file of it; its classifier is left out (NOTES 1.4).

    Raises InputError (ConversionError) when the file is of another network.
    """
    return convert.load_official(model.backbone[0].body, path, ignore=IGNORE_CLASSIFIER)


def _check_refinement(model, file: WeightFile) -> None:
    """InputError for weights without refinement where `model` refines: their one head would fit, as copies of it."""
    refined = any(name.startswith("transformer.decoder.bbox_embed.") for name in file.tensors)
    if model.transformer.decoder.bbox_embed is not None and not refined:
        raise InputError(f"{file.path}: does not match --with_box_refine: it was trained without; omit that option")


def _ignored(model) -> tuple[str, ...]:
    frozen = hasattr(model.backbone[0].body.bn1, "fold_into")
    return IGNORE_FROZEN if frozen else IGNORE


def main(argv: Sequence[str] | None = None) -> None:
    source = "official checkpoint (.pth), or .pdparams, or checkpoint folder"
    parser = convert.script_parser(__doc__, source, "file to write; its suffix decides the direction")
    add_network_options(parser)
    options = parse_options(argv, parser, stored_options(parser.parse_args(argv).source))
    file, model = read_weights(options.source), build_model(options)
    _check_refinement(model, file)
    report = convert.convert_file(file, options.target, model, ignore=_ignored(model))
    variant = " ".join(name for name in ("dilation", "with_box_refine", "two_stage") if getattr(options, name))
    print(f"{options.backbone}, {options.num_feature_levels} levels {variant}: {report}\nwrote {options.target}")


if __name__ == "__main__":
    run(main)
