"""The device, requests to stop, exit statuses, mixed precision."""

import argparse
import os
import signal
from pathlib import Path
from types import SimpleNamespace

import paddle
import pytest

from shared import InputError
from shared.running.launch import (
    Diverged,
    Interrupted,
    StopRequest,
    build_scaler,
    in_float32,
    mixed_precision,
    run_training,
    use_device,
)


def test_a_gpu_that_is_not_there(monkeypatch):
    with pytest.raises(InputError, match="^--device gpu: this Paddle is the CPU build; .*use --device cpu$"):
        use_device("gpu")
    monkeypatch.setattr(paddle, "is_compiled_with_cuda", lambda: True)
    with pytest.raises(InputError, match="^--device gpu: no GPU is visible"):
        use_device("gpu")
    use_device("cpu")
    assert paddle.get_device() == "cpu"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_a_request_to_stop(number):
    before, saved = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)], []
    with StopRequest() as stop:
        stop.check(lambda: saved.append("too early"))
        os.kill(os.getpid(), number)
        with pytest.raises(Interrupted) as caught:
            stop.check(lambda: saved.append("a checkpoint"))
    assert saved == ["a checkpoint"] and caught.value.args == (number,)
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == before


@pytest.mark.parametrize(
    ("end", "status", "says"),
    [
        (None, 0, ""),
        (Diverged("the loss is NaN"), 3, "error: the loss is NaN\n"),
        (Interrupted(signal.SIGINT), 130, "interrupted after step 7; continue with --resume out/latest\n"),
        (Interrupted(signal.SIGTERM), 143, "interrupted after step 7; continue with --resume out/latest\n"),
    ],
)
def test_exit_status_of_a_training(tmp_path, capsys, end, status, says):
    def train():
        if end:
            raise end

    def make(options):
        return SimpleNamespace(train=train, step=7, output_dir=Path("out"))

    assert run_training(argparse.Namespace(device="cpu"), make) == status
    assert capsys.readouterr().err == says


def test_bad_input_goes_through():
    def make(options):
        raise InputError("--data_path is missing")

    with pytest.raises(InputError, match="missing"):
        run_training(argparse.Namespace(device="cpu"), make)
    with pytest.raises(InputError, match="CPU build"):
        run_training(argparse.Namespace(device="gpu"), make)


def test_mixed_precision():
    """The CPU has none in Paddle 3.3, and no loss scaling; what comes out is float32 for the losses."""
    options = argparse.Namespace(amp=True, device="cpu")
    assert build_scaler(options).state_dict() == {}
    with mixed_precision(options):
        assert paddle.matmul(paddle.ones([2, 2]), paddle.ones([2, 2])).dtype in (paddle.float32, paddle.bfloat16)
    half, index = paddle.ones([2], "bfloat16"), paddle.zeros([2], "int64")
    outputs = in_float32({"a": half, "b": [half, (index,)], ("c", 0): {"d": index}})
    assert outputs["a"].dtype == outputs["b"][0].dtype == paddle.float32
    assert outputs["b"][1][0].dtype == outputs["c", 0]["d"].dtype == paddle.int64 and isinstance(outputs["b"][1], tuple)
