"""Damaged weight files and checkpoints, thousands of them; and that the fuzzing itself would notice."""

import subprocess
from collections import OrderedDict

import numpy as np
import pytest
import torch

from shared import InputError
from shared.align.record import Record
from shared.tests.fuzz import fuzz_reader, mutations
from shared.weights import load_checkpoint, read_pdparams, read_torch, save_checkpoint, write_pdparams, write_torch

TENSORS = {
    "conv.weight": np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2),
    "norm.running_var": np.ones(3, np.float64),
    "norm.num_batches_tracked": np.array(7, np.int64),
}


def torch_zip(path):
    write_torch(path, TENSORS)


def torch_legacy(path):
    state = OrderedDict((name, torch.from_numpy(array)) for name, array in TENSORS.items())
    torch.save({"model": state, "epoch": 3}, path, _use_new_zipfile_serialization=False)


def pdparams(path):
    write_pdparams(path, TENSORS)


def record(path):
    Record(TENSORS).save(path)


@pytest.mark.parametrize(
    "write, read, name, count",
    [
        (torch_zip, read_torch, "w.pth", 1000),
        (torch_legacy, read_torch, "w.pth", 800),
        (pdparams, read_pdparams, "w.pdparams", 1200),
        (record, Record.load, "w.npz", 500),
    ],
    ids=["torch", "torch_legacy", "pdparams", "record"],
)
def test_damaged_files(write, read, name, count, tmp_path):
    path = tmp_path / name
    write(path)
    assert fuzz_reader(read, path, path.read_bytes(), count) > count // 2


def test_damaged_checkpoints(tmp_path):
    folder = save_checkpoint(tmp_path, "latest", {"model.pdparams": TENSORS}, {"step": 3, "options": {"lr": 0.1}})
    state = folder / "state.json"
    content = state.read_bytes()
    assert fuzz_reader(lambda path: load_checkpoint(path.parent), state, content, 500) > 100
    state.write_bytes(content)
    model = folder / "model.pdparams"
    assert fuzz_reader(lambda path: load_checkpoint(path.parent), model, model.read_bytes(), 300) > 150


def test_mutations_follow_the_seed():
    content = b"first line 1.5\nsecond 2\n"
    once, again, other = (list(mutations(content, 50, seed)) for seed in (1, 1, 2))
    assert once == again != other
    assert len(set(once)) > 40


def crashes(path):
    path.read_bytes().decode("ascii")


def wrong_name(path):
    raise InputError("something is wrong")


def two_lines(path):
    raise InputError(f"{path}: wrong\nand more")


def starts_a_program(path):
    subprocess.run(["true"], check=True)


@pytest.mark.parametrize("reader", [crashes, wrong_name, two_lines, starts_a_program])
def test_a_bad_reader_is_noticed(reader, tmp_path):
    with pytest.raises(AssertionError, match="copy"):
        fuzz_reader(reader, tmp_path / "file.txt", b"some text 1 2 3\n" * 3, 200)
