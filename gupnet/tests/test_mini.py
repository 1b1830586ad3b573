"""The mini data set: its geometry by closed form, its labels, its files."""

import json
from collections import Counter
from functools import cache

import numpy as np
import pytest
from PIL import Image

from shared.tests.mini_suite import MiniSuite, World

from constants import CLASSES, MEAN_SIZES
from datasets import read_calibration, read_objects
from mini import draw, render, solids, street, textures

SUN = np.array([0, -1.0, 0])
BACKDROP = np.full((8, 8, 3), 200, np.uint8), np.full((64, 64, 3), 90, np.uint8)


@cache
def frame(number: int) -> street.Frame:
    return street.build(0, number)


def thing(kind: str, rotation: float = 0.4, x: float = -1.0, z: float = 8.0) -> street.Thing:
    return street.Thing(kind, street.SIZES[kind], (x, 1.65, z), rotation, 7)


def alone(one: street.Thing, projection=street.PROJECTIONS[0]) -> render.Canvas:
    """A canvas with nothing but this."""
    canvas = render.Canvas(projection, street.WIDTH, street.HEIGHT, SUN)
    canvas.draw(one.faces(), 3)
    return canvas


def seen_box(canvas: render.Canvas) -> np.ndarray:
    """x1, y1, x2, y2 of what was drawn, in pixels, to half a sample."""
    rows, columns = np.nonzero(canvas.owner == 3)
    ends = np.array([columns.min(), rows.min(), columns.max(), rows.max()]) + [-0.5, -0.5, 0.5, 0.5]
    return (ends - (render.OVERSAMPLING - 1) / 2) / render.OVERSAMPLING


def projected(points: np.ndarray, projection: np.ndarray) -> np.ndarray:
    """Written down anew: pixels [n, 2] of points [n, 3]."""
    samples = np.concatenate([points, np.ones((len(points), 1))], 1) @ projection.T
    return samples[:, :2] / samples[:, 2:]


def box_points(size, position, rotation) -> np.ndarray:
    """Written down anew: the corners [8, 3] of a 3D box."""
    height, width, length = size
    x, y, z = position
    cosine, sine = np.cos(rotation), np.sin(rotation)
    return np.array([
        (x + a * cosine + b * sine, y - up, z - a * sine + b * cosine)
        for a in (-length / 2, length / 2) for b in (-width / 2, width / 2) for up in (0, height)
    ])  # fmt: skip


@pytest.mark.parametrize("kind", street.SIZES)
@pytest.mark.parametrize("rotation", [0.4, -1.5, 2.9])
def test_bodies_fill_their_3d_boxes(kind, rotation):
    """What is drawn touches all six sides of the box, and lies in it."""
    one = thing(kind, rotation)
    points = np.concatenate([face.points for face in one.faces()]) - one.position
    cosine, sine = np.cos(rotation), np.sin(rotation)
    own = np.stack([points[:, 0] * cosine - points[:, 2] * sine, points[:, 1],
                    points[:, 0] * sine + points[:, 2] * cosine])  # fmt: skip
    height, width, length = one.size
    # a wheel is a polygon around its circle, of which single corners reach out by millimetres
    assert np.abs(own.min(1) - [-length / 2, -height, -width / 2]).max() < 0.02
    assert np.abs(own.max(1) - [length / 2, 0, width / 2]).max() < 0.02


@pytest.mark.parametrize("kind", ["Car", "Pedestrian", "Cyclist"])
@pytest.mark.parametrize("projection", street.PROJECTIONS)
def test_objects_are_drawn_where_the_projection_says(kind, projection):
    one = thing(kind)
    drawn = seen_box(alone(one, projection))
    corners = projected(box_points(one.size, one.position, one.rotation), projection)
    assert (drawn[:2] > corners.min(0) - 1).all() and (drawn[2:] < corners.max(0) + 1).all()
    # the lowest point and the highest are those of the body's own outline
    own = projected(np.concatenate([face.points for face in one.faces()]), projection)
    np.testing.assert_allclose(drawn, [*own.min(0), *own.max(0)], atol=0.75)


