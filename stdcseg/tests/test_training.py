"""train.py as a user runs it: what every paper's training promises, and what this one's."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from shared import InputError
from shared.tests.training_case import FILES, Case
from shared.tests.training_suite import TrainingSuite
from shared.weights import load_checkpoint, read_weights

import evaluate
import train
from mini.draw import ensure_mini
from options import parse_options
from reference.network import build_reference_classifier

NETWORK = "--base 8 --use_boundary_8 true".split()
RECIPE = """--n_img_per_gpu 2 --crop_size 64 32 --scales 0.5 0.75 1 --max_iter 12 --warmup_steps 3
    --warmup_start_lr 1e-3 --save_iter_sep 5 --msg_iter 1 --val_scales 0.5 1 --seed 3""".split()


@pytest.fixture(scope="module")
def case(tmp_path_factory) -> Case:
    """10 images to train on: five steps an epoch."""
    scratch = tmp_path_factory.mktemp("training")
    data = ensure_mini(scratch / "mini", train=10, val=2, size=(128, 64))
    picture, _ = files(data)
    return Case(
        train=train,
        data=data,
        scratch=scratch,
        network=NETWORK,
        recipe=RECIPE,
        steps=12,
        stops=(3, 10),
        broken=picture,
        diverging=["--lr", "1e30", "--warmup_start_lr", "1e20"],
        diverges="loss",
        wrong=["--n_img_per_gpu 0", "--use_boundary_8 perhaps", "--backbone CatNetSmall", "--lr -1"],
        unfit={"backbone": "CatNetSmall", "num_classes": 2 * 10**9, "base": -1, "use_conv_last": 3,
               "use_boundary_2": "no", "use_boundary_4": 1, "use_boundary_8": "perhaps", "use_boundary_16": [True]},
        other=("use_conv_last", True),
        two_stops=(2, 4),
        files=(*FILES, "criterion.pdparams"),
        varies=("history", "best"),
        free=("options", "history", "best"),
    )  # fmt: skip


class TestTraining(TrainingSuite):
    """What every paper's training promises."""


def test_history_and_metrics(case):
    state = load_checkpoint(case.whole / "latest").state
    validated = [entry for entry in state["history"] if "val_miou" in entry]
    assert [entry["step"] for entry in validated] == [5, 10, 12]
    assert (case.whole / "best_mIOU100/model.pdparams").is_file()
    log = (case.whole / "train.log").read_text()
    assert log.count("validation after step") == 6 and log.count("dice_detail8") == 12
    output = case.scratch / "metrics.json"
    words = ["--weights", case.whole / "latest", "--data_path", case.data, "--scale", 0.5, 1, "--output", output]
    evaluate.main([str(word) for word in words])
    metrics = json.loads(output.read_text())
    for scale, key in (("0.5", "scale_0.5"), ("1.0", "scale_1")):
        assert metrics[key]["miou_present"] == validated[-1]["val_miou"][scale]
    assert max(entry["val_miou"]["0.5"] for entry in validated) == state["best"]["0.5"]


def test_the_optimiser_moves_what_the_groups_say(case):
    """Norms of the backbone keep what they began with; the fuse kernel decays; heads that are not used stay."""
    state = read_weights(case.whole / "latest/model.pdparams").tensors
    for name, value in state.items():
        if ".backbone." in name and ("bn" in name or "avd_layer.1" in name):
            if name.endswith("weight"):
                assert (value == 1).all(), name
            if name.endswith(".bias"):
                assert (value == 0).all(), name
    assert not (state["cp.conv_head32.bn.bias"] == 0).all()
    assert not (state["conv_out_sp2.conv.bn._mean"] == 0).all()  # dropped heads run in training all the same
    kernel = fuse_kernel(case.whole)
    assert 0.999 * 0.6 < kernel[0] < 0.6 and kernel[0] / kernel[2] == pytest.approx(6)
    names = {name.split("|")[0] for name in read_weights(case.whole / "latest/optimizer.pdopt").tensors}
    assert "fuse_kernel" in names and "conv_out_sp8.conv_out.weight" in names
    assert not any(name.startswith(("conv_out_sp2", "conv_out_sp4", "conv_out_sp16")) for name in names)


