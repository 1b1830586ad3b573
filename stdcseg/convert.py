"""Official torch checkpoint <-> .pdparams.

    python convert.py model_maxmIOU50.pth stdc1_50.pdparams
    python convert.py STDCNet813M_73.91.tar stdc1.pdparams
    python convert.py stdc1.pdparams STDCNet813.pth
    python convert.py output/stdc1/best stdc1.pth

SRC is a whole segmentation network or a backbone archive (the ImageNet classifier): its tensors say which, and which
backbone if --backbone does not. The network options of a training checkpoint come from it. Every tensor is converted by
the type of the layer that owns it; nothing is left over on either side.
"""

from shared import convert, run, set_up

set_up()

from collections.abc import Sequence

from shared.weights import read_weights

from models import build_classifier, build_model
from models.stdcnet import STAGES
from options import add_network_options, network_options_of, parse_options


def load_official(model, path, entry: str | None = None) -> convert.Report:
    """Fill `model` from an official torch file, a `.pdparams` or a checkpoint folder, strictly.

    `model` is the segmentation network, the classifier, or a segmentation network's `cp.backbone`. Raises InputError
    (ConversionError) if names, shapes or dtypes do not match. The network has the official names, so no rules are
    needed.
    """
    return convert.load_official(model, path, entry=entry)


def _backbone_of(names: Sequence[str]) -> str:
    """The backbone with as many blocks as the names of these tensors count; else the default one."""
    parts = [name.split("features.")[1] for name in names if "features." in name]
    blocks = {int(part.split(".")[0]) for part in parts if part.split(".")[0].isdigit()}
    sizes = {2 + sum(stages): name for name, stages in STAGES.items()}
    return sizes.get(max(blocks, default=-1) + 1) or parse_options([]).backbone


def main(argv: Sequence[str] | None = None) -> None:
    source = "torch file (.pth, .pt, .tar) or .pdparams or checkpoint folder"
    parser = convert.script_parser(__doc__, source, "file to write; its suffix decides the direction")
    parser.add_argument("--entry", default=None, help="which part of a training checkpoint; default: the state_dict")
    add_network_options(parser)
    parser.set_defaults(backbone=None)
    options = parse_options(argv, parser, network_options_of(parser.parse_args(argv).source))
    file = read_weights(options.source, options.entry)
    options.backbone = options.backbone or _backbone_of(list(file.tensors))
    classifier = any(name.startswith("features.") for name in file.tensors)
    model = (build_classifier if classifier else build_model)(options)
    report = convert.convert_file(file, options.target, model)
    kind = "ImageNet classifier" if classifier else "segmentation network"
    print(f"{options.backbone}, {kind}: {report}\nwrote {options.target}")


if __name__ == "__main__":
    run(main)
