"""The embedded mini data set: its layout, that it repeats, that it is safe to make, and that its labels are right."""

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from shared import InputError

from constants import CLASS_NAMES, IGNORE, LABELS, to_label_ids, to_train_ids
from mini import draw as mini
from mini import scenes
from mini.draw import CITIES, colour_baseline, ensure_mini, place_baseline, write_mini
from mini.scenes import Id, draw_scene, empty_scene

SCRIPT = Path(mini.__file__).parents[1] / "draw_mini.py"
SMALL = {"train": 2, "val": 1, "size": (96, 48)}
CALL = (
    "import sys; from mini import draw as mini; mini.WORTH_PROCESSES = int(sys.argv[3]); "
    "mini.ensure_mini(sys.argv[1], 0, int(sys.argv[2]), 1)"
)


def contents(root: Path) -> dict[str, bytes]:
    """Every file under a folder, by its path."""
    return {str(file.relative_to(root)): file.read_bytes() for file in sorted(root.rglob("*")) if file.is_file()}


def pictures(root: Path) -> dict[str, bytes]:
    return {name: data for name, data in contents(root).items() if name.endswith(".png")}


def start(root: Path, train: int, worth_processes: int = 10**6) -> subprocess.Popen:
    """A process of its own that makes a mini data set; it imports the module alone, without paddle."""
    command = [sys.executable, "-c", CALL, str(root), str(train), str(worth_processes)]
    # started in the background by a script, this process ignores SIGINT, and its children would too
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    return subprocess.Popen(command, cwd=SCRIPT.parent, stderr=subprocess.DEVNULL, preexec_fn=heed)


