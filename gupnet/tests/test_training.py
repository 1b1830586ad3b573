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
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import paddle
import pytest
import torch
from PIL import Image
from visualdl import LogReader

from shared import InputError
from shared.align.formula import formula_state
from shared.weights import load_checkpoint, read_weights

import plot_htl
import train
import trainer
from golden_files import SHAPES
from learner import Learner
from losses import TERMS
from mini.draw import ensure_mini
from models import build_model
from networks import batch_of
from options import parse_options

FOLDER = Path(__file__).resolve().parents[1]
# two batches a pass; with a horizon of eight epochs the tasks' weights are no longer 0 in the last two
RECIPE = """--input_size 64 64 --batch_size 2 --max_epoch 8 --eval_frequency 8 --save_frequency 8 --disp_frequency 1
    --threshold 0 --seed 3""".split()
STATE = ("model.pdparams", "optimizer.pdopt")


# ---------------------------------------------------------------------------------------------------- data and runs


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """A drawn data set of four frames to train on."""
    return ensure_mini(tmp_path_factory.mktemp("data") / "mini", counts={"train": 4, "val": 2, "test": 1})


@pytest.fixture(autouse=True)
def own_signals() -> Iterator[None]:
    """A training leaves its handlers behind, which a process that goes on must not keep."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


def words(data: Path, output_dir: Path, *argv) -> list[str]:
    """The command line of a training; what stands in `argv` wins over the recipe."""
    return [*map(str, ["--data_path", data, "--output_dir", output_dir, "--num_workers", 0]), *RECIPE, *map(str, argv)]


def run(data: Path, output_dir: Path, *argv) -> int:
    return train.main(words(data, output_dir, *argv))


def built(data: Path, output_dir: Path, *argv) -> trainer.Trainer:
    return trainer.Trainer(train.options_of(words(data, output_dir, *argv)))


def refusal(data: Path, output_dir: Path, *argv) -> str:
    """What train.py says, in one line, before it ends with status 2 (`shared.run`)."""
    with pytest.raises(InputError) as refused:
        run(data, output_dir, *argv)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def start(data: Path, output_dir: Path, *argv) -> subprocess.Popen:
    command = [sys.executable, "-u", str(FOLDER / "train.py"), *words(data, output_dir, *argv)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def bits(checkpoint: Path) -> dict[str, bytes]:
    return {name: (checkpoint / name).read_bytes() for name in STATE}


def arrays(file: Path) -> dict[str, np.ndarray]:
    return read_weights(file).tensors


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory) -> Path:
    """A training of eight epochs that nothing disturbed."""
    output_dir = tmp_path_factory.mktemp("whole")
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    assert run(data, output_dir) == 0
    signal.signal(signal.SIGINT, handlers[0]), signal.signal(signal.SIGTERM, handlers[1])
    return output_dir


# ------------------------------------------------------------------------------------------------ a whole training


def test_a_training_leaves_checkpoints_logs_and_scalars(whole):
    state = load_checkpoint(whole / "latest").state
    history = state["history"]
    assert (state["step"], state["batches"]) == (16, 18)
    assert [entry["epoch"] for entry in history] == [-1, *range(8)]
    weights = np.array([[entry["weights"][term] for term in TERMS] for entry in history[1:]])
    assert (weights[:, :3] == 1).all() and (weights[:6, 3:] == 0).all() and (weights[6:, 3:] > 0).any()
    assert len(state["learner"]["tasks"]["past_losses"]) == 5
    assert history[-1]["metrics"].keys() == {"Car", "Pedestrian", "Cyclist"} or history[-1]["metrics"] is not None
    assert bits(whole / "checkpoint_epoch_8") == bits(whole / "best") == bits(whole / "latest")
    written = json.loads((whole / "options.json").read_text())
    assert written["max_epoch"] == 8 and written["decay_list"] == [90, 120]
    assert sorted(path.suffix for path in (whole / "data").iterdir()) == [".txt", ".txt"]
    log = (whole / "train.log").read_text()
    assert log.count("| batch ") == 18 and log.count("| weights: ") == 8 and log.count("validation after epoch") == 1
    reader = LogReader(file_path=str(next((whole / "visualdl").glob("vdlrecords*"))))
    rates = [record.value for record in reader.get_data("scalar", "train/lr")]
    warmup = [1e-5 + (1.25e-3 - 1e-5) * (1 - np.cos(np.pi * epoch / 5)) / 2 for epoch in range(5)]
    np.testing.assert_allclose(rates, [*warmup, *[1.25e-3] * 3], rtol=1e-6)
    shown = [record.value for record in reader.get_data("scalar", "weight/depth_loss")]
    np.testing.assert_allclose(shown, weights[:, TERMS.index("depth_loss")], rtol=1e-6)


def test_the_weights_are_plotted_again_from_the_log(whole, tmp_path):
    with Image.open(whole / "htl_weights.png") as picture:
        assert picture.size == (800, 700)
    plot_htl.main([str(whole / "train.log"), str(tmp_path / "again.png")])
    found, history = plot_htl.read_log(whole / "train.log"), load_checkpoint(whole / "latest").state["history"]
    assert [entry["epoch"] for entry in found] == [entry["epoch"] for entry in history]
    for own, entry in zip(found, history, strict=True):
        assert own["weights"] == pytest.approx(entry["weights"], abs=6e-5)
        assert own["losses"] == pytest.approx(entry["losses"], abs=6e-5)
    with pytest.raises(InputError, match="no line of an epoch's weights"):
        plot_htl.read_log(Path(__file__))
    assert (tmp_path / "again.png").stat().st_size > 10_000


def test_what_the_optimiser_moves(whole, data, tmp_path):
    """All but what no loss reaches, which has no moments; the statistics of the idle norms have seen the frames."""
    first = {name: value.numpy() for name, value in built(data, tmp_path).model.state_dict().items()}
    last, moments = arrays(whole / "latest"), arrays(whole / "latest" / "optimizer.pdopt")
    moved = {name for name in last if not np.array_equal(first[name], last[name])}
    idle = {f"backbone.level{i}.project.{part}" for i in (3, 4) for part in ("0.weight", "1.weight", "1.bias")}
    assert set(last) - moved == {"mean_size", "backbone.fc.weight", "backbone.fc.bias"} | idle
    assert {name.split("|")[0] for name in moments} == {n for n in moved if not n.endswith(("._mean", "._variance"))}


def test_heads_whose_loss_weighs_nothing_still_decay():
    """Trap 1: their gradients are 0 but there, so Adam turns the decay into steps of the full rate towards 0."""
    options = parse_options(["--warmup", "no"])
    paddle.seed(0)
    learner = Learner(build_model(options), options)
    learner.look(batch_of("model", "float32"))
    learner.begin_epoch(0)
    rate, watched = options.lr, ("depth.0.weight", "heading.4.weight", "size_3d.1.weight")
    parameters = dict(learner.model.named_parameters())
    before = {name: parameters[name].numpy() for name in (*watched, "heading.4.bias", "depth.1.bias")}
    for _ in range(2):
        learner.learn(batch_of("model", "float32"))
    for name in watched:
        # the decay's gradient is 1e-5 w, far above Adam's epsilon where w is not tiny: a step of the rate each time
        large = np.abs(before[name]) > 0.01
        step = (before[name] - parameters[name].numpy())[large] / np.sign(before[name])[large]
        np.testing.assert_allclose(step, 2 * rate, rtol=0.1, err_msg=name)
    for name in ("heading.4.bias", "depth.1.bias"):
        np.testing.assert_array_equal(parameters[name].numpy(), before[name])


def test_a_batch_without_objects_does_no_harm():
    """Its terms count as 0, the network stays finite, and the means go on."""
    options = parse_options([])
    learner, batch = Learner(build_model(options), options), batch_of("model", "float32")
    empty = {"mask_2d": paddle.zeros_like(batch.targets["mask_2d"]), "heatmap": batch.targets["heatmap"] * 0.5}
    empty = batch._replace(targets=batch.targets | empty)
    learner.look(batch)
    learner.begin_epoch(0)
    values = learner.learn(empty)
    assert all(values[term] == 0 for term in TERMS[1:]) and values["loss"] == values["seg_loss"] > 0
    again = learner.learn(batch)
    assert learner.means()["depth_loss"] == pytest.approx(again["depth_loss"] / 2)
    assert all(np.isfinite(value.numpy()).all() for value in learner.model.state_dict().values())


# --------------------------------------------------------------------------------------------- stopping and going on


def test_killed_and_stopped_it_resumes_to_the_same_bits(whole, data, tmp_path):
    """SIGKILL five times at random moments, the first inside the pass before the training; then SIGINT and SIGTERM."""
    choose, resume = random.Random(0), []
    for number, status, argv in (
        *[(signal.SIGKILL, -9, ["--checkpoint_steps", 1, "--num_workers", workers]) for workers in (0, 2, 0, 2, 0)],
        (signal.SIGINT, 130, ["--num_workers", 2]),
        (signal.SIGTERM, 143, []),
    ):
        process = start(data, tmp_path, *argv, *resume)
        wait = choose.randint(1, 2) if resume else 1
        for line in process.stdout:
            if "| batch " in line:
                wait -= 1
            if not wait:
                if number == signal.SIGKILL:  # once there is a checkpoint, in the writing of one or in a step
                    while not (tmp_path / "latest").exists():
                        time.sleep(0.01)
                    time.sleep(choose.random() * 0.5)
                process.send_signal(number)
                break
        _, errors = process.communicate(timeout=120)
        assert process.returncode == status, errors
        resume = ["--resume", tmp_path / "latest"]
        if number != signal.SIGKILL:
            assert errors.strip().splitlines()[-1].endswith(f"--resume {tmp_path / 'latest'}")
    assert run(data, tmp_path, *resume) == 0
    assert bits(tmp_path / "latest") == bits(whole / "latest")
    again, state = (load_checkpoint(path / "latest").state for path in (tmp_path, whole))
    for name in ("history", "best", "learner", "batches"):
        assert again[name] == state[name], name


def test_another_training_is_not_resumed(whole, data, tmp_path):
    resume = ["--resume", whole / "latest"]
    line = refusal(data, tmp_path, *resume, "--lr", "0.5")
    assert "--lr 0.00125, not 0.5" in line and str(whole / "latest") in line
    assert "--max_epoch 8, not 9" in refusal(data, tmp_path, *resume, "--max_epoch", 9)
    assert "--input_size 64 64, not 64 96" in refusal(data, tmp_path, *resume, "--input_size", 64, 96)
    shutil.copytree(data, tmp_path / "data")
    names = (data / "ImageSets" / "train.txt").read_text().split()
    (tmp_path / "data" / "ImageSets" / "train.txt").write_text("\n".join(names[:3]) + "\n")
    assert "4 frames" in refusal(tmp_path / "data", tmp_path / "o", *resume)
    assert "nothing" in refusal(data, tmp_path / "o", "--resume", tmp_path / "nothing")
    assert not (tmp_path / "o").exists()


def test_a_damaged_checkpoint_is_not_resumed(whole, data, tmp_path):
    copy = tmp_path / "checkpoint"
    shutil.copytree((whole / "latest").resolve(), copy)
    content = (copy / "optimizer.pdopt").read_bytes()
    (copy / "optimizer.pdopt").write_bytes(content[: len(content) // 2])
    assert "optimizer.pdopt" in refusal(data, tmp_path / "o", "--resume", copy)
    (copy / "optimizer.pdopt").unlink()
    assert "incomplete" in refusal(data, tmp_path / "o", "--resume", copy)
    (copy / "state.json").write_text("{}")
    assert "state.json" in refusal(data, tmp_path / "o", "--resume", copy)


def test_a_state_without_what_it_must_hold_is_not_resumed(whole, data, tmp_path):
    copy = tmp_path / "checkpoint"
    shutil.copytree((whole / "latest").resolve(), copy)
    state = json.loads((copy / "state.json").read_text())
    for name in ("learner", "options", "batches", "world"):
        (copy / "state.json").write_text(json.dumps({key: value for key, value in state.items() if key != name}))
        assert "state.json" in refusal(data, tmp_path / "o", "--resume", copy)
    (copy / "state.json").write_text(json.dumps(state | {"learner": {"tasks": 3}}))
    assert "state.json" in refusal(data, tmp_path / "o", "--resume", copy)


def test_a_training_that_diverges_keeps_what_it_had(data, tmp_path, capsys):
    argv = ["--lr", "1e30", "--warmup", "no", "--checkpoint_steps", 1]
    assert run(data, tmp_path, *argv) == 3
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("error: not a finite number at step 1: ") and "_loss" in line and "--lr" in line
    checkpoint = load_checkpoint(tmp_path / "latest")
    assert checkpoint.state["step"] == 1 and np.isfinite(checkpoint.state["history"][0]["losses"]["seg_loss"])


@contextmanager
def small_disk(size: int) -> Iterator[None]:
    """No file may become larger than `size` bytes: writing then fails as on a disk that is full."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_full_disk_keeps_what_was_there(whole, data, tmp_path):
    shutil.copytree(whole, tmp_path / "o", symlinks=True, copy_function=os.link, ignore=shutil.ignore_patterns("v*"))
    before = bits(tmp_path / "o" / "latest")
    with small_disk(50_000_000):
        line = refusal(data, tmp_path / "o", "--max_steps", 1)
    assert "not written" in line and "latest-0000000" in line
    assert bits(tmp_path / "o" / "latest") == before
    assert not list(tmp_path.rglob(".tmp*"))


