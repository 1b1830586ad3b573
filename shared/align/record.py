"""Records: the named arrays that one run of one side leaves behind, in memory and on disk.

Two formats. `.npz` (the default) is a plain zip of `.npy` entries without pickle; `numpy.load` opens it too. `.npy` is
the format of reprod_log 1.0.1, a pickled dict in a 0-d object array, kept so that its users can bring their files; it
is read here without letting pickle call anything.
"""

import io
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from shared import InputError
from shared.files import atomic_write
from shared.weights.contents import as_numpy
from shared.weights.unpickle import NUMBERS, PickledArray, load

KINDS = NUMBERS + "U"  # and text


def to_array(name: str, value: Any) -> np.ndarray:
    """A copy of `value` as a C-ordered array: numpy, Python number or text, list of numbers, paddle or torch tensor.

    Tensors are detached and brought to the CPU; bfloat16, which numpy lacks, becomes float32 (no value is lost).
    Raises TypeError for anything that is not numbers, bools or text.
    """
    array = np.array(as_numpy(value) if hasattr(value, "detach") else value, order="C", copy=True)
    if array.dtype.kind not in KINDS:
        raise TypeError(f"{name}: a record holds numbers, bools and text, not {type(value).__name__} ({array.dtype})")
    return array


class Record(Mapping[str, np.ndarray]):
    """Arrays by name, in the order in which they were added.

    A mapping given at the start is added as it stands; nested mappings are flattened with "/".
    """

    def __init__(self, arrays: Mapping[str, Any] | None = None):
        self._arrays: dict[str, np.ndarray] = {}
        self._add_all(arrays or {}, "")

    def _add_all(self, arrays: Mapping[str, Any], prefix: str) -> None:
        for name, value in arrays.items():
            if not isinstance(name, str):
                raise TypeError(f"a name must be text, not {name!r}")
            if isinstance(value, Mapping):
                self._add_all(value, f"{prefix}{name}/")
            else:
                self.add(prefix + name, value)

    def add(self, name: str, value: Any) -> None:
        """Add a copy of `value` (see `to_array`). A name is used once: ValueError otherwise.

        Any text will do as a name, except what a zip entry cannot hold: NUL, lone surrogates, 64 KiB and more.
        """
        if name in self._arrays:
            raise ValueError(f"{name}: already in the record")
        if "\0" in name or len(name.encode("utf-8", "surrogatepass")) > 60_000 or re.search("[\ud800-\udfff]", name):
            raise ValueError(f"{name[:80]!r}: cannot be the name of an array in a file")
        self._arrays[name] = to_array(name, value)

    @property
    def names(self) -> list[str]:
        return list(self._arrays)

    def __getitem__(self, name: str) -> np.ndarray:
        return self._arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def save(self, path: str | Path) -> None:
        """Write the record, atomically: `.npz`, or reprod_log's format where the suffix is `.npy`.

        Equal records give equal `.npz` files, byte for byte. Missing parent folders are made.
        """
        path = Path(path)
        writers = {".npz": self._write_npz, ".npy": self._write_npy}
        if path.suffix not in writers:
            raise InputError(f"{path}: a record is saved as .npz, or as .npy for reprod_log")
        atomic_write(path, writers[path.suffix])

    def _write_npz(self, file: BinaryIO) -> None:
        # Not numpy.savez: it has reserved names, and numpy.load takes a name that ends in ".npy" for another entry.
        with zipfile.ZipFile(file, "w") as archive:
            for name, array in self._arrays.items():
                entry = zipfile.ZipInfo(name + ".npy")  # its date is fixed, 1980-01-01
                with archive.open(entry, "w", force_zip64=True) as stream:
                    np.lib.format.write_array(stream, array, allow_pickle=False)

    def _write_npy(self, file: BinaryIO) -> None:
        np.save(file, np.array(self._arrays, dtype=object), allow_pickle=True)

    @classmethod
    def load(cls, path: str | Path) -> "Record":
        """Read a record in either format, told apart by content.

        InputError for a file that is missing, cut short, hostile, or no record.
        """
        try:
            content = Path(path).read_bytes()
        except OSError as error:
            raise InputError(f"{path}: {error.strerror or error}") from error
        try:
            if content.startswith(b"PK"):
                return cls(_read_npz(content))
            if content.startswith(np.lib.format.MAGIC_PREFIX):
                return cls(_read_reprod_log(content))
        # A damaged or hostile file can make zipfile, numpy and pickle raise nearly anything, MemoryError included.
        except Exception as error:
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise InputError(f"{path}: not a readable record ({reason})") from error
        raise InputError(f"{path}: {'empty file' if not content else 'neither .npz nor .npy'}, not a record")


def _read_npz(content: bytes) -> dict[str, np.ndarray]:
    arrays = {}
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        for entry in archive.infolist():
            name = entry.filename.removesuffix(".npy")
            if name == entry.filename or name in arrays:
                raise ValueError(f"unexpected entry {entry.filename!r}")
            stream = io.BytesIO(archive.read(entry))
            arrays[name] = np.lib.format.read_array(stream, allow_pickle=False)
            if stream.read(1):
                raise ValueError(f"entry {entry.filename!r} is longer than its array")
    return arrays


def _read_reprod_log(content: bytes) -> dict[str, Any]:
    stream = io.BytesIO(content)
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    shape, _, dtype = readers[np.lib.format.read_magic(stream)](stream)
    if shape != () or dtype.kind != "O":
        raise ValueError(f"holds one array {shape} {dtype}, not reprod_log's dict of arrays")
    root = load(stream)
    content = root.boxed() if isinstance(root, PickledArray) else None
    if not isinstance(content, dict):
        raise ValueError("does not hold reprod_log's dict of arrays")
    return _unwrap(content, set())


def _unwrap(value: Any, seen: set[int]) -> Any:
    """Stand-ins to arrays, in dicts within dicts. ValueError for a dict, or a list within a list, that is held twice:
    thirty that each hold the next twice would unfold to a thousand million values."""
    if isinstance(value, dict):
        held = [value]
    elif isinstance(value, list | tuple):
        held = [inner for inner in value if isinstance(inner, list | tuple)]
    else:
        return value.value(KINDS) if isinstance(value, PickledArray) else value
    for container in held:
        if id(container) in seen:
            raise ValueError(f"one {type(container).__name__} is held twice")
        seen.add(id(container))
    if isinstance(value, dict):
        return {name: _unwrap(inner, seen) for name, inner in dict.items(value)}
    for inner in held:
        _unwrap(inner, seen)
    return value


class ReprodLogger:
    """reprod_log's recorder on top of `Record`: same members, but it copies, and takes tensors and numbers too."""

    def __init__(self) -> None:
        self._data: dict[str, np.ndarray] = {}

    @property
    def data(self) -> dict[str, np.ndarray]:
        return self._data

    def add(self, key: str, val: Any) -> None:
        """Add or overwrite."""
        self._data[key] = to_array(key, val)

    def remove(self, key: str) -> None:
        """Drop `key`; an unknown one is no error."""
        self._data.pop(key, None)

    def clear(self) -> None:
        self._data.clear()

    def save(self, path: str | Path) -> None:
        """Write reprod_log's format, or `.npz` where the suffix says so; `.npy` is appended to any other name."""
        path = Path(path)
        Record(self._data).save(path if path.suffix in (".npy", ".npz") else path.with_name(path.name + ".npy"))
