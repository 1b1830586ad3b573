"""Weight files and checkpoints: real tools' files are read, hostile and broken ones refused, no write is half done."""

import argparse
import json
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections import OrderedDict
from pathlib import Path

import numpy as np
import paddle
import pytest
import torch

from shared import InputError
from shared.formula import formula_state, read_shapes
from shared.weights import (
    as_numpy,
    atomic_write,
    atomic_write_text,
    load_checkpoint,
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


def refusal(path: Path, read=read_weights, **options) -> str:
    """The one line with which a file is refused."""
    with pytest.raises(InputError) as caught:
        read(path, **options)
    text = str(caught.value)
    assert text.startswith(str(path)) and "\n" not in text and len(text) < len(str(path)) + 300
    return text


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
    file = read(OrderedDict(torch_state(), height=192, width=640, use_stereo=False))  # monodepth2's encoder.pth
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


# ---------------------------------------------------------------- hostile and broken files


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


def test_atomic_write(tmp_path):
    path = tmp_path / "deep" / "er" / "a.txt"
    atomic_write_text(path, "eins")
    with pytest.raises(ZeroDivisionError):
        atomic_write(path, lambda file: file.write(b"zwei") and 1 / 0)
    assert path.read_text() == "eins" and os.listdir(path.parent) == ["a.txt"]
    for bad in (path / "below", path.parent):
        with pytest.raises(InputError) as caught:
            atomic_write_text(bad, "x")
        assert str(caught.value).startswith(f"{bad}: not written: ") and "choose another" in str(caught.value)
    assert path.read_text() == "eins" and os.listdir(path.parent) == ["a.txt"]


def test_a_reader_never_sees_half_a_file(tmp_path):
    path = tmp_path / "a.bin"
    code = "import sys; from shared.weights import atomic_write as w\n"
    code += "for i in range(60): w(sys.argv[1], lambda file: [file.write(bytes([i]) * 1000) for _ in range(1000)])"
    child = subprocess.Popen([sys.executable, "-c", code, str(path)])
    seen = set()
    while child.poll() is None:
        if path.exists() or seen:
            content = path.read_bytes()
            assert content == content[:1] * 1_000_000
            seen.add(content[0])
    assert child.returncode == 0 and len(seen) > 1


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


# ---------------------------------------------------------------- checkpoints


def test_checkpoints(tmp_path):
    def save(label, step, **more):
        files = {"model.pdparams": {"step": np.array(step)}, "optimizer.pdopt": {"rate": {"last": 0.5}}}
        return save_checkpoint(tmp_path, label, files, {"step": step, **more})

    stale = tmp_path / "checkpoints" / f".tmp-{os.uname().nodename}-{2**22 + 1}-00000000"  # no process has this number
    stale.mkdir(parents=True)
    mine = tmp_path / "checkpoints" / f".tmp-{os.uname().nodename}-{os.getpid()}-00000000"
    mine.mkdir()
    save("best", 3, score=np.float32(0.5))
    for step in (10, 20, 20, 20, 30):
        folder = save("latest", step, history=[1.5, None])
        checkpoint = load_checkpoint(tmp_path / "latest")
        assert checkpoint.state == {"step": step, "history": [1.5, None]}
        assert checkpoint.arrays["model.pdparams"].tensors["step"] == step
        assert checkpoint.arrays["optimizer.pdopt"].meta == {"rate": {"last": 0.5}}
        assert folder == (tmp_path / "latest").resolve() and folder.name.startswith(f"latest-{step:08d}")
    assert load_checkpoint(tmp_path / "best").state == {"step": 3, "score": 0.5}
    assert {p.name for p in (tmp_path / "checkpoints").iterdir()} == {"best-00000003", "latest-00000030", mine.name}
    assert read_weights(tmp_path / "latest").tensors["step"] == 30
    assert not Path(os.readlink(tmp_path / "latest")).is_absolute()
    tmp_path.rename(tmp_path.parent / "moved")
    assert load_checkpoint(tmp_path.parent / "moved" / "latest").state["step"] == 30


def test_after_every_step_on_disk_the_link_is_whole(tmp_path, monkeypatch):
    def save(step):
        save_checkpoint(tmp_path, "latest", {"model.pdparams": {"w": np.full(3, step)}}, {"step": step})

    def watched(function):
        def call(*arguments, **options):
            result = function(*arguments, **options)
            checkpoint = load_checkpoint(tmp_path / "latest")
            assert (checkpoint.arrays["model.pdparams"].tensors["w"] == checkpoint.state["step"]).all()
            seen.append(checkpoint.state["step"])
            return result

        return call

    save(1)
    seen = []
    steps = [(Path, "replace"), (Path, "symlink_to"), (Path, "unlink"), (os, "replace"), (shutil, "rmtree")]
    for owner, name in steps:
        monkeypatch.setattr(owner, name, watched(getattr(owner, name)))
    for step in (1, 1, 2, 2, 1):
        save(step)
    assert len(seen) >= 5 * 4 and seen[-1] == 1 and 2 in seen


def test_folders_that_are_no_checkpoint(tmp_path):
    files = {"model.pdparams": {"w": np.ones(9)}, "ema.pdparams": {"w": np.ones(9)}}
    folder = save_checkpoint(tmp_path, "latest", files, {"step": 1})
    assert "latest?" in refusal(tmp_path, load_checkpoint)
    assert "no such" in refusal(tmp_path / "none", load_checkpoint)
    assert "model.pdparams" in refusal(tmp_path)
    (folder / "ema.pdparams").unlink()
    assert "without ema.pdparams" in refusal(tmp_path / "latest", load_checkpoint)
    (folder / "ema.pdparams").write_bytes((folder / "model.pdparams").read_bytes()[:-40])
    refusal(folder, load_checkpoint)
    for text in ("", "[1]", "{}", '{"step": 1}', '{"step": 1, "checkpoint_files": ["../x"]}', "[" * 100_000, "\xff"):
        (folder / "state.json").write_text(text, encoding="latin1")
        refusal(folder, load_checkpoint)
    (tmp_path / "best").mkdir()
    with pytest.raises(InputError, match="in the way"):
        save_checkpoint(tmp_path, "best", files, {"step": 1})
    with pytest.raises(TypeError):
        save_checkpoint(tmp_path / "new", "latest", {"model.pdparams": {"w": object()}}, {"step": 1})
    assert os.listdir(tmp_path / "new" / "checkpoints") == []


SAVER = """
import sys, numpy as np
from shared.weights import save_checkpoint
step = int(sys.argv[2])
while True:
    step += 1
    arrays = {"model.pdparams": {"w": np.full(100_000, step)}, "optimizer.pdopt": {"m": np.full(50_000, step)}}
    save_checkpoint(sys.argv[1], "latest", arrays, {"step": step})
    print(step, flush=True)
"""


def test_killed_at_any_moment_the_last_checkpoint_is_whole(tmp_path):
    rng, last = random.Random(), 0
    for _ in range(8):
        child = subprocess.Popen(
            [sys.executable, "-c", SAVER, str(tmp_path), str(last)], stdout=subprocess.PIPE, text=True
        )
        first = int(child.stdout.readline())
        time.sleep(rng.uniform(0, 0.05))
        child.send_signal(signal.SIGKILL)
        told = [first, *map(int, child.communicate()[0].split())]
        checkpoint = load_checkpoint(tmp_path / "latest")
        step = checkpoint.state["step"]
        assert step in (told[-1], told[-1] + 1) and step > last
        assert (checkpoint.arrays["model.pdparams"].tensors["w"] == step).all()
        assert (checkpoint.arrays["optimizer.pdopt"].tensors["m"] == step).all()
        last = step
    save_checkpoint(tmp_path, "latest", {"model.pdparams": {}}, {"step": last})  # clears what the killed ones left
    assert len(os.listdir(tmp_path / "checkpoints")) == 1 and len(os.listdir(tmp_path)) == 2


# ---------------------------------------------------------------- formula


def test_formula(tmp_path):
    (tmp_path / "a.tsv").write_text(
        "c.weight\t2,3\tfloat32\nb.num_batches_tracked\t\tint64\nb.running_var\t4\tfloat32\n"
    )
    shapes = read_shapes(tmp_path / "a.tsv")
    assert shapes == {"c.weight": (2, 3), "b.num_batches_tracked": (), "b.running_var": (4,)}
    state = formula_state(shapes, seed=7, overrides={"extra": np.ones(1)})
    assert {k: v.dtype.name for k, v in state.items()} == {
        "c.weight": "float32", "b.num_batches_tracked": "int64", "b.running_var": "float32", "extra": "float64",
    }  # fmt: skip
    assert json.dumps(state["c.weight"].ravel().tolist()[:2]) == "[-0.18217486143112183, -0.7832104563713074]"
    for text in ("a\t1\n", "a\tx\tfloat32\n"):
        (tmp_path / "a.tsv").write_text(text)
        with pytest.raises(InputError, match="line 1"):
            read_shapes(tmp_path / "a.tsv")
