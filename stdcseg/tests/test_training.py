"""train.py as a user runs it: interrupted and resumed, in two processes, on bad input."""

import json
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
import torch
from PIL import Image

from shared.tests.scripts import call_script
from shared.weights import load_checkpoint

from mini.draw import ensure_mini
from options import parse_options
from reference.network import build_reference_classifier

FOLDER = Path(__file__).resolve().parents[1]
RECIPE = """--base 8 --use_boundary_8 true --n_img_per_gpu 2 --n_workers_train 1 --crop_size 64 32 --scales 0.5 0.75 1
    --max_iter 12 --warmup_steps 3 --warmup_start_lr 1e-3 --save_iter_sep 5 --msg_iter 1 --val_scales 0.5 1
    --seed 3""".split()
STATE = ("model.pdparams", "optimizer.pdopt", "criterion.pdparams")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """10 pictures to train on: five steps an epoch."""
    return ensure_mini(tmp_path_factory.mktemp("data") / "mini", train=10, val=2, size=(128, 64))


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
    """A training of twelve steps that nothing disturbed."""
    output_dir = tmp_path_factory.mktemp("whole")
    finished = train(data, output_dir)
    assert finished.returncode == 0, finished.stderr
    return output_dir


def test_a_training_leaves_checkpoints_logs_and_scalars(whole, data):
    checkpoint = load_checkpoint(whole / "latest")
    assert checkpoint.state["step"] == 12
    validated = [entry for entry in checkpoint.state["history"] if "val_miou" in entry]
    assert [entry["step"] for entry in validated] == [5, 10, 12]
    assert (whole / "best" / "model.pdparams").is_file() and (whole / "best_mIOU100" / "model.pdparams").is_file()
    log = (whole / "train.log").read_text()
    assert log.count("validation after step") == 6 and log.count("dice_detail8") == 12
    assert list((whole / "visualdl").glob("vdlrecords*"))
    argv = ["--weights", whole / "latest", "--data_path", data, "--scale", 0.5, 1, "--output", whole / "m.json"]
    finished = call("evaluate.py", *argv)
    assert finished.returncode == 0, finished.stderr
    metrics = json.loads((whole / "m.json").read_text())
    for scale, key in (("0.5", "scale_0.5"), ("1.0", "scale_1")):
        assert metrics[key]["miou_present"] == validated[-1]["val_miou"][scale]
    assert max(entry["val_miou"]["0.5"] for entry in validated) == checkpoint.state["best"]["0.5"]


def test_the_optimiser_moves_what_the_groups_say(whole):
    """Norms of the backbone keep what they began with; the fuse kernel decays; heads that are not used stay."""
    state = {name: np.asarray(value) for name, value in paddle.load(str(whole / "latest" / "model.pdparams")).items()}
    for name, value in state.items():
        if ".backbone." in name and ("bn" in name or "avd_layer.1" in name):
            if name.endswith("weight"):
                assert (value == 1).all(), name
            if name.endswith(".bias"):
                assert (value == 0).all(), name
    assert not (state["cp.conv_head32.bn.bias"] == 0).all()
    assert not (state["conv_out_sp2.conv.bn._mean"] == 0).all()  # dropped heads run in training all the same
    kernel = np.asarray(paddle.load(str(whole / "latest" / "criterion.pdparams"))["fuse_kernel"]).ravel()
    assert 0.999 * 0.6 < kernel[0] < 0.6 and kernel[0] / kernel[2] == pytest.approx(6)
    moments = paddle.load(str(whole / "latest" / "optimizer.pdopt"))
    names = {name.split("|")[0] for name in moments}
    assert "fuse_kernel" in names and "conv_out_sp8.conv_out.weight" in names
    assert not any(name.startswith(("conv_out_sp2", "conv_out_sp4", "conv_out_sp16")) for name in names)


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
        target = choose.randint(1, 2) if kills < 4 else 10**9
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
    assert process.returncode == 0 and kills >= 3
    assert bits(tmp_path / "latest") == bits(whole / "latest")


