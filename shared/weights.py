"""Weight files and training checkpoints, read without running what they hold, written whole or not at all.

torch files go through torch's weights-only loader. `.pdparams` files are pickles: they go through an unpickler that
builds plain containers and numeric arrays and nothing else. Neither framework is imported before a file asks for it.
"""

import argparse
import contextlib
import errno
import io
import json
import os
import pickle
import re
import secrets
import shutil
import socket
import sys
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from shared import InputError

TORCH_SUFFIXES = (".pth", ".pt", ".tar", ".bin")
PADDLE_SUFFIXES = (".pdparams", ".pdopt")
# Where training scripts keep the network inside a checkpoint, in the order in which they are tried.
ENTRIES = ("model", "model_state", "state_dict")
# paddle.save's table of parameter names. paddle.load looks up every key of it in the file, then drops it.
NAME_TABLE = "StructuredToParameterName@@"
STATE_FILE = "state.json"
STATE_FILES_KEY = "checkpoint_files"


@dataclass
class WeightFile:
    """What a weight file holds.

    tensors: name -> array, in the file's order; bfloat16 comes as float32, every other dtype as it is.
    meta: the small rest (epoch, args as a dict, monodepth2's height and width, a scheduler's state).
    notes: one line for each thing that was unwrapped, stripped, widened or left out.
    torch_only: what `write_pdparams` was given under that name; None when the file says nothing.
    """

    path: Path
    kind: str  # "torch" or "paddle"
    tensors: dict[str, np.ndarray] = field(default_factory=dict)
    meta: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    torch_only: dict[str, np.ndarray] | None = None


@dataclass
class Checkpoint:
    """A training checkpoint: its weight files by name (`model.pdparams`, ...), its state, and its folder."""

    arrays: dict[str, WeightFile]
    state: dict[str, Any]
    path: Path


class _Refused(Exception):
    """A file holds what a weight file must not. The text follows the file's name in the error."""


# ---------------------------------------------------------------- writing