# -------------------------------------------------------------------------------------------------- two processes


def test_two_processes_train_as_one(data, tmp_path):
    """A step in float64; and train.py, stopped and resumed, ends with the weights of one process."""
    script, argv = FOLDER / "tests" / "two_processes.py", ["--sync_bn", "--max_epoch", 1]
    launch = [sys.executable, "-m", "paddle.distributed.launch", "--nproc_per_node", 2, "--log_dir", tmp_path / "log"]
    command = [*launch, script, *words(data, tmp_path / "two", *argv)]
    finished = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=400, cwd=tmp_path)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert finished.stdout.count("equal") == 2, finished.stdout
    assert run(data, tmp_path / "one", *argv) == 0
    one, two = (arrays(folder / "latest") for folder in (tmp_path / "one", tmp_path / "two"))
    for name, value in one.items():
        difference = np.linalg.norm(two[name].astype(np.float64) - value)
        # Adam's first two steps are of the rate's size, 1e-5, and of either sign where a gradient is all rounding
        steps = 2 * 2e-5 * np.sqrt(value.size)
        # measured: 1.2e-3, of a running mean behind level 5, whose maps have 2 x 2 cells here; in float64 1.6e-11
        assert difference <= 5e-3 * np.linalg.norm(value.astype(np.float64)) + steps, name
    found = [sorted(path.name for path in (tmp_path / f / "data").iterdir()) for f in ("one", "two")]
    assert found[0] == found[1] == [f"{int(n):06d}.txt" for n in (data / "ImageSets" / "val.txt").read_text().split()]
    histories = [load_checkpoint(tmp_path / f / "latest").state["history"] for f in ("one", "two")]
    for own, others in zip(*histories, strict=True):
        assert own["losses"] == pytest.approx(others["losses"], rel=5e-3)  # measured: 1.1e-3


