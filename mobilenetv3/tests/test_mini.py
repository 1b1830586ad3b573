"""The mini data set: what it holds, and that only shape tells its classes apart."""

import json
from pathlib import Path

import numpy as np
import pytest

from shared.tests.mini_suite import MiniSuite, World

from mini import baseline, draw, render, scenes
from mini.shapes import CLASSES, SHAPES


def options(train: int, val: int, size: int = 24) -> dict:
    return {"train_per_class": train, "val_per_class": val, "size": size}


PICTURES = ("train", "0000"), ("train", "0001"), ("val", "0000")


class TestDataSet(MiniSuite):
    WORLD = World(
        draw,
        small=options(2, 1),
        files=[f"{split}/{label}/{number}.jpg" for split, number in PICTURES for label in CLASSES],
        size=(24, 24),
        fewer=options(1, 1),
        large=options(2000, 1),
        wrong=[(options(0, 1), "at least 1"), (options(1, 0), "at least 1"), (options(1, 1, 7), "8 pixels")],
        command="--train_per_class 2 --val_per_class 1 --size 24 --linear_baseline".split(),
        says=("top-1",),
    )

    def test_record(self, root):
        record = json.loads((root / "mini.json").read_text())
        assert {key: record[key] for key in options(2, 1)} == options(2, 1)
        assert len(CLASSES) == 10 and record["classes"] == list(CLASSES) == sorted(CLASSES)


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    """A data set large enough for statistics."""
    return draw.ensure_mini(tmp_path_factory.mktemp("data") / "mini", **options(30, 20, 40))


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
        x, labels = baseline.pixels(small, split)
        return x.reshape(len(x), -1, 3).mean(1), labels

    (x, labels), (val_x, val_labels) = mean_colours("train"), mean_colours("val")
    means = np.stack([x[labels == label].mean(0) for label in range(10)])
    nearest = np.linalg.norm(val_x[:, None] - means, axis=2).argmin(1)
    assert (nearest == val_labels).mean() < 0.2


def test_a_linear_model_does_poorly(small):
    assert baseline.linear_baseline(small) < 0.35


def test_objects_are_in_the_picture():
    """An object of any class covers some of the floor and the wall, and not all of them."""
    for label in CLASSES:
        scene = scenes.draw_scene(np.random.default_rng(5), label)
        rays = render.camera_rays(scene.camera, 40)
        empty = render.background(scene, rays, 40).T.reshape(40, 40, 3)
        changed = (np.abs(render.render(scene, 40) - empty).max(2) > 1e-6).mean()
        assert 1 / 12 < changed < 0.8, label
    assert draw.draw(0, "train", "ball", 0, 80).shape == (80, 80, 3)
