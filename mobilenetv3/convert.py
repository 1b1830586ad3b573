"""Official torch checkpoint <-> .pdparams.

    python convert.py mobilenet_v3_small-047dcff4.pth small.pdparams --model mobilenet_v3_small
    python convert.py small.pdparams small.pth --model mobilenet_v3_small

Every tensor is converted by the type of the layer that owns it; nothing is left over on either side. The network's
options of a training checkpoint need not be given.
"""

from shared import run, set_up

set_up()

from collections.abc import Sequence

from shared import convert

from models import build_model
from options import add_network_options, parse_options, remembered_options

#: the network uses the official names, so no rules are needed (NOTES 4.9)
RENAME: tuple = ()
#: what torch's AveragedModel adds in `model_ema` (NOTES 1.3)
IGNORE = (r"n_averaged",)


def load_official(model, path, entry: str | None = None) -> convert.Report:
    """Fill `model` from an official torch file, a `.pdparams` or a checkpoint folder, strictly.

    Raises InputError (ConversionError) when names, shapes or dtypes do not match.
    """
    return convert.load_official(model, path, rename=RENAME, ignore=IGNORE, entry=entry)


def main(argv: Sequence[str] | None = None) -> None:
    parser = convert.script_parser(
        __doc__,
        "torch file (.pth, .pt), .pdparams or checkpoint folder",
        "file to write; its suffix decides the direction",
    )
    parser.add_argument("--entry", default=None, help="which part of a training checkpoint: model or model_ema")
    add_network_options(parser)
    options = parse_options(argv, parser, remembered_options(parser.parse_args(argv).source))
    model = build_model(options)
    report = convert.convert_file(options.source, options.target, model, RENAME, IGNORE, options.entry)
    print(f"{report}\nwrote {options.target}")


if __name__ == "__main__":
    run(main)
