"""train.py as a user runs it: what every paper's training promises, and what this one's."""

import json
import math

import numpy as np
import paddle
import pytest
import torch
from visualdl import LogReader

from shared import InputError
from shared.running.launch import Diverged
from shared.tests.training_case import Case
from shared.tests.training_suite import TrainingSuite
from shared.weights import load_checkpoint, read_weights

import train
import trainer
from data_sets import edit, lay_out
from losses import NotFinite, build_criterion
from options import parse_options

# a small network; three steps an epoch
NETWORK = """--max_size 64 --val_size 40 --num_classes 6 --backbone resnet18 --hidden_dim 64 --dim_feedforward 32
    --nheads 4 --enc_layers 1 --dec_layers 2 --num_queries 8 --enc_n_points 2 --dec_n_points 2
    --with_box_refine""".split()
RECIPE = """--scales 32 40 --crop_sides 36 44 --crop_range 20 40 --pretrain_path scratch --batch_size 2 --epochs 2
    --lr_drop 1 --log_frequency 1""".split()
UNFIT = {"backbone": "resnet9", "backbone_norm": 1, "dilation": "no", "position_embedding": "none",
         "num_feature_levels": 0, "enc_layers": 10**6, "dec_layers": -1, "dim_feedforward": 2 * 10**9,
         "hidden_dim": 2 * 10**9, "dropout": 1, "nheads": 0, "num_queries": 2 * 10**9, "dec_n_points": -1,
         "enc_n_points": 2.5, "with_box_refine": 1, "two_stage": "yes", "aux_loss": 0, "num_classes": 2 * 10**9,
         "val_size": -1, "max_size": 10**6}  # fmt: skip


@pytest.fixture(scope="module")
def case(tmp_path_factory) -> Case:
    """Seven images of noise to train on, three to validate on."""
    scratch = tmp_path_factory.mktemp("training")
    data = lay_out(lay_out(scratch / "data"), 3, "val")
    return Case(
        train=train,
        data=data,
        scratch=scratch,
        network=NETWORK,
        recipe=RECIPE,
        steps=6,
        stops=(2, 3),
        broken=data / "train2017/003.png",
        diverging=["--lr", "1e30", "--lr_backbone", "1e30"],
        diverges="NaN or Inf at step 1",
        wrong=["--batch_size 0", "--hidden_dim 40", "--nheads 3", "--dropout 1", "--lr -1"],
        unfit=UNFIT,
        other=("dropout", 0.25),
        two="--dropout 0 --epochs 1 --scales 40 --crop_sides 40 --crop_range 40 40 --batch_size 1".split(),
        two_stops=(1, 2),
        logs=["log.txt"],
        free=("options", "history", "sums"),
    )


class TestTraining(TrainingSuite):
    """What every paper's training promises."""


# ------------------------------------------------------------------------------------------------ a whole training


def test_the_logs_of_the_reference(case):
    whole = case.whole
    assert load_checkpoint(whole / "best").state["step"] in (3, 6)
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
    assert log.count("grad_norm:") == 6 and log.count("validation after epoch") == 2
    assert json.loads((whole / "options.json").read_text())["num_queries"] == 8
    reader = LogReader(file_path=str(next((whole / "visualdl").glob("vdlrecords*"))))
    rates = [record.value for record in reader.get_data("scalar", "train/lr")]
    np.testing.assert_allclose(rates, [2e-4] * 3 + [2e-5] * 3, rtol=1e-6)
    assert {"val/AP", "train/loss_giou_0", "train/grad_norm"} <= set(reader.get_tags()["scalar"])
    assert {"val/detections/0", "val/detections/1"} <= set(reader.get_tags()["image"])


def test_a_norm_of_scaled_gradients_that_overflowed_is_resumed_from(case, tmp_path):
    """Under --amp on a GPU it may be Inf, and so is its sum in the checkpoint."""
    training = case.built(tmp_path)
    training.progress.sums = {"loss": 1.0, "grad_norm": math.inf}
    training.state.save(tmp_path, "latest")
    assert case.built(tmp_path, "--resume", tmp_path / "latest").progress.sums == training.progress.sums


def test_what_the_optimiser_moves(case, tmp_path):
    """All that is trained, and nothing of the frozen stem, first stage and norms."""
    fresh = case.built(tmp_path).model
    first = {name: value.numpy() for name, value in fresh.state_dict().items()}
    last, moments = (read_weights(case.whole / "latest" / name).tensors for name in case.files)
    still = {name for name in last if np.array_equal(first[name], last[name])}
    trained = {name for name, parameter in fresh.named_parameters() if not parameter.stop_gradient}
    frozen = set(first) - trained
    assert {name for name in still if ".body." in name} == {name for name in frozen if ".body." in name}
    assert not still & trained
    assert {name.split("|")[0] for name in moments} == trained


