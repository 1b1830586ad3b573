"""Damaged pictures and labels: each is read right or refused with one line."""

import numpy as np
import pytest
from PIL import Image

from shared.tests.fuzz import fuzz_reader

from datasets import LABELS, load_image, load_label


@pytest.mark.parametrize("kind, end", [("picture", ".png"), ("picture", ".jpg"), ("label", ".png")])
def test_damaged_files(kind, end, tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / f"city_000000_000019_{kind}{end}"
    if kind == "label":
        Image.fromarray(rng.integers(0, max(label.id for label in LABELS) + 1, (16, 24)).astype(np.uint8)).save(path)
    else:
        Image.fromarray(rng.integers(0, 256, (16, 24, 3), np.uint8)).save(path)

    def read(path):
        image = (load_label if kind == "label" else load_image)(path)
        assert np.asarray(image).dtype == np.uint8

    assert fuzz_reader(read, path, path.read_bytes(), 400) > 40
