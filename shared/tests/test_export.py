"""Graphs and their engines against the network they were made of, and what is written of them when."""

import argparse
import importlib.util
import json
import os
import sys

import numpy as np
import paddle
import pytest
from paddle.static import InputSpec

from shared import InputError
from shared.deploying.export import (
    add_format_option,
    deliver,
    inference_engine,
    onnx_engine,
    quiet,
    save_graph,
    translate_to_onnx,
)
from shared.deploying.measure import has_onnx

#: what can be written here: on Python 3.13 no ONNX
KINDS = ["inference", "onnx"] if has_onnx() else ["inference"]


class Twice(paddle.nn.Layer):
    """Two inputs, two outputs, weights."""

    def __init__(self):
        super().__init__()
        self.linear = paddle.nn.Linear(3, 2)

    def forward(self, x, y):
        return self.linear(x), x - y


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    paddle.seed(0)
    layer = Twice()
    rng = np.random.default_rng(0)
    inputs = [rng.standard_normal((4, 3)).astype(np.float32) for _ in range(2)]
    expected = [output.numpy() for output in layer(*map(paddle.to_tensor, inputs))]
    folder = tmp_path_factory.mktemp("exported")
    spec = [InputSpec([None, 3], "float32", name=name) for name in ("x", "y")]
    prefix = save_graph(layer, spec, folder / "inference")
    if "onnx" in KINDS:
        translate_to_onnx(prefix, folder / "model.onnx")
    return folder, inputs, expected


@pytest.mark.parametrize("kind", KINDS)
def test_engines_give_the_outputs_by_name(exported, kind):
    folder, inputs, expected = exported
    names = ("scores", "rest")
    if kind == "inference":
        engine = inference_engine(folder / "inference", outputs=names)
    else:
        engine = onnx_engine(folder / "model.onnx", names)
    for rows in (4, 1):
        found = engine(*(array[:rows] for array in inputs))
        assert list(found) == list(names)
        for name, array in zip(names, expected, strict=True):
            np.testing.assert_allclose(found[name], array[:rows], atol=1e-6)
    with pytest.raises(ValueError):  # one input too few
        engine(inputs[0])


def test_one_output_needs_no_name(tmp_path):
    paddle.seed(0)
    layer = paddle.nn.Linear(3, 2)
    images = np.ones((2, 3), np.float32)
    expected = layer(paddle.to_tensor(images)).numpy()
    prefix = save_graph(layer, [InputSpec([None, 3], "float32")], tmp_path / "inference")
    np.testing.assert_allclose(inference_engine(prefix)(images), expected, atol=1e-6)


@pytest.mark.parametrize("wrong", [2e-4, float("nan")])
def test_a_graph_that_differs_is_not_delivered(exported, tmp_path, capsys, wrong):
    folder = exported[0]
    differences = {"Paddle Inference": (1e-6, 1e-4), "ONNX Runtime": (wrong, 1e-4)}
    assert deliver(folder, tmp_path / "out", ["inference", "onnx"], differences, {}) == 1
    assert not (tmp_path / "out").exists() and capsys.readouterr().out.endswith("nothing was written\n")


@pytest.mark.parametrize("formats", [KINDS, *([kind] for kind in KINDS)])
def test_what_is_delivered(exported, tmp_path, capsys, formats):
    folder = exported[0]
    assert deliver(folder, tmp_path, formats, {"engine": (1e-6, 1e-4)}, {"model": "small"}) == 0
    expected = {"network.json"} | ({"inference.json", "inference.pdiparams"} if "inference" in formats else set())
    expected |= {"model.onnx"} if "onnx" in formats else set()
    assert {path.name for path in tmp_path.iterdir()} == expected
    assert json.loads((tmp_path / "network.json").read_text()) == {"model": "small"}
    for name in expected - {"network.json"}:
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()
    assert "engine: largest difference to dygraph 1.00e-06 (limit 1e-04)" in capsys.readouterr().out


def test_quiet_lets_a_failure_speak(capfd):
    with quiet():
        os.write(1, b"hidden")
    with pytest.raises(RuntimeError), quiet():
        os.write(1, b"shown")
        raise RuntimeError
    assert capfd.readouterr().err == "shown"


def test_without_paddle2onnx_the_default_leaves_onnx_out(tmp_path, monkeypatch, capsys):
    def formats() -> list[str]:
        parser = argparse.ArgumentParser()
        add_format_option(parser)
        return parser.parse_args([]).format

    assert formats() == KINDS
    monkeypatch.setitem(sys.modules, "paddle2onnx", None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert formats() == ["inference"]
    for name in ("inference.json", "inference.pdiparams"):
        (tmp_path / name).write_text("x")
    assert deliver(tmp_path, tmp_path / "out", formats(), {"Paddle Inference": (0.0, 1e-4)}, {}) == 0
    assert "ONNX left out: paddle2onnx is not installed" in capsys.readouterr().out.splitlines()[-1]
    with pytest.raises(InputError, match="--format onnx: paddle2onnx is not installed"):
        translate_to_onnx(tmp_path / "inference", tmp_path / "model.onnx")
