"""Mean of several weight files, as the reference averaged its last three that improved top-1 (NOTES 6.1, 6.2).

python average_checkpoints.py A.pdparams B.pdparams C.pdparams MEAN.pdparams
"""

from shared import InputError, run, set_up

set_up()

import argparse
from collections.abc import Sequence

from shared.weights import read_weights, write_pdparams

from ema import average_checkpoints


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="+", metavar="SRC", help=".pdparams files or checkpoint folders")
    parser.add_argument("target", metavar="DST", help=".pdparams to write")
    options = parser.parse_args(argv)
    files = [read_weights(source) for source in options.sources]
    for file in files:
        if file.kind != "paddle":
            raise InputError(f"{file.path}: is a torch file; convert.py makes a .pdparams of it")
    try:
        averaged = average_checkpoints([file.tensors for file in files])
    except ValueError as error:
        raise InputError(f"{options.sources[0]} and the others: {error}; give checkpoints of one network") from error
    write_pdparams(options.target, averaged)
    print(f"wrote the mean of {len(files)} to {options.target}")


if __name__ == "__main__":
    run(main)
