"""The embedded mini data set: what it holds, that it repeats, that it is safe to make, and that only shape tells."""

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from shared import InputError

from mini import draw as mini
from mini.draw import CLASSES, SHAPES, draw, ensure_mini, linear_baseline, write_mini

SCRIPT = Path(mini.__file__).parents[1] / "draw_mini.py"
CALL = "import sys; from mini.draw import ensure_mini; ensure_mini(sys.argv[1], 0, int(sys.argv[2]), 1, 24)"


def contents(root: Path) -> dict[str, bytes]:
    """Every file under a folder, by its path."""
    return {str(file.relative_to(root)): file.read_bytes() for file in sorted(root.rglob("*")) if file.is_file()}


def start(root: Path, train_per_class: int) -> subprocess.Popen:
    """A process of its own that makes a mini data set; it imports the module alone, without paddle."""
    command = [sys.executable, "-c", CALL, str(root), str(train_per_class)]
    # started in the background by a script, this process ignores SIGINT, and its children would too
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    return subprocess.Popen(command, cwd=SCRIPT.parent, stderr=subprocess.DEVNULL, preexec_fn=heed)


def script(folder: Path, *options: str) -> subprocess.CompletedProcess:
    """The command line, run from `folder`."""
    command = [sys.executable, str(SCRIPT), "--output_dir", "mini", "--train_per_class", "2", "--val_per_class", "1"]
    return subprocess.run([*command, "--size", "24", *options], cwd=folder, capture_output=True, text=True)


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    """A data set large enough for statistics."""
    return write_mini(tmp_path_factory.mktemp("data") / "mini", train_per_class=30, val_per_class=20, size=40)


def test_layout_and_counts(tmp_path):
    root = write_mini(tmp_path / "deep" / "mini", seed=3, train_per_class=2, val_per_class=1, size=32)
    assert sorted(entry.name for entry in root.iterdir()) == ["mini.json", "train", "val"]
    for split, count in (("train", 2), ("val", 1)):
        assert sorted(folder.name for folder in (root / split).iterdir()) == list(CLASSES)
        for label in CLASSES:
            assert [file.name for file in sorted((root / split / label).iterdir())] == ["0000.jpg", "0001.jpg"][:count]
    with Image.open(root / "val" / "star" / "0000.jpg") as picture:
        assert (picture.format, picture.mode, picture.size) == ("JPEG", "RGB", (32, 32))
    record = json.loads((root / "mini.json").read_text())
    assert (record["seed"], record["train_per_class"], record["val_per_class"], record["size"]) == (3, 2, 1, 32)
    assert record["version"] == mini.VERSION
    assert len(CLASSES) == 10 and list(CLASSES) == sorted(CLASSES)


def test_the_seed_alone_decides(tmp_path):
    options = {"train_per_class": 2, "val_per_class": 1, "size": 24}
    first = contents(write_mini(tmp_path / "a", seed=1, **options))
    assert contents(write_mini(tmp_path / "b", seed=1, **options)) == first
    other = contents(write_mini(tmp_path / "c", seed=2, **options))
    assert other.keys() == first.keys()
    assert not any(other[name] == first[name] for name in first)
    pictures = [data for name, data in first.items() if name.endswith(".jpg")]
    assert len(set(pictures)) == len(pictures)


def test_counts_do_not_change_pictures(tmp_path):
    few = contents(write_mini(tmp_path / "few", train_per_class=1, val_per_class=1, size=24))
    more = contents(write_mini(tmp_path / "more", train_per_class=3, val_per_class=2, size=24))
    assert all(more[name] == few[name] for name in few if name.endswith(".jpg"))


def test_ensure_draws_only_what_is_missing(tmp_path):
    root = ensure_mini(tmp_path / "mini", train_per_class=2, val_per_class=1, size=24)
    before = {file: file.stat().st_mtime_ns for file in root.rglob("*")}
    assert ensure_mini(root, train_per_class=2, val_per_class=1, size=24) == root
    assert {file: file.stat().st_mtime_ns for file in root.rglob("*")} == before
    ensure_mini(root, train_per_class=1, val_per_class=1, size=24)
    assert len(list((root / "train").rglob("*.jpg"))) == 10
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [".mini.lock", "mini"]


def test_a_new_version_of_the_drawing_redraws(tmp_path, monkeypatch):
    root = ensure_mini(tmp_path / "mini", train_per_class=1, val_per_class=1, size=24)
    monkeypatch.setattr(mini, "VERSION", mini.VERSION + 1)
    ensure_mini(root, train_per_class=1, val_per_class=1, size=24)
    assert json.loads((root / "mini.json").read_text())["version"] == mini.VERSION


