"""What processes that train together take of each other; this file is also what the launcher starts."""

import os
import signal
from pathlib import Path

import numpy as np
import paddle
import paddle.distributed as dist
import pytest

from shared.running.launch import Interrupted, StopRequest
from shared.running.processes import gather, largest, mean_over_processes, sum_gradients, total
from shared.tests.two_processes import equal, launch


def test_one_process_needs_no_launcher():
    assert largest(3) == 3 and mean_over_processes({"a": 0.5}) == {"a": 0.5} and mean_over_processes({}) == {}
    array = np.arange(3, dtype=np.float32)
    assert total(array).dtype == np.float64 and gather(array)[0] is array
    weight = paddle.create_parameter([2], "float32")
    (weight * 3).sum().backward()
    sum_gradients([weight], mean=True)
    assert weight.grad.tolist() == [3, 3]


def test_two_processes(tmp_path):
    printed = launch(Path(__file__), tmp_path)
    assert printed.count("process 0: as it should be") == 1, printed


def test_a_failure_of_one_process_is_told(tmp_path):
    script = tmp_path / "failing.py"
    script.write_text("import os, sys\nsys.exit('no good' if os.environ['PADDLE_TRAINER_ID'] == '1' else 0)\n")
    with pytest.raises(AssertionError, match="no good"):
        launch(script, tmp_path)


def test_what_is_unequal_is_told(capsys):
    alone = {"a": np.ones(4), "b": np.zeros(2), "c": np.ones(1)}
    assert equal("a", alone | {"b": np.full(2, 1e-9)}, alone, 1e-6, least=1e-2)
    assert not equal("b", alone | {"a": np.full(4, 1 + 1e-3)}, alone, 1e-6, least=1e-2)
    lines = capsys.readouterr().out.splitlines()
    assert "3 tensors equal" in lines[0] and "DIFFERENT, largest relative difference 1.00e-03 of a" in lines[1]
    assert not equal("c", alone | {"b": np.full(2, np.nan)}, alone, 1e-6, least=1e-2)
    with pytest.raises(AssertionError, match="'b'"):
        equal("d", {"a": np.ones(4)}, alone, 1e-6, least=1e-2)
    with pytest.raises(AssertionError, match="zeros"):
        equal("e", {"b": np.zeros(2)}, {"b": np.zeros(2)}, 1e-6, least=1e-2)


# --------------------------------------------------------------------------------------------- in both of two processes


def check(rank: int) -> None:
    assert largest(rank - 5) == -4 and largest(7 - rank) == 7
    np.testing.assert_array_equal(total(np.array([rank + 0.1, 2])), [1 + 0.1 + 0.1, 4])
    assert mean_over_processes({"a": rank, "b": 1 / 3}) == {"a": 0.5, "b": 1 / 3}
    own = np.arange(6, dtype=np.int64).reshape(3, 2)[: 1 + 2 * rank]
    for part, count in zip(gather(own), (1, 3), strict=True):
        np.testing.assert_array_equal(part, np.arange(2 * count).reshape(count, 2))


def check_gradients(rank: int) -> None:
    """One parameter both reach, one that only the second does, one that none does, and one that is frozen."""
    for mean in (False, True):
        both, second, none, frozen = parameters = [paddle.create_parameter([2, 2], "float64") for _ in range(4)]
        frozen.stop_gradient = True
        loss = (both * (1.0 + rank)).sum()
        (loss + (second * 4.0).sum() if rank else loss).backward()
        sum_gradients(parameters, mean)
        factor = 0.5 if mean else 1.0
        assert (both.grad.numpy() == 3 * factor).all() and (second.grad.numpy() == 4 * factor).all()
        assert both.grad.shape == [2, 2] and none.grad is None and frozen.grad is None


def check_stop(rank: int) -> None:
    """A signal to the second process stops both after the same step."""
    saved = []
    with StopRequest() as stop:
        for step in range(5):
            if rank == 1 and step == 2:
                os.kill(os.getpid(), signal.SIGTERM)
            try:
                stop.check(lambda step=step: saved.append(step))
            except Interrupted as request:
                assert request.args == (signal.SIGTERM,)
                break
    assert saved == [2]


if __name__ == "__main__":
    dist.init_parallel_env()
    for one in (check, check_gradients, check_stop):
        one(dist.get_rank())
    print(f"process {dist.get_rank()}: as it should be")
