"""train.py as a user runs it: what every paper's training promises, and what this one's."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from visualdl import LogReader

from shared.tests.training_case import Case
from shared.tests.training_suite import TrainingSuite
from shared.weights import load_checkpoint, read_weights

import convert
import train
from data_sets import DATE, DRIVE, drawn_image, drawn_scan, image_path, write_calibration, write_image, write_scan
from engine import tie_breaking_noise
from reference.network import build_reference

TRAIN = [f"{DRIVE} {index} {side}" for index, side in ((1, "l"), (2, "r"), (3, "r"), (4, "l"))]
VAL = [f"{DRIVE} 5 l", f"{DRIVE} 6 r"]
# the smallest networks there are; two steps an epoch
NETWORK = "--height 64 --width 64 --frame_ids 0 -1 --use_stereo --pose_model_type posecnn --scales 0 1".split()
RECIPE = """--split tiny --weights_init scratch --batch_size 2 --num_epochs 2 --scheduler_step_size 1
    --save_frequency 2 --log_frequency 1 --seed 3""".split()


def lay_out(root: Path) -> Path:
    """A drive of seven moments, stereo pairs and scans, and the lists of split "tiny"."""
    write_calibration(root / DATE)
    for index in range(7):
        for camera in (2, 3):
            write_image(image_path(root, camera, index), drawn_image(621, 187, 10 * camera + index))
        write_scan(root, drawn_scan(2000, index), index)
    (root / "splits/tiny").mkdir(parents=True)
    for part, lines in (("train", TRAIN), ("val", VAL)):
        (root / "splits/tiny" / f"{part}_files.txt").write_text("\n".join(lines) + "\n")
    return root


@pytest.fixture(scope="module")
def case(tmp_path_factory) -> Case:
    scratch = tmp_path_factory.mktemp("training")
    data = lay_out(scratch / "data")
    return Case(
        train=train,
        data=data,
        scratch=scratch,
        network=NETWORK,
        recipe=["--split_dir", str(data / "splits"), *RECIPE],
        steps=4,
        stops=(1, 2),
        broken=image_path(data, 2, 3),
        diverging=["--learning_rate", "1e30"],
        diverges="the loss is NaN or Inf at step 1",
        wrong=["--height 100", "--frame_ids -1 0", "--batch_size 0", "--predictive_mask", "--frame_ids 0",
               "--scales 4"],
        unfit={"num_layers": 20, "height": -64, "width": 2 * 10**9, "scales": [4], "frame_ids": [0, 10**9],
               "use_stereo": 1, "pose_model_type": "other", "pose_model_input": 3, "predictive_mask": "yes",
               "min_depth": -1, "max_depth": "far"},
        other=("height", 96),
        further_scripts=["evaluate_pose.py", "demo_automask.py"],
        two=["--sync_bn", "--num_epochs", 1, "--batch_size", 1],
        two_stops=(1, 2),
        kills=2,
        rate="--learning_rate",
        free=("options", "history"),
    )  # fmt: skip


class TestTraining(TrainingSuite):
    """What every paper's training promises."""


# ------------------------------------------------------------------------------------------------ a whole training


def test_history_checkpoints_and_logs(case):
    whole, state = case.whole, load_checkpoint(case.whole / "latest").state
    history = state["history"]
    steps = [(entry["step"], "val_loss" in entry) for entry in history]
    assert steps == [(1, 0), (2, 0), (2, 1), (3, 0), (4, 0), (4, 1)]
    best = min((entry for entry in history if "val_loss" in entry), key=lambda entry: entry["val_loss"])
    assert state["best"] == best["val_loss"] and load_checkpoint(whole / "best").state["step"] == best["step"]
    assert 0 < best["val_de/abs_rel"] < 10  # the drive has scans, so depth is measured too
    assert [path.name for path in sorted((whole / "models").iterdir())] == ["checkpoints", "opt.json", "weights_1"]
    for name in case.files:
        assert (whole / "models/weights_1" / name).read_bytes() == (whole / "latest" / name).read_bytes()
    written = json.loads((whole / "models/opt.json").read_text())
    assert written["frame_ids"] == [0, -1, "s"] and written["scheduler_step_size"] == 1
    log = (whole / "train.log").read_text()
    assert log.count("| loss: ") == 6 and log.count("validation after epoch") == 2
    reader = LogReader(file_path=str(next((whole / "visualdl").glob("vdlrecords*"))))
    rates = [record.value for record in reader.get_data("scalar", "train/lr")]
    np.testing.assert_allclose(rates, [1e-4, 1e-4, 1e-5, 1e-5], rtol=1e-6)
    pictures = {"train/color_pred_s_0/0", "train/color_-1_0/1", "val/disp_1/0", "val/automask_0/1"}
    assert pictures <= set(reader.get_tags()["image"])


