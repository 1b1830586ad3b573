"""train.py as a user runs it: what every paper's training promises, and what this one's."""

import json
import os
import shutil
from pathlib import Path

import pytest
from PIL import Image

from shared import InputError
from shared.tests.scripts import call_script
from shared.tests.training_case import FILES, Case, one_line, replace
from shared.tests.training_suite import TrainingSuite
from shared.weights import load_checkpoint

import evaluate
import train
from mini.draw import ensure_mini

FOLDER = Path(__file__).resolve().parents[1]
NETWORK = "--num_classes 10 --width_mult 0.35 --val_resize_size 36 --val_crop_size 32".split()
RECIPE = """--batch_size 8 --train_crop_size 32 --print_freq 1 --opt rmsprop --lr 0.01 --lr_step_size 1 --lr_gamma 0.9
    --epochs 3 --model_ema --model_ema_steps 2 --auto_augment imagenet --random_erase 0.5 --label_smoothing 0.1
    --mixup_alpha 0.2 --clip_grad_norm 5 --seed 3""".split()


@pytest.fixture(scope="module")
def case(tmp_path_factory) -> Case:
    """40 training images: five steps an epoch."""
    scratch = tmp_path_factory.mktemp("training")
    data = ensure_mini(scratch / "mini", train_per_class=4, val_per_class=1, size=40)
    picture = sorted((data / "train/mug").iterdir())[1]
    return Case(
        train=train,
        data=data,
        scratch=scratch,
        network=NETWORK,
        recipe=RECIPE,
        steps=15,
        stops=(7, 10),
        broken=picture,
        diverging=["--lr", "1e20", "--clip_grad_norm", "1e30"],
        diverges="loss is",
        wrong=["--batch_size 0", "--random_erase 1.5", "--model resnet18", "--lr -1"],
        unfit={"model": "resnet18", "num_classes": 2 * 10**9, "width_mult": -1, "reduced_tail": 1, "dilated": "no",
               "dropout": 2, "val_resize_size": -1, "val_crop_size": 60000, "interpolation": "area"},
        other=("dropout", 0.25),
        two=["--batch_size", 4, "--sync_bn"],
        two_stops=(3, 7),
        files=(*FILES, "ema.pdparams"),
        varies=("history", "best"),
        free=("options", "history"),
    )  # fmt: skip


class TestTraining(TrainingSuite):
    """What every paper's training promises."""


def test_history_and_metrics(case):
    history = load_checkpoint(case.whole / "latest").state["history"]
    assert [entry["epoch"] for entry in history] == [0, 1, 2]
    assert (case.whole / "train.log").read_text().count("validation after epoch") == 3
    output = case.scratch / "metrics.json"
    evaluate.main([str(w) for w in ("--weights", case.whole / "latest", "--data_path", case.data, "--output", output)])
    metrics = json.loads(output.read_text())
    assert metrics["acc1"] == history[-1]["val_acc1"] and metrics["images"] == 10


def test_interrupted_after_the_last_step_of_an_epoch(case, tmp_path):
    """That checkpoint says "five of five steps"; here it is made from the one of the epoch's end."""
    assert case.run(tmp_path, "--max_steps", 5) == 0
    path = (tmp_path / "latest").resolve() / "state.json"
    state = json.loads(path.read_text())
    assert (state["epoch"], state["step_in_epoch"]) == (1, 0)
    path.write_text(json.dumps(state | {"epoch": 0, "step_in_epoch": 5, "history": []}))
    assert case.run(tmp_path, "--resume", tmp_path / "latest") == 0
    for name in case.files:
        assert (tmp_path / "latest" / name).read_bytes() == (case.whole / "latest" / name).read_bytes()


@pytest.mark.parametrize("opt", ["sgd", "sgd_nesterov", "adamw"])
def test_every_optimiser_resumes(case, tmp_path, opt):
    words = ["--opt", opt, "--norm_weight_decay", "0", "--eval_freq", "9", "--max_steps"]
    for name, *argv in (("one", 4), ("two", 2), ("two", 4, "--resume", tmp_path / "two/latest")):
        assert case.run(tmp_path / name, *words, *argv) == 0
    assert case.outcome(tmp_path / "one") == case.outcome(tmp_path / "two")


def test_classes(case, tmp_path):
    assert "--num_classes 10" in case.refusal(tmp_path / "o", "--num_classes", 9)
    data = shutil.copytree(case.data, tmp_path / "data")
    for picture in (data / "train/mug").iterdir():
        picture.unlink()
    assert "mug" in case.refusal(tmp_path / "o", "--data_path", data)
    assert not (tmp_path / "o").exists()


def test_weights_of_another_network(case, tmp_path):
    words = ["--weights", case.whole / "latest/model.pdparams", "--data_path", case.data, "--output", tmp_path / "m"]
    with pytest.raises(InputError, match="missing") as refused:
        evaluate.main([*map(str, words), "--model", "large"])
    assert len(str(refused.value).splitlines()) <= 50 and not (tmp_path / "m").exists()


def test_only_evaluates(case, tmp_path):
    argv = ["--data_path", case.data, "--output_dir", tmp_path / "o", "--test_only", "--workers", 0]
    finished = call_script(FOLDER / "train.py", *argv, "--weights", case.whole / "latest")
    assert finished.returncode == 0, finished.stderr
    expected = load_checkpoint(case.whole / "latest").state["history"][-1]
    assert f"acc1: {expected['val_acc1']:.3f}" in finished.stdout
    assert "--test_only" in one_line(call_script(FOLDER / "train.py", *argv, "--num_classes", 10))
    copy = case.copy(tmp_path / "copy")
    state = load_checkpoint(copy).state | {"checkpoint_files": case.files, "history": [{}]}
    replace(copy / "state.json", state)
    assert case.run(tmp_path / "o", "--test_only", "--resume", copy) == 0


# ---------------------------------------------------------------------------------------------------------------- demo


def test_demo_labels_pictures(case, tmp_path):
    picture = sorted((case.data / "val/mug").iterdir())[0]
    words = ["--image_path", picture, "--weights", case.whole / "latest", "--output_dir", tmp_path]
    finished = call_script(FOLDER / "demo.py", *words)
    assert finished.returncode == 0, finished.stderr
    predictions = json.loads((tmp_path / "predictions.json").read_text())[picture.name]
    assert len(predictions) == 5 and predictions[0]["class"] in os.listdir(case.data / "val")
    assert 0 < sum(entry["probability"] for entry in predictions) <= 1 + 1e-9
    [drawn] = tmp_path.glob("*.png")
    assert Image.open(drawn).size == (720, 360)


def test_demo_on_bad_pictures(case, tmp_path):
    """Alone, a bad picture is one line and writes nothing; among others, the others are done."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.jpg").write_text("not a picture")
    words = ["--weights", case.whole / "latest", "--output_dir", tmp_path / "o", "--image_path"]
    assert "a.jpg" in one_line(call_script(FOLDER / "demo.py", *words, tmp_path / "in/a.jpg"))
    assert not (tmp_path / "o").exists()
    shutil.copy(sorted((case.data / "val/mug").iterdir())[0], tmp_path / "in/b.jpg")
    finished = call_script(FOLDER / "demo.py", *words, tmp_path / "in")
    assert "a.jpg" in one_line(finished) and "1 of 2 pictures done" in finished.stdout
    assert list(json.loads((tmp_path / "o/predictions.json").read_text())) == ["b.jpg"]