def atomic_write(path: str | Path, write: Callable[[BinaryIO], None]) -> None:
    """Write a file whole or not at all: `write` fills a temporary file beside it, which then takes its name.

    Missing parent folders are made. Raises InputError (no space, no permission, size limit, a folder in the way); the
    old file is then untouched. What else `write` raises goes through, with the old file untouched too.
    """
    path = Path(path)
    temporary = path.parent / _temporary_name()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("xb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
    except OSError as error:
        raise _write_error(path, error) from error
    _sync_folder(path.parent)


def atomic_write_text(path: str | Path, text: str) -> None:
    """`atomic_write` of a text in UTF-8."""
    atomic_write(path, lambda file: file.write(text.encode()))


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


def write_torch(path: str | Path, tensors: dict[str, np.ndarray]) -> None:
    """Write an OrderedDict of CPU tensors in torch's zip format. Raises InputError when it cannot be written."""
    torch = _import_torch(path)
    arrays = {name: np.array(value, dtype=value.dtype.newbyteorder("="), order="C") for name, value in tensors.items()}
    state = OrderedDict((name, torch.from_numpy(array)) for name, array in arrays.items())
    # torch's zip writer aborts the process when its file fails under it, so it fills memory first.
    buffer = io.BytesIO()
    torch.save(state, buffer)
    atomic_write(path, lambda file: file.write(buffer.getbuffer()))


def as_numpy(value: Any) -> np.ndarray:
    """A Paddle or torch tensor (a copy; bfloat16 becomes float32) or an array (itself) as a numpy array."""
    torch, paddle = sys.modules.get("torch"), sys.modules.get("paddle")
    if torch is not None and isinstance(value, torch.Tensor):
        value = value.detach().cpu().resolve_conj().resolve_neg()
        if value.dtype == torch.bfloat16:
            return _from_bfloat16(value.contiguous().view(torch.int16).numpy().view(np.uint16))
        return np.array(value.numpy(), order="C")
    if paddle is not None and isinstance(value, paddle.Tensor):
        array = np.array(value.numpy(), order="C")
        return _from_bfloat16(array) if value.dtype == paddle.bfloat16 else array
    if isinstance(value, np.ndarray | np.generic):
        return np.asarray(value)
    raise TypeError(f"neither an array nor a tensor: {type(value).__name__}")


# ---------------------------------------------------------------- reading


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
        with _reading(path, "cannot be read"):
            head = _head(path)
        # A zip, or the magic number with which torch began its files before 1.6.
        if head.startswith((b"PK\x03\x04", b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19")):
            kind = "torch"
        elif head.startswith(b"\x80"):
            kind = "paddle"
        else:
            raise InputError(f"{one_line(path)}: neither a torch nor a Paddle weight file (begins with {head[:8]!r})")
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
    with _reading(path, "cannot be read as torch weights; it is damaged or incomplete, fetch or save it again"):
        head = _head(path)
        if not head.startswith((b"PK", b"\x80")):
            raise _Refused(f"not a torch weight file (begins with {head[:8]!r})")
        with warnings.catch_warnings(), torch.serialization.safe_globals([argparse.Namespace]):
            warnings.simplefilter("ignore")
            top = torch.load(path, map_location="cpu", weights_only=True)

        def to_array(name: str, value: Any) -> np.ndarray:
            if value.layout != torch.strided or value.is_quantized or value.is_meta:
                raise _Refused(f"holds {name} in a form that is no plain tensor; save it dense")
            if value.dtype == torch.bfloat16:
                widened.append(name)
            return as_numpy(value)

        widened: list[str] = []
        _fill(file, top, entry, lambda value: isinstance(value, torch.Tensor), to_array)
        _note_widened(file, widened)
        if not file.tensors:
            raise _Refused("holds no tensors")
    return file


def read_pdparams(path: str | Path, entry: str | None = None) -> WeightFile:
    """Read what `paddle.save` or `write_pdparams` wrote of a network or an optimizer, running none of it.

    entry: as in `read_torch`. Raises InputError for whatever the file holds.
    """
    path = Path(path)
    file = WeightFile(path, "paddle")
    with _reading(path, "cannot be read as Paddle weights; it is damaged, incomplete or another kind of file"):
        _head(path)
        with path.open("rb") as stream:
            top = _resolve(_Unpickler(stream, encoding="latin1").load(), {})
        if isinstance(top, dict):
            if "UnpackBigParamInfor@@" in top:
                raise _Refused("saved in slices (pickle protocol 2 or 3); save it again with paddle.save's default")
            table = top.pop(NAME_TABLE, None)
            file.torch_only = table.get(NAME_TABLE) if isinstance(table, dict) else None

        def to_array(name: str, value: np.ndarray) -> np.ndarray:
            if value.dtype == np.uint16:  # how Paddle's numpy() and paddle.save spell bfloat16
                widened.append(name)
                return _from_bfloat16(value)
            return value

        widened: list[str] = []
        _fill(file, top, entry, lambda value: isinstance(value, np.ndarray), to_array)
        _note_widened(file, widened)
    return file


# ---------------------------------------------------------------- training checkpoints


def save_checkpoint(output_dir: str | Path, label: str, arrays: dict[str, dict[str, Any]], state: dict) -> Path:
    """Save a training checkpoint and let `output_dir/label` point at it; returns its folder.

    arrays: file name (`model.pdparams`, `optimizer.pdopt`) -> what `write_pdparams` takes. state: JSON values, with
    the global step under `step` (as ever in JSON, keys come back as text). Whatever interrupts it, and whenever,
    `output_dir/label` stays or becomes a whole checkpoint; the one that it pointed to before goes last.
    Raises InputError when it cannot be written.
    """
    output = Path(output_dir)
    store, link = output / "checkpoints", output / label
    if link.exists() and not link.is_symlink():
        raise InputError(f"{link}: in the way of a checkpoint link of that name; move it away")
    content = {**state, STATE_FILES_KEY: list(arrays)}
    text = json.dumps(content, indent=1, default=lambda value: value.item())  # item: numpy's scalars
    temporary, pointer = store / _temporary_name(), output / _temporary_name()
    previous = store / link.readlink().name if link.is_symlink() else None
    final = store / f"{label}-{int(state['step']):08d}"
    if final == previous:  # the same step again: it must not replace what the link still needs
        final = final.with_name(final.name + ".1")
    try:
        temporary.mkdir(parents=True)
        for name, tensors in arrays.items():
            write_pdparams(temporary / name, tensors)
        atomic_write_text(temporary / STATE_FILE, text)
        shutil.rmtree(final, ignore_errors=True)  # left by a save that was killed before its link was set
        temporary.replace(final)
        _sync_folder(store)
        pointer.symlink_to(Path("checkpoints") / final.name)
        pointer.replace(link)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        with contextlib.suppress(OSError):
            pointer.unlink()
        if isinstance(error, OSError):
            raise _write_error(final, error) from error
        if isinstance(error, InputError):  # it names a temporary folder that is no more
            raise InputError(str(error).replace(temporary.name, final.name)) from error
        raise
    _sync_folder(output)
    for folder in store.iterdir():  # the previous one, and any that a killed save could no longer remove
        if folder != final and re.fullmatch(re.escape(label) + r"-\d{8,}(\.1)?", folder.name):
            shutil.rmtree(folder, ignore_errors=True)
    _remove_stale(store)
    _remove_stale(output)
    return final


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint folder, or a link such as `output/latest`. Raises InputError when it is none or not whole."""
    path = Path(path)
    folder = path.resolve()
    try:
        return _load_checkpoint(path, folder)
    except InputError:
        if path.resolve() == folder:
            raise
        # A running training moved the link while its old folder was being read.
        return _load_checkpoint(path, path.resolve())


def _load_checkpoint(path: Path, folder: Path) -> Checkpoint:
    if not folder.exists():
        raise InputError(f"{path}: no such checkpoint; training writes one to OUTPUT_DIR/latest")
    if not (folder / STATE_FILE).is_file():
        hint = "; did you mean its latest?" if (folder / "latest" / STATE_FILE).is_file() else ""
        raise InputError(f"{path}: not a training checkpoint (it has no {STATE_FILE}){hint}")
    with _reading(folder / STATE_FILE, "cannot be read; the checkpoint is damaged, resume from another"):
        state = json.loads((folder / STATE_FILE).read_bytes())
        names = state.pop(STATE_FILES_KEY, None) if isinstance(state, dict) else None
        if not isinstance(names, list) or "step" not in state or any(Path(name).name != name for name in names):
            raise _Refused("not the state of a checkpoint of these projects")
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise InputError(f"{path}: an incomplete checkpoint, without {', '.join(missing)}; resume from another")
    return Checkpoint({name: read_pdparams(folder / name) for name in names}, state, path)


# ---------------------------------------------------------------- inside


def one_line(text: Any) -> str:
    """A text, which may come from a hostile file, as one printable line."""
    return "".join(c if c.isprintable() else " " for c in " ".join(str(text).split()))


class _Dtype:
    """A pickled dtype, kept as the words it was asked for with."""

    def __init__(self, code: Any) -> None:
        self.code, self.order = code, "="

    def __setstate__(self, state: tuple) -> None:
        self.order = state[1]

    def value(self) -> np.dtype:
        dtype = np.dtype(self.code)
        if dtype.kind not in "biufc":
            raise _Refused(f"holds an array of dtype {dtype.name}; weights are numbers")
        return dtype if self.order == "|" else dtype.newbyteorder(self.order)


class _Array:
    """A pickled array or numpy scalar, kept as data: numpy's own C code is never handed a file's claims unchecked."""

    def __init__(self, dtype: Any = None, raw: Any = None) -> None:
        self.shape, self.dtype, self.fortran, self.raw = (), dtype, False, raw

    def __setstate__(self, state: tuple) -> None:
        _, self.shape, self.dtype, self.fortran, self.raw = state

    def value(self) -> np.ndarray:
        dtype = self.dtype.value()
        raw = self.raw.encode("latin1") if isinstance(self.raw, str) else bytes(self.raw)
        array = np.frombuffer(raw, np.uint8) if raw else np.empty(0, np.uint8)
        array = array.view(dtype).reshape(self.shape, order="F" if self.fortran else "C")
        return array.astype(dtype.newbyteorder("="), order="C")  # a copy, so that it may be written to


class _Unpickler(pickle._Unpickler):
    """Builds containers, numbers, texts and `_Array`s. The Python class, for its memo cannot be made to eat memory."""

    def find_class(self, module: str, name: str) -> Any:
        # A new function for every request, since a pickle may set attributes on what it was given.
        module = {"numpy.core.multiarray": "numpy._core.multiarray", "__builtin__": "builtins"}.get(module, module)
        match f"{module}.{name}":
            case "numpy._core.multiarray._reconstruct":
                return lambda subtype, shape, code: _Array()
            case "numpy._core.multiarray.scalar":
                return lambda dtype, raw=b"": _Array(dtype, raw)
            case "numpy.ndarray":
                return None  # an argument of _reconstruct, never called
            case "numpy.dtype":
                return lambda code, align=False, copy=False: _Dtype(code)
            case "_codecs.encode":
                return lambda text, encoding="latin1": text.encode("latin1")
            case "collections.OrderedDict":
                return OrderedDict
            case "builtins.tuple":
                return tuple
        raise _Refused(f"refused, nothing was executed: it asks for {module}.{name}, which no weight file needs")


def _resolve(value: Any, done: dict[int, Any]) -> Any:
    """Proxies to arrays, and paddle.save's (name, array) to the array. done: shared parts, met once."""
    if id(value) in done:
        return done[id(value)][1]
    if isinstance(value, _Array | _Dtype):
        result: Any = value.value()
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


def _fill(
    file: WeightFile,
    top: Any,
    entry: str | None,
    is_tensor: Callable[[Any], bool],
    to_array: Callable[[str, Any], np.ndarray],
) -> None:
    """Find the network's tensors in what a file holds; the rest becomes meta or a note."""
    if not isinstance(top, dict):
        raise _Refused(f"holds one {type(top).__name__}, not a dict of named tensors")
    holders = [key for key, value in top.items() if isinstance(value, dict) and any(map(is_tensor, value.values()))]
    known = [entry] if entry is not None else [key for key in ENTRIES if key in holders]
    if entry is not None and entry not in holders:
        raise _Refused(f"has no entry {entry!r} with tensors; it has {', '.join(map(str, holders)) or 'none'}")
    if not known and holders and file.kind == "torch" and not any(map(is_tensor, top.values())):
        raise _Refused(f"keeps its tensors under {', '.join(map(str, holders))}; say which (entry)")
    if known:
        others = f" (it also has {', '.join(map(str, known[1:]))})" if known[1:] else ""
        file.notes.append(f"tensors taken from its entry {known[0]!r}{others}")
    for key, value in (top[known[0]] if known else top).items():
        if not is_tensor(value):
            file.meta[str(key)] = _plain(str(key), value, is_tensor, to_array, {})
        elif isinstance(key, str):
            file.tensors[key] = to_array(key, value)
        else:
            raise _Refused(f"names a tensor {key!r}; names are texts")
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


def _from_bfloat16(bits: np.ndarray) -> np.ndarray:
    """bfloat16 is the upper half of a float32: shifting it up is exact for every value, NaNs included."""
    return np.asarray(bits.astype(np.uint32) << 16).view(np.float32)


def _note_widened(file: WeightFile, names: list[str]) -> None:
    if names:
        file.notes.append(f"{len(names)} bfloat16 tensors widened to float32, exactly")


def _import_torch(path: str | Path) -> Any:
    try:
        import torch
    except ImportError as error:
        raise InputError(f"{path}: a torch file needs torch; install the project with its [align] extra") from error
    return torch


def _head(path: Path) -> bytes:
    """The first bytes of a file that is there, is a file, and is not empty."""
    if not path.exists():
        raise _Refused("no such file")
    if not path.is_file():
        raise _Refused("a folder, not a weight file" if path.is_dir() else "not a regular file")
    with path.open("rb") as stream:
        head = stream.read(16)
    if not head:
        raise _Refused("an empty file; fetch or save it again")
    return head


@contextlib.contextmanager
def _reading(path: Path, trouble: str) -> Iterator[None]:
    """Whatever goes wrong inside becomes one line about this file."""
    try:
        yield
    except _Refused as error:
        raise InputError(one_line(f"{path}: {error}")) from error
    except Exception as error:
        text = str(error)
        wanted = re.search(r"GLOBAL (\S+) (?:was not an allowed|whose module)", text)
        if wanted:
            text = f"refused, nothing was executed: it asks for {wanted[1]}, which no weight file needs"
            raise InputError(one_line(f"{path}: {text}")) from error
        if "TorchScript" in text:
            raise InputError(one_line(f"{path}: a TorchScript archive, not a state dict")) from error
        # torch's own advice runs over many lines, and is to load the file unsafely.
        text = "" if "Weights only" in text or "weights_only" in text else f": {text}"
        raise InputError(one_line(f"{path}: {trouble} ({type(error).__name__}{text[:120]})")) from error


def _write_error(path: Path, error: OSError) -> InputError:
    reason = {
        errno.ENOSPC: "no space left on the disk; free some or choose another place",
        errno.EDQUOT: "the disk quota is used up; free some or choose another place",
        errno.EFBIG: "larger than this process may write; raise `ulimit -f`",
        errno.EROFS: "the file system is read-only; choose another place",
        errno.EACCES: "no permission to write there; choose another place",
        errno.EPERM: "no permission to write there; choose another place",
        errno.EEXIST: "a file stands where a folder is needed; choose another place",
        errno.ENOTDIR: "a file stands where a folder is needed; choose another place",
        errno.EISDIR: "a folder of that name is in the way; choose another name",
    }.get(error.errno or 0, f"{error.strerror or error}; choose another place")
    return InputError(one_line(f"{path}: not written: {reason}"))


def _sync_folder(folder: Path) -> None:
    # Some network file systems refuse to sync a folder; the files in it are synced and renamed all the same.
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _temporary_name() -> str:
    return f".tmp-{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"


def _remove_stale(folder: Path) -> None:
    """Remove what writers of this machine that no longer run have left half done."""
    for path in folder.glob(".tmp-*"):
        match = re.fullmatch(rf"\.tmp-{re.escape(socket.gethostname())}-(\d+)-[0-9a-f]{{8}}", path.name)
        if not match:
            continue
        try:
            os.kill(int(match[1]), 0)
        except ProcessLookupError:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        except OSError:
            continue  # it runs, under another user
