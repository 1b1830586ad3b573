"""Paddle's weight files, `.pdparams` and `.pdopt`: pickles, written and read without Paddle, none of them ever run."""

import pickle
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from shared import InputError
from shared.files import Refused, atomic_write, head, reading
from shared.weights.contents import WeightFile, as_numpy, fill, from_bfloat16, note_widened
from shared.weights.unpickle import PickledArray, PickledDtype, load

# paddle.save's table of parameter names. paddle.load looks up every key of it in the file, then drops it.
NAME_TABLE = "StructuredToParameterName@@"


def write_pdparams(path: str | Path, tensors: dict[str, Any], torch_only: dict[str, np.ndarray] | None = None) -> None:
    """Write a `.pdparams` (or `.pdopt`) file: `paddle.load(path)` gives exactly the keys of `tensors`.

    tensors: name -> array or tensor; plain values and nested dicts (an optimizer's LR_Scheduler) may stand among them.
    torch_only: tensors of a torch checkpoint for which the Paddle network has no place; `read_pdparams` returns them.
    Equal input gives equal bytes. Raises InputError when the file cannot be written or holds uint16, by which Paddle
    means bfloat16.
    """
    content = {name: _storable(name, value) for name, value in tensors.items()}
    # An array outside the name table stays an array in paddle.load; Paddle has no unsigned integers beyond uint8.
    table = {k: k for k, v in content.items() if isinstance(v, np.ndarray) and (v.dtype.kind != "u" or v.itemsize == 1)}
    if torch_only is not None:
        # The only key that paddle.load surely finds in the file, and does not take for a tensor, is the table's own.
        table[NAME_TABLE] = {name: _storable(name, value) for name, value in torch_only.items()}
    content[NAME_TABLE] = table

    def write(file: BinaryIO) -> None:
        pickler = pickle.Pickler(file, protocol=4)
        pickler.fast = True  # no memo: which equal objects happen to be one object must not show in the bytes
        pickler.dump(content)

    atomic_write(path, write)


def _storable(name: str, value: Any) -> Any:
    """A value as the pickle shall hold it: native C-order arrays and plain containers."""
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, dict):
        return {key: _storable(f"{name}.{key}", item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        items = [_storable(name, item) for item in value]
        return tuple(items) if isinstance(value, tuple) else items
    array = as_numpy(value)
    if array.dtype.kind not in "biufc" or array.dtype == np.uint16:
        raise InputError(f"{name}: dtype {array.dtype} cannot be stored in a Paddle weight file")
    return np.array(array, dtype=array.dtype.newbyteorder("="), order="C")


def read_pdparams(path: str | Path, entry: str | None = None) -> WeightFile:
    """Read what `paddle.save` or `write_pdparams` wrote of a network or an optimizer, running none of it.

    entry: as in `read_torch`. Raises InputError for whatever the file holds.
    """
    path = Path(path)
    file = WeightFile(path, "paddle")
    with reading(path, "cannot be read as Paddle weights; it is damaged, incomplete or another kind of file"):
        head(path)
        with path.open("rb") as stream:
            top = _resolve(load(stream), {})
        if isinstance(top, dict):
            if "UnpackBigParamInfor@@" in top:
                raise Refused("saved in slices (pickle protocol 2 or 3); save it again with paddle.save's default")
            table = top.pop(NAME_TABLE, None)
            file.torch_only = table.get(NAME_TABLE) if isinstance(table, dict) else None

        def to_array(name: str, value: np.ndarray) -> np.ndarray:
            if value.dtype == np.uint16:  # how Paddle's numpy() and paddle.save spell bfloat16
                widened.append(name)
                return from_bfloat16(value)
            return value

        widened: list[str] = []
        fill(file, top, entry, lambda value: isinstance(value, np.ndarray), to_array)
        note_widened(file, widened)
    return file


def _resolve(value: Any, done: dict[int, Any]) -> Any:
    """Stand-ins to arrays, and paddle.save's (name, array) to the array. done: shared parts, met once."""
    if id(value) in done:
        return done[id(value)][1]
    if isinstance(value, PickledArray):
        array = value.value()
        result: Any = array.astype(array.dtype.newbyteorder("="), copy=False)
    elif isinstance(value, PickledDtype):
        result = value.value()
    elif isinstance(value, dict):
        # dict.items: a pickle can give an OrderedDict an attribute `items`.
        result = {key: _resolve(item, done) for key, item in dict.items(value)}
    elif isinstance(value, list | tuple):
        result = [_resolve(item, done) for item in value]
        if isinstance(value, tuple):
            named = len(result) == 2 and isinstance(result[0], str) and isinstance(result[1], np.ndarray)
            result = result[1] if named else tuple(result)
    else:
        return value
    done[id(value)] = (value, result)  # the value too, lest its id be given to another
    return result
