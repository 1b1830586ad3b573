"""align.py as its user runs it, on a toy paper drawn here: verdicts, files, exit status, and sides that misbehave.

The toy's sides read what goes wrong from the variable TOY, lines of Python that they execute before each stage.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from shared.align.record import Record

ALIGN = '''
"""A toy paper."""
from pathlib import Path
from shared import run, stages
if __name__ == "__main__":
    run(lambda: stages.main(Path(__file__).resolve().parent, __doc__))
'''
STAGES = """
from shared.diff import Tolerance
from shared.stages import Stage

def tolerance(dtype):
    return {"exact": Tolerance(absolute=0), "": Tolerance({"float32": 1e-5, "float64": 1e-7}[dtype])}

def plot(paddle, torch, output_dir):
    (output_dir / "curve.txt").write_text("".join(str(paddle[name] - torch[name]) for name in torch))

def add_options(parser):
    parser.add_argument("--width", type=int, default=3)

STAGES = (
    Stage("structure", lambda dtype: Tolerance(absolute=0), per_dtype=False),
    Stage("forward", tolerance),
    Stage("train", tolerance, plot=plot),
)
"""
COMMON = """
import os, numpy as np
print("a library says hello\\ndone forward float32 soon\\ndone\\n")

def misbehave(side, stage, context):
    exec(os.environ.get("TOY", ""), {"side": side, "stage": stage, "context": context, "record": record})

record = {}

def start(side, stage, context):
    record.clear()
    record["calls"] = np.int64(len(open(context.output_dir / "prepared").read()))

def structure(side, context):
    start(side, "structure", context)
    record["names"] = ["a.weight", "a.bias"]
    record["exact/dtype"] = context.dtype
    misbehave(side, "structure", context)
    return dict(record)

def forward(side, context):
    start(side, "forward", context)
    x = np.arange(1, 1 + context.options.width).astype(context.dtype)
    record["logits"] = x / 3 if side == "torch" else x * (np.array(1, x.dtype) / 3)
    record["exact/x"] = x
    misbehave(side, "forward", context)
    return dict(record)

def train(side, context):
    start(side, "train", context)
    record["loss"] = np.array([1, 0.5], context.dtype)
    misbehave(side, "train", context)
    return dict(record)
"""
SIDE = """
from alignment import common
def structure(context): return common.structure("NAME", context)
def forward(context): return common.forward("NAME", context)
def train(context): return common.train("NAME", context)
"""
PREPARE = """
def prepare(context):
    context.output_dir.mkdir(exist_ok=True)
    (context.output_dir / "prepared").write_text("yes")
    common.misbehave("prepare", "", context)