@pytest.mark.parametrize("number", range(4))
def test_labels_say_what_is_drawn(number):
    """Every label again by itself: its box, and how much of it the others hide."""
    place = frame(number)
    _, lines = street.render(place, BACKDROP)
    lines = [line.split() for line in lines]
    labelled = [line for line in lines if line[0] != "DontCare"]
    assert len(labelled) == len(place.things)
    for one, line in zip(place.things, labelled, strict=True):
        truncation, occlusion, alpha, *numbers = map(float, line[1:])
        box, size, position, rotation = np.array(numbers[:4]), numbers[4:7], numbers[7:10], numbers[10]
        assert (line[0], tuple(size), tuple(position), rotation) == (one.type, one.size, one.position, one.rotation)
        drawn = seen_box(alone(one, place.projection))
        # the label's box is of the outline's corners, whose tips fill no whole sample
        np.testing.assert_allclose(box, drawn.clip(0, [639, 191] * 2), atol=1)
        x, _, z = position
        assert np.cos(alpha - (rotation - np.arctan2(x, z))) > 0.99995
        assert 0 <= truncation < 0.45 and occlusion in (0, 1, 2, 3)
        assert (truncation == 0) == (((box > 0.02) & (box < [638.98, 190.98] * 2)).all())
    mains = [line for line in labelled if line[0] in CLASSES]
    assert any(line[0] == "Car" and float(line[7]) - float(line[5]) >= 25 for line in mains)


def test_occlusion_by_hand():
    """A car before another hides most of it; the picture shows the near one there."""
    near, far = thing("Van", 0.0, 0.0, 7.0), thing("Car", -np.pi / 2, 0.0, 14.0)
    free = thing("Car", -np.pi / 2, 6.0, 14.0)
    place = street.Frame(street.PROJECTIONS[0], 1.65, [far, near, free], [], [], SUN, 0, 1.0)
    _, lines = street.render(place, BACKDROP)
    assert [line.split()[2] for line in lines] in (["3", "0", "0"], ["0", "0"])
    canvas = alone(near)
    before = (canvas.owner == 3).sum()
    whole = canvas.draw(far.faces(), 4)
    assert whole > 0 and canvas.visible(5)[4] < 0.2 * whole and (canvas.owner == 3).sum() == before


def test_perspective_by_hand():
    """A square's edges, and the middle of a texture that stands askew: nearer halves fill more of the picture."""
    projection = np.array([(300.0, 0, 320, 0), (0, 300, 96, 0), (0, 0, 1, 0)])
    canvas = render.Canvas(projection, 640, 192, SUN)
    square = np.array([(0.5, 0.5, 10), (1.5, 0.5, 10), (1.5, -0.5, 10), (0.5, -0.5, 10)])
    canvas.draw([solids.quad(square, textures.plain([200, 100, 50]), np.array([1.0, 0, 11]))], 3)
    np.testing.assert_allclose(seen_box(canvas), [335, 81, 365, 111], atol=0.5)
    assert np.allclose(canvas.nearness[canvas.owner == 3], 0.1)
    # from z = 5 on the left to z = 15 on the right: the texture's middle is at z = 10, x = 0
    points = np.array([(-2, 1, 5.0), (2, 1, 15), (2, -1, 15), (-2, -1, 5)])
    halves = np.zeros((1, 2, 3), np.uint8)
    halves[0, 1] = 255
    canvas = render.Canvas(projection, 640, 192, SUN)
    canvas.draw([solids.quad(points, halves, np.array([0, 0, 99.0]))], 3)
    assert np.flatnonzero(canvas.colour[192, :, 0])[0] / 2 == pytest.approx(320, abs=1)
    np.testing.assert_allclose(1 / canvas.nearness[192, 640], 10, rtol=0.01)


def like(canvas: render.Canvas, colour: np.ndarray) -> int:
    """Samples of about this colour, whatever the light."""
    drawn = canvas.colour[canvas.owner == 3]
    cosine = drawn @ colour / np.linalg.norm(drawn, axis=1) / np.linalg.norm(colour)
    return int(((cosine > 0.998) & (drawn.max(1) > 100)).sum())


