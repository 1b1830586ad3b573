import io
import pickle
import subprocess
import sys
import zipfile

import numpy as np
import paddle
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from shared import InputError
from shared.align.record import Record, ReprodLogger

NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
DTYPES = ["?", "i1", "u1", "i4", "i8", "u8", "f2", "f4", "f8", "c8", "U4", ">f4"]
ARRAYS = hnp.arrays(
    st.sampled_from(DTYPES).map(np.dtype), hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3)
)


def assert_same(record, expected):
    assert record.names == list(expected)
    for name, array in expected.items():
        found = record[name]
        assert (found.dtype, found.shape) == (array.dtype, array.shape), name
        assert found.tobytes() == array.tobytes(), name


@given(arrays=st.dictionaries(NAMES, ARRAYS, max_size=4))
@settings(max_examples=60, deadline=None)
@pytest.mark.parametrize("suffix", [".npz", ".npy"])
def test_files_give_back_the_bits_in_order(tmp_path_factory, suffix, arrays):
    path = tmp_path_factory.mktemp("record") / f"sub/r{suffix}"
    Record(arrays).save(path)
    assert_same(Record.load(path), arrays)


def test_names_that_numpy_stumbles_over(tmp_path):
    names = ["file", "a.npy", "a", "", "../up", "/abs", "0003/features.0/in/0", "é/ü", "back\\slash"]
    Record({name: np.full(2, i) for i, name in enumerate(names)}).save(tmp_path / "r.npz")
    assert_same(Record.load(tmp_path / "r.npz"), {name: np.full(2, i) for i, name in enumerate(names)})


def test_equal_records_make_equal_files_and_numpy_reads_them(tmp_path):
    arrays = {"z": np.arange(6.0).reshape(2, 3), "a/b": np.array("text")}
    for name in ("1.npz", "2.npz"):
        Record(arrays).save(tmp_path / name)
    assert (tmp_path / "1.npz").read_bytes() == (tmp_path / "2.npz").read_bytes()
    with np.load(tmp_path / "1.npz") as file:
        assert file.files == ["z", "a/b"]
        np.testing.assert_array_equal(file["z"], arrays["z"])


def test_reprod_log_files_both_ways(tmp_path):
    Record({"logits": np.ones((1, 3), "f4"), "b/x": np.float64(2)}).save(tmp_path / "ours.npy")
    theirs = np.load(tmp_path / "ours.npy", allow_pickle=True).item()
    assert {name: array.shape for name, array in theirs.items()} == {"logits": (1, 3), "b/x": ()}
    fortran = np.asfortranarray(np.arange(6, dtype=">i4").reshape(2, 3))
    nested = {"grads": {"fc": {"weight": fortran}, "bias": np.float32(3)}, "empty": np.zeros((0, 2))}
    np.save(tmp_path / "theirs.npy", nested)
    record = Record.load(tmp_path / "theirs.npy")
    assert record.names == ["grads/fc/weight", "grads/bias", "empty"]
    np.testing.assert_array_equal(record["grads/fc/weight"], fortran)
    assert record["grads/bias"].dtype == np.float32 and record["empty"].shape == (0, 2)


def test_add_copies_what_it_is_given():
    array, tensor, variable = np.zeros(3), torch.zeros(3), paddle.zeros([3])
    record = Record({"numpy": array, "torch": tensor, "paddle": variable})
    array += 1
    tensor += 1
    variable.add_(paddle.ones([3]))
    for name in record:
        np.testing.assert_array_equal(record[name], np.zeros(3), err_msg=name)


def test_tensors_that_need_gradients_and_bfloat16():
    value = 1.0078125  # 1 + 2**-7, exact in bfloat16
    record = Record({"torch": torch.full((2,), value, dtype=torch.bfloat16, requires_grad=True)})
    record.add("paddle", paddle.full([2], value, "bfloat16"))
    record.add("loss", torch.tensor(3.0, requires_grad=True))
    for name in ("torch", "paddle"):
        assert record[name].dtype == np.float32
        np.testing.assert_array_equal(record[name], np.full(2, value, "f4"))
    assert record["loss"].shape == ()


def test_python_values():
    record = Record({"flag": True, "step": 3, "lr": 0.1, "curve": [1.0, 0.5], "split": "val"})
    assert [record[name].dtype.kind for name in record] == ["b", "i", "f", "f", "U"]


def test_add_refuses():
    record = Record({"a": 1})
    with pytest.raises(ValueError, match="a: already"):
        record.add("a", 1)
    for value in (None, object(), {1, 2}, np.array([None]), b"bytes"):
        with pytest.raises(TypeError, match="b: a record holds"):
            record.add("b", value)
    for name in ("nul\0", "\ud800", "x" * 70_000):
        with pytest.raises(ValueError, match="cannot be the name"):
            record.add(name, 1)
    assert record.names == ["a"]


