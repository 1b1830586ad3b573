"""The embedded mini data set: exact annotations, its layout, that it repeats, and that it is safe to make."""

import contextlib
import io
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
from hypothesis import given, settings
from hypothesis import strategies as some
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from shared import InputError

from datasets import CATEGORIES, EvalTransform
from datasets.coco import CocoDetection, split_paths
from mini import draw as mini
from mini import scenes, things
from mini.draw import ensure_mini
from mini.outlines import mask_box, mask_counts, mask_polygons

SCRIPT = Path(mini.__file__).parents[1] / "draw_mini.py"
TRAIN, VAL = 16, 10
CALL = (
    "import sys; from mini import draw as mini; mini.WORTH_PROCESSES = int(sys.argv[3]); "
    "mini.ensure_mini(sys.argv[1], 0, int(sys.argv[2]), 1)"
)


def contents(root: Path) -> dict[str, bytes]:
    """Every file under a folder, by its path."""
    return {str(file.relative_to(root)): file.read_bytes() for file in sorted(root.rglob("*")) if file.is_file()}


def start(root: Path, train: int, worth_processes: int = 10**6) -> subprocess.Popen:
    """A process of its own that makes a mini data set; it imports the module alone, without paddle."""
    command = [sys.executable, "-c", CALL, str(root), str(train), str(worth_processes)]
    # started in the background by a script, this process ignores SIGINT, and its children would too
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    return subprocess.Popen(command, cwd=SCRIPT.parent, stderr=subprocess.DEVNULL, preexec_fn=heed)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return ensure_mini(tmp_path_factory.mktemp("data") / "mini", 0, TRAIN, VAL)


def official(path: Path) -> COCO:
    """pycocotools' own reading of an annotation file."""
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(path))


# --------------------------------------------------------------------------------------------------------------------
# Annotations
# --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", mini.SPLITS)
def test_annotations_are_those_of_the_visible_pixels(root, split):
    """Decoded by pycocotools, every outline and crowd is the mask that was drawn; boxes and areas are the mask's."""
    coco = official(split_paths(root, split)[1])
    for index, image_id in enumerate(sorted(coco.imgs)):
        scene = mini.draw(0, split, index)
        entry, annotations = coco.imgs[image_id], coco.loadAnns(coco.getAnnIds(image_id))
        assert scene.picture.shape == (entry["height"], entry["width"], 3)
        for annotation, kind, crowd, mask in zip(annotations, *scene[1:], strict=True):
            assert annotation["category_id"] == kind.category_id and annotation["iscrowd"] == crowd
            np.testing.assert_array_equal(coco.annToMask(annotation), mask)
            assert annotation["area"] == mask.sum() >= 1
            rows, columns = np.nonzero(mask)
            x, y, w, h = annotation["bbox"]
            assert (x, y, x + w, y + h) == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        if annotations:
            assert np.sum(scene.masks, 0).max() <= 1  # each pixel belongs to one thing


def test_pictures_are_what_is_drawn(root):
    for split in mini.SPLITS:
        folder, path = split_paths(root, split)
        for index, entry in enumerate(json.loads(path.read_text())["images"][:4]):
            with Image.open(folder / entry["file_name"]) as image:
                assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (entry["width"], entry["height"]))
                off = np.abs(np.asarray(image).astype(int) - mini.draw(0, split, index).picture)
            assert off.mean() < 4


@settings(max_examples=80, deadline=None)
@given(some.integers(1, 9), some.integers(1, 9), some.integers(0, 2**31), some.floats(0.05, 0.95))
def test_outlines_of_any_mask(height, width, seed, share):
    """Islands, holes, and pixels that meet at a corner: pycocotools decodes the polygons to the very mask."""
    mask = np.random.default_rng(seed).random((height, width)) < share
    if not mask.any():
        return
    polygons = mask_polygons(mask)
    rings = coco_mask.frPyObjects(polygons, height, width)
    np.testing.assert_array_equal(coco_mask.decode(coco_mask.merge(rings)), mask)
    runs = coco_mask.frPyObjects(mask_counts(mask), height, width)
    np.testing.assert_array_equal(coco_mask.decode(runs), mask)
    assert sum(mask_counts(mask)["counts"]) == mask.size
    np.testing.assert_array_equal(coco_mask.toBbox(runs), mask_box(mask))


def test_outline_by_hand():
    mask = np.zeros((4, 5), bool)
    mask[1:3, 2:4] = True
    assert mask_polygons(mask) == [[2, 1, 4, 1, 4, 3, 2, 3]]
    assert mask_box(mask) == [2, 1, 2, 2] and mask_counts(mask) == {"counts": [9, 2, 2, 2, 5], "size": [4, 5]}


