"""Pickles of numpy arrays, read without running anything that they ask for.

`load` builds containers, numbers, texts, and stand-ins for arrays and dtypes, which keep what the file claims as data;
their `value()` makes the real ones, checked first: numpy's own C code is never handed a file's claims.
`.pdparams` files and reprod_log's records are such pickles.
"""

import math
import pickle
import re
from collections import OrderedDict
from typing import Any, BinaryIO

import numpy as np

from shared.files import Refused

NUMBERS = "biufc"  # kinds of dtypes: bool, integers, floats, complex


class PickledDtype:
    """A dtype, kept as the words it was asked for with. What else a structured one claims is left out."""

    def __init__(self, code: Any) -> None:
        self.code, self.order = code, "="

    def __setstate__(self, state: tuple) -> None:
        self.order = state[1]

    def value(self, kinds: str = NUMBERS) -> np.dtype:
        """The dtype in its byte order. Refused unless it is of these kinds."""
        if type(self.code) is not str or not re.fullmatch(r"[A-Za-z?]\d{0,9}", self.code):
            raise Refused(f"holds a dtype {self.code!r:.40}, which is not allowed")
        if self.order not in ("<", ">", "=", "|"):
            raise ValueError(f"a dtype of byte order {self.order!r:.40}")
        dtype = np.dtype(self.order + self.code)
        if dtype.kind not in kinds:
            raise Refused(f"holds an array of dtype {dtype.name}, which is not allowed")
        return dtype


class PickledArray:
    """An array or a numpy scalar, kept as data."""

    def __init__(self, dtype: Any = None, raw: Any = None) -> None:
        self.shape, self.dtype, self.fortran, self.raw = (), dtype, False, raw

    def __setstate__(self, state: tuple) -> None:
        _, self.shape, self.dtype, self.fortran, self.raw = state

    def value(self, kinds: str = NUMBERS) -> np.ndarray:
        """The array in memory of its own, C-ordered, in the file's byte order.

        Refused unless it is of these kinds; TypeError or ValueError where its claims do not fit together.
        """
        if not isinstance(self.dtype, PickledDtype):
            raise ValueError("an array without its content")
        dtype = self.dtype.value(kinds)
        raw = self.raw.encode("latin1") if isinstance(self.raw, str) else self.raw  # text: the bytes of Python 2
        if not isinstance(raw, bytes | bytearray):
            raise ValueError(f"an array whose numbers are a {type(raw).__name__}")
        if len(raw) != math.prod(self.shape) * dtype.itemsize:
            raise ValueError(f"{len(raw)} bytes do not make an array {self.shape} of {dtype}")
        return np.array(np.ndarray(self.shape, dtype, raw, order="F" if self.fortran else "C"), order="C")

    def boxed(self) -> Any:
        """What numpy.save puts into an array of one object, shape (); None for any other array."""
        is_object = isinstance(self.dtype, PickledDtype) and self.dtype.code in ("O", "O4", "O8")
        alone = is_object and self.shape == () and type(self.raw) is list and len(self.raw) == 1
        return self.raw[0] if alone else None


class _Unpickler(pickle._Unpickler):
    """The Python class: a few bytes, a huge index, can make the C one allocate a memo of gigabytes."""

    def find_class(self, module: str, name: str) -> Any:
        # A new function for every request, since a pickle may set attributes on what it was given.
        module = {"numpy.core.multiarray": "numpy._core.multiarray", "__builtin__": "builtins"}.get(module, module)
        match f"{module}.{name}":
            case "numpy._core.multiarray._reconstruct":
                return lambda subtype, shape, code: PickledArray()
            case "numpy._core.multiarray.scalar":
                return lambda dtype, raw=b"": PickledArray(dtype, raw)
            case "numpy.ndarray":
                return None  # an argument of _reconstruct, never called
            case "numpy.dtype":
                return lambda code, align=False, copy=False: PickledDtype(code)
            case "_codecs.encode":
                return lambda text, encoding="latin1": str.encode(text, "latin1")
            case "collections.OrderedDict":
                return OrderedDict
            case "builtins.tuple":
                return tuple
        raise Refused(
            f"refused, nothing was executed: it asks for {module:.60}.{name:.60}, which no file of arrays needs"
        )


def load(stream: BinaryIO) -> Any:
    """The one object pickled in a stream, with stand-ins for its arrays.

    Containers in it may be shared, may hold themselves, and an OrderedDict may have attributes that hide its methods.
    Refused when the file asks for any function or class but those of numpy's arrays; any other exception when the
    stream is damaged.
    """
    return _Unpickler(stream, encoding="latin1").load()
