"""Drawn images, labels and data sets for the tests."""

from pathlib import Path

import numpy as np
from PIL import Image


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    """An RGB image with smooth areas, edges and noise."""
    rng = np.random.default_rng([seed, width, height])
    blobs = Image.fromarray(rng.integers(0, 256, (5, 4, 3), np.uint8)).resize((width, height), Image.BICUBIC)
    noise = rng.integers(-12, 13, (height, width, 3))
    return Image.fromarray((np.asarray(blobs).astype(int) + noise).clip(0, 255).astype(np.uint8))


def label_picture(width: int, height: int, seed: int = 0) -> Image.Image:
    """Label ids without order."""
    rng = np.random.default_rng([seed, height, width])
    return Image.fromarray(rng.integers(0, 34, (height, width), np.uint8))


def draw_split(root: Path, split: str, layout: dict[str, int], size=(64, 32)) -> Path:
    """`layout[city]` small images with their labels and the other files of Cityscapes."""
    for city, count in layout.items():
        images, labels = root / "leftImg8bit" / split / city, root / "gtFine" / split / city
        images.mkdir(parents=True, exist_ok=True), labels.mkdir(parents=True, exist_ok=True)
        for number in range(count):
            name = f"{city}_{number:06d}_000019"
            picture(*size, seed=number).save(images / f"{name}_leftImg8bit.png")
            label_picture(*size, seed=number).save(labels / f"{name}_gtFine_labelIds.png")
            for other in ("color", "instanceIds", "labelTrainIds"):
                Image.new("RGBA", (2, 2)).save(labels / f"{name}_gtFine_{other}.png")
            (labels / f"{name}_gtFine_polygons.json").write_text("{}")
    return root


def one_line(caught, *parts) -> None:
    """The error is one line and holds all `parts`."""
    text = str(caught.value)
    assert "\n" not in text
    for part in parts:
        assert str(part) in text
