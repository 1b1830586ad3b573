"""train.py as a user runs it: interrupted and resumed, in two processes, on bad input."""

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import paddle
import pytest
from PIL import Image

from shared.tests.scripts import call_script
from shared.weights import load_checkpoint

from mini.draw import write_mini

FOLDER = Path(__file__).resolve().parents[1]
RECIPE = """--num_classes 10 --batch_size 8 --train_crop_size 32 --val_resize_size 36 --val_crop_size 32 --workers 1
    --print_freq 1 --opt rmsprop --lr 0.01 --lr_step_size 1 --lr_gamma 0.9 --epochs 3 --width_mult 0.35 --model_ema
    --model_ema_steps 2 --auto_augment imagenet --random_erase 0.5 --label_smoothing 0.1 --mixup_alpha 0.2
    --clip_grad_norm 5 --seed 3""".split()
STATE = ("model.pdparams", "optimizer.pdopt", "ema.pdparams")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """40 training pictures: five steps an epoch."""
    return write_mini(tmp_path_factory.mktemp("data") / "mini", train_per_class=4, val_per_class=1, size=40)


def command(script: str, *argv) -> list[str]:
    return [sys.executable, str(FOLDER / script), *map(str, argv)]


def call(script: str, *argv) -> subprocess.CompletedProcess:
    return call_script(FOLDER / script, *argv)


def train(data: Path, output_dir: Path, *argv) -> subprocess.CompletedProcess:
    return call("train.py", "--data_path", data, "--output_dir", output_dir, *RECIPE, *argv)


def bits(checkpoint: Path) -> dict[str, bytes]:
    return {name: (checkpoint / name).read_bytes() for name in STATE}


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory) -> Path:
    """A training of three epochs, fifteen steps, that nothing disturbed."""
    output_dir = tmp_path_factory.mktemp("whole")
    finished = train(data, output_dir)
    assert finished.returncode == 0, finished.stderr
    return output_dir


def test_a_training_leaves_checkpoints_logs_and_scalars(whole, data):
    checkpoint = load_checkpoint(whole / "latest")
    assert checkpoint.state["step"] == 15 and checkpoint.state["epoch"] == 3
    assert [entry["epoch"] for entry in checkpoint.state["history"]] == [0, 1, 2]
    assert (whole / "best" / "model.pdparams").is_file()
    assert (whole / "train.log").read_text().count("validation after epoch") == 3
    assert list((whole / "visualdl").glob("vdlrecords*"))
    finished = call("evaluate.py", "--weights", whole / "latest", "--data_path", data, "--output", whole / "m.json")
    assert finished.returncode == 0, finished.stderr
    metrics = json.loads((whole / "m.json").read_text())
    last = checkpoint.state["history"][-1]
    assert metrics["acc1"] == last["val_acc1"] and metrics["images"] == 10


