"""JSON values as annotated types: what a file that anybody may have written holds is checked before it is used."""

import dataclasses
import math
import types
import typing
from pathlib import Path
from typing import Any

from shared import InputError
from shared.files import one_line

_LARGEST = 10**15  # no count, number or time that these files hold is larger
_DEEPEST = 20  # lists and objects within each other where any value may stand


def read_as(kind: Any, value: Any, file: Path, name: str = "") -> Any:
    """A JSON value as an annotated type: a dataclass, list, dict, union or plain value. InputError for another.

    Fields of a dataclass are read from the keys of an object, which may have more. Numbers must be finite and of a size
    that a count or a time can have; None stands for a float that was not finite where the annotation allows it.
    """
    if dataclasses.is_dataclass(kind):
        if not isinstance(value, dict):
            raise _wrong(file, name, kind, value)
        hints = typing.get_type_hints(kind)
        missing = [field for field in hints if field not in value]
        if missing:
            raise InputError(f"{file}: lacks {_path(name, missing[0])}; resume from another")
        return kind(**{field: read_as(hint, value[field], file, _path(name, field)) for field, hint in hints.items()})
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        for argument in arguments:
            try:
                return read_as(argument, value, file, name)
            except InputError:
                continue
        raise _wrong(file, name, kind, value)
    if origin is list and isinstance(value, list):
        return [read_as(arguments[0], item, file, f"{name}[{index}]") for index, item in enumerate(value)]
    if origin is dict and isinstance(value, dict):
        return {key: read_as(arguments[1], item, file, _path(name, one_line(key)[:80])) for key, item in value.items()}
    if origin or not _is_plain(kind, value):
        raise _wrong(file, name, kind, value)
    if kind is Any and not _is_shallow(value, _DEEPEST):
        raise InputError(f"{file}: {name or 'its value'} is nested too deeply; resume from another")
    return float(value) if kind is float else value


def _is_plain(kind: Any, value: Any) -> bool:
    if kind is Any:
        return True
    if kind in (int, float) and isinstance(value, int if kind is int else (int, float)) and not isinstance(value, bool):
        return abs(value) <= _LARGEST if kind is int or isinstance(value, int) else math.isfinite(value)
    if kind in (type(None), None):
        return value is None
    return kind not in (int, float) and isinstance(value, kind)


def _is_shallow(value: Any, levels: int) -> bool:
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return not items or (levels > 0 and all(_is_shallow(item, levels - 1) for item in items))


def _path(name: str, field: str) -> str:
    return f"{name}.{field}" if name else field


def _wrong(file: Path, name: str, kind: Any, value: Any) -> InputError:
    expected = getattr(kind, "__name__", str(kind)) if isinstance(kind, type) else str(kind)
    told = type(value).__name__ if isinstance(value, dict | list | str) else one_line(f"{value!s:.40}")
    return InputError(f"{file}: {name or 'its value'} is {told}, where {expected} is expected; resume from another")
