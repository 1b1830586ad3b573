"""The mini data set: exact annotations, what its scenes hold, its files."""

import contextlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from shared.tests.mini_suite import MiniSuite, World

from datasets.categories import CATEGORIES
from datasets.coco import CocoDetection, split_paths
from datasets.transforms import EvalTransform
from mini import draw, scenes, things
from mini.outlines import mask_box, mask_counts, mask_polygons

TRAIN, VAL = 16, 10


def official(path: Path) -> COCO:
    """pycocotools' own reading of an annotation file."""
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(path))


FILES = [f"annotations/instances_{split}2017.json" for split in draw.SPLITS]
FILES += [f"train2017/{1009 + 7 * n:012d}.jpg" for n in range(TRAIN)]
FILES += [f"val2017/{200003 + 7 * n:012d}.jpg" for n in range(VAL)]


class TestDataSet(MiniSuite):
    WORLD = World(
        draw,
        small={"train": TRAIN, "val": VAL},
        files=FILES,
        size=None,
        fewer={"train": 3, "val": 2},
        large={"train": 2000},
        wrong=[(wrong, "1 to 20000") for wrong in ({"train": 0}, {"val": 0}, {"train": 20001})],
        command="--train 2 --val 1".split(),
        says=("train2017: 2 pictures", "val2017: 1 pictures"),
    )

    def test_annotation_files(self, root):
        ids = {}
        for split in draw.SPLITS:
            folder, path = split_paths(root, split)
            content = json.loads(path.read_text())
            assert {"info", "licenses", "images", "annotations", "categories"} == set(content)
            assert sorted(entry["file_name"] for entry in content["images"]) == sorted(p.name for p in folder.iterdir())
            assert all(f"{entry['id']:012d}.jpg" == entry["file_name"] for entry in content["images"])
            assert all(CATEGORIES[entry["id"]] == entry["name"] for entry in content["categories"])
            assert len(content["categories"]) == 7
            ids[split] = {entry["id"] for entry in content["images"]}
        assert not ids["train"] & ids["val"]

    def test_the_data_set_reads_it(self, root, capsys):
        dataset = CocoDetection(*split_paths(root, "train"), EvalTransform(160, 240), 91)
        targets = [dataset[index][1] for index in range(len(dataset))]
        single = [a for a in dataset.coco.dataset["annotations"] if not a["iscrowd"]]
        assert sum(len(target["labels"]) for target in targets) == len(single) > TRAIN
        assert not capsys.readouterr().err  # no annotation is left out

    @pytest.mark.parametrize("split", draw.SPLITS)
    def test_annotations_are_those_of_the_visible_pixels(self, root, split):
        """Decoded by pycocotools, every outline and crowd is the mask that was drawn; boxes and areas too."""
        coco = official(split_paths(root, split)[1])
        for index, image_id in enumerate(sorted(coco.imgs)):
            scene = draw.draw(0, split, index)
            entry, annotations = coco.imgs[image_id], coco.loadAnns(coco.getAnnIds(image_id))
            assert scene.picture.shape == (entry["height"], entry["width"], 3)
            with Image.open(split_paths(root, split)[0] / entry["file_name"]) as image:
                assert np.abs(np.asarray(image).astype(int) - scene.picture).mean() < 4  # but for JPEG
            for annotation, kind, crowd, mask in zip(annotations, *scene[1:], strict=True):
                assert annotation["category_id"] == kind.category_id and annotation["iscrowd"] == crowd
                np.testing.assert_array_equal(coco.annToMask(annotation), mask)
                assert annotation["area"] == mask.sum() >= 1
                rows, columns = np.nonzero(mask)
                x, y, w, h = annotation["bbox"]
                assert (x, y, x + w, y + h) == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            if annotations:
                assert np.sum(scene.masks, 0).max() <= 1  # each pixel belongs to one thing

    def test_record(self, root):
        record = json.loads((root / "mini.json").read_text())
        assert (record["train"], record["val"]) == (TRAIN, VAL)
        for split in draw.SPLITS:
            content = json.loads(split_paths(root, split)[1].read_text())
            assert record["holds"][split] == draw.counts(content["images"], content["annotations"])


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


def test_everything_that_it_promises():
    """Crowds, empty pictures, every category and every size class, in the numbers of the default data set."""
    found = [draw.annotate(draw.draw(0, "val", index)) for index in range(100)]
    images = [{"id": number} for number in range(len(found))]
    annotations = [entry | {"image_id": number} for number, entries in enumerate(found) for entry in entries]
    held = draw.counts(images, annotations)
    assert held["pictures"] == 100 and 1 <= held["empty"] <= 15 and 4 <= held["crowds"] <= 25
    assert all(sum(sizes.values()) >= 15 for sizes in held["categories"].values())
    for size, least in (("small", 60), ("medium", 60), ("large", 3)):
        assert sum(sizes[size] for sizes in held["categories"].values()) >= least
    for entries in found:
        assert len([entry for entry in entries if not entry["iscrowd"]]) <= 5
