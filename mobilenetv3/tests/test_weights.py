"""convert.py, export.py, average_checkpoints.py and align.py as a user runs them."""

import argparse
import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import paddle
import pytest
import torch

from shared.align.formula import formula_state
from shared.deploying.export import inference_engine, onnx_engine
from shared.tests.scripts import call_script
from shared.weights import read_weights, save_checkpoint

import convert
import evaluate
from convert import load_official
from mini.draw import ensure_mini
from models import build_model
from options import parse_options
from reference.network import build_reference

FOLDER = Path(__file__).resolve().parents[1]
NETWORK = ["--model", "small", "--width_mult", "0.35", "--num_classes", "12"]


def call(script: str, *argv) -> subprocess.CompletedProcess:
    return call_script(FOLDER / script, *argv)


@pytest.fixture(scope="module")
def official(tmp_path_factory) -> Path:
    """A torch checkpoint in the official layout."""
    shapes = {n: tuple(t.shape) for n, t in build_reference(parse_options(NETWORK)).state_dict().items()}
    state = {name: torch.from_numpy(np.array(array)) for name, array in formula_state(shapes, seed=7).items()}
    for name in state:
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(4321)
    path = tmp_path_factory.mktemp("official") / "official.pth"
    torch.save(state, path)
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return ensure_mini(tmp_path_factory.mktemp("data") / "mini", train_per_class=2, val_per_class=2, size=40)


@pytest.fixture(scope="module")
def converted(official) -> Path:
    target = official.with_name("converted.pdparams")
    convert.main([str(official), str(target), *NETWORK])
    return target


def test_converted_weights_fill_the_network_and_give_the_twin_s_logits(official, converted):
    options = parse_options(NETWORK)
    model, twin = build_model(options), build_reference(options)
    state = paddle.load(str(converted))
    assert state.keys() == model.state_dict().keys()
    assert model.set_state_dict(state) == ([], [])
    twin.load_state_dict(torch.load(official, weights_only=True))
    direct = build_model(options)
    assert load_official(direct, official).ok
    images = np.random.default_rng(0).standard_normal((2, 3, 64, 64)).astype(np.float32)
    model.eval(), twin.eval(), direct.eval()
    with paddle.no_grad(), torch.no_grad():
        logits, expected = model(paddle.to_tensor(images)).numpy(), twin(torch.from_numpy(images)).numpy()
        np.testing.assert_array_equal(direct(paddle.to_tensor(images)).numpy(), logits)
    assert np.linalg.norm(logits - expected) <= 1e-5 * np.linalg.norm(expected)


def test_conversion_back_returns_the_same_bits(official, converted, tmp_path):
    convert.main([str(converted), str(tmp_path / "back.pth"), *NETWORK])
    first, back = (torch.load(path, weights_only=True) for path in (official, tmp_path / "back.pth"))
    assert list(first) == list(back)
    for name, tensor in first.items():
        assert back[name].dtype == tensor.dtype and torch.equal(back[name], tensor), name


def test_a_training_checkpoint_of_the_reference_converts(official, tmp_path):
    """Nested, with `module.` prefixes, an averaged model and argparse options beside it (NOTES 1.3)."""
    state = torch.load(official, weights_only=True)
    average = {f"module.{name}": tensor * 2 for name, tensor in state.items()} | {"n_averaged": torch.tensor(3)}
    checkpoint = {"model": state, "model_ema": average, "epoch": 5, "args": argparse.Namespace(lr=0.1)}
    torch.save(checkpoint, tmp_path / "checkpoint.pth")
    for entry, factor in (([], 1), (["--entry", "model_ema"], 2)):
        convert.main([str(tmp_path / "checkpoint.pth"), str(tmp_path / "out.pdparams"), *NETWORK, *entry])
        weight = paddle.load(str(tmp_path / "out.pdparams"))["classifier.3.weight"]
        np.testing.assert_array_equal(np.asarray(weight), factor * state["classifier.3.weight"].numpy().T)


def test_a_checkpoint_says_which_network_it_holds(official, converted, tmp_path):
    state = {"step": 1, "options": vars(parse_options(NETWORK))}
    save_checkpoint(tmp_path, "latest", {"model.pdparams": read_weights(converted).tensors}, state)
    convert.main([str(tmp_path / "latest"), str(tmp_path / "back.pth")])
    first, back = (torch.load(path, weights_only=True) for path in (official, tmp_path / "back.pth"))
    assert torch.equal(first["classifier.3.weight"], back["classifier.3.weight"]) and first.keys() == back.keys()


def test_another_network_s_checkpoint_is_refused(official, tmp_path):
    finished = call("convert.py", official, tmp_path / "out.pdparams", "--model", "large")
    assert finished.returncode == 2 and "Traceback" not in finished.stderr
    assert "missing" in finished.stderr and "unused" in finished.stderr and "wrong shape" in finished.stderr
    assert len(finished.stderr.splitlines()) <= 45
    assert not (tmp_path / "out.pdparams").exists()