def _small_disk() -> None:
    """No file may become larger: writing then fails as on a disk that is full."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))


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
        if "| step      4 |" in line:
            process.send_signal(number)
            break
    _, errors = process.communicate(timeout=120)
    assert process.returncode == status
    assert "--resume" in errors.strip().splitlines()[-1]
    finished = train(data, tmp_path, "--resume", tmp_path / "latest", "--n_workers_train", 0)
    assert finished.returncode == 0, finished.stderr
    assert bits(tmp_path / "latest") == bits(whole / "latest")


def test_other_options_resume_too(data, tmp_path):
    """No detail head, trained norms, the earlier port's schedule, a fixed kernel."""
    recipe = [word for word in RECIPE if word not in ("--use_boundary_8", "true")]
    recipe += ["--train_backbone_norms", "--lr_scheduler", "Warmup_PolyDecay", "--fuse_kernel", "fixed", "--sync_bn"]
    for name, *argv in (("one", 6), ("two", 3), ("two", 6, "--resume", tmp_path / "two" / "latest")):
        finished = call("train.py", "--data_path", data, "--output_dir", tmp_path / name, *recipe, "--max_steps", *argv)
        assert finished.returncode == 0, finished.stderr
    assert bits(tmp_path / "two" / "latest") == bits(tmp_path / "one" / "latest")
    assert "detail" not in (tmp_path / "one" / "train.log").read_text()
    kernel = np.asarray(paddle.load(str(tmp_path / "one" / "latest" / "criterion.pdparams"))["fuse_kernel"]).ravel()
    np.testing.assert_array_equal(kernel, np.array([0.6, 0.3, 0.1], np.float32))


def test_starting_from_a_pretrained_backbone(data, tmp_path):
    """The official archive: a torch file of the classifier under "state_dict", named .tar."""
    torch.manual_seed(5)
    state = build_reference_classifier(parse_options(["--base", "8"])).state_dict()
    torch.save({"state_dict": state, "epoch": 1}, tmp_path / "backbone.tar")
    # a rate of nearly nothing: what is saved after a step is what was loaded
    argv = ["--pretrain_path", tmp_path / "backbone.tar", "--lr", "1e-12", "--warmup_start_lr", "1e-12"]
    finished = train(data, tmp_path / "o", "--max_steps", 1, *argv)
    assert finished.returncode == 0, finished.stderr
    saved = paddle.load(str(tmp_path / "o" / "latest" / "model.pdparams"))
    for name in ("features.0.conv.weight", "conv_last.conv.weight"):
        np.testing.assert_allclose(np.asarray(saved[f"cp.backbone.{name}"]), state[name].numpy(), atol=1e-6)
    np.testing.assert_allclose(np.asarray(saved["cp.backbone.fc.weight"]), state["fc.weight"].numpy().T, atol=1e-6)


def launch(log_dir: Path, *argv) -> subprocess.CompletedProcess:
    start = ["-m", "paddle.distributed.launch", "--nproc_per_node", "2", "--log_dir", log_dir]
    command = [sys.executable, *map(str, start), *map(str, argv)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=log_dir.parent)


def test_two_processes_have_the_gradients_of_one(tmp_path):
    finished = launch(tmp_path / "log", FOLDER / "tests" / "two_processes.py")
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert finished.stdout.count("equal") == 2


def test_two_processes_train_and_resume(data, tmp_path):
    """Both forms end at the same step with the same weights: in one go, and stopped half-way."""
    recipe = [FOLDER / "train.py", "--data_path", data, *RECIPE]

    def go(name: str, *argv) -> None:
        finished = launch(tmp_path / "log", *recipe, "--output_dir", tmp_path / name, *argv)
        assert finished.returncode == 0, finished.stdout + finished.stderr

    go("one", "--max_steps", 4)
    go("two", "--max_steps", 2)
    go("two", "--max_steps", 4, "--resume", tmp_path / "two" / "latest")
    assert load_checkpoint(tmp_path / "two" / "latest").state["step"] == 4
    assert bits(tmp_path / "two" / "latest") == bits(tmp_path / "one" / "latest")


