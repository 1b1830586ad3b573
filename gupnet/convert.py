"""Official .pth <-> .pdparams, in the direction that the suffix of DST says.

    python convert.py checkpoint_epoch_140.pth gupnet.pdparams
    python convert.py gupnet.pdparams gupnet.pth
    python convert.py output/latest gupnet.pth
    python convert.py dla34-ba72cf86.pth dla34.pdparams

Reads checkpoints of the reference's trainer (their `model_state`; the optimiser's state is left out, with a note), bare
state dicts, and ImageNet's file of the backbone, recognised by its names. All other tensors must match one to one.
"""

from shared import run, set_up

set_up()

import argparse
from collections.abc import Sequence
from pathlib import Path

from shared import InputError, convert
from shared.weights import WeightFile, read_weights

from models import DLA34, GUPNet, build_model
from options import add_network_options, parse_options


def load_official(model: GUPNet, path: str | Path) -> convert.Report:
    """Fill `model` from an official .pth, a .pdparams or a checkpoint folder, strictly.

    Raises InputError (ConversionError) when names, shapes or dtypes do not match; the model is then as it was.
    """
    return convert.load_official(model, path)


def load_network(options: argparse.Namespace) -> GUPNet:
    """The network with the weights of --weights, in eval mode. InputError for weights that do not fit."""
    model = build_model(options)
    load_official(model, options.weights)
    model.eval()
    return model


def load_backbone(model: GUPNet, path: str | Path) -> convert.Report:
    """Fill the backbone from ImageNet's file, torch's or converted, strictly; `fc` keeps its own initialisation.

    The file's `fc`, of any number of classes, must be there and is not used (NOTES 1.3). Raises InputError
    (ConversionError) when the file is of another network; the model is then as it was.
    """
    file = read_weights(path)
    classifier = backbone_of(file)
    if classifier is None:
        raise InputError(f"{path}: has no base_layer.0.weight, so it is not of DLA-34 alone; give dla34-ba72cf86.pth")
    report = convert.fill(classifier, file)
    classifier.fc = model.backbone.fc
    model.backbone.set_state_dict(classifier.state_dict())
    return report


def backbone_of(file: WeightFile) -> DLA34 | None:
    """A DLA-34 for `file` if that holds the backbone alone; None for any other file."""
    if "base_layer.0.weight" not in file.tensors:
        return None
    bias = file.tensors.get("fc.bias")
    return DLA34() if bias is None or bias.ndim != 1 or not len(bias) else DLA34(len(bias))


def main(argv: Sequence[str] | None = None) -> None:
    target = "the .pdparams or .pth to write; its suffix decides the direction"
    parser = convert.script_parser(__doc__, ".pth, .pdparams or checkpoint folder", target)
    add_network_options(parser)
    options = parse_options(argv, parser)
    file = read_weights(options.source)
    backbone = backbone_of(file)
    model, name = (build_model(options), "GUPNet") if backbone is None else (backbone, "DLA-34")
    report = convert.convert_file(file, options.target, model)
    print(f"{name}: {report}\nwrote {options.target}")


if __name__ == "__main__":
    run(main)