# ---------------------------------------------------------------------------------------- where a training begins


def test_a_training_from_weights_and_from_imagenet(whole, data, tmp_path):
    """All of --weights; of --pretrain_path the backbone but for its classifier, whatever the number of classes."""
    last = arrays(whole / "latest")
    model = built(data, tmp_path, "--weights", whole / "best").model
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), last[name])
    shapes = {name.removeprefix("backbone."): shape for name, shape in SHAPES.items() if name.startswith("backbone.")}
    shapes |= {"fc.weight": (7, 512, 1, 1), "fc.bias": (7,)}
    state = {name: torch.from_numpy(array) for name, array in formula_state(shapes, 1).items()}
    torch.save({n: v for n, v in state.items() if "num_batches" not in n}, tmp_path / "dla34.pth")
    fresh = built(data, tmp_path).model.state_dict()
    filled = built(data, tmp_path, "--pretrain_path", tmp_path / "dla34.pth").model.state_dict()
    for name, value in filled.items():
        official = name.removeprefix("backbone.").replace("_mean", "running_mean").replace("_variance", "running_var")
        taken = name.startswith("backbone.") and ".fc." not in name
        np.testing.assert_array_equal(value.numpy(), (state[official] if taken else fresh[name]).numpy(), err_msg=name)
    torch.save({n: v for n, v in state.items() if n != "level5.project.1.bias"}, tmp_path / "lacking.pth")
    with pytest.raises(InputError, match=r"lacking.pth(.|\n)*level5.project.1.bias"):
        run(data, tmp_path / "o", "--pretrain_path", tmp_path / "lacking.pth")
    assert "base_layer.0.weight" in refusal(data, tmp_path / "o", "--pretrain_path", whole / "best")