class Hostile:
    """Unpickled without restriction, it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


def npz(entries):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in entries:
            archive.writestr(name, content)
    return file.getvalue()


def npy(value):
    file = io.BytesIO()
    np.save(file, value, allow_pickle=True)
    return file.getvalue()


def object_npy(pickled):
    header = npy(np.array(None, dtype=object))
    return header[: header.index(b"\n") + 1] + pickled


def recursive():
    value = {}
    value["self"] = value
    return value


def unfolding():
    value = {"leaf": np.zeros(1)}
    for _ in range(40):
        value = {"left": value, "right": value}
    return value


def unfolding_list():
    value = [1.0]
    for _ in range(40):
        value = [value, value]
    return value


GOOD_NPZ, GOOD_NPY = npz([("a.npy", npy(np.arange(100.0)))]), npy(np.array({"a": np.arange(100.0)}, dtype=object))
# A structured dtype whose state numpy would believe: a field of object pointers at any offset.
STRUCTURED = npy(np.array({"a": np.zeros(2, [("x", "f4"), ("y", "O")])}, dtype=object))
HUGE = npy(np.zeros(1)).replace(b"(1,), }" + b" " * 14, b"(" + b"9" * 15 + b",), }")
BAD = {
    "empty": (b"", "empty file"),
    "text": (b"hello", "neither"),
    "cut npz": (GOOD_NPZ[:300], "not a readable record"),
    "damaged npz": (GOOD_NPZ.replace(np.float64(50).tobytes(), b"damaged!"), "CRC"),
    "cut npy": (GOOD_NPY[:300], "not a readable record"),
    "cut header": (GOOD_NPY[:20], "not a readable record"),
    "no array in the zip": (npz([("readme.txt", b"hello")]), "unexpected entry"),
    "array shorter than its header": (npz([("a.npy", npy(np.arange(9.0))[:-8])]), "not a readable record"),
    "bytes after the array": (npz([("a.npy", npy(np.arange(9.0)) + b"x")]), "longer"),
    "shape beyond memory": (npz([("a.npy", HUGE)]), "allocate"),
    "objects in the zip": (npz([("a.npy", npy(np.array([{}], dtype=object)))]), "allow_pickle"),
    "one plain array": (npy(np.arange(3)), "not reprod_log's dict"),
    "a list": (npy(np.array([1, None], dtype=object)), "not reprod_log's dict"),
    "bare pickle of a dict": (object_npy(pickle.dumps({"a": 1})), "not hold reprod_log's dict"),
    "objects in the dict": (npy(np.array({"a": np.array([1, None], dtype=object)}, dtype=object)), "not allowed"),
    "structured dtype": (STRUCTURED, "not allowed"),
    "names that are no text": (npy(np.array({1: np.zeros(1)}, dtype=object)), "must be text"),
    "dict within itself": (npy(np.array(recursive(), dtype=object)), "held twice"),
    "dicts that unfold": (npy(np.array(unfolding(), dtype=object)), "held twice"),
    "lists that unfold": (npy(np.array({"a": unfolding_list()}, dtype=object)), "held twice"),
    "name twice": (npy(np.array({"a": {"b": 1}, "a/b": 2}, dtype=object)), "already"),
    "memo index of 4 GB": (object_npy(b"\x80\x04}r\xff\xff\xff\x7f."), "not hold reprod_log's dict"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files_are_one_line(tmp_path, case):
    content, words = BAD[case]
    path = tmp_path / "bad file"
    path.write_bytes(content)
    with pytest.raises(InputError) as error:
        Record.load(path)
    assert str(error.value).startswith(f"{path}: ") and words in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_file_folder_and_unknown_suffix(tmp_path):
    with pytest.raises(InputError, match="No such file"):
        Record.load(tmp_path / "none.npz")
    with pytest.raises(InputError, match="directory"):
        Record.load(tmp_path)
    with pytest.raises(InputError, match="saved as"):
        Record().save(tmp_path / "r.txt")


def test_hostile_pickle_is_not_run(tmp_path):
    marker = tmp_path / "ran"
    for value in (Hostile(str(marker)), np.array([Hostile(str(marker))], dtype=object)):
        np.save(tmp_path / "h.npy", np.array({"a": value}, dtype=object), allow_pickle=True)
        with pytest.raises(InputError, match="open"):
            Record.load(tmp_path / "h.npy")
    assert not marker.exists()
    np.load(tmp_path / "h.npy", allow_pickle=True)
    assert marker.exists(), "the file was not hostile, so the test says nothing"


def test_reprod_logger(tmp_path):
    logger, array = ReprodLogger(), np.zeros(2)
    logger.add("a", array)
    array += 1
    logger.add("b", np.float32(1))
    logger.add("b", torch.ones(1))
    logger.remove("never added")
    logger.save(tmp_path / "run.v1")
    assert_same(Record.load(tmp_path / "run.v1.npy"), {"a": np.zeros(2), "b": np.ones(1, "f4")})
    logger.remove("a")
    assert list(logger.data) == ["b"]
    logger.clear()
    assert not logger.data


def test_no_framework_is_imported():
    modules = "shared.align.record, shared.diff, shared.trace, shared.deploying.measure"
    code = f"import sys, {modules}; print({{'torch', 'paddle'}} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "set()\n"