def test_average_of_weight_files(converted, tmp_path):
    state = {name: np.asarray(tensor) for name, tensor in paddle.load(str(converted)).items()}
    paddle.save({name: tensor * 3 for name, tensor in state.items()}, str(tmp_path / "other.pdparams"))
    finished = call("average_checkpoints.py", converted, tmp_path / "other.pdparams", tmp_path / "mean.pdparams")
    assert finished.returncode == 0, finished.stderr
    for name, tensor in paddle.load(str(tmp_path / "mean.pdparams")).items():
        np.testing.assert_allclose(np.asarray(tensor), 2 * state[name], rtol=1e-6)


def test_export_gives_the_same_logits_in_both_engines(converted, tmp_path):
    finished = call("export.py", "--weights", converted, "--output_dir", tmp_path, "--val_crop_size", 64, *NETWORK)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.count("largest difference to dygraph") == 2
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"inference.json", "inference.pdiparams", "model.onnx", "network.json"}
    assert json.loads((tmp_path / "network.json").read_text())["num_classes"] == 12

    model = build_model(parse_options(NETWORK))
    load_official(model, converted)
    model.eval()
    for shape in ((1, 3, 64, 64), (3, 3, 96, 80)):  # another batch and another size than were exported
        images = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
        with paddle.no_grad():
            expected = model(paddle.to_tensor(images)).numpy()
        for engine in (inference_engine(tmp_path / "inference"), onnx_engine(tmp_path / "model.onnx")):
            np.testing.assert_allclose(engine(images), expected, rtol=0, atol=1e-4)


def test_all_engines_evaluate_alike(converted, data, tmp_path):
    output, sizes = tmp_path / "metrics.json", ["--val_resize_size", "40", "--val_crop_size", "32"]
    argv = ["--weights", converted, "--data_path", data, "--output", output, "--workers", 0, *sizes, *NETWORK]
    metrics = {}
    for engine in ("dygraph", "inference", "onnx"):
        evaluate.main([*map(str, argv), "--engine", engine])
        metrics[engine] = json.loads(output.read_text())
        assert metrics[engine]["images"] == 20 and metrics[engine]["acc1"] == metrics["dygraph"]["acc1"]
        assert metrics[engine]["loss"] == pytest.approx(metrics["dygraph"]["loss"], rel=1e-4)


def test_align_on_a_given_checkpoint(official, data, tmp_path):
    """The cheap stages on a user's weights: exit status, records, log, JSON."""
    argv = ["--weights", official, "--data_path", data, "--output_dir", tmp_path / "o", *NETWORK[2:]]
    stages = ["structure", "data", "forward", "metric", "loss"]
    finished = call("align.py", "--stage", *stages, *argv)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    report = json.loads((tmp_path / "o" / "align.json").read_text())
    assert report["passed"] and {entry["stage"] for entry in report["stages"]} == set(stages)
    for stage in stages:
        assert all((tmp_path / "o" / f"{stage}_{side}.npz").is_file() for side in ("paddle", "torch"))
        log = (tmp_path / "o" / "log" / f"{stage}_diff.log").read_text()
        assert log.rstrip().endswith("diff check passed")
    assert call("align.py", "--stage", "nothing").returncode == 2
    assert call("align.py", "--reference", tmp_path).returncode == 2


@pytest.mark.parametrize(
    ("file", "right", "wrong", "stage", "tensor"),
    [
        ("models/mobilenetv3.py", "BATCH_NORM_EPSILON = 0.001", "BATCH_NORM_EPSILON = 0.002", "forward", "/features.0"),
        ("engine.py", "    optimizer.clear_grad()\n", "", "backward", "/rmsprop/loss"),
    ],
)
def test_align_finds_a_planted_fault(official, data, tmp_path, file, right, wrong, stage, tensor):
    """In the network or in the training step: the structure passes, the stage names the first tensor that differs."""
    made = shutil.ignore_patterns("data", "output", "result", "logs", "tests", "__pycache__")
    faulty = Path(shutil.copytree(FOLDER, tmp_path / "faulty", ignore=made))
    assert right in (faulty / file).read_text()
    (faulty / file).write_text((faulty / file).read_text().replace(right, wrong))
    argv = ["--weights", official, "--data_path", data, "--output_dir", tmp_path / "o", *NETWORK[2:]]
    finished = call_script(faulty / "align.py", "--stage", "structure", stage, "--dtype", "float64", *argv)
    assert finished.returncode == 1, finished.stderr
    report = {entry["stage"]: entry for entry in json.loads((tmp_path / "o" / "align.json").read_text())["stages"]}
    assert report["structure"]["passed"] and not report[stage]["passed"]
    assert report[stage]["failures"][0].endswith(tensor)
