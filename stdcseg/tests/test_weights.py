"""convert.py, export.py and align.py as a user runs them."""

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
from shared.weights import save_checkpoint

from convert import load_official
from golden_files import canonical, official_shapes
from models import build_classifier, build_model
from options import parse_options
from reference.network import build_reference, build_reference_classifier

FOLDER = Path(__file__).resolve().parents[1]
NARROW = ["--base", "8", "--num_classes", "11"]


def call(script: str, *argv) -> subprocess.CompletedProcess:
    return call_script(FOLDER / script, *argv)


def drawn(names: dict[str, tuple]) -> dict[str, torch.Tensor]:
    """Formula weights in the official layout; aliases share theirs, the counters have counted."""
    state = formula_state({canonical(name): shape for name, shape in names.items()}, seed=7)
    for name in state:
        if name.endswith("num_batches_tracked"):
            state[name] = np.array(4321)
    return {name: torch.from_numpy(np.array(state[canonical(name)])) for name in names}


def shapes(model: torch.nn.Module) -> dict[str, tuple]:
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}


@pytest.fixture(scope="module")
def official(tmp_path_factory) -> Path:
    """A narrow segmentation checkpoint, bare, as the authors save theirs."""
    path = tmp_path_factory.mktemp("official") / "model_maxmIOU50.pth"
    torch.save(drawn(shapes(build_reference(parse_options(NARROW)))), path)
    return path


@pytest.fixture(scope="module")
def converted(official) -> Path:
    target = official.with_name("converted.pdparams")
    finished = call("convert.py", official, target, *NARROW)
    assert finished.returncode == 0, finished.stderr
    assert "segmentation network" in finished.stdout
    return target


def test_converted_weights_fill_the_network_and_give_the_twin_s_logits(official, converted):
    options = parse_options(NARROW)
    model, twin = build_model(options), build_reference(options)
    state = paddle.load(str(converted))
    assert state.keys() == model.state_dict().keys()
    assert model.set_state_dict(state) == ([], [])
    twin.load_state_dict(torch.load(official, weights_only=True))
    direct = build_model(options)
    assert load_official(direct, official).ok
    images = np.random.default_rng(0).standard_normal((1, 3, 64, 96)).astype(np.float32)
    model.eval(), twin.eval(), direct.eval()
    with paddle.no_grad(), torch.no_grad():
        logits, expected = model(paddle.to_tensor(images))["out"].numpy(), twin(torch.from_numpy(images))["out"].numpy()
        np.testing.assert_array_equal(direct(paddle.to_tensor(images))["out"].numpy(), logits)
    assert np.linalg.norm(logits - expected) <= 1e-5 * np.linalg.norm(expected)


@pytest.mark.parametrize("variant", ["stdc1", "stdc2"])
@pytest.mark.parametrize("aliases", [True, False])
def test_backbone_archives_convert_and_classify(variant, aliases, tmp_path):
    """Whole official shapes, no option given: the file says which of the two it is."""
    names = official_shapes(variant, classifier=True)
    state = drawn(names)
    if not aliases:  # the archives may or may not list the blocks twice
        state = {name: value for name, value in state.items() if canonical(name) == name}
    torch.save({"state_dict": state, "epoch": 300, "best": 73.9}, tmp_path / "STDCNet.tar")
    finished = call("convert.py", tmp_path / "STDCNet.tar", tmp_path / "backbone.pdparams")
    assert finished.returncode == 0, finished.stderr
    options = parse_options(["--backbone", {"stdc1": "STDCNet813", "stdc2": "STDCNet1446"}[variant]])
    assert f"{options.backbone}, ImageNet classifier: " in finished.stdout
    model, twin = build_classifier(options), build_reference_classifier(options)
    assert model.set_state_dict(paddle.load(str(tmp_path / "backbone.pdparams"))) == ([], [])
    twin.load_state_dict(drawn(names))
    images = np.random.default_rng(1).standard_normal((1, 3, 64, 64)).astype(np.float32)
    model.eval(), twin.eval()
    with paddle.no_grad(), torch.no_grad():
        logits, expected = model(paddle.to_tensor(images)).numpy(), twin(torch.from_numpy(images)).numpy()
    assert np.linalg.norm(logits - expected) <= 1e-5 * np.linalg.norm(expected)
    # fc is square: a forgotten transpose would load without complaint, and classify at random
    segmentation = build_model(options)
    load_official(segmentation.cp.backbone, tmp_path / "STDCNet.tar")
    np.testing.assert_array_equal(segmentation.cp.backbone.fc.weight.numpy(), state["fc.weight"].numpy().T)

    finished = call("convert.py", tmp_path / "backbone.pdparams", tmp_path / "back.pth")
    assert finished.returncode == 0, finished.stderr
    back = torch.load(tmp_path / "back.pth", weights_only=True)
    assert list(back) == list(names)
    for name, tensor in state.items():
        assert back[name].dtype == tensor.dtype and torch.equal(back[name], tensor), name


def test_conversion_back_returns_the_same_bits(official, converted, tmp_path):
    finished = call("convert.py", converted, tmp_path / "back.pth", *NARROW)
    assert finished.returncode == 0, finished.stderr
    first, back = (torch.load(path, weights_only=True) for path in (official, tmp_path / "back.pth"))
    assert list(first) == list(back)
    for name, tensor in first.items():
        assert back[name].dtype == tensor.dtype and torch.equal(back[name], tensor), name


