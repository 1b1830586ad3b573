"""Damaged pictures: each is read right or refused with one line."""

import numpy as np
import pytest
from PIL import Image

from shared.tests.fuzz import fuzz_reader

from datasets import load_image


@pytest.mark.parametrize("end", [".jpeg", ".png", ".bmp"])
def test_damaged_pictures(end, tmp_path):
    path = tmp_path / f"picture{end}"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 24, 3), np.uint8)).save(path)

    def read(path):
        image = load_image(path)
        assert image.mode == "RGB" and np.asarray(image).ndim == 3

    assert fuzz_reader(read, path, path.read_bytes(), 300) > 10