def fuse_kernel(output_dir: Path) -> np.ndarray:
    return read_weights(output_dir / "latest/criterion.pdparams").tensors["fuse_kernel"].ravel()


def test_other_options_resume_too(case, tmp_path):
    """No detail head, trained norms, the earlier port's schedule, a fixed kernel."""
    words = ["--use_boundary_8", "false", "--train_backbone_norms", "--lr_scheduler", "Warmup_PolyDecay"]
    words += ["--fuse_kernel", "fixed", "--sync_bn", "--max_steps"]
    for name, *argv in (("one", 6), ("two", 3), ("two", 6, "--resume", tmp_path / "two/latest")):
        assert case.run(tmp_path / name, *words, *argv) == 0
    assert case.outcome(tmp_path / "one") == case.outcome(tmp_path / "two")
    assert "detail" not in (tmp_path / "one/train.log").read_text()
    np.testing.assert_array_equal(fuse_kernel(tmp_path / "one"), np.array([0.6, 0.3, 0.1], np.float32))


def test_losses_of_earlier_steps_that_lack_terms(case, tmp_path):
    assert case.run(tmp_path, "--max_steps", 1) == 0
    copy = shutil.copytree((tmp_path / "latest").resolve(), tmp_path / "copy")
    state = json.loads((copy / "state.json").read_text())
    (copy / "state.json").write_text(json.dumps(state | {"losses": [{}, {"other": 1.0}]}))
    assert case.run(tmp_path, "--resume", copy, "--max_steps", 2) == 0


def test_starting_from_a_pretrained_backbone(case, tmp_path):
    """The official archive: a torch file of the classifier under "state_dict", named .tar."""
    torch.manual_seed(5)
    state = build_reference_classifier(parse_options(["--base", "8"])).state_dict()
    torch.save({"state_dict": state, "epoch": 1}, tmp_path / "backbone.tar")
    found = case.built(tmp_path / "o", "--pretrain_path", tmp_path / "backbone.tar").state.model.state_dict()
    for name in ("features.0.conv.weight", "conv_last.conv.weight"):
        np.testing.assert_array_equal(found[f"cp.backbone.{name}"].numpy(), state[name].numpy())
    np.testing.assert_array_equal(found["cp.backbone.fc.weight"].numpy(), state["fc.weight"].numpy().T)


def files(root: Path) -> tuple[Path, Path]:
    """The first image to train on and its labels."""
    picture = sorted((root / "leftImg8bit/train").glob("*/*.png"))[0]
    name = picture.name.replace("_leftImg8bit", "_gtFine_labelIds")
    return picture, root / "gtFine/train" / picture.parent.name / name


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_labels(case, tmp_path, workers):
    copy = Path(shutil.copytree(case.data, tmp_path / "copy"))
    picture, label = files(copy)
    ids = np.array(Image.open(label))

    def complaint() -> str:
        return case.refusal(tmp_path / "o", "--data_path", copy, "--num_workers", workers)

    Image.fromarray(ids[:-2]).save(label)
    line = complaint()
    assert str(label) in line and "128x62" in line and "128x64" in line
    Image.fromarray(np.where(ids == 7, 77, ids)).save(label)
    line = complaint()
    assert str(label) in line and "77" in line
    label.unlink()
    line = complaint()
    assert str(picture) in line and label.name in line


def test_batches_that_cannot_be_trained(case, tmp_path):
    for words, says in (
        (["--n_img_per_gpu", 11], "--n_img_per_gpu"),
        (["--n_img_per_gpu", 1], "--n_img_per_gpu 1"),
        (["--warmup_steps", 12], "--warmup_steps"),
        (["--n_min", 10**6], "--n_min"),
    ):
        assert says in case.refusal(tmp_path / "o", *words)
    assert not (tmp_path / "o").exists()


def test_weights_of_another_network(case):
    words = ["--weights", str(case.whole / "latest/model.pdparams"), "--data_path", str(case.data)]
    with pytest.raises(InputError, match="missing") as refused:
        evaluate.main([*words, "--backbone", "STDCNet1446"])
    assert len(str(refused.value).splitlines()) <= 50