def test_mixed_precision_and_sgd_train_too(data, tmp_path):
    assert run(data, tmp_path, "--amp", "--optimizer", "sgd", "--max_steps", 2) == 0
    found, moments = arrays(tmp_path / "latest"), arrays(tmp_path / "latest" / "optimizer.pdopt")
    assert all(value.dtype == np.float32 and np.isfinite(value).all() for value in found.values())
    assert {name.split("|")[1] for name in moments} == {"velocity"}
    assert run(data, tmp_path, "--amp", "--optimizer", "sgd", "--resume", tmp_path / "latest", "--max_steps", 3) == 0


# ----------------------------------------------------------------------------------------------------- bad input


def test_exit_status_of_bad_input(tmp_path):
    command = [sys.executable, str(FOLDER / "train.py"), "--data_path", str(tmp_path / "absent")]
    finished = subprocess.run([*command, "--output_dir", str(tmp_path / "o")], capture_output=True, text=True)
    assert finished.returncode == 2 and "Traceback" not in finished.stderr
    lines = [line for line in finished.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and "absent" in lines[0]
    assert not (tmp_path / "o").exists()


def test_bad_input(data, tmp_path):
    with pytest.raises(InputError, match="--data_path is missing"):
        train.main(["--output_dir", str(tmp_path / "o")])
    assert "--eval_split test" in refusal(data, tmp_path / "o", "--eval_split", "test")
    assert "no such file or folder" in refusal(data, tmp_path / "o", "--weights", tmp_path / "absent")
    (tmp_path / "words.pdparams").write_bytes(b"words")
    assert "words.pdparams" in refusal(data, tmp_path / "o", "--weights", tmp_path / "words.pdparams")
    (tmp_path / "file").write_text("in the way")
    assert str(tmp_path / "file") in refusal(data, tmp_path / "file")
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_picture_is_named(data, tmp_path, workers):
    copy = tmp_path / "data"
    shutil.copytree(data, copy)
    picture = copy / "training" / "image_2" / f"{(copy / 'ImageSets' / 'train.txt').read_text().split()[2]}.png"
    picture.write_bytes(picture.read_bytes()[:300])
    assert str(picture) in refusal(copy, tmp_path / "o", "--num_workers", workers)


@pytest.mark.parametrize(
    "argv", ["--input_size 100 64", "--writelist Tram", "--batch_size 0", "--lr nan", "--random_flip 2", "--warmup 7"]
)
def test_bad_values_of_options(data, tmp_path, argv):
    with pytest.raises(SystemExit) as ended:
        train.main(["--data_path", str(data), "--output_dir", str(tmp_path), *argv.split()])
    assert ended.value.code == 2
