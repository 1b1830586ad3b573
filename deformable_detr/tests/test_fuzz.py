"""Damaged annotation, result and picture files: each is read right or refused with one line."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from shared.tests.fuzz import fuzz_reader

from data_sets import lay_out
from datasets import EvalTransform, load_image, read_annotations
from datasets.coco import CocoDetection
from metrics import evaluate_detections, read_results


def test_annotations(tmp_path):
    """What is accepted can be trained on and scored."""
    root = lay_out(tmp_path, 4)
    path = root / "annotations/instances_train2017.json"

    def read(path: Path) -> None:
        dataset = CocoDetection(root / "train2017", path, EvalTransform(), 6)
        for image_id in dataset.ids:
            entry = dataset.coco.imgs[image_id]
            assert entry["width"] > 0 and entry["height"] > 0
        for annotation in dataset.coco.dataset["annotations"]:
            assert np.isfinite(annotation["bbox"]).all() and 0 <= annotation["category_id"] < 6
        evaluate_detections(dataset.coco, np.array([[dataset.ids[0], 1, 2, 3, 4, 0.5, 1.0]]))

    assert fuzz_reader(read, path, path.read_bytes(), 400) > 100


def test_results(tmp_path):
    root = lay_out(tmp_path, 4)
    coco = read_annotations(root / "annotations/instances_train2017.json")
    results = [
        {"image_id": 90 - n, "category_id": 1, "bbox": [1.5, 2, 3.25, 4], "score": 0.5 / (n + 1)} for n in range(4)
    ]

    def read(path: Path) -> None:
        rows = read_results(path, coco)
        assert np.isfinite(rows).all()
        evaluate_detections(coco, rows)

    assert fuzz_reader(read, tmp_path / "found.json", json.dumps(results).encode(), 300) > 100


@pytest.mark.parametrize("end", ["jpg", "png"])
def test_pictures(tmp_path, end):
    path = tmp_path / f"picture.{end}"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 40, 3), np.uint8)).save(path)

    def read(path: Path) -> None:
        assert load_image(path).mode == "RGB"

    assert fuzz_reader(read, path, path.read_bytes(), 200) > 20
