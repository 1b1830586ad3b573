"""What a training continues from: saved, restored to the same bits, refused in one line when it is not whole."""

import argparse
import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import paddle
import pytest
from paddle import nn

from shared import InputError
from shared.checked_json import read_as
from shared.running.state import TrainingState
from shared.tests.amp import enabled_scaler


@dataclass
class Progress:
    step: int = 0
    seconds: float = 0.0
    epoch: int = 0
    best: float | None = None
    history: list[dict[str, Any]] = field(default_factory=list)
    weights: dict[str, float] = field(default_factory=dict)


class Run:
    """A network, an optimiser of two groups, a tensor outside the network, and an average."""

    def __init__(self, seed: int, scaler=None, **options):
        paddle.seed(seed)
        with paddle.utils.unique_name.guard():
            self.model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1D(4), nn.Linear(4, 2))
            self.kernel = paddle.create_parameter([2], "float32", default_initializer=nn.initializer.Constant(0.5))
            groups = [
                {"params": list(self.model[0].parameters()), "learning_rate": 0.5},
                {"params": [*self.model[1].parameters(), *self.model[2].parameters(), self.kernel]},
            ]
            self.optimizer = paddle.optimizer.Adam(0.01, parameters=groups)
            self.average = nn.Linear(2, 2)
        self.progress = Progress()
        self.options = argparse.Namespace(**({"lr": 0.01, "data_path": "a", "scales": [0.5, 1.0]} | options))
        self.state = TrainingState(
            self.options,
            self.model,
            self.optimizer,
            scaler or paddle.amp.GradScaler(enable=False),
            self.progress,
            identity={"samples": 8},
            free={"data_path"},
            networks={"ema": self.average},
            tensors={"kernel": self.kernel},
        )

    def train(self, steps: int) -> "Run":
        for _ in range(steps):
            x = paddle.to_tensor(np.random.default_rng(self.progress.step).standard_normal((8, 3), np.float32))
            ((self.model(x) * self.kernel) ** 2).mean().backward()
            self.optimizer.step()
            self.optimizer.clear_grad()
            self.progress.step += 1
            self.progress.history.append({"step": self.progress.step, "loss": 0.5})
        return self

    def bits(self) -> dict[str, bytes]:
        tensors = dict(self.model.state_dict()) | {"kernel": self.kernel, "ema": self.average.weight}
        return {name: value.numpy().tobytes() for name, value in tensors.items()}


@pytest.fixture
def saved(tmp_path):
    """A run of three steps and the state file of its checkpoint."""
    run = Run(1).train(3)
    run.progress.best, run.progress.weights = float("nan"), {"depth": 0.25}
    run.state.save(tmp_path, "latest")
    return run, tmp_path / "latest"


def test_a_resumed_run_ends_at_the_same_bits(saved):
    run, latest = saved
    other = Run(2)
    other.state.restore(latest, {"step": 5, "epoch": 1})
    assert other.progress == Progress(3, 0.0, 0, None, run.progress.history, {"depth": 0.25})
    assert other.train(2).bits() == run.train(2).bits()


def test_a_checkpoint_is_the_same_bytes_after_a_resume(saved):
    _, latest = saved
    other = Run(2)
    other.state.restore(latest, {})
    other.state.save(latest.parent, "again")
    for name in ("model.pdparams", "optimizer.pdopt", "ema.pdparams", "criterion.pdparams", "state.json"):
        assert (latest / name).read_bytes() == (latest.parent / "again" / name).read_bytes(), name


