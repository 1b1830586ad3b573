"""The mini data set: that its labels sit on what is drawn, its files, and what colour and position alone tell."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from shared.tests.mini_suite import MiniSuite, World

from constants import CLASS_NAMES, IGNORE, to_label_ids, to_train_ids
from mini import buildings, cars, draw, plants, things
from mini.baselines import colour_baseline, position_baseline, samples
from mini.canvas import Camera, Id
from mini.scene import empty_scene
from mini.street import draw_scene


def options(train: int, val: int, size: tuple[int, int] = (96, 48)) -> dict:
    return {"train": train, "val": val, "size": size}


CITIES = {"train": ["kreidenau", "pinselburg", "skizzenfeld", "tuschheim"], "val": ["farbhausen", "stiftingen"]}
STEMS = [f"{split}/{city}/{city}_000000_000019" for split, names in CITIES.items() for city in names]
STEMS += [f"{split}/{names[0]}/{names[0]}_000001_000019" for split, names in CITIES.items()]


class TestDataSet(MiniSuite):
    WORLD = World(
        draw,
        small=options(5, 3),
        files=[f"leftImg8bit/{stem}_leftImg8bit.png" for stem in STEMS]
        + [f"gtFine/{stem}_gtFine_labelIds.png" for stem in STEMS],
        size=(96, 48),
        fewer=options(2, 1),
        large=options(2000, 1),
        wrong=[(options(*counts), "at least 1") for counts in ((0, 1), (1, 0), (1, 1, (63, 32)), (1, 1, (64, 31)))],
        command="--train 2 --val 1 --size 96 48 --colour_baseline".split(),
        says=("for each colour: mIoU", "at each place: mIoU"),
    )

    def test_labels_are_label_ids(self, root):
        for file in (root / "gtFine").rglob("*.png"):
            assert set(np.unique(Image.open(file))) <= {int(label) for label in Id}
        assert not set(draw.CITIES["train"]) & set(draw.CITIES["val"])


@pytest.fixture(scope="module")
def large(tmp_path_factory) -> Path:
    """A data set large enough for statistics."""
    return draw.ensure_mini(tmp_path_factory.mktemp("data") / "mini", **options(24, 12, (192, 96)))


def test_every_class_is_there(large):
    """Every class that is ever drawn has its share of both splits, and something is ignored."""
    record = json.loads((large / "mini.json").read_text())
    assert (record["train"], record["val"], record["size"]) == (24, 12, [192, 96])
    for split in ("train", "val"):
        pixels = sum(np.bincount(labels.ravel(), minlength=256) for _, labels in samples(large, split))
        expected = {CLASS_NAMES[train_id]: pixels[train_id] for train_id in np.flatnonzero(pixels[:19])}
        assert {entry["name"]: entry[f"{split}_pixels"] for entry in record["classes"]} == expected
    drawn = {int(train_id) for train_id in to_train_ids(np.array(Id)) if train_id != IGNORE}
    classes = {entry["train_id"]: entry["name"] for entry in record["classes"]}
    assert len(drawn) == 9 and classes == {train_id: CLASS_NAMES[train_id] for train_id in drawn}
    labels = np.stack([ids for _, ids in samples(large, "train")])
    assert 0.02 < (labels == IGNORE).mean() < 0.2
    for train_id in drawn:
        assert (labels == train_id).any((1, 2)).mean() > 0.4, CLASS_NAMES[train_id]


def test_camera():
    camera = Camera(512, 256, 450.0, 250.0, 110.0, 1.5)
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
    "house": (lambda scene: buildings.add_house(scene, 1, 4.0, 9.0, 22.0), {Id.BUILDING}),
    "tree": (lambda scene: plants.add_tree(scene, 0.5, 14.0), {Id.VEGETATION}),
    "bush": (lambda scene: plants.add_bush(scene, -1.0, 9.0, 2.5, 2.0), {Id.VEGETATION}),
    "lamp": (lambda scene: things.add_lamp(scene, 1.5, 12.0), {Id.POLE, Id.STATIC}),
    "sign": (lambda scene: things.add_sign(scene, -1.0, 10.0), {Id.POLE, Id.TRAFFIC_SIGN}),
    "person": (lambda scene: things.add_person(scene, 0.3, 8.0), {Id.PERSON}),
    "bin": (lambda scene: things.add_clutter(scene, 1.0, 8.0, Id.STATIC), {Id.STATIC}),
    "car ahead": (lambda scene: cars.add_car(scene, 0.5, 10.0, 0.0), {Id.CAR}),
    "car across": (lambda scene: cars.add_car(scene, -0.5, 12.0, 80.0), {Id.CAR}),
    "oncoming car": (lambda scene: cars.add_car(scene, -2.0, 9.0, 183.0), {Id.CAR}),
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
        things.add_person(scene, 0.0, z)
        scene.draw()
        rows = np.flatnonzero((scene.canvas.label == Id.PERSON).any(1))
        head, feet = scene.camera.project([(0, 1.95, z), (0, 0, z)])[:, 1]
        assert head - 1 <= rows.min() and abs(rows.max() - feet) <= 1.5
        assert 1.1 < np.ptp(rows) / scene.camera.focal * z < 2.1


def test_the_near_hides_the_far():
    scene = empty_scene(np.random.default_rng(0), 512, 256)
    cars.add_car(scene, 0.0, 8.0, 0.0)
    buildings.add_house(scene, 1, 2.0, 20.0, 30.0)
    things.add_person(scene, 0.0, 14.0)
    scene.draw()
    u, v = scene.camera.project([(0, 0.8, 8.0)])[0].round().astype(int)
    assert scene.canvas.label[v, u] == Id.CAR and not (scene.canvas.label[v:] == Id.PERSON).any()
    u, v = scene.camera.project([(2.0, 4.5, 25.0)])[0].round().astype(int)
    assert abs(scene.canvas.distance[v, u + 1] - 25) < 1.5


def by_hand(root: Path, picture: np.ndarray, train_ids: np.ndarray, val_ids: np.ndarray) -> Path:
    """A data set of one picture in either split, with labels of its own."""
    for split, ids in (("train", train_ids), ("val", val_ids)):
        for array, name in zip((picture, to_label_ids(ids)), draw.files_of(split, 0), strict=True):
            (root / name).parent.mkdir(parents=True)
            Image.fromarray(array).save(root / name)
    named = np.unique(val_ids[val_ids != IGNORE]).tolist()
    record = {"size": picture.shape[1::-1], "classes": [{"train_id": train_id} for train_id in named]}
    (root / "mini.json").write_text(json.dumps(record))
    return root


def test_colour_baseline_by_hand(tmp_path):
    """Two classes have a colour of their own; two share grey, three to one, so one is found to 3/4, the other never."""
    colours = np.array([(250, 10, 10)] * 8 + [(10, 250, 10)] * 8 + [(128, 128, 128)] * 8, np.uint8)
    ids = np.array([0] * 8 + [8] * 8 + [2] * 6 + [13] * 2)
    picture, ids = np.tile(colours, (16, 1, 1)), np.tile(ids, (16, 1))
    assert colour_baseline(by_hand(tmp_path, picture, ids, ids)) == pytest.approx((1 + 1 + 0.75 + 0) / 4)


def test_position_baseline_by_hand(tmp_path):
    """Sky above road in training; in validation half of the road is car, and an unlabelled column does not count."""
    train = np.repeat([10, 0], 8)[:, None].repeat(16, 1)
    val = train.copy()
    val[8:, :8], val[:, -1] = 13, IGNORE
    expected = (1 + 7 / 15 + 0) / 3
    assert position_baseline(by_hand(tmp_path, np.zeros((16, 16, 3), np.uint8), train, val)) == pytest.approx(expected)


def test_neither_colour_nor_place_tells_enough(large):
    assert colour_baseline(large) < 0.3
    assert position_baseline(large) < 0.3
