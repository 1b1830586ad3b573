"""Bad annotation files and folders: refused with one line (pictures: shared/tests/test_pictures.py)."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from shared import InputError
from shared.tests.fuzz import fuzz_reader

from data_sets import annotation, edit, lay_out, small_options, small_set
from datasets import CocoDetection, EvalTransform, build_dataset, read_annotations
from metrics import evaluate_detections, read_results


def drop(key: str):
    return lambda content: content.pop(key)


def put(key: str, value):
    return lambda content: content.update({key: value})


WRONG = {
    "no categories": (drop("categories"), "has no list of `categories`"),
    "empty categories": (put("categories", []), "its list of `categories` is empty"),
    "no images": (drop("images"), "has no list of `images`"),
    "no annotations": (drop("annotations"), "has no list of `annotations`"),
    "categories a dictionary": (put("categories", {"1": "one"}), "has no list of `categories`"),
    "category without id": (edit("categories", 1, id=None), "category number 1 .* has no whole number as `id`"),
    "category id a word": (edit("categories", 0, id="1"), "category number 0 .* has no whole number as `id`"),
    "category twice": (edit("categories", 1, id=1), "category id 1 is there twice"),
    "category id too large": (edit("categories", 0, id=6), "category id 6 does not fit 6 classes"),
    "image twice": (edit("images", 2, id=90), "image id 90 is there twice"),
    "image without name": (edit("images", 2, file_name=None), "image 88 has no `file_name`"),
    "image without width": (edit("images", 2, width=None), "image 88 has no positive whole number as `width`"),
    "annotation twice": (edit("annotations", 2, id=1), "annotation id 1 is there twice"),
    "annotation id 0": (edit("annotations", 2, id=0), "has an annotation id 0, which pycocotools takes for no annot"),
    "id beyond float64": (edit("images", 2, id=2**60), "image number 2 .* has no whole number as `id`"),
    "a number without end": (edit("annotations", 0, bbox=[1, 2, 10**400, 3]), "annotation 1 has the bbox"),
    "unknown image": (edit("annotations", 2, image_id=9), "annotation 3 has image_id 9, which is not among the `im"),
    "unknown category": (edit("annotations", 2, category_id=2), "annotation 3 has category_id 2, which is not among"),
    "no category id": (edit("annotations", 2, category_id=None), "annotation 3 has no whole number as `category_id`"),
    "no box": (edit("annotations", 0, bbox=None), "annotation 1 has the bbox None, wanted are four finite"),
    "box of three": (edit("annotations", 0, bbox=[1, 2, 3]), r"annotation 1 has the bbox \[1, 2, 3\], wanted"),
    "box of NaN": (edit("annotations", 0, bbox=[1, 2, float("nan"), 3]), r"annotation 1 has the bbox \[1, 2, nan"),
    "box of infinity": (edit("annotations", 0, bbox=[1, 2, float("inf"), 3]), "annotation 1 has the bbox"),
    "box of words": (edit("annotations", 0, bbox=["1", 2, 3, 4]), "annotation 1 has the bbox"),
    "no area": (edit("annotations", 0, area=None), "annotation 1 has the area None"),
    "iscrowd a word": (edit("annotations", 0, iscrowd="yes"), "annotation 1 has the iscrowd yes"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_wrong_annotations(tmp_path, name):
    change, said = WRONG[name]
    root = lay_out(tmp_path, change=change)
    with pytest.raises(InputError, match=said) as caught:
        small_set(root)
    line = str(caught.value)
    assert line.startswith(str(root / "annotations/instances_train2017.json")) and "\n" not in line


@pytest.mark.parametrize("content", [b"", b"{", b"[1, 2]", b"\xff\xfe", b"3", b"[" * 100000])
def test_files_that_are_no_annotations(tmp_path, content):
    root = lay_out(tmp_path)
    (root / "annotations/instances_train2017.json").write_bytes(content)
    with pytest.raises(
        InputError, match="instances_train2017.json: (cannot be read as COCO annotations|holds a)"
    ) as caught:
        small_set(root)
    assert "\n" not in str(caught.value)


def test_boxes_that_no_picture_shows_are_left_out_and_said_once(tmp_path, capsys):
    def change(content: dict) -> None:
        image = content["images"][1]
        for number, box in enumerate([[60, 1, 5, 5], [1, 1, 0, 5], [1, 50, 9, 9], [1, 1, 9, 9], [0, 0, 9, 0]]):
            content["annotations"].append(annotation(box, id=100 + number, image_id=image["id"]))
        content["annotations"].append(annotation([0, 0, 0, 0], id=200, image_id=image["id"], iscrowd=1))

    root = lay_out(tmp_path, change=change)
    dataset = small_set(root, augment=False)
    for _ in range(2):
        target = dataset[dataset.ids.index(89)][1]
        assert len(target["boxes"]) == 2  # the data set's own one, and the good one of these
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "4 boxes lie outside the picture or without size, left out of training (annotation 100, 101, 102" in said


def test_a_picture_of_another_size_than_its_annotations_say(tmp_path):
    dataset = small_set(lay_out(tmp_path, change=edit("images", 0, width=49)))
    with pytest.raises(InputError, match="000.png: is 50x44, .*instances_train2017.json says 49x44"):
        dataset[6]


@pytest.mark.parametrize(
    "missing, said",
    [
        ("train2017", "has no folder train2017/"),
        ("annotations", "has no file annotations/instances_train2017.json"),
        ("", "no such folder"),
        (None, "--data_path is missing: it must hold train2017/ .*draw_mini.py draws"),
    ],
)
def test_missing_folders(tmp_path, missing, said):
    root = lay_out(tmp_path / "coco")
    if missing is not None:
        shutil.rmtree(root / missing)
    options = small_options(root)
    options.data_path = None if missing is None else options.data_path
    with pytest.raises(InputError, match=said):
        build_dataset(options, "train")


def test_a_crop_larger_than_the_pictures(tmp_path):
    root = lay_out(tmp_path)
    with pytest.raises(InputError, match="--crop_range 50: a crop of that side does not fit images of --crop_sides 36"):
        build_dataset(small_options(root, "--crop_range", "50", "60"), "train")


# ----------------------------------------------------------------------------------------------- damaged files


def test_damaged_annotations(tmp_path):
    """What is accepted can be trained on and scored."""
    root = lay_out(tmp_path, 4)
    path = root / "annotations/instances_train2017.json"

    def read(path: Path) -> None:
        dataset = CocoDetection(root / "train2017", path, EvalTransform(), 6)
        for image_id in dataset.ids:
            entry = dataset.coco.imgs[image_id]
            assert entry["width"] > 0 and entry["height"] > 0
        for entry in dataset.coco.dataset["annotations"]:
            assert np.isfinite(entry["bbox"]).all() and 0 <= entry["category_id"] < 6
        evaluate_detections(dataset.coco, np.array([[dataset.ids[0], 1, 2, 3, 4, 0.5, 1.0]]))

    assert fuzz_reader(read, path, path.read_bytes(), 400) > 100


def test_damaged_results(tmp_path):
    root = lay_out(tmp_path, 4)
    coco = read_annotations(root / "annotations/instances_train2017.json")
    results = [
        {"image_id": 90 - n, "category_id": 1, "bbox": [1.5, 2, 3.25, 4], "score": 0.5 / (n + 1)} for n in range(4)
    ]

    def read(path: Path) -> None:
        rows = read_results(path, coco)
        assert np.isfinite(rows).all()
        evaluate_detections(coco, rows)

    assert fuzz_reader(read, tmp_path / "results.json", json.dumps(results).encode(), 300) > 100