"""


@pytest.fixture
def toy(tmp_path):
    folder = tmp_path / "toy"
    (folder / "alignment").mkdir(parents=True)
    (folder / "align.py").write_text(ALIGN)
    for name, text in (
        ("__init__", STAGES),
        ("common", COMMON),
        ("paddle_side", SIDE.replace("NAME", "paddle")),
        ("torch_side", SIDE.replace("NAME", "torch") + PREPARE),
    ):
        (folder / "alignment" / f"{name}.py").write_text(text)
    return folder


def start(folder: Path, *arguments: str, toy: str = "", **options) -> subprocess.Popen:
    """align.py, its output kept. toy: what the sides execute in every stage."""
    env = {**os.environ, "TOY": toy}
    command = [sys.executable, str(folder / "align.py"), *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    # started in the background by a script, this process ignores SIGINT, and its children would too
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    return subprocess.Popen(command, env=env, cwd=folder.parent, preexec_fn=heed, **pipes, **options)


def align(folder: Path, *arguments: str, toy: str = "") -> tuple[int, str, str]:
    """(exit status, stdout, stderr) of align.py, run to its end."""
    with start(folder, *arguments, toy=toy) as process:
        try:
            out, err = process.communicate(timeout=30)
        finally:
            process.kill()
    return process.returncode, out, err


def verdicts(folder: Path) -> dict:
    """{(stage, dtype): passed} of align.json, which must be strict JSON."""

    def refuse(text):
        raise AssertionError(f"{text} is no JSON")

    report = json.loads((folder / "result" / "align.json").read_text(), parse_constant=refuse)
    assert report["paper"] == "toy" and report["passed"] == all(stage["passed"] for stage in report["stages"])
    assert {"python", "numpy", "cpu", "cores", "threads"} <= report["environment"].keys()
    for stage in report["stages"]:
        assert stage.keys() == {"stage", "dtype", "passed", "tensors", "failures", "worst", "seconds"}
        assert stage["seconds"].keys() == {"paddle", "torch"} and all(s >= 0 for s in stage["seconds"].values())
        assert stage["passed"] == (not stage["failures"]) and {"name", "excess", "tolerance"} <= stage["worst"].keys()
    return {(stage["stage"], stage["dtype"]): stage["passed"] for stage in report["stages"]}


ALL = [
    ("structure", "any"),
    *(("forward", dtype) for dtype in ("float32", "float64")),
    *(("train", dtype) for dtype in ("float32", "float64")),
]
LOG_LINE = re.compile(
    r"\[\d{4}/\d\d/\d\d \d\d:\d\d:\d\d\] root INFO: "
    r"(\S+: |\tmean diff: check passed: (True|False), value: [\w.+-]+( \(.*\))?|diff check (passed|failed))"
)


def rows(table: str) -> list[tuple]:
    return [tuple(line.split()[:3]) for line in table.splitlines()[1:-1]]


def test_all_pass(toy):
    (toy / "result").mkdir()
    status, out, err = align(toy)
    assert (status, err) == (0, ""), err
    assert rows(out) == [("pass", *stage) for stage in ALL] and out.endswith("all 5 passed\n")
    assert verdicts(toy) == dict.fromkeys(ALL, True)
    result = toy / "result"
    for stage, names in (
        ("structure", ["any/calls", "any/names", "any/exact/dtype"]),
        ("forward", [f"{d}/{name}" for d in ("float32", "float64") for name in ("calls", "logits", "exact/x")]),
        ("train", [f"{d}/{name}" for d in ("float32", "float64") for name in ("calls", "loss")]),
    ):
        for side in ("paddle", "torch"):
            assert Record.load(result / f"{stage}_{side}.npz").names == names
        log = (result / "log" / f"{stage}_diff.log").read_text().splitlines()
        assert all(LOG_LINE.fullmatch(line) for line in log), log
        assert len(log) == 2 * len(names) + 1 and log[-1].endswith("diff check passed")
        assert [line.split("INFO: ")[1] for line in log[:-1:2]] == [f"{name}: " for name in names]
        assert json.loads((result / "log" / f"{stage}_diff.json").read_text())["passed"]
    forward = Record.load(result / "forward_paddle.npz")
    assert forward["float32/logits"].dtype == np.float32 and forward["float64/logits"].dtype == np.float64
    assert Record.load(result / "structure_torch.npz")["any/exact/dtype"] == "float32"
    assert (result / "curve.txt").exists()
    # What the sides print is in their logs, and did not pass for a stage that is done.
    assert "a library says hello" not in out


DIFFERENCES = {
    "value": ("record['logits'][1] += 1e-3", "forward", "logits: relative"),
    "missing": ("del record['loss']", "train", "loss: missing"),
}


@pytest.mark.parametrize("case", DIFFERENCES)
def test_a_planted_difference(toy, case):
    change, where, words = DIFFERENCES[case]
    status, out, err = align(toy, toy=f"if (side, stage) == ('paddle', {where!r}): {change}")
    expected = {stage: stage[0] != where for stage in ALL}
    assert status == 1 and verdicts(toy) == expected
    assert rows(out) == [("pass" if passed else "FAIL", *stage) for stage, passed in expected.items()]
    failed = [line for line in out.splitlines() if line.startswith("FAIL")]
    assert all(words in line for line in failed) and out.endswith(f"{len(failed)} of 5 FAILED\n")
    log = (toy / "result" / "log" / f"{where}_diff.log").read_text()
    assert "check passed: False" in log and log.endswith("diff check failed\n")
    # A plot of records that differ may fail; the verdict is out by then.
    assert ("KeyError" in err) == (case == "missing")


def test_stages_that_record_nothing_do_not_pass(toy):
    status, out, _ = align(toy, "--stage", "structure", toy="record.clear()")
    assert status == 1 and "nothing to compare" in out
    assert json.loads((toy / "result" / "align.json").read_text())["stages"][0]["worst"] is None


def test_subsets_and_options(toy):
    assert align(toy, "--stage", "train", "forward", "--dtype", "float64", "float64", "--width", "5")[0] == 0
    assert verdicts(toy) == {("forward", "float64"): True, ("train", "float64"): True}
    assert Record.load(toy / "result" / "forward_torch.npz")["float64/exact/x"].tolist() == [1, 2, 3, 4, 5]
    status, out, _ = align(toy, "--dtype", "float64", "--stage", "structure", "--output_dir", "elsewhere/deep")
    assert (status, rows(out)) == (0, [("pass", "structure", "any")])
    assert sorted(os.listdir(toy.parent / "elsewhere" / "deep")) == [
        "align.json", "log", "prepared", "structure_paddle.npz", "structure_torch.npz",
    ]  # fmt: skip


def test_bad_usage(toy):
    (toy / "result").mkdir()
    for arguments, words in (
        (["--stage", "backwards"], "invalid choice: 'backwards'"),
        (["--reference", "."], "has no adapter"),
        (["--output_dir", "toy/align.py"], "a file stands where a folder is needed"),
    ):
        status, out, err = align(toy, *arguments)
        assert status == 2 and not out and words in err and "Traceback" not in err, err
    (toy / "reference").mkdir()
    (toy / "reference" / "official.py").touch()
    status, out, err = align(toy, "--reference", "nowhere")
    assert status == 2 and err.count("\n") == 1 and "nowhere: no such folder" in err
    assert os.listdir(toy / "result") == []


@pytest.mark.parametrize("side", ["prepare", "torch"])
def test_bad_input_found_by_a_side(toy, side):
    message = "x.pth: no such file; run make" if side == "prepare" else "x.pth: differs:\n  missing (1):\n    a.weight"
    raise_it = f"if side == {side!r}:\n  import atexit\n  from shared import InputError\n"
    raise_it += f"  atexit.register(print, 'a library says goodbye')\n  raise InputError({message!r})"
    (toy / "result").mkdir()
    (toy / "result" / "align.json").write_text("of an earlier run, and all passed")
    assert align(toy, toy=raise_it) == (2, "", f"error: {message}\n")
    assert not (toy / "result" / "align.json").exists()


def test_a_side_that_crashes(toy):
    # The other side, which would take a minute, is not waited for.
    crash = "import time\nif side == 'paddle': print('before', '.' * 9000); raise KeyError('some name')\n"
    status, out, err = align(toy, toy=crash + "elif side == 'torch': time.sleep(60)")
    log = toy / "result" / "log" / "paddle.err"
    assert status == 1 and not out and "KeyError: 'some name'" in err and len(err) < 5000
    assert err.splitlines()[-1] == f"error: the paddle side ended with status 1; all it said is in {log}"
    assert "before" in log.read_text() and not (toy / "result" / "align.json").exists()


def test_a_side_that_is_killed(toy):
    status, out, err = align(toy, toy="import os\nif side == 'torch': os.kill(os.getpid(), 9)")
    assert status == 1 and "the torch side died of signal 9 (Killed), perhaps because memory ran out" in err
    status, out, err = align(toy, toy="import os\nif side == 'prepare': os.kill(os.getpid(), 11)")
    assert status == 1 and "the prepare side died of signal 11 (Segmentation fault); " in err


def test_sides_may_print_anything(toy):
    noise = "import os\nos.write(1, b'\\xff\\xfe done x\\ndone forward float32 soon\\n' + bytes(200_000))\n"
    noise += "os.write(2, bytes(200_000))\nprint('done forward float32 0.1')"
    (toy / "alignment" / "common.py").write_text(
        COMMON + "os.write(1, b'\\xff' * 200_000 + b'\\ndone train any 1.0\\n')\n"
    )
    status, out, err = align(toy, toy=noise)
    assert status == 0 and out.endswith("all 5 passed\n") and verdicts(toy) == dict.fromkeys(ALL, True)
    assert "done forward float32 soon" in (toy / "result" / "log" / "torch.err").read_text(errors="replace")


def test_a_process_left_behind_does_not_hold_the_verdict(toy):
    fork = "import os, time\nif (side, stage) == ('torch', 'train') and os.fork() == 0: time.sleep(15); os._exit(0)"
    began = time.monotonic()
    assert align(toy, "--stage", "train", "--dtype", "float32", toy=fork)[0] == 0
    assert time.monotonic() - began < 14


def alive(pid: int) -> bool:
    """Whether the process runs; one that ended and is not waited for yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until(condition) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("number", "group", "status", "told"),
    [
        (signal.SIGINT, False, 130, "interrupted\n"),  # as `kill -INT` does it
        (signal.SIGINT, True, 130, "interrupted\n"),  # as a terminal does it
        (signal.SIGTERM, False, 143, ""),
        (signal.SIGTERM, True, 143, ""),
        (signal.SIGKILL, False, -signal.SIGKILL, ""),  # nothing can be done about it but what the kernel does
    ],
)
def test_an_alignment_that_is_ended_leaves_no_process(toy, number, group, status, told):
    stall = """
import os, time, pathlib
if side in ("paddle", "torch"):
    role = side if os.fork() else side + "_child"
    pathlib.Path(role).write_text(f"{os.getpid()}\\n")
    time.sleep(60)
"""
    process = start(toy, toy=stall, start_new_session=True)
    roles = ("paddle", "torch") if number == signal.SIGKILL else ("paddle", "torch", "paddle_child", "torch_child")
    wait_until(lambda: all((toy.parent / role).exists() and (toy.parent / role).read_text()[-1:] for role in roles))
    (os.killpg if group else os.kill)(process.pid, number)
    out, err = process.communicate(timeout=10)
    assert (process.returncode, out, err) == (status, "", told)
    wait_until(lambda: not any(alive(int((toy.parent / role).read_text())) for role in roles))
