import json
import sys
import time

import numpy as np
import pytest

from shared.deploying.measure import (
    Timing,
    compare_speed,
    environment,
    measure,
    measure_processes,
    run_child,
    speed_table,
)


def test_cases_take_turns_after_the_warmup():
    calls = []
    timings = measure({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, repeats=3, warmup=2)
    assert calls == ["a", "b"] * 5
    assert {name: len(timing.seconds) for name, timing in timings.items()} == {"a": 3, "b": 3}


def test_a_limit_in_seconds_still_runs_one_round():
    calls = []
    timings = measure({"a": lambda: calls.append("a")}, repeats=50, warmup=0, seconds=0)
    assert calls == ["a"] and len(timings["a"].seconds) == 1
    with pytest.raises(ValueError):
        measure({}, repeats=1)
    with pytest.raises(ValueError):
        measure({"a": print}, repeats=0)


def test_medians_quartiles_and_ratios():
    timings = {"torch": Timing((0.2, 0.1, 9.0, 0.4, 0.3)), "paddle": Timing((0.6,) * 5)}
    torch, paddle = compare_speed(timings, "torch", items=6)
    assert torch["median_s"] == 0.3 and torch["speed"] == 1.0
    assert (torch["lower_quartile_s"], torch["upper_quartile_s"]) == (0.2, 0.4)
    assert paddle["speed"] == pytest.approx(0.5) and paddle["items_per_second"] == pytest.approx(10)
    assert json.loads(json.dumps([torch, paddle], allow_nan=False))[0]["repeats"] == 5


def test_speed_table():
    rows = compare_speed({"torch": Timing((0.3,)), "paddle": Timing((0.15,))}, "torch", items=3)
    rows = [row | {"peak_bytes": 50 * 2**20} for row in rows]
    header, torch, paddle = speed_table(rows, "torch").splitlines()
    assert header.split() == ["ms", "quartiles", "speed", "/", "torch", "items/s", "peak", "MiB"]
    assert torch.split() == ["torch", "300", "300", "..", "300", "1", "10", "50"]
    assert paddle.split() == ["paddle", "150", "150", "..", "150", "2", "20", "50"]


def child(code):
    return run_child([sys.executable, "-S", "-c", code])


def test_peak_memory_is_the_childs_own():
    held = np.ones(40 * 2**20)  # 320 MiB here, which Linux would count into a child's peak
    small = child("print('noise'); print('[1, 2]')")
    big = child("x = bytearray(120 * 2**20); del x; print('{}')")
    assert held.nbytes > 300 * 2**20
    assert small.result == [1, 2] and big.result == {}
    assert 2 * 2**20 < small.peak_bytes < 60 * 2**20
    assert 120 * 2**20 < big.peak_bytes < 180 * 2**20


def test_children_that_fail(capfd):
    with pytest.raises(RuntimeError, match="exit status 3"):
        child("raise SystemExit(3)")
    with pytest.raises(RuntimeError, match="exit status 9"):
        child("import os; os.kill(os.getpid(), 9)")
    for code in ("print('no JSON')", "pass"):
        with pytest.raises(RuntimeError, match="not JSON"):
            child(code)
    with pytest.raises(RuntimeError, match="exit status 1"):
        run_child(["/no/such/program"])
    assert "No such file" in capfd.readouterr().err


def test_environment_says_what_ran():
    found = environment()
    assert found["python"] == sys.version.split()[0] and found["numpy"] == np.__version__
    assert set(found) - {"paddlepaddle-gpu", "paddlepaddle"} == {
        "python",
        "numpy",
        "torch",
        "os",
        "cpu",
        "cores",
        "threads",
    }
    assert found["cores"] >= 1 and found["cpu"]
    json.dumps(found)


def test_a_rest_does_not_count():
    began = time.perf_counter()
    timings = measure({"a": lambda: None, "b": lambda: None}, repeats=3, warmup=0, rest=0.05)
    assert time.perf_counter() - began >= 6 * 0.05
    assert all(timing.median < 0.05 for timing in timings.values())


CHILD = """
import sys, time
from pathlib import Path
from shared.deploying.measure import resident_bytes, serve
name, calls, dies = sys.argv[1], Path(sys.argv[2]), sys.argv[3:] == ["dies"]
print("said by a library")
def case():
    if dies:
        sys.exit(7)
    with calls.open("a") as file:
        file.write(name)
assert resident_bytes() > 2**20
serve(case)
"""


def test_sides_in_processes_take_turns(tmp_path):
    command = [sys.executable, "-c", CHILD]
    calls = tmp_path / "calls"
    timings = measure_processes({name: [*command, name, calls] for name in "AB"}, repeats=3, warmup=1)
    assert calls.read_text() == "ABABABAB" and [len(timing.seconds) for timing in timings.values()] == [3, 3]
    with pytest.raises(RuntimeError, match="ended with 7"):
        measure_processes({"A": [*command, "A", calls], "B": [*command, "B", calls, "dies"]}, repeats=1)
