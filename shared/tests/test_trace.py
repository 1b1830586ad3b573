import subprocess
import sys

import numpy as np
import paddle
import pytest
import torch
from paddle.nn import functional as F

from shared import InputError
from shared.align.record import Record
from shared.diff import Tolerance
from shared.trace import first_difference, main, trace_paddle, trace_torch

CLOSE = Tolerance(1e-5)
RENAME = [(r"^stem\.norm$", "stem.bn")]  # the twin's name for one layer, so that renaming is at work in every test


class TorchBlock(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(4, 4, 3, padding=1)
        self.bn = torch.nn.BatchNorm2d(4)
        self.act = torch.nn.ReLU(inplace=True)

    def forward(self, x):
        return x + self.act(self.bn(self.conv(x)))


class TorchNet(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = torch.nn.Sequential()
        self.stem.add_module("conv", torch.nn.Conv2d(3, 4, 3, stride=2))
        self.stem.add_module("bn", torch.nn.BatchNorm2d(4))
        self.stem.add_module("act", torch.nn.Hardswish(inplace=True))
        self.block = TorchBlock()
        self.fc1 = torch.nn.Linear(4, 6)
        self.fc2 = torch.nn.Linear(6, 6)

    def forward(self, x, scale=None):
        x = self.block(self.block(self.stem(x)))
        x = self.fc2(torch.relu(self.fc1(x.mean((2, 3)))))
        return {"logits": x, "scaled": [x * scale]} if scale is not None else x


class PaddleBlock(paddle.nn.Layer):
    def __init__(self, slip):
        super().__init__()
        self.slip = slip
        self.conv = paddle.nn.Conv2D(4, 4, 3, padding=1)
        self.bn = paddle.nn.BatchNorm2D(4, epsilon=1e-3 if slip == "eps" else 1e-5)
        self.act = paddle.nn.ReLU()

    def forward(self, x):
        y = self.act(self.bn(self.conv(x)))
        return x - y if self.slip == "residual" else x + y


class PaddleNet(paddle.nn.Layer):
    """The twin, with one slip planted: eps, residual, block input, leaky, permuted, detached."""

    def __init__(self, slip=None):
        super().__init__()
        self.slip = slip
        self.stem = paddle.nn.Sequential(
            ("conv", paddle.nn.Conv2D(3, 4, 3, stride=2)),
            ("norm", paddle.nn.BatchNorm2D(4)),
            ("act", paddle.nn.Hardswish()),
        )
        self.block = PaddleBlock(slip)
        self.fc1 = paddle.nn.Linear(4, 6)
        self.fc2 = paddle.nn.Linear(6, 6)

    def forward(self, x, scale=None):
        x = self.block(self.stem(x))
        x = self.block(x * 1.01 if self.slip == "block input" else x)
        x = self.fc1(x.mean((2, 3)))
        x = F.leaky_relu(x) if self.slip == "leaky" else F.relu(x)
        if self.slip == "detached":
            x = paddle.concat([x[:, :3], x[:, 3:].detach()], 1)
        x = self.fc2(x)
        return {"logits": x, "scaled": [x * scale]} if scale is not None else x


def paddle_name(name):
    for theirs, ours in (("stem.bn", "stem.norm"), ("running_mean", "_mean"), ("running_var", "_variance")):
        name = name.replace(theirs, ours)
    return name


def twins(slip=None):
    torch.manual_seed(0)
    reference, port = TorchNet().eval(), PaddleNet(slip)
    port.eval()
    state = {}
    for name, tensor in reference.state_dict().items():
        if name.endswith("num_batches_tracked"):
            continue
        if name.endswith("running_var"):
            tensor.uniform_(0.01, 0.02)  # small, so that a wrong eps shows
        array = tensor.numpy()
        state[paddle_name(name)] = array.T if name in ("fc1.weight", "fc2.weight") else array
    if slip == "permuted":
        state["fc2.weight"], state["fc2.bias"] = state["fc2.weight"][:, ::-1], state["fc2.bias"][::-1]
    assert port.set_state_dict({name: np.ascontiguousarray(array) for name, array in state.items()}) == ([], [])
    return reference, port


IMAGES = np.random.default_rng(0).normal(size=(2, 3, 9, 9)).astype("f4")


def traces(slip=None, gradients=False):
    reference, port = twins(slip)
    theirs = trace_torch(reference, torch.from_numpy(IMAGES), gradients=gradients)
    ours = trace_paddle(port, paddle.to_tensor(IMAGES), gradients=gradients)
    if gradients:
        (theirs.output**2).sum().backward()
        (ours.output**2).sum().backward()
    return theirs, ours


def find(slip=None, **options):
    return first_difference(*traces(slip, **options), CLOSE, RENAME)


def test_equal_networks():
    verdict = find()
    assert verdict.passed and verdict.layer is None
    assert verdict.compared == 15  # 4 for the stem, 4 for each call of the block, 2 linear layers, the model
    assert not verdict.only_port and not verdict.only_reference
    assert "no difference" in str(verdict)


def test_without_renaming_the_layer_is_listed_as_missing():
    verdict = first_difference(*traces(), CLOSE)
    assert verdict.passed and verdict.compared == 14
    assert verdict.only_reference == ["stem.bn"] and verdict.only_port == ["stem.norm"]
    assert "only in the port: stem.norm" in str(verdict)


def test_wrong_eps_is_found_in_the_batch_norm():
    verdict = find("eps")
    assert not verdict.passed
    assert (verdict.layer, verdict.last_agreeing) == ("block.bn", "block.conv")
    assert verdict.culprit == "block.bn itself: its input agrees, its output does not"
    assert verdict.inputs.passed and not verdict.outputs.passed
    assert "block.bn/out/0" in str(verdict) and "block.bn/in/0" in str(verdict)


def test_functional_call_blames_the_stretch_between():
    verdict = find("leaky")
    assert (verdict.layer, verdict.last_agreeing) == ("fc2", "fc1")
    assert verdict.culprit == "the code of the model between fc1 and fc2: the input of fc2 differs already"
    assert not verdict.inputs.passed


def test_container_is_blamed_when_what_it_holds_agrees():
    verdict = find("residual")
    assert (verdict.layer, verdict.last_agreeing) == ("block", "block.act")
    assert verdict.culprit.startswith("the code of block after block.act: every layer inside agrees")


def test_what_feeds_a_container_is_not_blamed_on_its_first_layer():
    verdict = find("block input")
    assert (verdict.layer, verdict.last_agreeing) == ("block.conv#2", "block")
    assert verdict.culprit == "the code of the model between block and block#2: the input of block#2 differs already"


def test_permuted_outputs_with_equal_means():
    verdict = find("permuted")
    assert verdict.layer == "fc2" and verdict.culprit.startswith("fc2 itself")
    assert verdict.outputs.tensors[0].max_abs > 1e-3


def test_another_model_input_is_no_layers_fault():
    reference, port = twins()
    theirs = trace_torch(reference, torch.from_numpy(IMAGES))
    verdict = first_difference(theirs, trace_paddle(port, paddle.to_tensor(IMAGES * 2)), CLOSE, RENAME)
    assert verdict.layer == "stem.conv" and verdict.culprit == "what the model is given: its input differs already"


def test_files_and_command_line(tmp_path, capsys):
    for slip, status, words in ((None, 0, "no difference (15"), ("eps", 1, "block.bn is the first layer")):
        theirs, ours = traces(slip)
        theirs.save(tmp_path / "reference.npz")
        ours.save(tmp_path / "port.npz")
        files = [str(tmp_path / "reference.npz"), str(tmp_path / "port.npz")]
        assert main([*files, "--rename", *RENAME[0]]) == status
        assert words in capsys.readouterr().out
    assert main([*files, "--rename", *RENAME[0], "--atol", "1e9"]) == 0
    with pytest.raises(InputError, match="--rename"):
        main([*files, "--rename", "(", ""])
    with pytest.raises(InputError, match="2 layers are called"):
        main([*files, "--rename", "^fc.$", "fc"])
    Record({"logits": 1.0}).save(tmp_path / "reference.npz")
    with pytest.raises(InputError, match="'logits' is not a name of a trace"):
        main(files)
    files[0] = str(tmp_path / "none.npz")
    ended = subprocess.run([sys.executable, "-m", "shared.trace", *files], capture_output=True, text=True)
    assert ended.returncode == 2 and ended.stderr.startswith("error: ")


def test_renaming_by_function():
    verdict = first_difference(*traces("eps"), CLOSE, lambda path: path.replace("norm", "bn"))
    assert verdict.layer == "block.bn" and not verdict.only_port


def test_in_place_activations_do_not_touch_what_was_recorded():
    for trace in traces():
        before, after = trace["0004/block.conv/out/0"], trace["0005/block.bn/out/0"]
        assert (after < 0).any(), "the activation after it cannot be seen"
        np.testing.assert_array_equal(trace["0006/block.act/in/0"], after)
        assert (trace["0006/block.act/out/0"] >= 0).all()
        assert not np.array_equal(before, after)


def test_keywords_containers_and_order_of_names():
    reference, port = twins()
    theirs = trace_torch(reference, torch.from_numpy(IMAGES), scale=torch.tensor(2.0))
    ours = trace_paddle(port, paddle.to_tensor(IMAGES), scale=paddle.to_tensor(2.0))
    names = ["0014//in/0", "0014//in/scale", "0014//out/logits", "0014//out/scaled.0"]
    for trace in (theirs, ours):
        assert trace.names[-4:] == names
        assert trace.names[:2] == ["0000/stem.conv/in/0", "0000/stem.conv/out/0"]
        assert "0009/block.bn#2/in/0" in trace
        assert trace["0014//in/scale"] == 2
    assert first_difference(theirs, ours, CLOSE, RENAME).passed


def test_gradients_of_equal_networks():
    theirs, ours = traces(gradients=True)
    assert sum("/grad/" in name for name in ours) == sum("/grad/" in name for name in theirs) == 15
    assert first_difference(theirs, ours, CLOSE, RENAME).passed


def test_detached_branch_is_found_going_backwards(tmp_path):
    theirs, ours = traces("detached", gradients=True)
    ours.save(tmp_path / "port.npz")
    verdict = first_difference(theirs, Record.load(tmp_path / "port.npz"), CLOSE, RENAME)
    assert verdict.backward and (verdict.layer, verdict.last_agreeing) == ("fc1", "fc2")
    assert verdict.culprit == "the backward of what lies between the output of fc1 and fc2"
    assert "going backwards" in str(verdict)


def test_hooks_are_removed_even_when_the_model_fails():
    reference, port = twins()
    for trace, model, empty in (
        (trace_torch, reference, torch.zeros(1, 1, 1, 1)),
        (trace_paddle, port, paddle.zeros([1, 1, 1, 1])),
    ):
        with pytest.raises(Exception):  # noqa: B017
            trace(model, empty)
    trace_torch(reference, torch.from_numpy(IMAGES))
    trace_paddle(port, paddle.to_tensor(IMAGES))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in reference.modules())
    assert not any(layer._forward_post_hooks or layer._forward_pre_hooks for layer in port.sublayers(include_self=True))


def test_the_order_is_that_of_execution_and_containers_narrow_the_stretch():
    reference = {
        "0004//out/0": 1.0,
        "0003/d/in/0": 1.0,
        "0003/d/out/0": 1.0,
        "0002/d.second/in/0": 1.0,
        "0002/d.second/out/0": 1.0,
        "0001/d.first/out/0": 1.0,
        "0000/a/out/0": 1.0,
    }
    wrong = ("d/in", "d.second/in", "d.second/out", "d/out", "//out")
    port = {name: 2.0 if any(part in name for part in wrong) else value for name, value in reference.items()}
    verdict = first_difference(Record(reference), Record(port), CLOSE)
    assert (verdict.layer, verdict.last_agreeing) == ("d.second", "d.first")
    assert verdict.culprit == "the code of the model between a and d: the input of d differs already"


def test_nothing_in_common_does_not_pass():
    theirs, ours = traces()
    verdict = first_difference(theirs, ours, CLOSE, lambda path: "other." + path)
    assert not verdict.passed and "nothing to compare" in str(verdict)
    assert not first_difference({}, {}, CLOSE).passed