def test_nothing_is_lost_silently(official, tmp_path):
    """One tensor less, one more, or two aliases that differ: refused, with its name."""
    state = torch.load(official, weights_only=True)
    changes = {
        "ffm.conv1.weight": lambda s: s.pop("ffm.conv1.weight"),
        "conv_out.extra": lambda s: s.update({"conv_out.extra": torch.zeros(3)}),
        "cp.backbone.x2.0.0.conv.weight": lambda s: s.update(
            {"cp.backbone.x2.0.0.conv.weight": torch.zeros_like(s["cp.backbone.x2.0.0.conv.weight"])}
        ),
    }
    for name, change in changes.items():
        changed = dict(state)
        change(changed)
        torch.save(changed, tmp_path / "changed.pth")
        finished = call("convert.py", tmp_path / "changed.pth", tmp_path / "out.pdparams", *NARROW)
        assert finished.returncode == 2 and name in finished.stderr and "Traceback" not in finished.stderr
        assert not (tmp_path / "out.pdparams").exists()


def test_another_network_s_checkpoint_is_refused(official, tmp_path):
    argv = ["--backbone", "STDCNet1446", *NARROW]
    finished = call("convert.py", official, tmp_path / "out.pdparams", *argv)
    assert finished.returncode == 2 and "Traceback" not in finished.stderr
    assert "missing" in finished.stderr and len(finished.stderr.splitlines()) <= 45
    assert not (tmp_path / "out.pdparams").exists()


def test_the_network_options_come_from_a_checkpoint(converted, official, tmp_path):
    tensors = {name: np.asarray(value) for name, value in paddle.load(str(converted)).items()}
    state = {"step": 1, "options": vars(parse_options(NARROW))}
    save_checkpoint(tmp_path, "latest", {"model.pdparams": tensors}, state)
    finished = call("convert.py", tmp_path / "latest", tmp_path / "back.pth")
    assert finished.returncode == 0, finished.stderr
    assert list(torch.load(tmp_path / "back.pth", weights_only=True)) == list(torch.load(official, weights_only=True))
    file = tmp_path / "latest" / "state.json"
    file.write_text(file.read_text().replace('"base": 8', '"base": -1'))
    finished = call("convert.py", tmp_path / "latest", tmp_path / "again.pth")
    assert finished.returncode == 2 and "base is -1" in finished.stderr and "Traceback" not in finished.stderr
    assert not (tmp_path / "again.pth").exists()


def test_export_gives_the_same_logits_in_both_engines(converted, tmp_path):
    finished = call("export.py", "--weights", converted, "--output_dir", tmp_path, *NARROW)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.count("largest difference to dygraph") == 2
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"inference.json", "inference.pdiparams", "model.onnx", "network.json"}
    assert json.loads((tmp_path / "network.json").read_text())["num_classes"] == 11

    from shared.deploying.export import inference_engine, onnx_engine

    model = build_model(parse_options(NARROW))
    load_official(model, converted)
    model.eval()
    engines = inference_engine(tmp_path / "inference"), onnx_engine(tmp_path / "model.onnx")
    for shape in ((1, 3, 64, 128), (2, 3, 75, 101)):  # any batch, any size
        images = np.random.default_rng(2).standard_normal(shape).astype(np.float32)
        with paddle.no_grad():
            expected = model.segment(paddle.to_tensor(images)).numpy()
        for engine in engines:
            assert np.abs(engine(images) - expected).max() <= 1e-4 * max(1, np.abs(expected).max())


def test_align_passes_on_a_narrow_network_and_names_a_planted_fault(tmp_path):
    """A copy of the folder whose context path is resized bilinearly instead: the forward stage must say so."""
    copy = tmp_path / "stdcseg"
    ignore = shutil.ignore_patterns("__pycache__", "data", "output", "result", "logs", "tests")
    shutil.copytree(FOLDER, copy, ignore=ignore)
    from mini.draw import ensure_mini

    data = ensure_mini(tmp_path / "data", train=4, val=2, size=(128, 64))
    argv = [*NARROW[:2], "--data_path", data, "--stage", "structure", "forward", "--dtype", "float32"]
    argv += ["--output_dir", tmp_path / "result", "--backbone", "STDCNet813"]

    def align() -> subprocess.CompletedProcess:
        command = [sys.executable, str(copy / "align.py"), *map(str, argv)]
        return subprocess.run(command, capture_output=True, text=True, timeout=300)

    finished = align()
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert "all 2 passed" in finished.stdout
    layers = copy / "models" / "layers.py"
    text = layers.read_text()
    assert text.count('mode="nearest"') == 1
    layers.write_text(text.replace('mode="nearest"', 'mode="bilinear", align_corners=True'))
    finished = align()
    assert finished.returncode == 1 and "FAIL  forward" in finished.stdout
    report = json.loads((tmp_path / "result" / "align.json").read_text())
    forward = next(stage for stage in report["stages"] if stage["stage"] == "forward")
    assert forward["failures"][0].endswith(("head32", "arm16", "head16", "raw_out32"))


def test_a_wrong_reference_is_refused(tmp_path):
    argv = ["--stage", "structure", "--dtype", "float32", "--output_dir", tmp_path / "result"]
    finished = call("align.py", "--reference", tmp_path, *argv)
    assert finished.returncode == 2 and "Traceback" not in finished.stderr
    assert "STDC-Seg" in finished.stderr and "git clone" in finished.stderr
