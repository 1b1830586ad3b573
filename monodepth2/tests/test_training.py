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
import pytest
import torch
import train
from PIL import Image
from visualdl import LogReader

from shared import InputError
from shared.weights import load_checkpoint, read_weights

import trainer
from mini.rig import CAMERA, calibration
from reference.network import build_reference

FOLDER = Path(__file__).resolve().parents[1]
DRIVE = "2026_05_01/2026_05_01_drive_0001_sync"
TRAIN = [f"{DRIVE} {index} {side}" for index, side in ((1, "l"), (2, "r"), (3, "r"), (4, "l"))]
VAL = [f"{DRIVE} 5 l", f"{DRIVE} 6 r"]
# the smallest networks there are; two steps an epoch
RECIPE = """--split tiny --height 64 --width 64 --frame_ids 0 -1 --use_stereo --pose_model_type posecnn --scales 0 1
    --weights_init scratch --batch_size 2 --num_epochs 2 --scheduler_step_size 1 --save_frequency 2 --log_frequency 1
    --seed 3""".split()
STATE = ("model.pdparams", "optimizer.pdopt")


# ---------------------------------------------------------------------------------------------------- data and runs


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """A drive of seven moments, stereo pairs and scans, and the lists of split "tiny"."""
    root, generator = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for name in ("image_02/data", "image_03/data", "velodyne_points/data"):
        (root / DRIVE / name).mkdir(parents=True)
    for name, text in calibration().items():
        (root / DRIVE).parent.joinpath(name).write_text(text)
    for index in range(7):
        for camera in (2, 3):
            blobs = Image.fromarray(generator.integers(0, 256, (6, 13, 3), np.uint8))
            picture = blobs.resize((CAMERA.width // 2, CAMERA.height // 2), Image.Resampling.BICUBIC)
            picture.save(root / DRIVE / f"image_0{camera}" / "data" / f"{index:010d}.jpg")
        x = generator.uniform(4, 60, 2000)
        points = [x, x * generator.normal(0, 0.5, 2000), x * generator.normal(0, 0.1, 2000), generator.random(2000)]
        np.stack(points, 1).astype("<f4").tofile(root / DRIVE / "velodyne_points" / "data" / f"{index:010d}.bin")
    (root / "splits" / "tiny").mkdir(parents=True)
    for part, lines in (("train", TRAIN), ("val", VAL)):
        (root / "splits" / "tiny" / f"{part}_files.txt").write_text("\n".join(lines) + "\n")
    return root


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
    where = ["--data_path", data, "--split_dir", data / "splits", "--output_dir", output_dir, "--num_workers", 0]
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
    """A training of four steps that nothing disturbed."""
    output_dir = tmp_path_factory.mktemp("whole")
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    assert run(data, output_dir) == 0
    signal.signal(signal.SIGINT, handlers[0]), signal.signal(signal.SIGTERM, handlers[1])
    return output_dir


# ------------------------------------------------------------------------------------------------ a whole training


def test_a_training_leaves_checkpoints_logs_and_scalars(whole):
    checkpoint = load_checkpoint(whole / "latest")
    history = checkpoint.state["history"]
    assert checkpoint.state["step"] == 4
    assert [(entry["step"], "val_loss" in entry) for entry in history] == [
        (1, 0),
        (2, 0),
        (2, 1),
        (3, 0),
        (4, 0),
        (4, 1),
    ]
    best = min((entry for entry in history if "val_loss" in entry), key=lambda entry: entry["val_loss"])
    assert checkpoint.state["best"] == best["val_loss"]
    assert load_checkpoint(whole / "best").state["step"] == best["step"]
    assert 0 < best["val_de/abs_rel"] < 10  # the drive has scans, so depth is measured too
    assert [path.name for path in sorted((whole / "models").iterdir())] == ["checkpoints", "opt.json", "weights_1"]
    assert bits(whole / "models" / "weights_1") == bits(whole / "latest")
    written = json.loads((whole / "models" / "opt.json").read_text())
    assert written["frame_ids"] == [0, -1, "s"] and written["scheduler_step_size"] == 1
    log = (whole / "train.log").read_text()
    assert log.count("| loss: ") == 6 and log.count("validation after epoch") == 2
    reader = LogReader(file_path=str(next((whole / "visualdl").glob("vdlrecords*"))))
    rates = [record.value for record in reader.get_data("scalar", "train/lr")]
    np.testing.assert_allclose(rates, [1e-4, 1e-4, 1e-5, 1e-5], rtol=1e-6)
    pictures = set(reader.get_tags()["image"])
    assert {"train/color_pred_s_0/0", "train/color_-1_0/1", "val/disp_1/0", "val/automask_0/1"} <= pictures


def test_what_the_optimiser_moves(whole, data, tmp_path):
    """All but the classifiers, which have no moments; the statistics have seen the pictures."""
    first = {name: value.numpy() for name, value in built(data, tmp_path).model.state_dict().items()}
    last, moments = arrays(whole / "latest"), arrays(whole / "latest" / "optimizer.pdopt")
    moved = {name for name in last if not np.array_equal(first[name], last[name])}
    assert set(last) - moved == {
        "height",
        "width",
        "use_stereo",
        "encoder.encoder.fc.weight",
        "encoder.encoder.fc.bias",
    }
    assert {name.split("|")[0] for name in moments} == {n for n in moved if not n.endswith(("._mean", "._variance"))}


def test_the_rate_is_that_of_the_epoch(whole, data, tmp_path):
    assert built(data, tmp_path, "--resume", whole / "latest").optimizer.get_lr() == pytest.approx(1e-6, rel=1e-12)
    early = built(data, tmp_path, "--scheduler_step_at", "start")
    assert early.optimizer.get_lr() == pytest.approx(1e-5, rel=1e-12)


# --------------------------------------------------------------------------------------------- stopping and going on


def test_killed_and_stopped_it_resumes_to_the_same_bits(whole, data, tmp_path):
    """SIGKILL anywhere after a checkpoint, then SIGINT, then SIGTERM; some of it with workers, some without."""
    choose, resume = random.Random(0), []
    for number, status, argv in (
        (signal.SIGKILL, -9, ["--checkpoint_steps", 1, "--num_workers", 2]),
        (signal.SIGINT, 130, ["--num_workers", 2]),
        (signal.SIGTERM, 143, []),
    ):
        process = start(data, tmp_path, *argv, *resume)
        for line in process.stdout:
            if line.startswith("epoch"):
                if number == signal.SIGKILL:  # once there is a checkpoint, in the writing of one or in a step
                    while not (tmp_path / "latest").exists():
                        time.sleep(0.01)
                    time.sleep(choose.random() * 0.3)
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
    assert (again["history"], again["best"]) == (state["history"], state["best"])


def test_another_training_is_not_resumed(whole, data, tmp_path):
    resume = ["--resume", whole / "latest"]
    line = refusal(data, tmp_path, *resume, "--learning_rate", "0.5")
    assert "--learning_rate 0.0001, not 0.5" in line and str(whole / "latest") in line
    assert "--pose_model_type posecnn, not shared" in refusal(data, tmp_path, *resume, "--pose_model_type", "shared")
    lists = tmp_path / "lists"
    shutil.copytree(data / "splits", lists)
    (lists / "tiny" / "train_files.txt").write_text("\n".join(TRAIN[:3]) + "\n")
    assert "4 items" in refusal(data, tmp_path / "o", *resume, "--split_dir", lists)
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


def linked(whole: Path, folder: Path) -> dict[str, bytes]:
    """An output folder with the checkpoints of `whole`; returns the bits of its latest."""
    shutil.copytree(whole, folder, symlinks=True, copy_function=os.link, ignore=shutil.ignore_patterns("visualdl"))
    return bits(folder / "latest")


def test_a_training_that_diverges_keeps_what_it_had(data, tmp_path, capsys):
    assert run(data, tmp_path, "--learning_rate", "1e30", "--checkpoint_steps", 1) == 3
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("error: the loss is no number at step 1") and "--learning_rate" in line
    checkpoint = load_checkpoint(tmp_path / "latest")
    assert checkpoint.state["step"] == 1 and np.isfinite(checkpoint.state["history"][0]["loss"])


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
    before = linked(whole, tmp_path / "o")
    with small_disk(10_000_000):
        line = refusal(data, tmp_path / "o", "--max_steps", 1)
    assert "not written" in line and "latest-00000001" in line
    assert bits(tmp_path / "o" / "latest") == before
    assert not list(tmp_path.rglob(".tmp*"))


# -------------------------------------------------------------------------------------------------- two processes


def test_two_processes_train_as_one(data, tmp_path):
    """Gradients in float64; and train.py, stopped and resumed, ends with the weights of one process."""
    script = FOLDER / "tests" / "two_processes.py"
    argv = ["--sync_bn", "--num_epochs", 1]
    launch = [sys.executable, "-m", "paddle.distributed.launch", "--nproc_per_node", 2, "--log_dir", tmp_path / "log"]
    command = [*launch, script, *words(data, tmp_path / "two", *argv, "--batch_size", 1)]
    finished = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert finished.stdout.count("equal") == 2, finished.stdout
    assert run(data, tmp_path / "one", *argv) == 0
    one, two = (arrays(folder / "latest") for folder in (tmp_path / "one", tmp_path / "two"))
    for name, value in one.items():
        difference = np.linalg.norm(two[name].astype(np.float64) - value)
        assert difference <= 1e-3 * np.linalg.norm(value.astype(np.float64)), name  # measured: 2e-4
    validated = [load_checkpoint(tmp_path / f / "latest").state["history"][-1] for f in ("one", "two")]
    assert validated[1]["val_loss"] == pytest.approx(validated[0]["val_loss"], rel=1e-4)


def test_an_item_meets_the_same_noise_in_any_process(data, tmp_path):
    alone = built(data, tmp_path)
    batch = next(iter(alone.loader))
    whole = alone._noise(batch, 0)
    assert [drawn.shape for drawn in whole] == [[2, 2, 64, 64], [2, 2, 64, 64]]
    assert not np.array_equal(whole[0].numpy(), whole[1].numpy())
    for rank in range(2):
        one = built(data, tmp_path, "--batch_size", 1)
        one.rank, one.world, one.sampler.rank, one.sampler.world = rank, 2, rank, 2
        own = next(iter(one.loader))
        np.testing.assert_array_equal(own["color", 0, 0][0].numpy(), batch["color", 0, 0][rank].numpy())
        for drawn, part in zip(whole, one._noise(own, 0), strict=True):
            np.testing.assert_array_equal(part[0].numpy(), drawn[rank].numpy())
    assert not np.array_equal(alone._noise(batch, 1)[0].numpy(), whole[0].numpy())


# ---------------------------------------------------------------------------------------- where a training begins


def test_fine_tuning_at_another_size(whole, data, tmp_path):
    """The parts that were asked for come from the weights, the rest is new, and the size is the command line's."""
    argv = ["--weights", whole / "models" / "weights_1", "--height", 96, "--width", 128, "--models_to_load", "encoder"]
    found = {name: value.numpy() for name, value in built(data, tmp_path, *argv).model.state_dict().items()}
    last = arrays(whole / "latest")
    assert (int(found["height"]), int(found["width"]), int(last["height"])) == (96, 128, 64)
    for name, value in found.items():
        if name.startswith("encoder."):
            np.testing.assert_array_equal(value, last[name])
    for name in ("depth.decoder.0.conv.conv.weight", "pose.net.0.weight"):
        assert not np.array_equal(found[name], last[name])
    everything = built(data, tmp_path, *argv[:-2]).model.state_dict()
    np.testing.assert_array_equal(everything["pose.net.0.weight"].numpy(), last["pose.net.0.weight"])
    assert "pose_encoder" in refusal(data, tmp_path, *argv[:-1], "pose_encoder", "--pose_model_type", "separate_resnet")


def test_imagenet_weights_by_their_official_names(data, tmp_path, monkeypatch):
    """torchvision's file in pretrained/ fills both encoders; where there is none, a line says which is wanted."""
    monkeypatch.setattr(trainer, "FOLDER", tmp_path)
    argv = ["--weights_init", "pretrained", "--pose_model_type", "separate_resnet"]
    line = refusal(data, tmp_path / "o", *argv)
    assert str(tmp_path / "pretrained" / "resnet18-f37072fd.pth") in line and "--weights_init scratch" in line
    assert "resnet18.pdparams" in refusal(data, tmp_path / "o", "--weights_init", "paddle_pretrained")
    assert "absent.pth" in refusal(data, tmp_path / "o", "--weights_init", tmp_path / "absent.pth")
    torch.manual_seed(0)
    state = build_reference(train.options_of(words(data, tmp_path))).encoder.encoder.state_dict()
    (tmp_path / "pretrained").mkdir()
    torch.save(state, tmp_path / "pretrained" / "resnet18-5c106cde.pth")
    model = built(data, tmp_path, *argv).model
    weight = state["conv1.weight"].numpy()
    np.testing.assert_array_equal(model.encoder.encoder.conv1.weight.numpy(), weight)
    np.testing.assert_array_equal(model.pose_encoder.encoder.conv1.weight.numpy(), np.concatenate([weight] * 2, 1) / 2)
    for encoder in (model.encoder, model.pose_encoder):
        block = encoder.encoder.layer4[1].conv2.weight.numpy()
        np.testing.assert_array_equal(block, state["layer4.1.conv2.weight"].numpy())
        np.testing.assert_array_equal(encoder.encoder.fc.weight.numpy(), state["fc.weight"].numpy().T)


def test_other_options_train_too(data, tmp_path):
    """Frozen statistics stay, mixed precision keeps float32 weights, and masks are shown."""
    argv = ["--freeze_bn", "--amp", "--disable_automasking", "--predictive_mask", "--avg_reprojection"]
    assert run(data, tmp_path, *argv, "--v1_multiscale", "--max_steps", 1) == 0
    first = {name: value.numpy() for name, value in built(data, tmp_path, *argv).model.state_dict().items()}
    found = arrays(tmp_path / "latest")
    moved = {name for name in found if not np.array_equal(found[name], first[name])}
    assert not any(name.endswith(("._mean", "._variance")) for name in moved)
    assert {
        "encoder.encoder.bn1.weight",
        "encoder.encoder.conv1.weight",
        "predictive_mask.decoder.0.conv.conv.weight",
    } <= moved
    assert all(value.dtype == np.float32 for value in found.values() if value.ndim)
    reader = LogReader(file_path=str(next((tmp_path / "visualdl").glob("vdlrecords*"))))
    assert {"train/predictive_mask_-1_0/0", "train/predictive_mask_s_1/1"} <= set(reader.get_tags()["image"])


# ----------------------------------------------------------------------------------------------------- bad input


def test_exit_status_of_bad_input(tmp_path):
    command = [sys.executable, str(FOLDER / "train.py"), "--split", "mini", "--data_path", str(tmp_path / "absent")]
    finished = subprocess.run([*command, "--output_dir", str(tmp_path / "o")], capture_output=True, text=True)
    assert finished.returncode == 2 and "Traceback" not in finished.stderr
    lines = [line for line in finished.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and "absent" in lines[0] and "mini.py" in lines[0]
    assert not (tmp_path / "o").exists()


def test_bad_input(data, tmp_path):
    with pytest.raises(InputError, match="--data_path is missing"):
        train.main(["--output_dir", str(tmp_path / "o")])
    assert "--batch_size" in refusal(data, tmp_path / "o", "--batch_size", 5)
    assert "splits/unheard" in refusal(data, tmp_path / "o", "--split", "unheard")
    assert "no such file or folder" in refusal(data, tmp_path / "o", "--weights", tmp_path / "absent")
    (tmp_path / "words.pdparams").write_bytes(b"words")
    assert "words.pdparams" in refusal(data, tmp_path / "o", "--weights", tmp_path / "words.pdparams")
    (tmp_path / "empty").mkdir()
    assert "encoder.pth" in refusal(data, tmp_path / "o", "--weights", tmp_path / "empty")
    (tmp_path / "file").write_text("in the way")
    assert str(tmp_path / "file") in refusal(data, tmp_path / "file")
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_picture_is_named(data, tmp_path, workers):
    copy = tmp_path / "data"
    shutil.copytree(data, copy)
    picture = copy / DRIVE / "image_02" / "data" / "0000000003.jpg"
    picture.write_bytes(picture.read_bytes()[:300])
    assert str(picture) in refusal(copy, tmp_path / "o", "--num_workers", workers)


@pytest.mark.parametrize(
    "argv", ["--height 100", "--frame_ids -1 0", "--batch_size 0", "--predictive_mask", "--frame_ids 0", "--scales 4"]
)
def test_bad_values_of_options(data, tmp_path, argv):
    with pytest.raises(SystemExit) as ended:
        train.main(["--data_path", str(data), "--output_dir", str(tmp_path), *argv.split()])
    assert ended.value.code == 2
