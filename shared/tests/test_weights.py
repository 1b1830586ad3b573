"""Weight files and checkpoints: real tools' files are read, hostile and broken ones refused, no write is half done."""

import argparse
import os
import pickle
import random
import subprocess
import sys
import warnings
from collections import OrderedDict
from pathlib import Path

import numpy as np
import paddle
import pytest
import torch

from shared import InputError
from shared.tests.refusals import refusal
from shared.weights import (
    as_numpy,
    read_pdparams,
    read_torch,
    read_weights,
    save_checkpoint,
    write_pdparams,
    write_torch,
)

RNG = np.random.default_rng(5)
TENSORS = {
    "b.weight": RNG.standard_normal((3, 4)).astype(np.float32),
    "a.bias": np.frombuffer(RNG.bytes(28), np.float32),  # any bits, NaN payloads among them
    "scalar": np.array(7, np.int64),
    "half": RNG.standard_normal(5).astype(np.float16),
    "double": np.array([[-0.0, np.nan]]),
    "mask": np.array([True, False]),
    "empty": np.zeros((0, 3), np.float32),
}


def equal(a: dict, b: dict) -> bool:
    """Same names in the same order, same dtypes and shapes, same bits."""
    form = [(name, array.dtype, array.shape) for name, array in a.items()]
    return form == [(name, array.dtype, array.shape) for name, array in b.items()] and all(
        a[name].tobytes() == b[name].tobytes() for name in a
    )


def torch_state(tensors=TENSORS) -> OrderedDict:
    return OrderedDict((name, torch.from_numpy(np.array(array))) for name, array in tensors.items())


# ---------------------------------------------------------------- torch


@pytest.mark.parametrize("new_format", [True, False])
def test_torch_files_bit_for_bit(tmp_path, new_format):
    torch.save(torch_state(), tmp_path / "a.pth", _use_new_zipfile_serialization=new_format)
    file = read_torch(tmp_path / "a.pth")
    assert equal(file.tensors, TENSORS) and file.meta == {} and file.notes == [] and file.kind == "torch"
    (tmp_path / "a.pth").rename(tmp_path / "a.weights")  # an unknown suffix: the content decides
    assert equal(read_weights(tmp_path / "a.weights").tensors, TENSORS)
    write_torch(tmp_path / "b.pth.tar", TENSORS)
    assert equal(read_weights(tmp_path / "b.pth.tar").tensors, TENSORS)
    assert list(torch.load(tmp_path / "b.pth.tar", weights_only=True)) == list(TENSORS)


def test_torch_tensors_of_every_make(tmp_path):
    base = torch.arange(12.0).reshape(3, 4)
    values = torch.tensor([1.5, -0.0, float("inf"), 3.1415])
    bits = torch.from_numpy(np.array([0x7F81, 0xFFC3, 1, 0x8000], np.uint16).view(np.int16)).view(torch.bfloat16)
    state = {
        "column": base.t(),
        "part": base[1:, ::2],
        "again": base,
        "wide": torch.ones(1).expand(3),
        "parameter": torch.nn.Parameter(base.clone()),
        "bf16": values.to(torch.bfloat16),
        "bits": bits,
        "complex": torch.view_as_complex(base.clone().reshape(6, 2)).conj(),
    }
    torch.save(state, tmp_path / "a.pt")
    file = read_torch(tmp_path / "a.pt")
    expected = {name: value.detach() for name, value in state.items()}
    expected["bf16"] = values.to(torch.bfloat16).float()
    assert all(np.array_equal(file.tensors[n], expected[n].numpy()) for n in state if n not in ("bits", "complex"))
    assert np.array_equal(file.tensors["complex"], state["complex"].resolve_conj().numpy())
    assert file.tensors["bits"].view(np.uint32).tolist() == [0x7F810000, 0xFFC30000, 0x10000, 0x80000000]
    assert file.notes == ["2 bfloat16 tensors widened to float32, exactly"]
    file.tensors["again"][:] = -1  # every tensor has memory of its own
    assert np.array_equal(file.tensors["column"], base.t().numpy())
    torch.save({"a": torch.ones(2).to_sparse()}, tmp_path / "s.pth")
    assert "no plain tensor" in refusal(tmp_path / "s.pth")


