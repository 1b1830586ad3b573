"""train.py as a user runs it: interrupted and resumed, in two processes, diverging, on bad input."""

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
import train
from visualdl import LogReader

from shared import InputError
from shared.weights import load_checkpoint, read_weights

import trainer
from data_sets import SMALL, edit, lay_out
from losses import NotFinite, build_criterion
from options import parse_options

FOLDER = Path(__file__).resolve().parents[1]
# a small network; three steps an epoch
NETWORK = """--backbone resnet18 --hidden_dim 64 --dim_feedforward 32 --nheads 4 --enc_layers 1 --dec_layers 2
    --num_queries 8 --enc_n_points 2 --dec_n_points 2 --with_box_refine""".split()
RECIPE = [*SMALL, *NETWORK, *"--pretrain_path scratch --batch_size 2 --epochs 2 --lr_drop 1 --log_frequency 1".split()]
STATE = ("model.pdparams", "optimizer.pdopt")
STEPS = 6


# ---------------------------------------------------------------------------------------------------- data and runs


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Seven pictures of noise to train on, three to validate on."""
    root = tmp_path_factory.mktemp("data")
    return lay_out(lay_out(root), 3, "val")


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
    where = ["--data_path", data, "--output_dir", output_dir, "--num_workers", 0]
    return [*map(str, where), *RECIPE, *map(str, argv)]


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
    """A training of six steps that nothing disturbed."""
    output_dir = tmp_path_factory.mktemp("whole")
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    assert run(data, output_dir) == 0
    signal.signal(signal.SIGINT, handlers[0]), signal.signal(signal.SIGTERM, handlers[1])
    return output_dir


# ------------------------------------------------------------------------------------------------ a whole training


def test_a_training_leaves_checkpoints_logs_and_scalars(whole):
    checkpoint = load_checkpoint(whole / "latest")
    assert checkpoint.state["step"] == STEPS and load_checkpoint(whole / "best").state["step"] in (3, 6)
    lines = [json.loads(line) for line in (whole / "log.txt").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [0, 1]
    for line, rate in zip(lines, (2e-4, 2e-5), strict=True):
        assert line["train_lr"] == pytest.approx(rate, rel=1e-6)
        weighted = ("loss_ce", "loss_bbox", "loss_giou", "loss_ce_0", "loss_bbox_0", "loss_giou_0")
        assert sum(line[f"train_{name}"] for name in weighted) == pytest.approx(line["train_loss"], rel=1e-5)
        assert line["train_loss_ce"] == pytest.approx(2 * line["train_loss_ce_unscaled"], rel=1e-6)
        assert line["train_grad_norm"] > 0 and 0 <= line["test_class_error"] <= 100
        assert len(line["test_coco_eval_bbox"]) == 12 and line["n_parameters"] > 1e6
        assert {"train_cardinality_error_unscaled", "test_loss_giou_0_unscaled"} <= set(line)
    log = (whole / "train.log").read_text()
    assert log.count("grad_norm:") == STEPS and log.count("validation after epoch") == 2
    assert json.loads((whole / "options.json").read_text())["num_queries"] == 8
    reader = LogReader(file_path=str(next((whole / "visualdl").glob("vdlrecords*"))))
    rates = [record.value for record in reader.get_data("scalar", "train/lr")]
    np.testing.assert_allclose(rates, [2e-4] * 3 + [2e-5] * 3, rtol=1e-6)
    assert {"val/AP", "train/loss_giou_0", "train/grad_norm"} <= set(reader.get_tags()["scalar"])
    assert {"val/detections/0", "val/detections/1"} <= set(reader.get_tags()["image"])


def test_what_the_optimiser_moves(whole, data, tmp_path):
    """All that is trained, and nothing of the frozen stem, first stage and norms."""
    fresh = built(data, tmp_path).model
    first = {name: value.numpy() for name, value in fresh.state_dict().items()}
    last, moments = arrays(whole / "latest"), arrays(whole / "latest" / "optimizer.pdopt")
    still = {name for name in last if np.array_equal(first[name], last[name])}
    trained = {name for name, parameter in fresh.named_parameters() if not parameter.stop_gradient}
    frozen = set(first) - trained
    assert {name for name in still if ".body." in name} == {name for name in frozen if ".body." in name}
    assert not still & trained
    assert {name.split("|")[0] for name in moments} == trained


# --------------------------------------------------------------------------------------------- stopping and going on


def test_killed_and_stopped_it_resumes_to_the_same_bits(whole, data, tmp_path):
    """SIGKILL five times at random moments, then SIGINT, then SIGTERM; some of it with workers, some without."""
    choose, resume = random.Random(0), []
    stops = [(signal.SIGKILL, -9)] * 5 + [(signal.SIGINT, 130), (signal.SIGTERM, 143)]
    for turn, (number, status) in enumerate(stops):
        process = start(data, tmp_path, "--checkpoint_steps", 1, "--num_workers", 2 * (turn % 2), *resume)
        lines, wanted = 0, choose.randint(1, 2) if turn < 2 else 1
        for line in process.stdout:
            lines += line.startswith("epoch")
            if lines == wanted:
                while not (tmp_path / "latest").exists():
                    time.sleep(0.01)
                if number == signal.SIGKILL:  # in a step, a validation or the writing of a checkpoint
                    time.sleep(choose.random() * 0.5)
                process.send_signal(number)
                break
        _, errors = process.communicate(timeout=300)
        finished = process.returncode == 0  # it was faster than the signal
        assert finished or process.returncode == status, errors
        if finished or load_checkpoint(tmp_path / "latest").state["step"] == STEPS:
            shutil.rmtree(tmp_path)  # nothing is left to interrupt: from the beginning again
            tmp_path.mkdir()
            resume = []
            continue
        resume = ["--resume", tmp_path / "latest"]
        if number != signal.SIGKILL:
            assert errors.strip().splitlines()[-1].endswith(f"--resume {tmp_path / 'latest'}")
    assert run(data, tmp_path, *resume) == 0
    assert bits(tmp_path / "latest") == bits(whole / "latest")
    again, state = (load_checkpoint(path / "latest").state for path in (tmp_path, whole))
    assert (again["history"], again["best"]) == (state["history"], state["best"])


def test_the_same_without_a_signal(whole, data, tmp_path):
    """In one process: stopped in the middle of an epoch, in the log too."""
    assert run(data, tmp_path, "--max_steps", 2) == 0
    assert run(data, tmp_path, "--resume", tmp_path / "latest") == 0
    assert bits(tmp_path / "latest") == bits(whole / "latest")
    assert (tmp_path / "log.txt").read_text() == (whole / "log.txt").read_text()


def test_dropout_differs_from_step_to_step_and_is_the_same_again(data, tmp_path):
    """It depends on seed and step alone, whatever was drawn before."""
    batch = next(iter(built(data, tmp_path).loader))
    losses = []
    for step in (0, 1, 0):
        this = built(data, tmp_path)
        this.step = step
        paddle.rand([step + 3])
        losses.append(this._train_step(batch)["loss"])
    assert losses[0] == losses[2] != losses[1]


def test_another_training_is_not_resumed(whole, data, tmp_path):
    resume = ["--resume", whole / "latest"]
    line = refusal(data, tmp_path, *resume, "--lr", "0.5")
    assert "--lr 0.0002, not 0.5" in line and str(whole / "latest") in line
    assert "--num_queries 8, not 9" in refusal(data, tmp_path, *resume, "--num_queries", 9)
    fewer = lay_out(lay_out(tmp_path / "fewer", 6), 3, "val")
    assert "7 pictures by 1 processes" in refusal(fewer, tmp_path / "o", *resume)
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
    ignored = shutil.ignore_patterns("visualdl")
    shutil.copytree(whole, tmp_path / "o", symlinks=True, copy_function=os.link, ignore=ignored)
    for file in ("log.txt", "train.log"):  # written to in place
        (tmp_path / "o" / file).unlink()
    before = bits(tmp_path / "o" / "latest")
    with small_disk(10_000_000):
        line = refusal(data, tmp_path / "o", "--max_steps", 1)
    assert "not written" in line and "latest-00000001" in line
    assert bits(tmp_path / "o" / "latest") == before
    assert not list(tmp_path.rglob(".tmp*"))


# ------------------------------------------------------------------------------------------------------- divergence


def test_a_training_that_diverges_keeps_what_it_had(data, tmp_path, capsys):
    argv = ["--lr", "1e30", "--lr_backbone", "1e30", "--checkpoint_steps", 1]
    assert run(data, tmp_path, *argv) == 3
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("error: pred_") and "not finite at step 1" in line and "--lr" in line
    checkpoint = load_checkpoint(tmp_path / "latest")
    assert checkpoint.state["step"] == 1 and np.isfinite(checkpoint.state["history"][0]["loss"])


@pytest.mark.parametrize("place", ["output", "gradient"])
def test_the_tensor_that_went_wrong_is_named(place, data, tmp_path):
    this = built(data, tmp_path)
    batch = next(iter(this.loader))
    head = this.model.bbox_embed[0].layers[-1]
    if place == "output":
        head.bias.set_value(paddle.full([4], float("nan")))
        expected = "pred_boxes_0 is not finite at step 0"
    else:
        head.weight.register_hook(lambda gradient: gradient * float("inf"))
        expected = "the gradient of .*bbox_embed.0.layers.2.weight is not finite at step 0"
    with pytest.raises(trainer.Diverged, match=expected):
        this._train_step(batch)


def test_outputs_and_targets_that_the_losses_refuse():
    criterion = build_criterion(parse_options(["--num_classes", "5"]))
    outputs = {"pred_logits": paddle.zeros([1, 3, 5]), "pred_boxes": paddle.full([1, 3, 4], 0.5)}
    target = {"labels": paddle.to_tensor([4]), "boxes": paddle.full([1, 4], 0.5)}
    assert np.isfinite(float(criterion(outputs, [target])["loss"]))
    for name in ("pred_logits", "pred_boxes"):
        with pytest.raises(NotFinite, match=name) as error:
            criterion(outputs | {name: outputs[name] * float("nan")}, [target])
        assert error.value.name == name
    with pytest.raises(InputError, match="label 5.* 0 to 4.*--num_classes"):
        criterion(outputs, [target | {"labels": paddle.to_tensor([5])}])
    with pytest.raises(InputError, match="negative size"):
        criterion(outputs, [target | {"boxes": paddle.to_tensor([[0.5, 0.5, -0.1, 0.1]])}])


# -------------------------------------------------------------------------------------------------- two processes


def test_two_processes_train_as_one(data, tmp_path):
    """Gradients in float64; and train.py, stopped and resumed, ends with the weights of one process."""
    script = FOLDER / "tests" / "two_processes.py"
    argv = ["--dropout", 0, "--epochs", 1, "--scales", 40, "--crop_sides", 40, "--crop_range", 40, 40]
    launch = [sys.executable, "-m", "paddle.distributed.launch", "--nproc_per_node", 2, "--log_dir", tmp_path / "log"]
    command = [*launch, script, *words(data, tmp_path / "two", *argv, "--batch_size", 1)]
    finished = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=600, cwd=tmp_path)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert finished.stdout.count("equal") == 2, finished.stdout
    state = load_checkpoint(tmp_path / "two" / "latest").state
    assert state["step"] == 2 and state["world"] == 2 and np.isfinite(state["history"][-1]["loss"])


# ---------------------------------------------------------------------------------------- where a training begins


def test_imagenet_weights_by_their_official_names(data, tmp_path, monkeypatch):
    """torchvision's file in pretrained/; where there is none, a line says which is wanted."""
    monkeypatch.setattr(trainer, "FOLDER", tmp_path)
    argv = ["--pretrain_path", "pretrained"]
    line = refusal(data, tmp_path / "o", *argv)
    assert str(tmp_path / "pretrained" / "resnet18-5c106cde.pth") in line and "--pretrain_path scratch" in line
    assert "absent.pth" in refusal(data, tmp_path / "o", "--pretrain_path", tmp_path / "absent.pth")
    import torch

    (tmp_path / "pretrained").mkdir()
    state = {
        name: torch.from_numpy(value.numpy() + 1)
        for name, value in built(data, tmp_path).model.backbone[0].body.state_dict().items()
    }
    torch.save(state, tmp_path / "pretrained" / "resnet18-f37072fd.pth")
    found = built(data, tmp_path, *argv).model.backbone[0].body.state_dict()
    assert all(np.array_equal(found[name].numpy(), value.numpy()) for name, value in state.items())


