"""Data sets and weights that tests draw: KITTI's tree with few images, scans, calibration, lists, official folders."""

import os
import re
import shutil
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from shared import InputError

from golden_files import DATA, formula_weights, golden, official_shapes

DATE = "2011_09_26"
DRIVE = f"{DATE}/{DATE}_drive_0001_sync"
CALIBRATION = ("calib_cam_to_cam.txt", "calib_velo_to_cam.txt")
SIZE = (64, 128)  # of the official weights: height, width


def picture_test(function):
    """A test that needs the KITTI images: without them there is no such test, rather than one that is skipped."""
    return function if DATA else None


def refused(main, words, *parts) -> None:
    """`main(words)` ends with an InputError of one line that holds `parts`."""
    with pytest.raises(InputError) as caught:
        main([str(word) for word in words])
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert str(part) in message, f"{part!r} is not in: {message}"


class Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def drawn_image(width: int, height: int, seed: int) -> Image.Image:
    """An RGB image with smooth areas, edges and noise."""
    rng = np.random.default_rng([seed, width, height])
    blobs = Image.fromarray(rng.integers(0, 256, (5, 7, 3), np.uint8)).resize((width, height), Image.Resampling.BICUBIC)
    noise = rng.integers(-12, 13, (height, width, 3))
    return Image.fromarray((np.asarray(blobs).astype(int) + noise).clip(0, 255).astype(np.uint8))


def drawn_scan(count: int = 3000, seed: int = 0) -> np.ndarray:
    """Points (x forward, y left, z up, reflectance) float32 [count, 4], most of them in view, some behind."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(-2, 60, count)
    points = [x, rng.normal(0, 0.5, count) * x, rng.normal(0, 0.1, count) * x, rng.random(count)]
    return np.stack(points, 1).astype("<f4")


def image_path(root: Path, camera: int, index: int, end: str = ".jpg") -> Path:
    return root / DRIVE / f"image_0{camera}/data/{index:010d}{end}"


def write_image(path: Path, image: Image.Image | Path) -> None:
    """An image as PNG, whatever the name (Pillow goes by the content), or the file that is given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(image, Path):
        shutil.copyfile(image, path)
    else:
        image.save(path, "PNG")


def write_calibration(folder: Path, golden_folder: str = "committed") -> None:
    """The golden file's calibration of a day."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in CALIBRATION:
        (folder / name).write_text(str(golden(golden_folder, "data")[f"data/{name}"]))


def write_scan(root: Path, points: np.ndarray, index: int = 5) -> Path:
    path = root / DRIVE / f"velodyne_points/data/{index:010d}.bin"
    path.parent.mkdir(parents=True, exist_ok=True)
    points.astype("<f4").tofile(path)
    return path


def write_split(folder: Path, text: str, file: str = "train_files.txt", name: str = "eigen_zhou") -> Path:
    """`folder`, now with this list in a split of that name."""
    (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / name / file).write_text(text)
    return folder


def official_folder(folder: Path, file=None, parts=("encoder", "depth"), stereo: bool = False) -> Path:
    """Formula weights of ResNet-18 as a folder that the reference would have written; by default the demo's."""
    folder.mkdir()
    file = file or golden("committed", "demo")
    for part in parts:
        state = formula_weights(file, part, official_shapes(part))
        state = OrderedDict((name, torch.from_numpy(np.array(array))) for name, array in state.items())
        if part == "encoder":
            state |= {"height": SIZE[0], "width": SIZE[1], "use_stereo": stereo}
        torch.save(state, folder / f"{part}.pth")
    return folder


def golden_tree(root: Path, folder: str) -> Path:
    """The tree that the golden items were read from."""
    figures = golden(folder, "data")
    for entry in figures["meta/frames"].tolist():
        camera, index, source = re.fullmatch(r"image_0(\d) (\d+)\.jpg = (\S+)", entry).groups()
        write_image(image_path(root, int(camera), int(index)), DATA / source)
    write_calibration(root / DATE, folder)
    write_scan(root, np.fromfile(DATA / str(figures["meta/velodyne"]), "<f4").reshape(-1, 4))
    return root


def check_map(depth: np.ndarray, figures, key: str) -> None:
    """A depth map against a golden one: positions equal, values and sum 1e-6; of some only the sum is stored."""
    np.testing.assert_allclose(depth.sum(dtype=np.float64), figures[f"{key}/sum"], rtol=1e-6)
    if f"{key}/rows" not in figures:
        return
    assert list(depth.shape) == figures[f"{key}/shape"].tolist()
    rows, columns = np.nonzero(depth)
    np.testing.assert_array_equal(rows, figures[f"{key}/rows"])
    np.testing.assert_array_equal(columns, figures[f"{key}/cols"])
    np.testing.assert_allclose(depth[rows, columns], figures[f"{key}/values"], rtol=1e-6, atol=1e-6)