def script(folder: Path, *options: str) -> subprocess.CompletedProcess:
    """The command line, run from `folder`."""
    command = [sys.executable, str(SCRIPT), "--output_dir", "mini", "--train", "2", "--val", "1", "--size", "96", "48"]
    return subprocess.run([*command, *options], cwd=folder, capture_output=True, text=True)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A data set large enough for statistics."""
    return write_mini(tmp_path_factory.mktemp("data") / "mini", train=24, val=12, size=(192, 96))


def test_layout(tmp_path):
    folder = write_mini(tmp_path / "deep" / "mini", seed=3, train=5, val=3, size=(96, 48))
    assert sorted(entry.name for entry in folder.iterdir()) == ["gtFine", "leftImg8bit", "mini.json"]
    for split, count in (("train", 5), ("val", 3)):
        stems = [f"{city}/{city}_{k:06d}_000019" for k in range(2) for city in CITIES[split]][:count]
        for kind, suffix in (("leftImg8bit", "leftImg8bit"), ("gtFine", "gtFine_labelIds")):
            found = [
                str(f.relative_to(folder / kind / split)) for f in (folder / kind / split).rglob("*") if f.is_file()
            ]
            assert sorted(found) == sorted(f"{stem}_{suffix}.png" for stem in stems)
        for stem in stems:
            with Image.open(folder / "leftImg8bit" / split / f"{stem}_leftImg8bit.png") as picture:
                assert (picture.format, picture.mode, picture.size) == ("PNG", "RGB", (96, 48))
            with Image.open(folder / "gtFine" / split / f"{stem}_gtFine_labelIds.png") as labels:
                assert (labels.format, labels.mode, labels.size) == ("PNG", "L", (96, 48))
                assert set(np.unique(labels)) <= {int(label) for label in Id}
    assert not set(CITIES["train"]) & set(CITIES["val"])


def test_record(root):
    record = json.loads((root / "mini.json").read_text())
    assert (record["version"], record["seed"], record["size"]) == (mini.VERSION, 0, [192, 96])
    assert (record["train"], record["val"]) == (24, 12)
    for split, name in (("train", "train_pixels"), ("val", "val_pixels")):
        pixels = sum(np.bincount(labels.ravel(), minlength=256) for _, labels in mini.samples(root, split))
        assert {entry["train_id"]: entry[name] for entry in record["classes"]} == {
            train_id: pixels[train_id] for train_id in np.flatnonzero(pixels[:19])
        }
    assert all(CLASS_NAMES[entry["train_id"]] == entry["name"] for entry in record["classes"])


def test_every_class_is_there(root):
    """Every class that is ever drawn has its share of both splits, and something is ignored."""
    record = json.loads((root / "mini.json").read_text())
    drawn = {int(train_id) for train_id in to_train_ids(np.array(Id)) if train_id != IGNORE}
    assert {entry["train_id"] for entry in record["classes"]} == drawn and len(drawn) == 9
    labels = np.stack([ids for _, ids in mini.samples(root, "train")])
    assert 0.02 < (labels == IGNORE).mean() < 0.2
    for train_id in drawn:
        assert (labels == train_id).any((1, 2)).mean() > 0.4, CLASS_NAMES[train_id]


def test_the_seed_alone_decides(tmp_path):
    first = contents(write_mini(tmp_path / "a", seed=1, **SMALL))
    assert contents(write_mini(tmp_path / "b", seed=1, **SMALL)) == first
    other = contents(write_mini(tmp_path / "c", seed=2, **SMALL))
    assert other.keys() == first.keys()
    assert not any(other[name] == first[name] for name in first)
    assert len(set(pictures(tmp_path / "a").values())) == 6


def test_processes_do_not_change_pictures(tmp_path):
    children = [start(tmp_path / name, 5, worth) for name, worth in (("one", 100), ("many", 1))]
    assert [child.wait(60) for child in children] == [0, 0]
    assert contents(tmp_path / "one") == contents(tmp_path / "many")
    assert len(pictures(tmp_path / "one")) == 12


def test_counts_do_not_change_pictures(tmp_path):
    few = pictures(write_mini(tmp_path / "few", **SMALL))
    more = pictures(write_mini(tmp_path / "more", train=5, val=3, size=SMALL["size"]))
    assert all(more[name] == few[name] for name in few)


def test_ensure_draws_only_what_is_missing(tmp_path):
    folder = ensure_mini(tmp_path / "mini", **SMALL)
    before = {file: file.stat().st_mtime_ns for file in folder.rglob("*")}
    assert ensure_mini(folder, **SMALL) == folder
    assert {file: file.stat().st_mtime_ns for file in folder.rglob("*")} == before
    ensure_mini(folder, train=1, val=1, size=SMALL["size"])
    assert len(pictures(folder)) == 4
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [".mini.lock", "mini"]


def test_a_new_version_of_the_drawing_redraws(tmp_path, monkeypatch):
    folder = ensure_mini(tmp_path / "mini", **SMALL)
    monkeypatch.setattr(mini, "VERSION", mini.VERSION + 1)
    ensure_mini(folder, **SMALL)
    assert json.loads((folder / "mini.json").read_text())["version"] == mini.VERSION


@pytest.mark.parametrize("record", [None, "{", "[]", '{"made_by": "someone else"}'])
@pytest.mark.parametrize("make", [ensure_mini, write_mini])
def test_a_foreign_folder_is_left_alone(tmp_path, make, record):
    (tmp_path / "photo.png").write_bytes(b"mine")
    if record is not None:
        (tmp_path / "mini.json").write_text(record)
    before = contents(tmp_path)
    with pytest.raises(InputError, match="name another folder") as caught:
        make(tmp_path, **SMALL)
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
    assert len(pictures(ensure_mini(tmp_path / "mini", **SMALL))) == 6


@pytest.mark.parametrize("wrong", [{"seed": -1}, {"train": 0}, {"val": 0}, {"size": (63, 32)}, {"size": (64, 31)}])
def test_options_out_of_range(tmp_path, wrong):
    with pytest.raises(InputError):
        write_mini(tmp_path / "mini", **wrong)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_drawing_broken_off_leaves_no_root(tmp_path, how):
    folder = tmp_path / "mini"
    child = start(folder, 2000, worth_processes=1)
    deadline = time.monotonic() + 60
    while not list(tmp_path.rglob("*.png")) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert list(tmp_path.rglob("*.png")), "the child never drew"
    os.kill(child.pid, how)
    assert child.wait(20) != 0
    assert not folder.exists()
    ensure_mini(folder, **SMALL)
    assert len(pictures(folder)) == 6
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [".mini.lock", "mini"]


def test_a_failed_redrawing_keeps_the_old_one(tmp_path, monkeypatch):
    folder = ensure_mini(tmp_path / "mini", **SMALL)
    before = contents(folder)

    def full(*_) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(mini, "draw", full)
    with pytest.raises(OSError, match="no space"):
        ensure_mini(folder, train=3, val=1, size=SMALL["size"])
    assert contents(folder) == before
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [".mini.lock", "mini"]


def test_two_processes_at_once(tmp_path):
    children = [start(tmp_path / "mini", 3) for _ in range(2)]
    assert [child.wait(60) for child in children] == [0, 0]
    assert len(contents(tmp_path / "mini")) == 9


def test_command_line_from_anywhere(tmp_path):
    done = script(tmp_path, "--colour_baseline")
    assert done.returncode == 0, done.stderr
    assert str(tmp_path / "mini") in done.stdout and done.stdout.count("mIoU") == 2
    (tmp_path / "mini" / "mini.json").unlink()
    done = script(tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


# --------------------------------------------------------------------------------------------------------------------
# What is drawn
# --------------------------------------------------------------------------------------------------------------------


def test_label_ids():
    names = {label.id: label.name for label in LABELS}
    assert {int(label): label.name.lower().replace("_", " ") for label in Id}.items() <= names.items()


def test_camera():
    camera = scenes.Camera(512, 256, 450.0, 250.0, 110.0, 1.5)
    assert np.allclose(camera.project([(0, 1.5, 7)]), [[250, 110]])  # at the height of the eye: on the horizon
    assert np.allclose(camera.project([(2, 0, 9)]), [[350, 185]])
    near, far = (np.diff(camera.project([(3, 0, z), (3, 1.8, z)])[:, 1]) for z in (10, 20))
    assert np.allclose(near, 2 * far)


@pytest.mark.parametrize("seed", range(8))
def test_ground_and_sky_meet_at_the_horizon(seed):
    picture, labels, camera = draw_scene(np.random.default_rng(seed), 256, 128)
    assert (picture.shape, labels.shape) == ((128, 256, 3), (128, 256))
    ground = np.isin(labels, [Id.ROAD, Id.SIDEWALK, Id.PARKING])
    assert np.flatnonzero(ground.any(1)).min() > camera.v
    assert np.flatnonzero((labels == Id.SKY).any(1)).max() <= camera.v
    assert (labels[:1] == Id.OUT_OF_ROI).all() and (labels[:, -1:] == Id.OUT_OF_ROI).all()
    assert labels[-2, 128] == Id.EGO_VEHICLE
    # the road narrows to the vanishing point
    rows = np.flatnonzero((labels == Id.ROAD).any(1))
    widths = [np.ptp(np.flatnonzero(labels[row] == Id.ROAD)) for row in (rows[2], rows[-8])]
    assert widths[0] < widths[1]


THINGS = {
    "house": (lambda scene: scenes.add_house(scene, 1, 4.0, 9.0, 22.0), {Id.BUILDING}),
    "tree": (lambda scene: scenes.add_tree(scene, 0.5, 14.0), {Id.VEGETATION}),
    "bush": (lambda scene: scenes.add_bush(scene, -1.0, 9.0, 2.5, 2.0), {Id.VEGETATION}),
    "lamp": (lambda scene: scenes.add_lamp(scene, 1.5, 12.0), {Id.POLE, Id.STATIC}),
    "sign": (lambda scene: scenes.add_sign(scene, -1.0, 10.0), {Id.POLE, Id.TRAFFIC_SIGN}),
    "person": (lambda scene: scenes.add_person(scene, 0.3, 8.0), {Id.PERSON}),
    "bin": (lambda scene: scenes.add_clutter(scene, 1.0, 8.0, Id.STATIC), {Id.STATIC}),
    "car ahead": (lambda scene: scenes.add_car(scene, 0.5, 10.0, 0.0), {Id.CAR}),
    "car across": (lambda scene: scenes.add_car(scene, -0.5, 12.0, 80.0), {Id.CAR}),
    "oncoming car": (lambda scene: scenes.add_car(scene, -2.0, 9.0, 183.0), {Id.CAR}),
}


@pytest.mark.parametrize("thing", THINGS)
@pytest.mark.parametrize("seed", range(4))
def test_labels_sit_on_what_is_drawn(thing, seed):
    """On a ground brighter than anything can be, the pixels that change are the pixels with a label, but for edges."""
    add, expected = THINGS[thing]
    scene = empty_scene(np.random.default_rng(seed), 512, 256)
    ground = np.float32([40, 40, 40])
    scene.canvas.picture[:] = ground
    add(scene)
    scene.draw()
    drawn = (np.abs(scene.canvas.picture - ground).max(2) > 20).astype(np.uint8)  # at least half hidden
    labelled = (scene.canvas.label != Id.SKY).astype(np.uint8)
    assert set(np.unique(scene.canvas.label)) - {Id.SKY} <= expected and labelled.sum() > 300
    edge = np.ones((3, 3), np.uint8)
    assert not (drawn & ~cv2.dilate(labelled, edge) & 1).any()
    assert not (cv2.erode(labelled, edge) & ~drawn & 1).any()


def test_a_person_is_as_large_as_the_distance_says():
    for z in (6.0, 12.0, 24.0):
        scene = empty_scene(np.random.default_rng(1), 512, 256)
        scenes.add_person(scene, 0.0, z)
        scene.draw()
        rows = np.flatnonzero((scene.canvas.label == Id.PERSON).any(1))
        head, feet = scene.camera.project([(0, 1.95, z), (0, 0, z)])[:, 1]
        assert head - 1 <= rows.min() and abs(rows.max() - feet) <= 1.5
        assert 1.1 < np.ptp(rows) / scene.camera.focal * z < 2.1


def test_the_near_hides_the_far():
    scene = empty_scene(np.random.default_rng(0), 512, 256)
    scenes.add_car(scene, 0.0, 8.0, 0.0)
    scenes.add_house(scene, 1, 2.0, 20.0, 30.0)
    scenes.add_person(scene, 0.0, 14.0)
    scene.draw()
    u, v = scene.camera.project([(0, 0.8, 8.0)])[0].round().astype(int)
    assert scene.canvas.label[v, u] == Id.CAR and not (scene.canvas.label[v:] == Id.PERSON).any()
    u, v = scene.camera.project([(2.0, 4.5, 25.0)])[0].round().astype(int)
    assert abs(scene.canvas.distance[v, u + 1] - 25) < 1.5


# --------------------------------------------------------------------------------------------------------------------
# What colour alone, and place alone, tell
# --------------------------------------------------------------------------------------------------------------------


def by_hand(root: Path, picture: np.ndarray, train_ids: np.ndarray, val_ids: np.ndarray) -> Path:
    """A data set of one picture in either split, with labels of its own."""
    for split, ids in (("train", train_ids), ("val", val_ids)):
        for array, name in zip((picture, to_label_ids(ids)), mini.files_of(split, 0), strict=True):
            (root / name).parent.mkdir(parents=True)
            Image.fromarray(array).save(root / name)
    named = np.unique(val_ids[val_ids != IGNORE]).tolist()
    (root / "mini.json").write_text(json.dumps({"classes": [{"train_id": train_id} for train_id in named]}))
    return root


def test_colour_baseline_by_hand(tmp_path):
    """Two classes have a colour of their own; two share grey, three to one, so one is found to 3/4, the other never."""
    colours = np.array([(250, 10, 10)] * 8 + [(10, 250, 10)] * 8 + [(128, 128, 128)] * 8, np.uint8)
    ids = np.array([0] * 8 + [8] * 8 + [2] * 6 + [13] * 2)
    picture, ids = np.tile(colours, (16, 1, 1)), np.tile(ids, (16, 1))
    assert colour_baseline(by_hand(tmp_path, picture, ids, ids)) == pytest.approx((1 + 1 + 0.75 + 0) / 4)


def test_place_baseline_by_hand(tmp_path):
    """Sky above road in training; in validation half of the road is car, and an unlabelled column does not count."""
    train = np.repeat([10, 0], 8)[:, None].repeat(16, 1)
    val = train.copy()
    val[8:, :8], val[:, -1] = 13, IGNORE
    expected = (1 + 7 / 15 + 0) / 3
    assert place_baseline(by_hand(tmp_path, np.zeros((16, 16, 3), np.uint8), train, val)) == pytest.approx(expected)


def test_neither_colour_nor_place_tells_enough(root):
    assert colour_baseline(root) < 0.3
    assert place_baseline(root) < 0.3