def test_an_enabled_scaler_is_saved_and_restored(tmp_path):
    run = Run(1, enabled_scaler()).train(1)
    run.state.scaler._scale = paddle.to_tensor(np.array([1024.0], np.float32))
    run.state.save(tmp_path, "latest")
    other = Run(2, enabled_scaler())
    other.state.restore(tmp_path / "latest", {})
    assert other.state.scaler._scale.tolist() == [1024.0]
    content = json.loads((tmp_path / "latest/state.json").read_text())
    for scaler in ({}, {"scale": [1.0]}, content["scaler"] | {"incr_count": "7"}, [1], None):
        (tmp_path / "latest/state.json").write_text(json.dumps(content | {"scaler": scaler}))
        other = Run(2, enabled_scaler())
        if scaler == {}:
            other.state.restore(tmp_path / "latest", {})
            continue
        with pytest.raises(InputError, match="scaler"):
            other.state.restore(tmp_path / "latest", {})


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"step": None}, "step is None, where int"),
        ({"step": "3"}, "step is str, where int"),
        ({"step": True}, "step is True"),
        ({"step": -1}, "step is -1"),
        ({"step": 9}, "step is 9, not from 0 to 5"),
        ({"seconds": 1e308}, r"seconds is 1e\+308, not from 0 to"),
        ({"step": 10**400}, "cannot be read|step is"),
        ({"epoch": 1.5}, "epoch is 1.5"),
        ({"best": [1]}, "best is list"),
        ({"history": 7}, "history is 7"),
        ({"history": [1]}, r"history\[0\] is 1"),
        ({"weights": {"a": "b"}}, "weights.a is str"),
        ({"world": 2}, "2 processes, here are 1"),
        ({"world": "1"}, "with other processes"),
        ({"samples": 9}, "9 samples, here are 8"),
        ({"options": None}, "holds no options"),
        ({"options": [1]}, "holds no options"),
        ({"options": {"lr": 0.02, "scales": [0.5, 1.0]}}, "--lr 0.02, not 0.01"),
        ({"checkpoint_files": ["model.pdparams"]}, "holds no optimizer.pdopt"),
        ({"checkpoint_files": ["model.pdparams", "optimizer.pdopt"]}, "holds no ema.pdparams"),
        ({"checkpoint_files": ["../model.pdparams"]}, "not the state"),
        ({"checkpoint_files": [3]}, "cannot be read|not the state"),
    ],
)
def test_a_damaged_state_is_one_line(saved, change, says):
    _, latest = saved
    content = json.loads((latest / "state.json").read_text())
    (latest / "state.json").write_text(json.dumps(content | change))
    refused(latest, says)


@pytest.mark.parametrize("name", ["step", "epoch", "best", "history", "weights", "world", "samples", "options"])
def test_a_state_that_lacks_a_key_is_one_line(saved, name):
    _, latest = saved
    content = json.loads((latest / "state.json").read_text())
    del content[name]
    (latest / "state.json").write_text(json.dumps(content))
    refused(latest, f"lacks {name}|holds no options|None (processes|samples)|not the state")


@pytest.mark.parametrize("text", ["[" * 10**5, '{"step": ' * 10**5, "", "null", "[1]", "\x00", '{"step": 1'])
def test_text_that_is_no_state_is_one_line(saved, text):
    _, latest = saved
    (latest / "state.json").write_text(text)
    refused(latest, "state.json")


def refused(latest, says: str) -> None:
    """Restoring ends with an InputError of one line, and the run is as it was."""
    other = Run(2)
    before = other.bits()
    with pytest.raises(InputError, match=says) as error:
        other.state.restore(latest, {"step": 5, "epoch": 1})
    assert "\n" not in str(error.value) and str(latest.parent) in str(error.value)
    assert other.bits() == before and other.progress == Progress()


def test_other_moments_are_refused(saved):
    _, latest = saved
    from shared.weights import read_weights, write_pdparams

    tensors = read_weights(latest / "optimizer.pdopt").tensors
    name = next(iter(tensors))
    for changed in (
        {k: v for k, v in tensors.items() if k != name},
        tensors | {name: tensors[name][..., None]},
        tensors | {name: tensors[name].astype(np.float64)},
        tensors | {"other|moment1_0": np.zeros(1, np.float32)},
    ):
        write_pdparams(latest / "optimizer.pdopt", changed)
        with pytest.raises(InputError, match="optimizer.pdopt"):
            Run(2).state.restore(latest, {})


def test_values_as_types(tmp_path):
    file = tmp_path / "a.json"
    assert read_as(float, 3, file) == 3.0 and read_as(int | None, None, file) is None
    assert read_as(list[tuple] | None, None, file) is None
    for kind, value in ((int, 3.0), (float, float("inf")), (float, True), (bool, 1), (str, 3), (dict[str, int], [])):
        with pytest.raises(InputError, match="a.json: its value is"):
            read_as(kind, value, file)
