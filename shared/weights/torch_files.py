"""Weight files of torch and of Paddle, read without running what they hold, written whole or not at all.

torch files go through torch's weights-only loader. `.pdparams` files are pickles: they go through an unpickler that
builds plain containers and numeric arrays and nothing else. Neither framework is imported before a file asks for it.
Here are torch's files and what takes either kind.
"""

import argparse
import io
import re
import warnings
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np

from shared import InputError
from shared.files import Refused, atomic_write, head, one_line, reading
from shared.weights.contents import WeightFile, as_numpy, fill, note_widened
from shared.weights.pdparams import read_pdparams

TORCH_SUFFIXES = (".pth", ".pt", ".tar", ".bin")
PADDLE_SUFFIXES = (".pdparams", ".pdopt")
DAMAGED = "cannot be read as torch weights; it is damaged or incomplete, fetch or save it again"


def kind_of(path: str | Path) -> str | None:
    """ "torch" or "paddle" by the suffix of a file name, None for any other suffix."""
    suffix = Path(path).suffix.lower()
    return "torch" if suffix in TORCH_SUFFIXES else "paddle" if suffix in PADDLE_SUFFIXES else None


def read_weights(path: str | Path, entry: str | None = None) -> WeightFile:
    """Read a torch file, a `.pdparams` or `.pdopt` file, or a checkpoint folder's `model.pdparams`.

    The suffix decides, and for an unknown suffix the first bytes. entry: see `read_torch`. Raises InputError.
    """
    path = Path(path)
    if path.is_dir():
        if not (path / "model.pdparams").is_file():
            raise InputError(f"{path}: a folder without model.pdparams, so no checkpoint; give a weight file")
        path = path / "model.pdparams"
    kind = kind_of(path)
    if kind is None:
        with reading(path, "cannot be read"):
            first = head(path)
        # A zip, or the magic number with which torch began its files before 1.6.
        if first.startswith((b"PK\x03\x04", b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19")):
            kind = "torch"
        elif first.startswith(b"\x80"):
            kind = "paddle"
        else:
            raise InputError(f"{one_line(path)}: neither a torch nor a Paddle weight file (begins with {first[:8]!r})")
    return (read_torch if kind == "torch" else read_pdparams)(path, entry)


def read_torch(path: str | Path, entry: str | None = None) -> WeightFile:
    """Read a torch checkpoint, zip or legacy format, with the weights-only loader.

    The tensors are the file's own, or those under `model`, `model_state` or `state_dict` (the first of them that is
    there), or those under `entry`. A prefix `module.` that all names carry is stripped. Raises InputError for
    whatever the file holds; a file that asks for code is refused before any of it runs.
    """
    path = Path(path)
    torch = _import_torch(path)
    file = WeightFile(path, "torch")
    with reading(path, DAMAGED):
        first = head(path)
        if not first.startswith((b"PK", b"\x80")):
            raise Refused(f"not a torch weight file (begins with {first[:8]!r})")
        top = _load_safely(torch, path)

        def to_array(name: str, value: Any) -> np.ndarray:
            if value.layout != torch.strided or value.is_quantized or value.is_meta:
                raise Refused(f"holds {name:.80} in a form that is no plain tensor; save it dense")
            if value.dtype == torch.bfloat16:
                widened.append(name)
            return as_numpy(value)

        widened: list[str] = []
        fill(file, top, entry, lambda value: isinstance(value, torch.Tensor), to_array)
        note_widened(file, widened)
        if not file.tensors:
            raise Refused("holds no tensors")
    return file


def _load_safely(torch: Any, path: Path) -> Any:
    """torch.load of tensors, plain values and options; Refused in our words where torch's are of no use."""
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals([argparse.Namespace]):
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        text = str(error)
        wanted = re.search(r"GLOBAL (\S+) (?:was not an allowed|whose module)", text)
        if wanted:
            reason = f"refused, nothing was executed: it asks for {wanted[1]:.80}, which no weight file needs"
        elif "TorchScript" in text:
            reason = "a TorchScript archive, not a state dict"
        elif "Weights only" in text or "weights_only" in text:
            # torch's own advice runs over many lines, and is to load the file unsafely.
            reason = f"{DAMAGED} ({type(error).__name__})"
        else:
            raise
        raise Refused(reason) from error


def write_torch(path: str | Path, tensors: dict[str, np.ndarray], meta: dict[str, Any] | None = None) -> None:
    """Write an OrderedDict of CPU tensors in torch's zip format. Raises InputError when it cannot be written.

    meta: plain values that stand behind the tensors, such as a height and width.
    """
    torch = _import_torch(path)
    arrays = {name: np.array(value, dtype=value.dtype.newbyteorder("="), order="C") for name, value in tensors.items()}
    state = OrderedDict((name, torch.from_numpy(array)) for name, array in arrays.items())
    state.update(meta or {})
    # torch's zip writer aborts the process when its file fails under it, so it fills memory first.
    buffer = io.BytesIO()
    torch.save(state, buffer)
    atomic_write(path, lambda file: file.write(buffer.getbuffer()))


def describe(path: str | Path) -> str:
    """Every tensor of a weight file (name, shape, dtype), the totals, and what else it holds. Raises InputError."""
    file = read_weights(path)
    rows = [(one_line(name), str(list(array.shape)), str(array.dtype)) for name, array in file.tensors.items()]
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(3)]
    lines = ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    numbers = sum(array.size for array in file.tensors.values())
    size = sum(array.nbytes for array in file.tensors.values()) / 2**20
    lines.append(f"{len(rows)} tensors, {numbers:,} numbers, {size:.2f} MiB ({file.kind} file)")
    lines += [f"also holds {one_line(key)}: {one_line(_brief(value))[:100]}" for key, value in file.meta.items()]
    if file.torch_only:
        lines.append(f"also holds {len(file.torch_only)} tensors that only torch has a place for")
    return "\n".join(lines + [f"note: {one_line(note)}" for note in file.notes])


def _brief(value: Any) -> str:
    return f"a {type(value).__name__} of {len(value)}" if isinstance(value, dict | list | tuple) else repr(value)


def _import_torch(path: str | Path) -> Any:
    try:
        import torch
    except ImportError as error:
        raise InputError(f"{path}: a torch file needs torch; install the project with its [align] extra") from error
    return torch
