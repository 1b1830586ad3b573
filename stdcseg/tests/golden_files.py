"""Where the golden figures are: the slim files of this folder, and in $GOLDEN the full ones (or held-out ones).

The formula weights of a figure are drawn again from the tensor names that stand in the *_state_dict.tsv beside it.
The Cityscapes frame is only at hand beside a full set: $FRAME, by default cityscapes_demo.png in
$GOLDEN/../data/cityscapes.
"""

import os
import re
from functools import cache
from pathlib import Path

import numpy as np

from shared.align.formula import formula_input, formula_state, read_shapes

COMMITTED = Path(__file__).parent / "golden"
FULL = Path(os.environ["GOLDEN"]) if os.environ.get("GOLDEN") else None
FOLDERS = {"committed": COMMITTED} | ({"full": FULL} if FULL else {})
FRAME = None  # without the frame the tests that need it do not exist; the report's head says so
if FULL and (os.environ.get("FRAME") or (FULL / "../data/cityscapes/cityscapes_demo.png").is_file()):
    FRAME = Path(os.environ.get("FRAME") or FULL / "../data/cityscapes/cityscapes_demo.png")


@cache
def golden(folder: str, part: str) -> np.lib.npyio.NpzFile:
    """The figures of one part ("backbone", "stdc1", "stdc2", "loss", "schedule", "data", "metric")."""
    return np.load(FOLDERS[folder] / f"stdcseg_{part}.npz")


BACKBONES = {"stdc1": "STDCNet813", "stdc2": "STDCNet1446"}


def canonical(name: str) -> str:
    """The official state dict lists blocks twice, under `features` and under the feature they belong to: the former."""
    return re.sub(r"(^|\.)x(2|4|8|16|32)\.0\.", r"\1features.", name)


def official_shapes(variant: str, classifier: bool = False) -> dict[str, tuple[int, ...]]:
    """{name: shape} of the official checkpoint, in its order."""
    return read_shapes(COMMITTED / f"stdcseg_{variant}{'_classifier' if classifier else ''}_state_dict.tsv")


def formula_weights(folder: str, variant: str, classifier: bool = False) -> dict[str, np.ndarray]:
    """The official-layout state dict that the figures of a network were made from."""
    file = golden(folder, "backbone" if classifier else variant)
    prefix = f"override/{variant}/" if classifier else "override/"
    overrides = {key[len(prefix) :]: file[key] for key in file.files if key.startswith(prefix)}
    names = official_shapes(variant, classifier)
    shapes = {canonical(name): shape for name, shape in names.items()}
    state = formula_state(shapes, int(file["meta/seed"]), float(file["meta/gain"]), overrides)
    return {name: state[canonical(name)] for name in names}


def formula_images(file, case: str) -> np.ndarray:
    """Input of one case, float32 [N, 3, H, W]; those of "train" differ in contrast and brightness."""
    shape = tuple(int(side) for side in file[f"meta/input/{case}"])
    images = formula_input(case, shape, int(file["meta/seed"]))
    if case == "train":
        index = np.arange(shape[0], dtype=np.float32).reshape(-1, 1, 1, 1)
        images = images * (np.float32(0.5) + np.float32(0.4) * index) + np.float32(0.4) * (index - 1)
    return images.astype(np.float32)


def part_of(file, key: str, array: np.ndarray) -> np.ndarray:
    """The slice of `array` that the file stores under output/`key`, after checking the whole shape."""
    if f"meta/slice/{key}" not in file.files:
        return array
    assert list(array.shape) == file[f"meta/shape/{key}"].tolist()
    return array[tuple(slice(None, None, int(step)) for step in file[f"meta/slice/{key}"])]


@cache
def files_of(part: str) -> list[str]:
    """The folders that hold figures of this part; a slim file that is only a part of the full one is left out."""
    folders = [name for name, folder in FOLDERS.items() if (folder / f"stdcseg_{part}.npz").is_file()]
    if folders == ["committed", "full"]:
        slim, full = (golden(folder, part) for folder in folders)
        if all(key in full.files and np.array_equal(slim[key], full[key]) for key in slim.files):
            return ["full"]
    return folders