def test_dropout_differs_from_step_to_step_and_is_the_same_again(case, tmp_path):
    """It depends on seed and step alone, whatever was drawn before."""
    losses = []
    for step in (0, 1, 0):
        this = case.built(tmp_path)
        batch = next(iter(this.loader))
        this.progress.step = step
        paddle.rand([step + 3])
        losses.append(this._train_step(batch)["loss"])
    assert losses[0] == losses[2] != losses[1]


# ------------------------------------------------------------------------------------------------------- divergence


@pytest.mark.parametrize("where", ["output", "gradient"])
def test_the_tensor_that_went_wrong_is_named(where, case, tmp_path):
    this = case.built(tmp_path)
    head = this.model.bbox_embed[0].layers[-1]
    if where == "output":
        head.bias.set_value(paddle.full([4], float("nan")))
        expected = "pred_boxes_0 is NaN or Inf at step 0"
    else:
        head.weight.register_hook(lambda gradient: gradient * float("inf"))
        expected = "the gradient of .*bbox_embed.0.layers.2.weight is NaN or Inf at step 0"
    with pytest.raises(Diverged, match=expected):
        this._train_step(next(iter(this.loader)))


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


# ---------------------------------------------------------------------------------------- where a training begins


def test_imagenet_weights_by_their_official_names(case, tmp_path, monkeypatch):
    """torchvision's file in pretrained/; where there is none, a line says which is wanted."""
    monkeypatch.setattr(trainer, "FOLDER", tmp_path)
    argv = ["--pretrain_path", "pretrained"]
    line = case.refusal(tmp_path / "o", *argv)
    assert str(tmp_path / "pretrained" / "resnet18-5c106cde.pth") in line and "--pretrain_path scratch" in line
    assert "absent.pth" in case.refusal(tmp_path / "o", "--pretrain_path", tmp_path / "absent.pth")
    (tmp_path / "pretrained").mkdir()
    body = case.built(tmp_path).model.backbone[0].body
    state = {name: torch.from_numpy(value.numpy() + 1) for name, value in body.state_dict().items()}
    torch.save(state, tmp_path / "pretrained" / "resnet18-f37072fd.pth")
    found = case.built(tmp_path, *argv).model.backbone[0].body.state_dict()
    assert all(np.array_equal(found[name].numpy(), value.numpy()) for name, value in state.items())


def test_other_options_train_too(case, tmp_path):
    """Weights to continue from, SGD, no clip, mixed precision, trained norms, no auxiliary losses, two stages."""
    argv = ["--max_steps", 1, "--amp", "--sgd", "--clip_max_norm", 0, "--no_aux_loss", "--lr", "1e-3"]
    assert case.run(tmp_path / "a", *argv, "--weights", case.whole / "latest") == 0
    last, first = (read_weights(folder / "latest/model.pdparams").tensors for folder in (tmp_path / "a", case.whole))
    assert not np.array_equal(last["class_embed.1.weight"], first["class_embed.1.weight"])
    assert case.run(tmp_path / "b", "--max_steps", 1, "--two_stage", "--backbone_norm", "batch") == 0
    found = read_weights(tmp_path / "b/latest/model.pdparams").tensors
    assert np.abs(found["backbone.0.body.bn1._mean"]).max() > 0


# ----------------------------------------------------------------------------------------------------- bad input


def test_data_that_does_not_fit_the_options(case, tmp_path):
    assert "--batch_size" in case.refusal(tmp_path / "o", "--batch_size", 8)
    assert "--num_classes" in case.refusal(tmp_path / "o", "--num_classes", 3)
    assert not (tmp_path / "o").exists()
    more = ["--two_stage", "--num_queries", 500, "--max_steps", 1]
    assert "--num_queries 500" in case.refusal(tmp_path / "p", *more)


def test_two_stages_need_refinement(case, tmp_path):
    words = [word for word in case.words(tmp_path / "o") if word != "--with_box_refine"]
    with pytest.raises(SystemExit) as ended:
        train.main([*words, "--two_stage"])
    assert ended.value.code == 2


def test_pictures_without_boxes_and_boxes_without_size_train(case, tmp_path):
    """An annotation file whose only box has no size: left out, counted once, and the training continues."""
    root = lay_out(tmp_path / "d", 3, change=edit("annotations", 0, bbox=[3, 3, 0, 5]))
    lay_out(root, 2, "val")
    assert case.run(tmp_path / "o", "--data_path", root, "--batch_size", 1, "--max_steps", 2) == 0
    assert np.isfinite(load_checkpoint(tmp_path / "o/latest").state["history"][-1]["loss"])