def one_line(finished: subprocess.CompletedProcess, status: int = 2) -> str:
    """The one line that a refusal prints, warnings of imported packages aside."""
    assert finished.returncode == status, finished.stdout + finished.stderr
    assert "Traceback" not in finished.stderr
    lines = [line for line in finished.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, finished.stderr
    return lines[0]


def test_a_training_that_diverges_stops_and_keeps_what_it_had(whole, data, tmp_path):
    finished = train(data, tmp_path, "--max_steps", 1)
    assert finished.returncode == 0, finished.stderr
    before = bits(tmp_path / "latest")
    diverging = ["--lr", "1e30", "--warmup_start_lr", "1e20"]
    line = one_line(train(data, tmp_path, *diverging), 3)
    assert "loss" in line and "--lr" in line
    assert bits(tmp_path / "latest") == before


def test_resuming_another_training_is_refused(whole, data, tmp_path):
    line = one_line(train(data, tmp_path, "--resume", whole / "latest", "--lr", "0.5"))
    assert "--lr 0.01, not 0.5" in line
    assert "nothing" in one_line(train(data, tmp_path, "--resume", tmp_path / "nothing"))
    assert not list(tmp_path.iterdir())


def test_missing_data(tmp_path):
    line = one_line(call("train.py", "--data_path", tmp_path / "absent", "--output_dir", tmp_path / "o"))
    assert "absent" in line and "mini.py" in line
    assert "--data_path is missing" in one_line(call("train.py", "--output_dir", tmp_path / "o"))
    assert not (tmp_path / "o").exists()


def files(root: Path, split: str = "train") -> tuple[Path, Path]:
    """The first picture of a split and its label."""
    picture = sorted((root / "leftImg8bit" / split).glob("*/*.png"))[0]
    name = picture.name.replace("_leftImg8bit", "_gtFine_labelIds")
    return picture, root / "gtFine" / split / picture.parent.name / name


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_pictures_and_labels(data, tmp_path, workers):
    copy = tmp_path / "copy"
    shutil.copytree(data, copy)
    picture, label = files(copy)
    ids = np.array(Image.open(label))
    whole = {picture: picture.read_bytes(), label: label.read_bytes()}

    def complaint() -> str:
        line = one_line(train(copy, tmp_path / "o", "--n_workers_train", workers))
        for path, content in whole.items():
            path.write_bytes(content)
        return line

    picture.write_bytes(whole[picture][: len(whole[picture]) // 2])
    assert str(picture) in complaint()
    Image.fromarray(ids[:-2]).save(label)
    line = complaint()
    assert str(label) in line and "128x62" in line and "128x64" in line
    Image.fromarray(np.where(ids == 7, 77, ids)).save(label)
    line = complaint()
    assert str(label) in line and "77" in line
    label.unlink()
    line = complaint()
    assert str(picture) in line and label.name in line


def test_batches_that_cannot_be_trained(data, tmp_path):
    assert "--n_img_per_gpu" in one_line(train(data, tmp_path, "--n_img_per_gpu", 11))
    assert "--n_img_per_gpu 1" in one_line(train(data, tmp_path, "--n_img_per_gpu", 1))
    assert "--warmup_steps" in one_line(train(data, tmp_path, "--warmup_steps", 12))
    assert "--n_min" in one_line(train(data, tmp_path, "--n_min", 10**6))


def test_wrong_weights(whole, data, tmp_path):
    own = whole / "latest" / "model.pdparams"
    finished = call("evaluate.py", "--weights", own, "--data_path", data, "--backbone", "STDCNet1446")
    assert finished.returncode == 2 and "Traceback" not in finished.stderr
    assert "missing" in finished.stderr and len(finished.stderr.splitlines()) <= 50
    for name, content in (("cut.pdparams", own.read_bytes()[:999]), ("empty.pth", b""), ("words.pth", b"words")):
        (tmp_path / name).write_bytes(content)
        line = one_line(call("evaluate.py", "--weights", tmp_path / name, "--data_path", data))
        assert name in line
    assert "--weights is missing" in one_line(call("evaluate.py", "--data_path", data))


def test_bad_values_of_options_are_refused():
    wrong = (["--n_img_per_gpu", "0"], ["--use_boundary_8", "perhaps"], ["--backbone", "CatNetSmall"], ["--lr", "-1"])
    for argv in wrong:
        finished = call("train.py", *argv)
        assert finished.returncode == 2 and "Traceback" not in finished.stderr


def test_mixed_precision_on_a_cpu_keeps_float32_weights(data, tmp_path):
    finished = train(data, tmp_path, "--amp", "--max_steps", 1)
    assert finished.returncode == 0, finished.stderr
    state = paddle.load(str(tmp_path / "latest" / "model.pdparams"))
    assert all(np.asarray(tensor).dtype == np.float32 for tensor in state.values())