# --------------------------------------------------------------------------------------------------------------------
# Scenes
# --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", things.KINDS, ids=lambda kind: kind.name)
def test_things_are_seen_where_they_stand(kind):
    """A thing alone is as large as its scale says, and its foot (or its post's) is where the ground has that depth."""
    rng = np.random.default_rng(0)
    for _ in range(5):
        parts = kind.draw(rng)
        thing = scenes.stand(parts, kind, 20.0, (100, 90), 1.0)
        every = np.concatenate([part.outline for part in thing.parts])
        assert abs(every[:, 1].max() - 90) < 1  # stands on its foot
        owned = np.concatenate([part.outline for part in parts if part.owned])
        mask = scenes.silhouette(thing, 300, 120)
        rows, columns = np.nonzero(mask)
        visible = owned * (20, -20) + (100, 90)
        assert abs(np.ptp(columns) + 1 - np.ptp(visible[:, 0].clip(0, 300))) <= 2
        assert abs(np.ptp(rows) + 1 - np.ptp(visible[:, 1].clip(0, 120))) <= 2
        low, high = kind.sizes
        longest = np.ptp(owned, axis=0).max() * scenes.draw_scale(rng, kind, parts)
        assert low - 1e-6 <= longest <= high + 1e-6


def test_the_near_hides_the_far():
    rng = np.random.default_rng(3)
    car, person = (next(kind for kind in things.KINDS if kind.name == name) for name in ("car", "person"))
    far = scenes.stand(car.draw(rng), car, 20.0, (80, 80), 1.0)
    near = scenes.stand(person.draw(rng), person, 45.0, (80, 120), 1.0)
    canvas = np.zeros((140 * scenes.FINE, 160 * scenes.FINE, 3), np.float32)
    owner = np.zeros(canvas.shape[:2], np.uint8)
    for number, thing in enumerate((far, near)):
        scenes.paint(rng, canvas, owner, thing, number + 1)
    fine = owner[:: scenes.FINE, :: scenes.FINE]
    both = scenes.silhouette(far, 160, 140) & scenes.silhouette(near, 160, 140)
    assert both.sum() > 100 and (fine[both] == 2).mean() > 0.95


def test_every_thing_shows_half_of_itself():
    for index in range(30):
        rng = np.random.default_rng(index)
        found = scenes.furnish(rng, 50.0, 1.6, 190, 150)
        assert scenes.well_seen([thing for thing in found if not thing.crowd], 190, 150)
        assert [thing.scale for thing in found] == sorted(thing.scale for thing in found)


# --------------------------------------------------------------------------------------------------------------------
# Files
# --------------------------------------------------------------------------------------------------------------------


def test_layout(root):
    assert sorted(entry.name for entry in root.iterdir()) == ["annotations", "mini.json", "train2017", "val2017"]
    ids = {}
    for split, count in (("train", TRAIN), ("val", VAL)):
        folder, path = split_paths(root, split)
        content = json.loads(path.read_text())
        assert {"info", "licenses", "images", "annotations", "categories"} == set(content)
        assert sorted(entry["file_name"] for entry in content["images"]) == sorted(p.name for p in folder.iterdir())
        assert len(content["images"]) == count
        assert all(f"{entry['id']:012d}.jpg" == entry["file_name"] for entry in content["images"])
        assert all(CATEGORIES[entry["id"]] == entry["name"] for entry in content["categories"])
        assert len(content["categories"]) == 7
        ids[split] = {entry["id"] for entry in content["images"]}
    assert not ids["train"] & ids["val"]


def test_the_data_set_reads_it(root, capsys):
    dataset = CocoDetection(*split_paths(root, "train"), EvalTransform(160, 240), 91)
    targets = [dataset[index][1] for index in range(len(dataset))]
    single = [a for a in dataset.coco.dataset["annotations"] if not a["iscrowd"]]
    assert sum(len(target["labels"]) for target in targets) == len(single) > TRAIN
    assert dataset.left_out == 0 and not capsys.readouterr().err


def test_everything_that_it_promises():
    """Crowds, empty pictures, every category and every size class, in the numbers of the default data set."""
    found = [mini.annotate(mini.draw(0, "val", index)) for index in range(100)]
    images = [{"id": number} for number in range(len(found))]
    annotations = [entry | {"image_id": number} for number, entries in enumerate(found) for entry in entries]
    held = mini.counts(images, annotations)
    assert held["pictures"] == 100 and 1 <= held["empty"] <= 15 and 4 <= held["crowds"] <= 25
    assert all(sum(sizes.values()) >= 15 for sizes in held["categories"].values())
    for size, least in (("small", 60), ("medium", 60), ("large", 3)):
        assert sum(sizes[size] for sizes in held["categories"].values()) >= least
    for entries in found:
        assert len([entry for entry in entries if not entry["iscrowd"]]) <= 5


