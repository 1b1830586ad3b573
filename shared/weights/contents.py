"""What a weight file holds, torch's or Paddle's: which of it are the network's tensors, and what the rest is."""

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from shared.files import Refused

# Where training scripts keep the network inside a checkpoint, in the order in which they are tried.
ENTRIES = ("model", "model_state", "state_dict")


@dataclass
class WeightFile:
    """What a weight file holds.

    tensors: name -> array, in the file's order; bfloat16 comes as float32, every other dtype as it is.
    meta: the small rest (epoch, args as a dict, a height and width, a scheduler's state).
    notes: one line for each thing that was unwrapped, stripped, widened or left out.
    torch_only: what `write_pdparams` was given under that name; None when the file says nothing.
    """

    path: Path
    kind: str  # "torch" or "paddle"
    tensors: dict[str, np.ndarray] = field(default_factory=dict)
    meta: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    torch_only: dict[str, np.ndarray] | None = None


def as_numpy(value: Any) -> np.ndarray:
    """A Paddle or torch tensor (a copy; bfloat16 becomes float32) or an array (itself) as a numpy array."""
    torch, paddle = sys.modules.get("torch"), sys.modules.get("paddle")
    if torch is not None and isinstance(value, torch.Tensor):
        value = value.detach().cpu().resolve_conj().resolve_neg()
        if value.dtype == torch.bfloat16:
            return from_bfloat16(value.contiguous().view(torch.int16).numpy().view(np.uint16))
        return np.array(value.numpy(), order="C")
    if paddle is not None and isinstance(value, paddle.Tensor):
        array = np.array(value.numpy(), order="C")
        return from_bfloat16(array) if value.dtype == paddle.bfloat16 else array
    if isinstance(value, np.ndarray | np.generic):
        return np.asarray(value)
    raise TypeError(f"neither an array nor a tensor: {type(value).__name__}")


def from_bfloat16(bits: np.ndarray) -> np.ndarray:
    """bfloat16 is the upper half of a float32: shifting it up is exact for every value, NaNs included."""
    return np.asarray(bits.astype(np.uint32) << 16).view(np.float32)


def fill(
    file: WeightFile,
    top: Any,
    entry: str | None,
    is_tensor: Callable[[Any], bool],
    to_array: Callable[[str, Any], np.ndarray],
) -> None:
    """Find the network's tensors in `top`, all that a file holds; the rest becomes meta or a note.

    The tensors are top's own, or those under the first of ENTRIES that has any, or those under `entry`. A prefix
    `module.` that all names carry is stripped. is_tensor, to_array(name, tensor): what the file's kind calls a tensor.
    Refused when there is no telling.
    """
    if not isinstance(top, dict):
        raise Refused(f"holds one {type(top).__name__}, not a dict of named tensors")
    holders = [key for key, value in top.items() if isinstance(value, dict) and any(map(is_tensor, value.values()))]
    known = [entry] if entry is not None else [key for key in ENTRIES if key in holders]
    if entry is not None and entry not in holders:
        raise Refused(f"has no entry {entry!r} with tensors; it has {', '.join(map(str, holders)) or 'none'}")
    if not known and holders and file.kind == "torch" and not any(map(is_tensor, top.values())):
        raise Refused(f"keeps its tensors under {', '.join(map(str, holders))}; say which (entry)")
    if known:
        others = f" (it also has {', '.join(map(str, known[1:]))})" if known[1:] else ""
        file.notes.append(f"tensors taken from its entry {known[0]!r}{others}")
    for key, value in (top[known[0]] if known else top).items():
        if not is_tensor(value):
            file.meta[str(key)] = _plain(str(key), value, is_tensor, to_array, {})
        elif isinstance(key, str):
            file.tensors[key] = to_array(key, value)
        else:
            raise Refused(f"names a tensor {key!r}; names are texts")
    # What torch's AveragedModel adds beside the network that it wraps.
    if "n_averaged" in file.tensors and all(n == "n_averaged" or n.startswith("module.") for n in file.tensors):
        file.meta["n_averaged"] = file.tensors.pop("n_averaged").item()
    if file.tensors and all(name.startswith("module.") for name in file.tensors):
        file.tensors = {name.removeprefix("module."): array for name, array in file.tensors.items()}
        file.notes.append("prefix 'module.' stripped from every name")
    if known:
        left = []
        for key, value in top.items():
            if key != known[0] and _holds(value, is_tensor, set()):
                left.append(str(key))
            elif key != known[0]:
                file.meta.setdefault(str(key), _plain(str(key), value, is_tensor, to_array, {}))
        if left:
            file.notes.append(f"left out, holding other tensors: {', '.join(left)}")


def _plain(name: str, value: Any, is_tensor: Callable, to_array: Callable, done: dict[int, Any]) -> Any:
    """A value for meta: plain containers of plain values and arrays; what is neither becomes its text."""
    if value is None or isinstance(value, bool | int | float | complex | str | bytes):
        return value
    if id(value) in done:
        return done[id(value)]
    if is_tensor(value):
        array = to_array(name, value)
        result: Any = array if array.ndim else array.item()
    elif isinstance(value, argparse.Namespace | dict):
        items = vars(value) if isinstance(value, argparse.Namespace) else value
        result = {
            key if isinstance(key, int) else str(key): _plain(f"{name}.{key}", item, is_tensor, to_array, done)
            for key, item in items.items()
        }
    elif isinstance(value, list | tuple | set | frozenset):
        result = [_plain(name, item, is_tensor, to_array, done) for item in value]
        result = tuple(result) if isinstance(value, tuple) else result
    else:
        result = str(value)
    done[id(value)] = result
    return result


def _holds(value: Any, is_tensor: Callable[[Any], bool], seen: set[int]) -> bool:
    if is_tensor(value):
        return True
    if id(value) in seen or not isinstance(value, dict | list | tuple):
        return False
    seen.add(id(value))
    return any(_holds(item, is_tensor, seen) for item in (value.values() if isinstance(value, dict) else value))


def note_widened(file: WeightFile, names: list[str]) -> None:
    """Say in the file's notes how many tensors were bfloat16."""
    if names:
        file.notes.append(f"{len(names)} bfloat16 tensors widened to float32, exactly")
