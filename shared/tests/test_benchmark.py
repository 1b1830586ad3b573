"""The frame of every benchmark.py, with a script of two sides that only sleep and hold memory."""

import json
import subprocess
import sys

import pytest

from shared.deploying.benchmark import show, verdict
from shared.deploying.measure import Timing, compare_speed

SCRIPT = """
import sys, time
from shared.deploying import benchmark

def build_case(case, options):
    if "broken" in case:
        raise ValueError("no such side")
    held = bytearray(10_000_000 * int(case[1]))
    return lambda: time.sleep(0.02 if case[0] == benchmark.TORCH else 0.01)

def main(argv):
    options = benchmark.build_parser("Sleeps.", ["speed", "other"], repeats=3, seconds=5).parse_args(argv)

    def speed(bench):
        rows = bench.compare([benchmark.TORCH, "own"], [2], items=4, warmup=1)
        return benchmark.show("Speed", rows, benchmark.verdict(rows, "own", 1.2))

    sections = {"speed": speed, "other": lambda bench: {"Other": bench.compare(["own", "broken"], [2])}}
    benchmark.run_benchmark(__file__, argv, options, build_case, sections, {"network": "none"})

main(sys.argv[1:])
"""


def run(tmp_path, *argv) -> subprocess.CompletedProcess:
    (tmp_path / "benchmark.py").write_text(SCRIPT)
    command = [sys.executable, str(tmp_path / "benchmark.py"), "--threads", "1", *map(str, argv)]
    return subprocess.run(command, capture_output=True, text=True)


def test_sides_are_compared_in_processes_of_their_own(tmp_path):
    finished = run(tmp_path, "--section", "speed", "--output", tmp_path / "report.json")
    assert finished.returncode == 0, finished.stderr
    lines = finished.stdout.splitlines()
    assert lines[0].startswith("network none") and "Speed" in lines and lines[-1].startswith("own: ")
    assert lines[-1].endswith("times torch eager (wanted 1.2): met")
    report = json.loads((tmp_path / "report.json").read_text())
    assert report.keys() == {"environment", "network", "Speed"} and report["network"] == "none"
    assert [row["name"] for row in report["Speed"]] == ["torch eager", "own"]
    assert 1.2 < report["Speed"][1]["speed"] < 2.5


def test_a_side_that_fails_is_told(tmp_path):
    finished = run(tmp_path, "--section", "other")
    assert finished.returncode != 0 and "--serve broken 2: ended with 1" in finished.stderr


def test_tables_and_verdicts(capsys):
    rows = compare_speed({"a": Timing((0.2,) * 3), "b": Timing((0.1,) * 3)}, "a")
    assert show("Title", rows, "a note") == {"Title": rows}
    said = capsys.readouterr().out.splitlines()
    assert said[:2] == ["", "Title"] and said[-1] == "a note"
    assert verdict(rows, "b", 1.5) == "b: 2.00 times a (wanted 1.5): met"
    assert verdict(rows, "b", 2.5).endswith("not met")
    with pytest.raises(StopIteration):
        verdict(rows, "c", 1)
