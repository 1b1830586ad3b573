"""Mean of several weight files, as the reference averaged its last three that improved top-1 (NOTES 6.1, 6.2).

python average_checkpoints.py A.pdparams B.pdparams C.pdparams MEAN.pdparams
"""

from shared import InputError, run, set_up

set_up()

import argparse
from collections.abc import Mapping, Sequence

import numpy as np

from shared.weights import read_weights, write_pdparams


def average_checkpoints(states: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Mean of several state dicts: per tensor the sum over n, float16 widened to float32, integers rounded down.

    InputError when the dicts do not hold the same names.
    """
    first = states[0]
    for other in states[1:]:
        if other.keys() != first.keys():
            names = ", ".join(sorted(other.keys() ^ first.keys())[:3])
            raise InputError(f"the files differ in {names}; give checkpoints of one network")
    averaged = {}
    for name in first:
        tensors = [np.asarray(state[name]) for state in states]
        if np.issubdtype(tensors[0].dtype, np.integer):
            averaged[name] = np.asarray(sum(t.astype(np.int64) for t in tensors) // len(tensors))
            continue
        if tensors[0].dtype == np.float16:
            tensors = [t.astype(np.float32) for t in tensors]
        averaged[name] = np.asarray(sum(tensors[1:], tensors[0].copy()) / tensors[0].dtype.type(len(tensors)))
    return averaged


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="+", metavar="SRC", help=".pdparams files or checkpoint folders")
    parser.add_argument("target", metavar="DST", help=".pdparams to write")
    options = parser.parse_args(argv)
    files = [read_weights(source) for source in options.sources]
    for file in files:
        if file.kind != "paddle":
            raise InputError(f"{file.path}: is a torch file; convert.py makes a .pdparams of it")
    write_pdparams(options.target, average_checkpoints([file.tensors for file in files]))
    print(f"wrote the mean of {len(files)} to {options.target}")


if __name__ == "__main__":
    run(main)