@pytest.mark.parametrize("kind, least", [("Car", 200), ("Van", 150), ("Cyclist", 15)])
def test_heading_is_seen(kind, least):
    """Towards the camera it shows headlights, away from it tail lights."""
    towards, away = (alone(thing(kind, rotation, 0.0)) for rotation in (np.pi / 2, -np.pi / 2))
    assert like(towards, textures.HEADLIGHT) - like(away, textures.HEADLIGHT) > least
    assert like(away, textures.TAILLIGHT) - like(towards, textures.TAILLIGHT) > least


def test_nobody_stands_in_another_and_sizes_are_the_classes():
    sizes = {kind: [] for kind in CLASSES}
    for number in range(25):
        things = frame(number).things
        assert sum(one.type == "Car" for one in things) >= 1
        assert all(one.corners()[:, 2].min() > 2 for one in things)
        for k, one in enumerate(things):
            if one.type in sizes:
                sizes[one.type].append(one.size)
            for other in things[:k]:
                gap = np.hypot(one.position[0] - other.position[0], one.position[2] - other.position[2])
                assert gap > 0.5 * (max(one.size[1:]) + max(other.size[1:]))
    for kind, found in sizes.items():
        mean = MEAN_SIZES[CLASSES.index(kind)]
        assert len(found) >= 10 and np.abs(np.array(found) / mean - 1).max() < 0.08
        assert np.abs(np.mean(found, 0) / mean - 1).max() < 0.02


KINDS = {"image_2": "png", "calib": "txt", "label_2": "txt"}
FILES = [f"training/{kind}/{n:06d}.{end}" for kind, end in KINDS.items() for n in range(5)]
FILES += ["testing/image_2/000000.png", "testing/calib/000000.txt"]
FILES += [f"ImageSets/{split}.txt" for split in ("train", "val", "trainval", "test")]


class TestDataSet(MiniSuite):
    WORLD = World(
        draw,
        small={"counts": {"train": 3, "val": 2, "test": 1}},
        files=FILES,
        size=(640, 192),
        fewer={"counts": {"train": 1, "val": 1, "test": 1}},
        large={},
        wrong=[({"counts": {"train": 3, "val": 0, "test": 1}}, "--frames 3 0 1")],
        command="--frames 1 1 1".split(),
        says=("1 train, 1 val, 1 test frames", "Car"),
    )

    def test_lists_and_calibration(self, root):
        splits = ("train", "val", "trainval", "test")
        lists = {split: (root / f"ImageSets/{split}.txt").read_text().split() for split in splits}
        assert sorted(lists["train"] + lists["val"]) == lists["trainval"] == [f"{n:06d}" for n in range(5)]
        assert lists["test"] == ["000000"] and len(lists["train"]) == 3
        for path in (root / "training/calib").iterdir():
            matrix = read_calibration(path).P2
            assert any(np.allclose(matrix, known, rtol=1e-6) for known in street.PROJECTIONS)
            assert [line.split(":")[0] for line in path.read_text().splitlines()] == [
                "P0", "P1", "P2", "P3", "R0_rect", "Tr_velo_to_cam", "Tr_imu_to_velo"
            ]  # fmt: skip

    def test_files_are_what_is_drawn(self, root):
        for number in range(2):
            picture, lines = street.render(frame(number), street.backdrops(0)[frame(number).variant])
            with Image.open(root / f"training/image_2/{number:06d}.png") as file:
                np.testing.assert_array_equal(np.asarray(file), picture)
            assert (root / f"training/label_2/{number:06d}.txt").read_text().splitlines() == lines
            assert len(read_objects(root / f"training/label_2/{number:06d}.txt")) == len(lines)

    def test_record(self, root):
        record = json.loads((root / "mini.json").read_text())
        assert record["size"] == [640, 192] and record["frames"] == {"train": 3, "val": 2, "test": 1}
        assert set(record["versions"]) == {"numpy", "opencv", "pillow"}
        for split in ("train", "val"):
            names = (root / f"ImageSets/{split}.txt").read_text().split()
            types = [kind for name in names for kind in read_objects(root / f"training/label_2/{name}.txt").types]
            assert record["objects"][split] == Counter(types)