def test_record(root):
    record = json.loads((root / "mini.json").read_text())
    assert (record["version"], record["seed"], record["train"], record["val"]) == (mini.VERSION, 0, TRAIN, VAL)
    for split in mini.SPLITS:
        content = json.loads(split_paths(root, split)[1].read_text())
        assert record["holds"][split] == mini.counts(content["images"], content["annotations"])


def test_the_seed_alone_decides(tmp_path, root):
    first = contents(ensure_mini(tmp_path / "a", 0, 3, 2))
    whole = contents(root)
    pictures = [name for name in first if name.endswith(".jpg")]
    assert len(pictures) == 5 and all(first[name] == whole[name] for name in pictures)
    other = contents(ensure_mini(tmp_path / "b", 1, 3, 2))
    assert other.keys() == first.keys() and not any(other[name] == first[name] for name in first)


def test_processes_do_not_change_pictures(tmp_path):
    children = [start(tmp_path / name, 5, worth) for name, worth in (("one", 100), ("many", 1))]
    assert [child.wait(90) for child in children] == [0, 0]
    assert contents(tmp_path / "one") == contents(tmp_path / "many")
    assert len(contents(tmp_path / "one")) == 9


def test_ensure_draws_only_what_is_missing(tmp_path, monkeypatch):
    folder = ensure_mini(tmp_path / "mini", 0, 2, 1)
    before = {file: file.stat().st_mtime_ns for file in folder.rglob("*")}
    assert ensure_mini(folder, 0, 2, 1) == folder
    assert {file: file.stat().st_mtime_ns for file in folder.rglob("*")} == before
    ensure_mini(folder, 0, 1, 1)
    assert len(contents(folder)) == 5
    monkeypatch.setattr(mini, "VERSION", mini.VERSION + 1)
    ensure_mini(folder, 0, 1, 1)
    assert json.loads((folder / "mini.json").read_text())["version"] == mini.VERSION
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [".mini.lock", "mini"]


@pytest.mark.parametrize("record", [None, "{", "[]", '{"made_by": "someone else"}'])
def test_a_foreign_folder_is_left_alone(tmp_path, record):
    (tmp_path / "photo.png").write_bytes(b"mine")
    if record is not None:
        (tmp_path / "mini.json").write_text(record)
    before = contents(tmp_path)
    with pytest.raises(InputError, match="name another folder") as caught:
        ensure_mini(tmp_path, 0, 2, 1)
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)
    assert contents(tmp_path) == before


def test_a_file_in_its_place_is_left_alone(tmp_path):
    (tmp_path / "mini").write_text("mine")
    with pytest.raises(InputError):
        ensure_mini(tmp_path / "mini", 0, 2, 1)
    with pytest.raises(InputError, match="cannot be made"):
        ensure_mini(tmp_path / "mini" / "below", 0, 2, 1)
    assert (tmp_path / "mini").read_text() == "mine"


@pytest.mark.parametrize("seed, train, val", [(-1, 2, 1), (0, 0, 1), (0, 1, 0), (0, 20001, 1)])
def test_options_out_of_range(tmp_path, seed, train, val):
    with pytest.raises(InputError):
        ensure_mini(tmp_path / "mini", seed, train, val)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_drawing_broken_off_leaves_no_root(tmp_path, how):
    folder = tmp_path / "mini"
    child = start(folder, 2000, worth_processes=1)
    deadline = time.monotonic() + 60
    while not list(tmp_path.rglob("*.jpg")) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert list(tmp_path.rglob("*.jpg")), "the child never drew"
    os.kill(child.pid, how)
    assert child.wait(20) != 0
    assert not folder.exists()
    ensure_mini(folder, 0, 2, 1)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [".mini.lock", "mini"]


def test_a_failed_redrawing_keeps_the_old_one(tmp_path, monkeypatch):
    folder = ensure_mini(tmp_path / "mini", 0, 2, 1)
    before = contents(folder)

    def full(*_) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(mini, "draw", full)
    with pytest.raises(OSError, match="no space"):
        ensure_mini(folder, 0, 3, 1)
    assert contents(folder) == before
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [".mini.lock", "mini"]


def test_two_processes_at_once(tmp_path):
    children = [start(tmp_path / "mini", 3) for _ in range(2)]
    assert [child.wait(90) for child in children] == [0, 0]
    assert len(contents(tmp_path / "mini")) == 7


def test_command_line_from_anywhere(tmp_path):
    command = [sys.executable, str(SCRIPT), "--output_dir", "mini", "--train", "2", "--val", "1"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert str(tmp_path / "mini" / "val2017: 1 pictures") in done.stdout
    (tmp_path / "mini" / "mini.json").unlink()
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