def test_what_the_optimiser_moves(case, tmp_path):
    """All but the classifiers, which have no moments; the statistics have seen the images."""
    first = {name: value.numpy() for name, value in case.built(tmp_path).model.state_dict().items()}
    last, moments = (read_weights(case.whole / "latest" / name).tensors for name in case.files)
    moved = {name for name in last if not np.array_equal(first[name], last[name])}
    idle = {"encoder.encoder.fc.weight", "encoder.encoder.fc.bias"}
    assert set(last) - moved == {"height", "width", "use_stereo"} | idle
    assert {name.split("|")[0] for name in moments} == {n for n in moved if not n.endswith(("._mean", "._variance"))}


def test_the_rate_is_that_of_the_epoch(case, tmp_path):
    for words, rate in ((["--resume", case.whole / "latest"], 1e-6), (["--scheduler_step_at", "start"], 1e-5)):
        assert case.built(tmp_path, *words).training.optimizer.get_lr() == pytest.approx(rate, rel=1e-12)


# -------------------------------------------------------------------------------------------------- two processes


def test_two_processes_end_where_one_does(case, tmp_path):
    assert case.run(tmp_path, *case.two[:-2]) == 0
    folders = tmp_path / "latest", case.two_processes / "whole/latest"
    one, two = (read_weights(folder / "model.pdparams").tensors for folder in folders)
    for name, value in one.items():
        difference = np.linalg.norm(two[name].astype(np.float64) - value)
        assert difference <= 1e-3 * np.linalg.norm(value.astype(np.float64)), name  # measured: 2e-4
    validated = [load_checkpoint(folder).state["history"][-1] for folder in folders]
    assert validated[1]["val_loss"] == pytest.approx(validated[0]["val_loss"], rel=1e-4)


def test_a_checkpoint_holds_losses_of_all_processes(case, tmp_path, monkeypatch):
    """Those since the last log line: all processes go on with them."""
    training, saved = case.built(tmp_path, "--log_frequency", 2, "--checkpoint_steps", 1, "--max_steps", 2), []
    monkeypatch.setattr("trainer.mean_over_processes", lambda figures: dict.fromkeys(figures, 7.0))
    monkeypatch.setattr(training.state, "save", lambda *where: saved.append(list(training.progress.losses)))
    training.train()
    assert saved[0] == [7.0]


def test_an_item_meets_the_same_noise_in_any_process(case, tmp_path, monkeypatch):
    options, batch = case.options(tmp_path), next(iter(case.built(tmp_path).loader))
    whole = tie_breaking_noise(batch, options, 0)
    assert [drawn.shape for drawn in whole] == [[2, 2, 64, 64], [2, 2, 64, 64]]
    assert not np.array_equal(whole[0].numpy(), whole[1].numpy())
    assert not np.array_equal(tie_breaking_noise(batch, options, 1)[0].numpy(), whole[0].numpy())
    for rank in range(2):
        one = case.built(tmp_path, "--batch_size", 1)
        one.sampler.rank, one.sampler.world = rank, 2
        own = next(iter(one.loader))
        np.testing.assert_array_equal(own["color", 0, 0][0].numpy(), batch["color", 0, 0][rank].numpy())
        monkeypatch.setattr("paddle.distributed.get_rank", lambda rank=rank: rank)
        monkeypatch.setattr("paddle.distributed.get_world_size", lambda: 2)
        for drawn, part in zip(whole, tie_breaking_noise(own, options, 0), strict=True):
            np.testing.assert_array_equal(part[0].numpy(), drawn[rank].numpy())
        monkeypatch.undo()


# ---------------------------------------------------------------------------------------- where a training begins


