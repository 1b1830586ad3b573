"""Official torch checkpoint <-> .pdparams.

    python convert.py model_maxmIOU50.pth stdc1_50.pdparams --backbone STDCNet813
    python convert.py STDCNet813M_73.91.tar stdc1.pdparams
    python convert.py stdc1.pdparams STDCNet813.pth

A whole segmentation checkpoint or a backbone archive (the ImageNet classifier), whichever the file holds. Every tensor
is converted by the type of the layer that owns it; nothing is left over on either side. Without --backbone the file's
own tensors say which of the two it is.
"""

import argparse
from collections.abc import Sequence

from shared import HelpFormatter, convert, run
from shared.weights import read_weights

from models import build_classifier, build_model
from models.stdcnet import STAGES
from options import add_network_options, parse_options

#: the network uses the official names, so no rules are needed
RENAME: tuple = ()
IGNORE: tuple = ()


def load_official(model, path, entry: str | None = None) -> convert.Report:
    """Fill `model` from an official torch file, a `.pdparams` or a checkpoint folder, strictly.

    `model` is the segmentation network, the classifier, or a segmentation network's `cp.backbone`. Raises InputError
    (ConversionError) when names, shapes or dtypes do not match.
    """
    return convert.load_official(model, path, rename=RENAME, ignore=IGNORE, entry=entry)


def _backbone_of(names: Sequence[str]) -> str | None:
    """The backbone that has as many blocks as these tensors' names count, if there is one."""
    parts = [name.split("features.")[1] for name in names if "features." in name]
    blocks = {int(part.split(".")[0]) for part in parts if part.split(".")[0].isdigit()}
    sizes = {2 + sum(stages): name for name, stages in STAGES.items()}
    return sizes.get(max(blocks, default=-1) + 1)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=HelpFormatter, usage="%(prog)s SRC DST [options]", allow_abbrev=False
    )
    text = "torch file (.pth, .pt, .tar) or .pdparams or checkpoint folder"
    parser.add_argument("source", metavar="SRC", help=text)
    parser.add_argument("target", metavar="DST", help="file to write; its suffix decides the direction")
    parser.add_argument("--entry", default=None, help="which part of a training checkpoint; default: the state_dict")
    add_network_options(parser)
    parser.set_defaults(backbone=None)
    options = parse_options(argv, parser)
    names = list(read_weights(options.source, options.entry).tensors)
    options.backbone = options.backbone or _backbone_of(names) or parse_options([]).backbone
    classifier = any(name.startswith("features.") for name in names)
    model = (build_classifier if classifier else build_model)(options)
    report = convert.convert_file(
        options.source, options.target, model, rename=RENAME, ignore=IGNORE, entry=options.entry
    )
    kind = "ImageNet classifier" if classifier else "segmentation network"
    print(f"{options.backbone}, {kind}: {report}\nwrote {options.target}")


if __name__ == "__main__":
    run(main)
