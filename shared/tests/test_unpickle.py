"""Hostile pickles: what asks for code is refused and never run, what abuses the allowed raises one line."""

import io
import os
import pickle
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from shared.files import Refused
from shared.tests.refusals import refusal
from shared.weights import read_pdparams
from shared.weights.unpickle import load

TENSORS = {"half": np.random.default_rng(5).standard_normal(5).astype(np.float16)}


def equal(a: dict, b: dict) -> bool:
    """Same names in the same order, same dtypes and shapes, same bits."""
    form = [(name, array.dtype, array.shape) for name, array in a.items()]
    return form == [(name, array.dtype, array.shape) for name, array in b.items()] and all(
        a[name].tobytes() == b[name].tobytes() for name in a
    )


class Call:
    """Pickles as the call of a function; callable, so that its result may be called in turn."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments

    def __call__(self):
        raise NotImplementedError


def attacks(marker: Path) -> dict:
    command = f"touch {marker}"
    code = f"__import__('os').system({command!r})"
    return {
        "system": Call(os.system, command),
        "eval": Call(eval, code),
        "exec": Call(exec, code),
        "getattr": Call(Call(getattr, Call(__import__, "os"), "system"), command),
        "Popen": Call(subprocess.Popen, ["touch", str(marker)]),
    }


@pytest.mark.parametrize("name", ["system", "eval", "exec", "getattr", "Popen"])
@pytest.mark.parametrize("form", ["zip", "legacy", "pdparams"])
def test_code_is_refused_and_never_run(tmp_path, name, form):
    marker = tmp_path / "marker"
    attack = attacks(marker)[name]
    pickle.loads(pickle.dumps(attack))  # it works on a reader that is not on its guard
    for _ in range(100):
        if marker.exists():
            break
        time.sleep(0.05)
    marker.unlink()
    if form == "pdparams":
        path = tmp_path / "a.pdparams"
        path.write_bytes(pickle.dumps({"w": TENSORS["half"], "x": attack}, protocol=4))
    else:
        path = tmp_path / "a.pth"
        torch.save({"w": torch.ones(1), "x": attack}, path, _use_new_zipfile_serialization=form == "zip")
    text = refusal(path)
    assert name in text and "nothing was executed" in text
    time.sleep(0.05)
    assert not marker.exists()


def test_pickles_that_abuse_what_is_allowed(tmp_path):
    reconstruct = np.zeros(1).__reduce__()[0]
    bad = {
        "dtype object": np.array([{}, None], dtype=object),
        "dtype void": np.zeros(2, [("a", "f4")]),
        "dtype str": np.array(["a"]),
        "cannot be read": Call(reconstruct, np.ndarray, (2**60,), b"b"),  # an array that never gets its numbers
        "(TypeError": Call(np.ndarray, (4,), np.dtype("f4")),  # the class itself is not to be called
    }
    for reason, value in bad.items():
        (tmp_path / "a.pdparams").write_bytes(pickle.dumps({"w": value}, protocol=2))
        assert reason in refusal(tmp_path / "a.pdparams")
    (tmp_path / "a.pdparams").write_bytes(pickle.dumps({"kind": np.dtype("f4"), "best": np.float32(0.5)}))
    assert read_pdparams(tmp_path / "a.pdparams").meta == {"kind": "float32"}
    old = pickle.dumps({"w": TENSORS["half"]}, protocol=2).replace(b"cnumpy._core.", b"cnumpy.core.")
    assert b"cnumpy.core." in old  # numpy's name before version 2
    (tmp_path / "a.pdparams").write_bytes(old)
    assert equal(read_pdparams(tmp_path / "a.pdparams").tensors, {"w": TENSORS["half"]})
    # A memo index of 2**31 makes the C unpickler clear 32 GiB; a short count makes an array shorter than its shape.
    (tmp_path / "a.pdparams").write_bytes(b"\x80\x02}r\xff\xff\xff\x7f.")
    assert read_pdparams(tmp_path / "a.pdparams").tensors == {}
    good = pickle.dumps({"w": np.arange(4, dtype=np.float32)}, protocol=2)
    (tmp_path / "a.pdparams").write_bytes(good.replace(b"K\x04", b"K\x05"))
    refusal(tmp_path / "a.pdparams")


# Opcodes by hand: an array of one number, its content brought by BUILD. %s: the shape, the dtype, the raw numbers.
ARRAY = b"cnumpy._core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tC\x01btR(K\x01%s%sI00\n%stb."
FLOAT = b"cnumpy\ndtype\n(X\x02\x00\x00\x00f4tR"


def test_claims_of_an_array_are_checked():
    def value(shape=b"(K\x01t", dtype=FLOAT, raw=b"C\x04\x00\x00\x80?"):
        return load(io.BytesIO(b"\x80\x04" + ARRAY % (shape, dtype, raw))).value()

    assert value().tolist() == [1.0] and value(shape=b")").shape == ()
    assert value(raw=b"X\x04\x00\x00\x00\x00\x00@?").tolist() == [0.75]  # the text as which Python 2 wrote bytes
    for case in (
        {"raw": b"J\xff\xff\xff\x7f"},  # bytes(2**31 - 1) would be made of it
        {"shape": b"(J\xff\xff\xff\xfft"},  # -1
        {"shape": b"(J\xff\xff\xff\xffJ\xff\xff\xff\xfft"},
        {"shape": b"(G?\xf0\x00\x00\x00\x00\x00\x00t"},  # 1.0
        {"dtype": b"X\x02\x00\x00\x00f4"},
        {"dtype": b"ccollections\nOrderedDict\n)R"},
        {"dtype": FLOAT.replace(b"f4", b"<O")},
        {"dtype": b"cnumpy\ndtype\n(X\x05\x00\x00\x00f4,f4tR"},
        {"dtype": b"cnumpy\ndtype\n(K\x04tR"},
    ):
        with pytest.raises((Refused, ValueError, TypeError)):
            value(**case)


@pytest.mark.parametrize("wanted", ["os system", "numpy dtypes", "numpy._core.multiarray fromfile", "builtins getattr"])
def test_nothing_else_is_found(wanted):
    module, name = wanted.split()
    for pickled in (f"c{module}\n{name}\n.", f"(S'x'\ni{module}\n{name}\n."):
        with pytest.raises(Refused, match=f"{module}.{name}"):
            load(io.BytesIO(pickled.encode()))


def test_attributes_set_by_a_pickle_die_with_it():
    pickled = b"\x80\x04cnumpy\ndtype\n}X\x08\x00\x00\x00__code__Nsb."
    function = load(io.BytesIO(pickled))
    assert function.__dict__ and not load(io.BytesIO(b"\x80\x04cnumpy\ndtype\n.")).__dict__