def test_fine_tuning_at_another_size(case, tmp_path):
    """The parts that were asked for come from the weights, the rest is new, and the size is the command line's."""
    words = [
        "--weights",
        case.whole / "models/weights_1",
        "--height",
        96,
        "--width",
        128,
        "--models_to_load",
        "encoder",
    ]
    found = {name: value.numpy() for name, value in case.built(tmp_path, *words).model.state_dict().items()}
    last = read_weights(case.whole / "latest/model.pdparams").tensors
    assert (int(found["height"]), int(found["width"]), int(last["height"])) == (96, 128, 64)
    for name, value in found.items():
        if name.startswith("encoder."):
            np.testing.assert_array_equal(value, last[name])
    for name in ("depth.decoder.0.conv.conv.weight", "pose.net.0.weight"):
        assert not np.array_equal(found[name], last[name])
    everything = case.built(tmp_path, *words[:-2]).model.state_dict()
    np.testing.assert_array_equal(everything["pose.net.0.weight"].numpy(), last["pose.net.0.weight"])
    words = [*words[:-1], "pose_encoder", "--pose_model_type", "separate_resnet"]
    assert "pose_encoder" in case.refusal(tmp_path, *words)


def test_imagenet_weights_by_their_official_names(case, tmp_path, monkeypatch):
    """torchvision's file in pretrained/ fills both encoders; where there is none, a line says which is wanted."""
    monkeypatch.setattr(convert, "FOLDER", tmp_path)
    argv = ["--weights_init", "pretrained", "--pose_model_type", "separate_resnet"]
    line = case.refusal(tmp_path / "o", *argv)
    assert str(tmp_path / "pretrained/resnet18-f37072fd.pth") in line and "--weights_init scratch" in line
    assert "resnet18.pdparams" in case.refusal(tmp_path / "o", "--weights_init", "paddle_pretrained")
    assert "absent.pth" in case.refusal(tmp_path / "o", "--weights_init", tmp_path / "absent.pth")
    torch.manual_seed(0)
    state = build_reference(case.options(tmp_path)).encoder.encoder.state_dict()
    (tmp_path / "pretrained").mkdir()
    torch.save(state, tmp_path / "pretrained/resnet18-5c106cde.pth")
    model = case.built(tmp_path, *argv).model
    weight = state["conv1.weight"].numpy()
    np.testing.assert_array_equal(model.encoder.encoder.conv1.weight.numpy(), weight)
    np.testing.assert_array_equal(model.pose_encoder.encoder.conv1.weight.numpy(), np.concatenate([weight] * 2, 1) / 2)
    for encoder in (model.encoder.encoder, model.pose_encoder.encoder):
        block = encoder.layer4[1].conv2.weight.numpy()
        np.testing.assert_array_equal(block, state["layer4.1.conv2.weight"].numpy())
        np.testing.assert_array_equal(encoder.fc.weight.numpy(), state["fc.weight"].numpy().T)


def test_other_options_train_too(case, tmp_path):
    """Frozen statistics stay, mixed precision keeps float32 weights, and masks are shown."""
    argv = ["--freeze_bn", "--amp", "--disable_automasking", "--predictive_mask", "--avg_reprojection"]
    assert case.run(tmp_path, *argv, "--v1_multiscale", "--max_steps", 1) == 0
    first = {name: value.numpy() for name, value in case.built(tmp_path, *argv).model.state_dict().items()}
    found = read_weights(tmp_path / "latest/model.pdparams").tensors
    moved = {name for name in found if not np.array_equal(found[name], first[name])}
    assert not any(name.endswith(("._mean", "._variance")) for name in moved)
    norm, mask = "encoder.encoder.bn1.weight", "predictive_mask.decoder.0.conv.conv.weight"
    assert {norm, "encoder.encoder.conv1.weight", mask} <= moved
    assert all(value.dtype == np.float32 for value in found.values() if value.ndim)
    reader = LogReader(file_path=str(next((tmp_path / "visualdl").glob("vdlrecords*"))))
    assert {"train/predictive_mask_-1_0/0", "train/predictive_mask_s_1/1"} <= set(reader.get_tags()["image"])


def test_data_that_does_not_fit_the_options(case, tmp_path):
    for words, says in (
        (["--batch_size", 5], "--batch_size"),
        (["--split", "unheard"], "splits/unheard"),
        (["--weights", case.data / "splits"], "encoder.pth"),
    ):
        assert says in case.refusal(tmp_path / "o", *words)
    assert not (tmp_path / "o").exists()
