"""Weights by formula: the same named tensors on every machine, so that golden figures need no checkpoint.

Every tensor of a state dict is drawn from a generator seeded with (seed, crc32(name)), by the rule of its name and
rank. A golden file may also carry `override/<name>` arrays (batch-norm statistics, for example): those replace the
formula's values. Names and shapes are those of the official torch checkpoint, listed in `*_state_dict.tsv` files.
"""

import zlib
from pathlib import Path

import numpy as np

from shared import InputError


def rng_for(name: str, seed: int) -> np.random.Generator:
    """The generator of one named tensor."""
    return np.random.default_rng([seed, zlib.crc32(name.encode())])


def formula_tensor(name: str, shape: tuple, seed: int, gain: float = 1.0) -> np.ndarray:
    """One tensor of a state dict, float32 (int64 for `num_batches_tracked`).

    running_var: U(0.5, 1.5); running_mean: 0.1 N(0, 1); rank-1 weight (norm scale): U(0.5, 1.5);
    rank-1 anything else (bias): 0.02 N(0, 1); rank 2 and more: N(0, gain / fan_in), fan_in = prod(shape[1:]);
    rank 0: 0.
    """
    rng = rng_for(name, seed)
    leaf = name.rsplit(".", 1)[-1]
    if leaf == "num_batches_tracked":
        return np.zeros(shape, np.int64)
    if leaf == "running_var":
        return rng.uniform(0.5, 1.5, shape).astype(np.float32)
    if leaf == "running_mean":
        return (0.1 * rng.standard_normal(shape)).astype(np.float32)
    if len(shape) == 0:
        return np.zeros(shape, np.float32)
    if len(shape) == 1:
        if leaf == "weight":
            return rng.uniform(0.5, 1.5, shape).astype(np.float32)
        return (0.02 * rng.standard_normal(shape)).astype(np.float32)
    fan_in = int(np.prod(shape[1:]))
    return (np.sqrt(gain / fan_in) * rng.standard_normal(shape)).astype(np.float32)


def formula_state(shapes: dict, seed: int, gain: float = 1.0, overrides: dict | None = None) -> dict:
    """A whole state dict {name: array} from {name: shape}."""
    state = {name: formula_tensor(name, tuple(shape), seed, gain) for name, shape in shapes.items()}
    state.update(overrides or {})
    return state


def formula_input(name: str, shape: tuple, seed: int) -> np.ndarray:
    """A float32 N(0, 1) input tensor, by name."""
    return rng_for("input/" + name, seed).standard_normal(shape).astype(np.float32)


def read_shapes(tsv_path: str | Path) -> dict[str, tuple[int, ...]]:
    """{name: shape} of a `*_state_dict.tsv` file, in its order: lines of name, shape (comma-separated), dtype.

    Raises InputError when the file cannot be read or a line has another form.
    """
    try:
        lines = Path(tsv_path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{tsv_path}: cannot be read ({error})") from error
    shapes = {}
    for number, line in enumerate(lines, 1):
        try:
            name, shape, _ = line.split("\t")
            shapes[name] = tuple(int(size) for size in shape.split(",") if size)
        except ValueError as error:
            raise InputError(f"{tsv_path}: line {number} is not name, shape, dtype: {line[:60]!r}") from error
    return shapes