def test_killed_at_any_step_it_resumes_to_the_same_bits(whole, data, tmp_path):
    """SIGKILL at random moments of a training that saves at every step, until it is through."""
    choose = random.Random(0)
    resume, kills = [], 0
    for _ in range(12):
        process = subprocess.Popen(
            command(
                "train.py", "--data_path", data, "--output_dir", tmp_path, *RECIPE, "--checkpoint_steps", 1, *resume
            ),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        steps = 0
        target = choose.randint(1, 2) if kills < 5 else 10**9
        for line in process.stdout:
            steps += line.startswith("epoch ")
            if steps >= target:
                time.sleep(choose.random() * 0.1)  # anywhere in a step, or in the writing of a checkpoint
                process.send_signal(signal.SIGKILL)
                break
        process.stdout.close()
        if process.wait() == 0:
            break
        kills += process.returncode == -signal.SIGKILL
        resume = ["--resume", tmp_path / "latest"] if (tmp_path / "latest").exists() else []
    assert process.returncode == 0 and kills >= 4
    assert bits(tmp_path / "latest") == bits(whole / "latest")


def _small_disk() -> None:
    """No file may become larger: writing then fails as on a disk that is full."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, resource.RLIM_INFINITY))


def test_a_full_disk_keeps_what_was_there(whole, data, tmp_path):
    output_dir = tmp_path / "o"
    shutil.copytree(whole, output_dir, symlinks=True, ignore=shutil.ignore_patterns("visualdl"))
    before = {label: bits(output_dir / label) for label in ("latest", "best")}
    argv = ["--data_path", data, "--output_dir", output_dir, *RECIPE, "--max_steps", 2]
    finished = subprocess.run(command("train.py", *argv), capture_output=True, text=True, preexec_fn=_small_disk)
    line = one_line(finished)
    assert "not written" in line and str(output_dir / "checkpoints") in line
    assert {label: bits(output_dir / label) for label in before} == before
    assert not list(tmp_path.rglob(".tmp*"))


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_stops(whole, data, tmp_path, number, status):
    process = subprocess.Popen(
        command("train.py", "--data_path", data, "--output_dir", tmp_path, *RECIPE),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    for line in process.stdout:
        if line.startswith("epoch   1"):
            process.send_signal(number)
            break
    _, errors = process.communicate(timeout=120)
    assert process.returncode == status
    assert "--resume" in errors.strip().splitlines()[-1]
    finished = train(data, tmp_path, "--resume", tmp_path / "latest")
    assert finished.returncode == 0, finished.stderr
    assert bits(tmp_path / "latest") == bits(whole / "latest")


def test_interrupted_after_the_last_step_of_an_epoch(whole, data, tmp_path):
    """That checkpoint says "five of five steps"; here it is made from the one of the epoch's end."""
    finished = train(data, tmp_path, "--max_steps", 5)
    assert finished.returncode == 0, finished.stderr
    path = (tmp_path / "latest").resolve() / "state.json"
    state = json.loads(path.read_text())
    assert (state["epoch"], state["step_in_epoch"]) == (1, 0)
    path.write_text(json.dumps(state | {"epoch": 0, "step_in_epoch": 5, "history": []}))
    finished = train(data, tmp_path, "--resume", tmp_path / "latest")
    assert finished.returncode == 0, finished.stderr
    assert bits(tmp_path / "latest") == bits(whole / "latest")


@pytest.mark.parametrize("opt", ["sgd", "sgd_nesterov", "adamw"])
def test_every_optimiser_resumes(data, tmp_path, opt):
    recipe = [*(opt if word == "rmsprop" else word for word in RECIPE), "--norm_weight_decay", "0", "--eval_freq", "9"]
    for name, *argv in (("one", 4), ("two", 2), ("two", 4, "--resume", tmp_path / "two" / "latest")):
        finished = call("train.py", "--data_path", data, "--output_dir", tmp_path / name, *recipe, "--max_steps", *argv)
        assert finished.returncode == 0, finished.stderr
    assert bits(tmp_path / "two" / "latest") == bits(tmp_path / "one" / "latest")


def test_the_number_of_workers_changes_nothing(whole, data, tmp_path):
    finished = train(data, tmp_path, "--workers", 0)
    assert finished.returncode == 0, finished.stderr
    assert bits(tmp_path / "latest") == bits(whole / "latest")


def test_two_processes_have_the_gradients_of_one(tmp_path):
    finished = subprocess.run(
        [sys.executable, "-m", "paddle.distributed.launch", "--nproc_per_node", "2", "--log_dir", str(tmp_path)]
        + [str(FOLDER / "tests" / "two_processes.py")],
        capture_output=True,
        text=True,
        timeout=200,
        cwd=tmp_path,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert finished.stdout.count("equal") == 2


def test_two_processes_train_and_resume(data, tmp_path):
    """Both forms end at the same step with the same weights: in one go, and stopped half-way."""
    launch = [
        sys.executable,
        "-m",
        "paddle.distributed.launch",
        "--nproc_per_node",
        "2",
        "--log_dir",
        str(tmp_path / "l"),
    ]
    recipe = [str(FOLDER / "train.py"), "--data_path", str(data), *RECIPE, "--batch_size", "4", "--sync_bn"]

    def go(name: str, *argv) -> None:
        finished = subprocess.run(
            [*launch, *recipe, "--output_dir", str(tmp_path / name), *map(str, argv)],
            capture_output=True,
            text=True,
            timeout=200,
            cwd=tmp_path,
        )
        assert finished.returncode == 0, finished.stdout + finished.stderr

    go("one", "--max_steps", 7)
    go("two", "--max_steps", 3)
    go("two", "--max_steps", 7, "--resume", tmp_path / "two" / "latest")
    assert load_checkpoint(tmp_path / "two" / "latest").state["step"] == 7
    assert bits(tmp_path / "two" / "latest") == bits(tmp_path / "one" / "latest")


def one_line(finished: subprocess.CompletedProcess, status: int = 2) -> str:
    """The one line that a refusal prints, warnings of imported packages aside."""
    assert finished.returncode == status, finished.stderr
    assert "Traceback" not in finished.stderr
    lines = [line for line in finished.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, finished.stderr
    return lines[0]


def test_a_diverging_training_stops_and_keeps_its_checkpoint(whole, data, tmp_path):
    finished = train(data, tmp_path, "--max_steps", 2)
    assert finished.returncode == 0, finished.stderr
    before = bits(tmp_path / "latest")
    diverging = [word if word != "0.01" else "1e20" for word in RECIPE]
    finished = call("train.py", "--data_path", data, "--output_dir", tmp_path, *diverging, "--clip_grad_norm", "1e30")
    line = one_line(finished, 3)
    assert "loss is" in line and "--lr" in line
    assert bits(tmp_path / "latest") == before


def test_resuming_another_training_is_refused(whole, data, tmp_path):
    line = one_line(train(data, tmp_path, "--resume", whole / "latest", "--lr", "0.5"))
    assert "--lr 0.01, not 0.5" in line
    line = one_line(train(data, tmp_path, "--resume", tmp_path / "nothing"))
    assert "nothing" in line


def test_missing_data(tmp_path):
    line = one_line(call("train.py", "--data_path", tmp_path / "absent", "--output_dir", tmp_path / "o"))
    assert "absent" in line and "mini.py" in line
    assert "--data_path is missing" in one_line(call("train.py", "--output_dir", tmp_path / "o"))
    assert not (tmp_path / "o").exists()


def damaged(data: Path, tmp_path: Path) -> Path:
    """A copy of the data set whose one picture is about to be damaged."""
    copy = tmp_path / "copy"
    subprocess.run(["cp", "-r", data, copy], check=True)
    return copy


@pytest.mark.parametrize("workers", [0, 2])
def test_broken_pictures(data, tmp_path, workers):
    copy = damaged(data, tmp_path)
    victim = sorted((copy / "train" / "mug").iterdir())[1]
    content = victim.read_bytes()
    for broken in (content[: len(content) // 2], b"these are words\n" * 40, b""):
        victim.write_bytes(broken)
        line = one_line(train(copy, tmp_path / "o", "--workers", workers))
        assert str(victim) in line


def test_class_folder_without_pictures(data, tmp_path):
    copy = damaged(data, tmp_path)
    for picture in (copy / "train" / "mug").iterdir():
        picture.unlink()
    assert "mug" in one_line(train(copy, tmp_path / "o"))


def test_wrong_number_of_classes(data, tmp_path):
    finished = call("train.py", "--data_path", data, "--output_dir", tmp_path / "o")
    assert "--num_classes 10" in one_line(finished)


def test_wrong_weights(whole, data, tmp_path):
    small = whole / "latest" / "model.pdparams"
    finished = call(
        "evaluate.py", "--weights", small, "--data_path", data, "--model", "large", "--output", tmp_path / "m"
    )
    assert finished.returncode == 2 and "Traceback" not in finished.stderr
    assert "missing" in finished.stderr and len(finished.stderr.splitlines()) <= 50
    assert not (tmp_path / "m").exists()
    for name, content in (("cut.pdparams", small.read_bytes()[:999]), ("empty.pth", b""), ("words.pth", b"words")):
        (tmp_path / name).write_bytes(content)
        line = one_line(call("evaluate.py", "--weights", tmp_path / name, "--data_path", data))
        assert name in line
    assert "--weights is missing" in one_line(call("evaluate.py", "--data_path", data))


def test_only_evaluates(whole, data, tmp_path):
    argv = ["--data_path", data, "--output_dir", tmp_path / "o", "--test_only", "--workers", 0]
    finished = call("train.py", *argv, "--weights", whole / "latest")
    assert finished.returncode == 0, finished.stderr
    expected = load_checkpoint(whole / "latest").state["history"][-1]
    assert f"acc1: {expected['val_acc1']:.3f}" in finished.stdout
    assert "--test_only" in one_line(call("train.py", *argv, "--num_classes", 10))


def test_bad_values_of_options_are_refused(tmp_path):
    for argv in (["--batch_size", "0"], ["--random_erase", "1.5"], ["--model", "resnet18"], ["--lr", "-1"]):
        finished = call("train.py", *argv)
        assert finished.returncode == 2 and "Traceback" not in finished.stderr


def test_demo_on_bad_pictures(whole, tmp_path):
    (tmp_path / "words.jpg").write_text("not a picture")
    finished = call(
        "demo.py", "--image_path", tmp_path / "words.jpg", "--weights", whole / "latest", "--output_dir", tmp_path / "o"
    )
    assert "words.jpg" in one_line(finished)
    assert not (tmp_path / "o").exists()


def test_demo_on_one_bad_picture_among_others(whole, data, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jpg").write_text("not a picture")
    shutil.copy(sorted((data / "val" / "mug").iterdir())[0], tmp_path / "in" / "b.jpg")
    argv = ["--image_path", tmp_path / "in", "--weights", whole / "latest", "--output_dir", tmp_path / "o"]
    finished = call("demo.py", *argv)
    assert finished.returncode == 2 and "a.jpg" in finished.stderr and "Traceback" not in finished.stderr
    assert "1 of 2 pictures done" in finished.stdout
    assert list(json.loads((tmp_path / "o" / "predictions.json").read_text())) == ["b.jpg"]


def test_full_precision_of_a_step_on_cpu_amp(data, tmp_path):
    """--amp runs where the processor has bfloat16 and keeps float32 weights."""
    finished = train(data, tmp_path, "--amp", "--max_steps", 1)
    assert finished.returncode == 0, finished.stderr
    state = paddle.load(str(tmp_path / "latest" / "model.pdparams"))
    assert all(np.asarray(tensor).dtype == np.float32 for tensor in state.values())


def test_demo_labels_pictures(whole, data, tmp_path):
    picture = sorted((data / "val" / "mug").iterdir())[0]
    finished = call("demo.py", "--image_path", picture, "--weights", whole / "latest", "--output_dir", tmp_path)
    assert finished.returncode == 0, finished.stderr
    predictions = json.loads((tmp_path / "predictions.json").read_text())[picture.name]
    assert len(predictions) == 5 and predictions[0]["class"] in os.listdir(data / "val")
    assert 0 < sum(entry["probability"] for entry in predictions) <= 1 + 1e-9
    assert Image.open(tmp_path / f"{picture.name}.top5.png").size == (720, 360)
