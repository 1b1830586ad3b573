"""convert.py, export.py, average_checkpoints.py and align.py as a user runs them."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import paddle
import pytest
import torch

from shared.align.formula import formula_state
from shared.tests.scripts import call_script

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
def converted(official) -> Path:
    target = official.with_name("converted.pdparams")
    finished = call("convert.py", official, target, *NETWORK)
    assert finished.returncode == 0, finished.stderr
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
    finished = call("convert.py", converted, tmp_path / "back.pth", *NETWORK)
    assert finished.returncode == 0, finished.stderr
    first, back = (torch.load(path, weights_only=True) for path in (official, tmp_path / "back.pth"))
    assert list(first) == list(back)
    for name, tensor in first.items():
        assert back[name].dtype == tensor.dtype and torch.equal(back[name], tensor), name


def test_a_training_checkpoint_of_the_reference_converts(official, tmp_path):
    """Nested, with `module.` prefixes, an averaged model and argparse options beside it (NOTES 1.3)."""
    import argparse

    state = torch.load(official, weights_only=True)
    average = {f"module.{name}": tensor * 2 for name, tensor in state.items()} | {"n_averaged": torch.tensor(3)}
    checkpoint = {"model": state, "model_ema": average, "epoch": 5, "args": argparse.Namespace(lr=0.1)}
    torch.save(checkpoint, tmp_path / "checkpoint.pth")
    for entry, factor in (([], 1), (["--entry", "model_ema"], 2)):
        finished = call("convert.py", tmp_path / "checkpoint.pth", tmp_path / "out.pdparams", *NETWORK, *entry)
        assert finished.returncode == 0, finished.stderr
        weight = paddle.load(str(tmp_path / "out.pdparams"))["classifier.3.weight"]
        np.testing.assert_array_equal(np.asarray(weight), factor * state["classifier.3.weight"].numpy().T)


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

    from shared.deploying.export import inference_engine, onnx_engine

    model = build_model(parse_options(NETWORK))
    load_official(model, converted)
    model.eval()
    for shape in ((1, 3, 64, 64), (3, 3, 96, 80)):  # another batch and another size than were exported
        images = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
        with paddle.no_grad():
            expected = model(paddle.to_tensor(images)).numpy()
        for engine in (inference_engine(tmp_path / "inference"), onnx_engine(tmp_path / "model.onnx")):
            np.testing.assert_allclose(engine(images), expected, rtol=0, atol=1e-4)


def test_both_engines_evaluate_alike(converted, tmp_path):
    data = ensure_mini(tmp_path / "mini", train_per_class=1, val_per_class=2, size=40)
    metrics = {}
    for engine in ("dygraph", "inference"):
        finished = call(
            "evaluate.py", "--weights", converted, "--data_path", data, "--engine", engine, "--workers", 0,
            "--val_resize_size", 40, "--val_crop_size", 32, "--output", tmp_path / "metrics.json", *NETWORK,
        )  # fmt: skip
        assert finished.returncode == 0, finished.stderr
        metrics[engine] = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["dygraph"]["images"] == metrics["inference"]["images"] == 20
    assert metrics["dygraph"]["acc1"] == metrics["inference"]["acc1"]
    assert metrics["dygraph"]["loss"] == pytest.approx(metrics["inference"]["loss"], rel=1e-4)


def test_folders_of_synsets_are_labelled_as_in_imagenet(tmp_path):
    """A part of ImageNet keeps the whole's labels under a network of 1000 classes (NOTES 3.3)."""
    from PIL import Image

    from datasets import SYNSETS, build_dataset, classes_for

    for synset in ("n01532829", "n12057211"):
        folder = tmp_path / "val" / synset
        folder.mkdir(parents=True)
        Image.new("RGB", (40, 30), "red").save(folder / "x.png")
    options = parse_options(["--data_path", str(tmp_path)])
    dataset = build_dataset(options, "val", classes=classes_for(tmp_path / "val", 1000))
    assert dataset.targets == [12, 986] and SYNSETS[12] == "n01532829"
    assert classes_for(tmp_path / "val", 2) is None


def test_align_on_a_given_checkpoint(official, tmp_path):
    """The cheap stages on a user's weights: exit status, records, log, JSON."""
    data = ensure_mini(tmp_path / "mini", train_per_class=2, val_per_class=2, size=40)
    argv = ["--weights", official, "--data_path", data, "--output_dir", tmp_path / "o", *NETWORK[2:]]
    finished = call("align.py", "--stage", "structure", "data", "forward", "metric", "loss", *argv)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    report = json.loads((tmp_path / "o" / "align.json").read_text())
    assert report["passed"] and {entry["stage"] for entry in report["stages"]} == {
        "structure", "data", "forward", "metric", "loss",
    }  # fmt: skip
    for stage in ("structure", "data", "forward", "metric", "loss"):
        assert (tmp_path / "o" / f"{stage}_paddle.npz").is_file() and (tmp_path / "o" / f"{stage}_torch.npz").is_file()
        log = (tmp_path / "o" / "log" / f"{stage}_diff.log").read_text()
        assert log.rstrip().endswith("diff check passed")
    assert call("align.py", "--stage", "nothing").returncode == 2
    assert call("align.py", "--reference", tmp_path).returncode == 2


def test_align_finds_a_planted_fault(official, tmp_path):
    """A wrong epsilon in batch norm: the structure passes, the forward stage names the first stage of the network."""
    data = ensure_mini(tmp_path / "mini", train_per_class=2, val_per_class=2, size=40)
    faulty = tmp_path / "faulty"
    made = shutil.ignore_patterns("data", "output", "result", "logs", "tests", "__pycache__")
    shutil.copytree(FOLDER, faulty, ignore=made)
    source = faulty / "models" / "mobilenetv3.py"
    source.write_text(source.read_text().replace("BATCH_NORM_EPSILON = 0.001", "BATCH_NORM_EPSILON = 0.002"))
    finished = subprocess.run(
        [sys.executable, str(faulty / "align.py"), "--stage", "structure", "forward", "--dtype", "float64"]
        + ["--weights", official, "--data_path", data, "--output_dir", tmp_path / "o", *NETWORK[2:]],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert finished.returncode == 1, finished.stderr
    report = {entry["stage"]: entry for entry in json.loads((tmp_path / "o" / "align.json").read_text())["stages"]}
    assert report["structure"]["passed"] and not report["forward"]["passed"]
    assert report["forward"]["failures"][0].endswith("features.0")
