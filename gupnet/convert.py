"""Official .pth <-> .pdparams, in the direction that the suffix of DST says.

    python convert.py checkpoint_epoch_140.pth gupnet.pdparams
    python convert.py gupnet.pdparams gupnet.pth
    python convert.py output/latest gupnet.pth
    python convert.py dla34-ba72cf86.pth dla34.pdparams

Reads checkpoints of the reference's trainer (their `model_state`; the optimiser's state is left out, with a note), bare
state dicts, and ImageNet's file of the backbone, recognised by its names. All other tensors must match one to one.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from shared import HelpFormatter, InputError, convert, run
from shared.weights import WeightFile, read_weights

from models import DLA34, GUPNet, build_model
from options import add_network_options, parse_options


def load_official(model: GUPNet, path: str | Path) -> convert.Report:
    """Fill `model` from an official .pth, a .pdparams or a checkpoint folder, strictly.

    Raises InputError (ConversionError) when names, shapes or dtypes do not match; the model is then as it was.
    """
    return convert.load_official(model, path)


def load_backbone(model: GUPNet, path: str | Path) -> convert.Report:
    """Fill the backbone from ImageNet's file, torch's or converted, strictly; `fc` keeps its own initialisation.

    The file's `fc`, of any number of classes, must be there and is not used (NOTES 1.3). Raises InputError
    (ConversionError) when the file is of another network; the model is then as it was.
    """
    file = read_weights(path)
    classifier = backbone_of(file)
    if classifier is None:
        raise InputError(f"{path}: has no base_layer.0.weight, so it is not of DLA-34 alone; give dla34-ba72cf86.pth")
    network = convert.plan(classifier)
    if file.kind == "torch":
        tensors, _, report = network.to_paddle(file.tensors)
    else:
        tensors, report = network.check_paddle(file.tensors)
    report.notes += file.notes
    report.raise_if_bad(path)
    own = model.backbone.state_dict()
    filled = {name: own[name] if name.startswith("fc.") else array for name, array in tensors.items()}
    missing, unexpected = model.backbone.set_state_dict(filled)
    if missing or unexpected:
        raise InputError(f"{path}: set_state_dict left {missing or unexpected}")
    return report


def backbone_of(file: WeightFile) -> DLA34 | None:
    """The DLA-34 whose weights `file` holds, if it holds the backbone alone; None for any other file."""
    if "base_layer.0.weight" not in file.tensors:
        return None
    bias = file.tensors.get("fc.bias")
    return DLA34() if bias is None or bias.ndim != 1 or not len(bias) else DLA34(len(bias))


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=HelpFormatter, usage="%(prog)s SRC DST [options]", allow_abbrev=False
    )
    parser.add_argument("source", metavar="SRC", help=".pth, .pdparams or checkpoint folder")
    parser.add_argument("target", metavar="DST", help="the .pdparams or .pth to write")
    add_network_options(parser)
    options = parse_options(argv, parser)
    if not Path(options.source).exists():
        raise InputError(f"{options.source}: no such file or folder")
    backbone = backbone_of(read_weights(options.source))
    model, name = (build_model(options), "GUPNet") if backbone is None else (backbone, "DLA-34")
    report = convert.convert_file(options.source, options.target, model)
    print(f"{name}: {report}\nwrote {options.target}")


if __name__ == "__main__":
    run(main)