def test_other_options_train_too(data, tmp_path, whole):
    """Weights to go on from, SGD, no clip, mixed precision, trained norms, no auxiliary losses, two stages."""
    argv = ["--max_steps", 1, "--amp", "--sgd", "--clip_max_norm", 0, "--no_aux_loss", "--lr", "1e-3"]
    assert run(data, tmp_path / "a", *argv, "--weights", whole / "latest") == 0
    last, first = arrays(tmp_path / "a" / "latest"), arrays(whole / "latest")
    assert all(value.dtype == np.float32 for value in last.values())
    assert not np.array_equal(last["class_embed.1.weight"], first["class_embed.1.weight"])
    assert run(data, tmp_path / "b", "--max_steps", 1, "--two_stage", "--backbone_norm", "batch") == 0
    found = arrays(tmp_path / "b" / "latest")
    assert np.abs(found["backbone.0.body.bn1._mean"]).max() > 0


# ----------------------------------------------------------------------------------------------------- bad input


def test_exit_status_of_bad_input(tmp_path):
    command = [sys.executable, str(FOLDER / "train.py"), "--data_path", str(tmp_path / "absent")]
    finished = subprocess.run([*command, "--output_dir", str(tmp_path / "o")], capture_output=True, text=True)
    assert finished.returncode == 2 and "Traceback" not in finished.stderr
    lines = [line for line in finished.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and "absent" in lines[0] and "mini.py" in lines[0]
    assert not (tmp_path / "o").exists()


def test_bad_input(data, tmp_path):
    with pytest.raises(InputError, match="--data_path is missing"):
        train.main(["--output_dir", str(tmp_path / "o")])
    assert "--batch_size" in refusal(data, tmp_path / "o", "--batch_size", 8)
    assert "no such file or folder" in refusal(data, tmp_path / "o", "--weights", tmp_path / "absent")
    (tmp_path / "words.pdparams").write_bytes(b"words")
    assert "words.pdparams" in refusal(data, tmp_path / "o", "--weights", tmp_path / "words.pdparams")
    assert "--num_classes" in refusal(data, tmp_path / "o", "--num_classes", 3)
    more = ["--two_stage", "--num_queries", 500, "--max_steps", 1]
    assert "--num_queries 500" in refusal(data, tmp_path / "p", *more)
    (tmp_path / "file").write_text("in the way")
    assert str(tmp_path / "file") in refusal(data, tmp_path / "file")
    assert not (tmp_path / "o").exists()


def test_pictures_without_boxes_and_boxes_without_size_train(tmp_path, capsys):
    """An annotation file whose only box has no size: kept out, counted once, and the training goes on."""
    root = lay_out(tmp_path / "d", 3, change=edit("annotations", 0, bbox=[3, 3, 0, 5]))
    lay_out(root, 2, "val")
    assert run(root, tmp_path / "o", "--batch_size", 1, "--max_steps", 2) == 0
    assert np.isfinite(load_checkpoint(tmp_path / "o" / "latest").state["history"][-1]["loss"])


@pytest.mark.parametrize("argv", ["--two_stage", "--batch_size 0", "--hidden_dim 40", "--nheads 3", "--dropout 1"])
def test_bad_values_of_options(data, tmp_path, argv):
    plain = [word for word in words(data, tmp_path) if word != "--with_box_refine"]
    with pytest.raises(SystemExit) as ended:
        train.main([*plain, *argv.split()])
    assert ended.value.code == 2