def test_training_checkpoints_of_torch(tmp_path):
    network = torch.nn.Linear(2, 2)
    optimizer = torch.optim.Adam(network.parameters())
    network(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    average = torch.optim.swa_utils.AveragedModel(network)
    arguments = argparse.Namespace(
        lr=0.1, model="small", inner=argparse.Namespace(x=[1, 2]), device=torch.device("cpu")
    )
    whole = {"model": network.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3, "args": arguments}
    torch.save(whole | {"model_ema": average.state_dict()}, tmp_path / "c.pth")
    plain = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    file = read_torch(tmp_path / "c.pth")
    assert equal(file.tensors, plain) and file.meta["epoch"] == 3
    assert file.meta["args"] == {"lr": 0.1, "model": "small", "inner": {"x": [1, 2]}, "device": "cpu"}
    assert "optimizer" not in file.meta and any("optimizer" in note for note in file.notes)
    file = read_torch(tmp_path / "c.pth", entry="model_ema")
    assert equal(file.tensors, plain) and file.meta["n_averaged"] == 0
    assert any("module." in note for note in file.notes)
    assert "model, model_ema" in refusal(tmp_path / "c.pth", entry="nothing")


def test_containers_and_prefixes(tmp_path):
    def read(content, **options):
        torch.save(content, tmp_path / "x.pth")
        return read_torch(tmp_path / "x.pth", **options)

    one, two = {"w": torch.ones(1)}, {"w": torch.zeros(1)}
    for name in ("model", "model_state", "state_dict"):
        file = read({"epoch": torch.tensor(4), name: one})
        assert list(file.tensors) == ["w"] and repr(name) in file.notes[0]
    file = read({"state_dict": two, "model_state": one})
    assert file.tensors["w"] == 1 and "state_dict" in file.notes[0]
    assert read({"state_dict": two, "model_state": one}, entry="state_dict").tensors["w"] == 0
    file = read({"module.a": torch.ones(1), "module.b.c": torch.ones(1)})
    assert list(file.tensors) == ["a", "b.c"] and "module." in file.notes[0]
    assert list(read({"module.a": torch.ones(1), "b": torch.ones(1)}).tensors) == ["module.a", "b"]
    file = read(OrderedDict(torch_state(), height=192, width=640, use_stereo=False))  # as some encoder.pth has them
    assert equal(file.tensors, TENSORS) and file.meta == {"height": 192, "width": 640, "use_stereo": False}
    torch.save({"net": one}, tmp_path / "x.pth")
    assert "net" in refusal(tmp_path / "x.pth")
    for bad in ({"epoch": 3}, torch.ones(2), [torch.ones(2)], {1: torch.ones(2)}):
        torch.save(bad, tmp_path / "x.pth")
        refusal(tmp_path / "x.pth")
    cycle = {"w": torch.ones(1), "rest": []}
    cycle["rest"].append(cycle["rest"])
    torch.save(cycle, tmp_path / "x.pth")
    refusal(tmp_path / "x.pth")


# ---------------------------------------------------------------- Paddle


def trained():
    network = paddle.nn.Sequential(paddle.nn.Linear(3, 3), paddle.nn.BatchNorm1D(3))
    rate = paddle.optimizer.lr.StepDecay(0.1, 2)
    optimizer = paddle.optimizer.Adam(rate, parameters=network.parameters())
    network(paddle.ones([4, 3])).sum().backward()
    optimizer.step()
    return network, optimizer


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_what_paddle_saves(tmp_path, protocol):
    network, optimizer = trained()
    paddle.save(network.state_dict(), str(tmp_path / "a.pdparams"), protocol=protocol)
    paddle.save(optimizer.state_dict(), str(tmp_path / "a.pdopt"), protocol=protocol)
    whole = {"model": network.state_dict(), "epoch": 2, "half": {"x": paddle.ones([2], "bfloat16")}}
    paddle.save(whole, str(tmp_path / "whole.pdparams"), protocol=protocol)
    expected = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    file = read_weights(tmp_path / "a.pdparams")
    assert equal(file.tensors, expected) and file.meta == {} and file.torch_only is None and file.kind == "paddle"
    file = read_weights(tmp_path / "a.pdopt")
    state = optimizer.state_dict()
    assert file.meta == {"LR_Scheduler": state.pop("LR_Scheduler")}
    assert equal(file.tensors, {name: tensor.numpy() for name, tensor in state.items()})
    file = read_weights(tmp_path / "whole.pdparams")
    assert equal(file.tensors, expected) and file.meta == {"epoch": 2}
    half = read_pdparams(tmp_path / "whole.pdparams", entry="half")
    assert half.tensors["x"].tolist() == [1, 1] and half.tensors["x"].dtype == np.float32


def test_what_paddle_loads(tmp_path):
    network, optimizer = trained()
    path = tmp_path / "a.pdparams"
    counters = {"1.num_batches_tracked": np.array(9, np.int64), "nan": TENSORS["a.bias"]}
    write_pdparams(path, {name: tensor.numpy() for name, tensor in network.state_dict().items()}, counters)
    file = read_pdparams(path)
    assert equal(file.torch_only, counters)
    fresh = trained()[0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # paddle only warns of keys that do not fit
        assert fresh.set_state_dict(paddle.load(str(path))) == ([], [])
    assert equal({k: v.numpy() for k, v in fresh.state_dict().items()}, file.tensors)
    assert equal(paddle.load(str(path), return_numpy=True), file.tensors)
    write_pdparams(tmp_path / "a.pdopt", optimizer.state_dict())
    loaded = paddle.load(str(tmp_path / "a.pdopt"))
    assert loaded.keys() == optimizer.state_dict().keys() and loaded["LR_Scheduler"] == {
        "last_epoch": 0,
        "last_lr": 0.1,
    }
    write_pdparams(
        path, TENSORS | {"note": "text", "seed": RNG.integers(0, 9, 4).astype(np.uint32), "rate": np.float64(2)}
    )
    assert equal({k: v for k, v in read_pdparams(path).tensors.items() if k != "seed"}, TENSORS)
    assert read_pdparams(path).meta == {"note": "text", "rate": 2.0} and "seed" in paddle.load(str(path))
    for bad in (np.array([None]), np.array(["x"]), np.zeros(2, np.uint16)):
        with pytest.raises(InputError, match="bad"):
            write_pdparams(path, {"bad": bad})


def test_equal_input_gives_equal_bytes(tmp_path):
    array = RNG.standard_normal((4, 4)).astype(np.float32)
    same = {"x": array, "y": array, "z": "x"}
    other = {"x": np.asfortranarray(array), "y": array.astype(">f4"), "z": "xx"[:1]}
    write_pdparams(tmp_path / "a", same, {"c": np.array(1)})
    write_pdparams(tmp_path / "b", other, {"c": pickle.loads(pickle.dumps(np.array(1)))})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert equal(read_weights(tmp_path / "a").tensors, {"x": array, "y": array})


def test_as_numpy():
    values = [1.0, -2.5, 0.0]
    for tensor in (torch.tensor(values), paddle.to_tensor(values), paddle.to_tensor(values).astype("bfloat16")):
        array = as_numpy(tensor)
        assert array.tolist() == values and array.dtype == np.float32
    live = torch.zeros(2)
    snapshot = as_numpy(live)
    live += 1
    assert snapshot.tolist() == [0, 0]
    assert as_numpy(torch.tensor(3)).shape == () and as_numpy(paddle.to_tensor(3)).shape == ()
    assert as_numpy(TENSORS["double"]) is TENSORS["double"]
    with pytest.raises(TypeError):
        as_numpy("x")


def test_reading_paddle_files_imports_no_framework(tmp_path):
    write_pdparams(tmp_path / "a.pdparams", TENSORS)
    code = "import sys, shared.weights as w; w.read_weights(sys.argv[1]); print({'torch', 'paddle'} & {*sys.modules})"
    assert subprocess.check_output([sys.executable, "-c", code, str(tmp_path / "a.pdparams")]) == b"set()\n"


# ---------------------------------------------------------------- broken files


def three_forms(folder: Path) -> list:
    torch.save(torch_state(), folder / "zip.pth")
    torch.save(torch_state(), folder / "legacy.pth", _use_new_zipfile_serialization=False)
    write_pdparams(folder / "new.pdparams", TENSORS)
    paddle.save(trained()[0].state_dict(), str(folder / "old.pdparams"), protocol=2)
    return [folder / name for name in ("zip.pth", "legacy.pth", "new.pdparams", "old.pdparams")]


def test_truncated_anywhere(tmp_path):
    for path in three_forms(tmp_path):
        content, expected = path.read_bytes(), read_weights(path).tensors
        cuts = {
            *range(30),
            *range(len(content) - 30, len(content)),
            *random.Random(1).choices(range(len(content)), k=60),
        }
        for cut in cuts:
            path.write_bytes(content[:cut])
            try:
                tensors = read_weights(path).tensors
            except InputError as error:
                assert "\n" not in str(error) and str(path) in str(error)
            else:
                assert equal(tensors, expected), (path, cut)


def test_any_byte_changed_raises_nothing_else(tmp_path):
    rng = random.Random(2)
    for path in three_forms(tmp_path):
        content = path.read_bytes()
        for _ in range(80):
            broken = bytearray(content)
            broken[rng.randrange(len(content))] = rng.randrange(256)
            path.write_bytes(broken)
            try:
                read_weights(path)
            except InputError as error:
                assert "\n" not in str(error)


@pytest.mark.parametrize("suffix", ["pth", "pdparams", "other"])
def test_what_is_no_weight_file(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    assert "no such file" in refusal(path)
    for content in (b"hello, this is text\n" * 9, b"\x89PNG\r\n\x1a\n" + bytes(99), b"PK\x03\x04" + bytes(99), b"\x80"):
        path.write_bytes(content)
        refusal(path)
    path.write_bytes(b"")
    assert "empty" in refusal(path)
    path.unlink()
    path.mkdir()
    assert "folder" in refusal(path)
    path.rmdir()
    os.mkfifo(path)
    assert "regular" in refusal(path)


# ---------------------------------------------------------------- writing


LIMITED = """
import resource, sys, numpy as np
from shared import InputError
from shared.weights import *
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
big = {"w": np.ones(200_000, np.float32)}
out = sys.argv[1]
for write in (
    lambda: write_pdparams(out + "/a.pdparams", big),
    lambda: write_torch(out + "/a.pth", big),
    lambda: save_checkpoint(out, "latest", {"model.pdparams": big}, {"step": 2}),
):
    try:
        write()
    except InputError as error:
        print(error)
"""


def test_a_full_disk_leaves_the_old_files_whole(tmp_path):
    write_pdparams(tmp_path / "a.pdparams", TENSORS)
    write_torch(tmp_path / "a.pth", TENSORS)
    save_checkpoint(tmp_path, "latest", {"model.pdparams": TENSORS}, {"step": 1})
    before = sorted(tmp_path.rglob("*"))
    done = subprocess.run([sys.executable, "-c", LIMITED, str(tmp_path)], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert len(lines) == 3 and all("not written" in line and "ulimit -f" in line for line in lines) and not done.stderr
    assert ".tmp" not in done.stdout and "a.pth" in lines[1] and "latest-00000002" in lines[2]
    assert sorted(tmp_path.rglob("*")) == before
    assert all(equal(read_weights(tmp_path / name).tensors, TENSORS) for name in ("a.pdparams", "a.pth", "latest"))
