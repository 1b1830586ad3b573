"""convert.py: official files to Paddle and back, and what is refused."""

import subprocess
import sys
from collections import OrderedDict
from pathlib import Path

import numpy as np
import paddle
import pytest
import torch

from shared import InputError
from shared.align.formula import formula_state
from shared.weights import read_weights, save_checkpoint

import convert
from golden_files import SHAPES
from models import build_model

FOLDER = Path(__file__).resolve().parents[1]


def drawn(shapes: dict, seed: int = 5) -> OrderedDict:
    """Formula weights; the counters have counted."""
    state = formula_state(shapes, seed)
    counted = {name: np.array(4321) for name in state if name.endswith("num_batches_tracked")}
    return OrderedDict((name, torch.from_numpy(array)) for name, array in (state | counted).items())


@pytest.fixture(scope="module")
def official(tmp_path_factory) -> Path:
    """A checkpoint as the reference's trainer writes it."""
    path = tmp_path_factory.mktemp("official") / "checkpoint_epoch_140.pth"
    state = drawn(SHAPES)
    moments = {0: {"step": torch.tensor(3.0), "exp_avg": torch.zeros(3), "exp_avg_sq": torch.zeros(3)}}
    groups = [{"params": [0], "lr": 1e-3, "weight_decay": 0}, {"params": [1], "lr": 1e-3, "weight_decay": 1e-5}]
    torch.save(
        {"epoch": 140, "model_state": state, "optimizer_state": {"state": moments, "param_groups": groups}}, path
    )
    return path


@pytest.fixture(scope="module")
def converted(official) -> Path:
    """The same as `.pdparams`, by the command line."""
    command = [sys.executable, str(FOLDER / "convert.py"), official.name, "gupnet.pdparams"]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=official.parent)
    assert finished.returncode == 0, finished.stderr
    assert "GUPNet: torch to Paddle: all 363 tensors converted" in finished.stdout
    assert "optimizer_state" in finished.stdout and "wrote gupnet.pdparams" in finished.stdout
    return official.parent / "gupnet.pdparams"


def same_bits(path: Path, state: dict) -> None:
    back = torch.load(path, weights_only=True)
    assert list(back) == list(state)
    for name, tensor in state.items():
        assert back[name].dtype == tensor.dtype and back[name].numpy().tobytes() == tensor.numpy().tobytes(), name


def refusal(*argv) -> str:
    """What convert.py says before it ends with status 2 (`shared.run`)."""
    with pytest.raises(InputError) as refused:
        convert.main([*map(str, argv)])
    return str(refused.value)


def test_every_tensor_comes_back_with_the_same_bits(official, converted, tmp_path):
    """The counters, which the network does not have, stay with the converted file."""
    file = read_weights(converted)
    assert len(file.tensors) == 308 and [int(value) for value in file.torch_only.values()] == [4321] * 55
    convert.main([str(converted), str(tmp_path / "back.pth")])
    same_bits(tmp_path / "back.pth", torch.load(official, weights_only=True)["model_state"])


def test_a_converted_file_fills_the_network_exactly(official, converted):
    model = build_model()
    missing, unexpected = model.set_state_dict(paddle.load(str(converted)))
    assert not missing and not unexpected
    other = build_model()
    assert convert.load_official(other, official).ok
    wanted = torch.load(official, weights_only=True)["model_state"]
    for name, value in other.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), model.state_dict()[name].numpy())
    np.testing.assert_array_equal(model.feat_up.ida_0.up_1.weight.numpy(), wanted["feat_up.ida_0.up_1.weight"].numpy())


def test_a_checkpoint_folder_becomes_official(tmp_path):
    model = build_model()
    arrays = {name: value.numpy() for name, value in model.state_dict().items()}
    save_checkpoint(tmp_path, "latest", {"model.pdparams": arrays, "optimizer.pdopt": {}}, {"step": 1})
    convert.main([str(tmp_path / "latest"), str(tmp_path / "gupnet.pth")])
    state = torch.load(tmp_path / "gupnet.pth", weights_only=True)
    assert {name: tuple(value.shape) for name, value in state.items()} == SHAPES and list(state) == list(SHAPES)
    np.testing.assert_array_equal(state["heading.4.weight"].numpy(), arrays["heading.4.weight"])


@pytest.mark.parametrize("classes", [1000, 12])
def test_the_backbone_of_imagenet(classes, tmp_path):
    """Both ways, and into a network: all but the classifier, with the converted file too."""
    shapes = {name.removeprefix("backbone."): shape for name, shape in SHAPES.items() if name.startswith("backbone.")}
    state = drawn(shapes | {"fc.weight": (classes, 512, 1, 1), "fc.bias": (classes,)})
    torch.save(state, tmp_path / "dla34.pth")
    convert.main([str(tmp_path / "dla34.pth"), str(tmp_path / "dla34.pdparams")])
    convert.main([str(tmp_path / "dla34.pdparams"), str(tmp_path / "back.pth")])
    same_bits(tmp_path / "back.pth", state)
    for name in ("dla34.pth", "dla34.pdparams"):
        model = build_model()
        before = model.backbone.fc.weight.numpy()
        assert convert.load_backbone(model, tmp_path / name).ok
        np.testing.assert_array_equal(model.backbone.level5.root.conv.weight.numpy(), state["level5.root.conv.weight"])
        np.testing.assert_array_equal(model.backbone.level1[1]._variance.numpy(), state["level1.1.running_var"])
        np.testing.assert_array_equal(model.backbone.fc.weight.numpy(), before)


def test_what_does_not_fit_is_refused_and_nothing_is_written(official, tmp_path):
    state = torch.load(official, weights_only=True)["model_state"]
    model = build_model()
    before = {name: value.numpy() for name, value in model.state_dict().items()}
    cases = {
        "lacking": {n: v for n, v in state.items() if n != "heading.4.bias"},
        "more": state | {"heading.5.bias": torch.zeros(3)},
        "shape": state | {"heading.4.bias": torch.zeros(25)},
    }
    for name, tensors in cases.items():
        torch.save(dict(tensors), tmp_path / f"{name}.pth")
        line = refusal(tmp_path / f"{name}.pth", tmp_path / "out.pdparams")
        assert "heading." in line and f"{name}.pth" in line
        with pytest.raises(InputError):
            convert.load_official(model, tmp_path / f"{name}.pth")
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), before[name])
    assert "no such file" in refusal(tmp_path / "absent.pth", tmp_path / "out.pdparams")
    assert "nothing to convert" in refusal(official, tmp_path / "again.pth")
    assert not (tmp_path / "out.pdparams").exists()