@pytest.mark.parametrize("record", [None, "{", "[]", '{"made_by": "someone else"}'])
@pytest.mark.parametrize("make", [ensure_mini, write_mini])
def test_a_foreign_folder_is_left_alone(tmp_path, make, record):
    (tmp_path / "photo.jpg").write_bytes(b"mine")
    if record is not None:
        (tmp_path / "mini.json").write_text(record)
    before = contents(tmp_path)
    with pytest.raises(InputError, match="name another folder") as caught:
        make(tmp_path, train_per_class=1, val_per_class=1, size=24)
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)
    assert contents(tmp_path) == before


def test_a_file_in_its_place_is_left_alone(tmp_path):
    (tmp_path / "mini").write_text("mine")
    with pytest.raises(InputError):
        ensure_mini(tmp_path / "mini")
    with pytest.raises(InputError, match="cannot be made"):
        ensure_mini(tmp_path / "mini" / "below")
    assert (tmp_path / "mini").read_text() == "mine"


def test_an_empty_folder_is_filled(tmp_path):
    (tmp_path / "mini").mkdir()
    assert len(contents(ensure_mini(tmp_path / "mini", train_per_class=1, val_per_class=1, size=24))) == 21


@pytest.mark.parametrize("wrong", [{"seed": -1}, {"train_per_class": 0}, {"val_per_class": 0}, {"size": 7}])
def test_options_out_of_range(tmp_path, wrong):
    with pytest.raises(InputError):
        write_mini(tmp_path / "mini", **wrong)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_drawing_broken_off_leaves_no_root(tmp_path, how):
    root = tmp_path / "mini"
    child = start(root, 2000)
    deadline = time.monotonic() + 20
    while not list(tmp_path.rglob("*.jpg")) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert list(tmp_path.rglob("*.jpg")), "the child never drew"
    os.kill(child.pid, how)
    assert child.wait(10) != 0
    assert not root.exists()
    ensure_mini(root, train_per_class=1, val_per_class=1, size=24)
    assert len(contents(root)) == 21
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [".mini.lock", "mini"]


def test_a_failed_redrawing_keeps_the_old_one(tmp_path, monkeypatch):
    root = ensure_mini(tmp_path / "mini", train_per_class=1, val_per_class=1, size=24)
    before = contents(root)

    def full(*_) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(mini, "draw", full)
    with pytest.raises(OSError, match="no space"):
        ensure_mini(root, train_per_class=2, val_per_class=1, size=24)
    assert contents(root) == before
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [".mini.lock", "mini"]


def test_two_processes_at_once(tmp_path):
    children = [start(tmp_path / "mini", 4) for _ in range(2)]
    assert [child.wait(25) for child in children] == [0, 0]
    assert len(contents(tmp_path / "mini")) == 51


def test_command_line_from_anywhere(tmp_path):
    done = script(tmp_path, "--linear_baseline")
    assert done.returncode == 0, done.stderr
    assert str(tmp_path / "mini") in done.stdout and "top-1" in done.stdout
    (tmp_path / "mini" / "mini.json").unlink()
    done = script(tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


@pytest.mark.parametrize("label", CLASSES)
def test_shapes_are_distances_and_stand_on_the_floor(label):
    """Never larger than the true distance (or rays would jump through), in the unit sphere, touching the floor."""
    rng, shape = np.random.default_rng(0), SHAPES[label]
    points = rng.uniform(-1.1, 1.1, (3, 300_000)).astype(np.float32)
    steps = rng.normal(0, 0.05, points.shape).astype(np.float32)
    distance = shape.distance(points)
    assert (np.abs(shape.distance(points + steps) - distance) / np.linalg.norm(steps, axis=0)).max() < 1.01
    inside = points[:, distance < 0]
    assert np.linalg.norm(inside, axis=0).max() < 1.02
    assert 0 <= inside[1].min() - shape.floor < 0.03


def test_no_class_has_its_own_colour(small):
    """Chance is 10 %: the mean colours of the classes differ less than their pictures do."""

    def mean_colours(split: str) -> tuple[np.ndarray, np.ndarray]:
        x, labels = mini.pixels(small, split)
        return x.reshape(len(x), -1, 3).mean(1), labels

    (x, labels), (val_x, val_labels) = mean_colours("train"), mean_colours("val")
    means = np.stack([x[labels == label].mean(0) for label in range(10)])
    nearest = np.linalg.norm(val_x[:, None] - means, axis=2).argmin(1)
    assert (nearest == val_labels).mean() < 0.2


def test_a_linear_model_does_poorly(small):
    assert linear_baseline(small) < 0.35


def test_objects_are_in_the_picture():
    """An object of any class covers some of the floor and the wall, and not all of them."""
    for label in CLASSES:
        scene = mini.draw_scene(np.random.default_rng(5), label)
        rays = mini.camera_rays(scene.camera, 40)
        empty = mini.background(scene, rays, 40).T.reshape(40, 40, 3)
        changed = (np.abs(mini.render(scene, 40) - empty).max(2) > 1e-6).mean()
        assert 1 / 12 < changed < 0.8, label
    assert draw(0, "train", "ball", 0, 80).shape == (80, 80, 3)
