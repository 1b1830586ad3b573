"""Conversion of files: both ways, into a live network, from the command line, and what is refused."""

import subprocess
import sys
import warnings

import numpy as np
import paddle
import pytest
import torch
from paddle import nn

from shared import InputError
from shared.convert import ConversionError, convert_file, describe, fill, load_official
from shared.tests.layers import equal_bits, normal, random_state, small_networks
from shared.weights import read_pdparams, read_torch, read_weights, save_checkpoint, write_pdparams, write_torch


def test_files_both_ways_and_refusals(tmp_path):
    theirs, ours = small_networks()
    state = random_state(theirs, 3)
    source, middle, back = (tmp_path / name for name in ("a.pth", "b.pdparams", "c.pth"))
    write_torch(source, state)
    assert convert_file(source, middle, ours).ok
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # paddle only warns of keys that do not fit
        assert ours.set_state_dict(paddle.load(str(middle))) == ([], [])
    assert convert_file(middle, back, ours).ok and equal_bits(read_torch(back).tensors, state)
    theirs.load_state_dict(torch.load(back, weights_only=True))
    folder = save_checkpoint(tmp_path, "latest", {"model.pdparams": read_pdparams(middle).tensors}, {"step": 1})
    assert convert_file(folder, back, ours).ok and list(read_torch(back).tensors) == list(state)
    wrong = nn.Sequential(nn.Linear(4, 7))
    before = back.read_bytes()
    for bad in ((source, back), (middle, tmp_path / "d.pdparams"), (source, tmp_path / "d.npz"), (folder, middle)):
        with pytest.raises(InputError, match="nothing to convert|end its name"):
            convert_file(*bad, ours)
    for bad in ((source, tmp_path / "e.pdparams"), (middle, back)):
        with pytest.raises(ConversionError, match=f"^{bad[0]}: "):
            convert_file(*bad, wrong)
    assert back.read_bytes() == before and not (tmp_path / "e.pdparams").exists()


def test_load_official(tmp_path):
    theirs, ours = small_networks()
    state = random_state(theirs, 4)
    write_torch(tmp_path / "a.pth", state)
    x = normal(3, 4)
    theirs.load_state_dict({name: torch.from_numpy(np.array(array)) for name, array in state.items()})
    expected = theirs.eval()(torch.from_numpy(x)).detach().numpy()
    assert load_official(ours, tmp_path / "a.pth").ok
    ours.eval()
    np.testing.assert_allclose(ours(paddle.to_tensor(x)).numpy(), expected, rtol=1e-4, atol=1e-5)
    write_pdparams(tmp_path / "b.pdparams", ours.state_dict())
    double = small_networks()[1].to(dtype="float64")
    for name in ("a.pth", "b.pdparams"):
        report = load_official(double, tmp_path / name)
        assert len(report.widened) == 8
        double.eval()
        got = double(paddle.to_tensor(x.astype(np.float64)))
        assert got.dtype == paddle.float64
        np.testing.assert_allclose(got.numpy(), expected, rtol=1e-4, atol=1e-5)
    untouched = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1D(6), nn.Linear(6, 5))
    before = untouched[0].weight.numpy()
    with pytest.raises(ConversionError, match=r"2\.weight"):
        load_official(untouched, tmp_path / "a.pth")
    assert np.array_equal(untouched[0].weight.numpy(), before)


def test_command_line(tmp_path):
    write_torch(tmp_path / "a.pth", {"layer.weight": normal(2, 3), "count": np.array(4)})
    text = describe(tmp_path / "a.pth")
    assert "layer.weight  [2, 3]  float32" in text and "2 tensors, 7 numbers" in text
    (tmp_path / "paper").mkdir()
    script = "import sys; print(sys.argv[1:]); sys.exit(5)"
    (tmp_path / "paper" / "convert.py").write_text(script)

    def call(*arguments):
        command = [sys.executable, "-m", "shared.convert", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    done = call(tmp_path / "a.pth", "b.pdparams", "--paper", tmp_path / "paper", "--model", "small", "--width=2")
    assert done.returncode == 5 and done.stdout.endswith("'b.pdparams', '--model', 'small', '--width=2']\n")
    assert call("--help").returncode == 0 and call(tmp_path / "a.pth").stdout == text + "\n"
    for bad in (
        (tmp_path / "none.pth",),
        (tmp_path / "a.pth", "b.pdparams"),
        (tmp_path / "a.pth", "b", "--paper", "x"),
    ):
        done = call(*bad)
        assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert call(tmp_path / "a.pth", "--model", "small").returncode == 2
    assert read_weights(tmp_path / "a.pth").tensors["count"] == 4


@pytest.mark.parametrize("suffix", [".pth", ".pdparams"])
def test_tensors_that_a_file_lacks_can_be_kept(tmp_path, suffix):
    theirs, ours = small_networks()
    state, own = random_state(theirs, 0), normal(6)
    ours[0].bias.set_value(own)
    write_torch(tmp_path / "a.pth", state)
    if suffix == ".pdparams":
        convert_file(tmp_path / "a.pth", tmp_path / "a.pdparams", ours)
    file = read_weights(tmp_path / f"a{suffix}")
    del file.tensors["0.bias"]
    with pytest.raises(ConversionError, match="missing"):
        fill(ours, file)
    fill(ours, file, keeps=lambda name: name == "0.bias")
    np.testing.assert_array_equal(ours[0].bias.numpy(), own)
    np.testing.assert_array_equal(ours[0].weight.numpy(), state["0.weight"].T)
