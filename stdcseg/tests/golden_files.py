"""Where the golden figures are: the slim files of this folder, and in $GOLDEN the full ones (or held-out ones).

The formula weights of a figure are drawn again from the tensor names in the *_state_dict.tsv beside it (NOTES 9.1). The
Cityscapes frame is only at hand beside a full set: $FRAME, by default cityscapes_demo.png in
$GOLDEN/../data/cityscapes.
"""

import os
import re
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from shared.align.formula import formula_input, formula_state, read_shapes

COMMITTED = Path(__file__).parent / "golden"
FULL = Path(os.environ["GOLDEN"]) if os.environ.get("GOLDEN") else None
FOLDERS = {"committed": COMMITTED} | ({"full": FULL} if FULL else {})
FRAME = None  # without the frame the tests that need it do not exist; the report's head says so
if FULL and (os.environ.get("FRAME") or (FULL / "../data/cityscapes/cityscapes_demo.png").is_file()):
    FRAME = Path(os.environ.get("FRAME") or FULL / "../data/cityscapes/cityscapes_demo.png")

BACKBONES = {"stdc1": "STDCNet813", "stdc2": "STDCNet1446"}
#: the official code's float32 run, and the suffix of its float64 run's keys
per_dtype = pytest.mark.parametrize(("dtype", "suffix"), [("float32", ""), ("float64", "64")])


@cache
def golden(folder: str, part: str) -> np.lib.npyio.NpzFile:
    """The figures of one part ("backbone", "stdc1", "stdc2", "loss", "schedule", "data", "metric")."""
    return np.load(FOLDERS[folder] / f"stdcseg_{part}.npz")


@cache
def files_of(part: str) -> list[str]:
    """The folders that hold figures of this part, without a slim file that is only a part of the full one."""
    folders = [name for name, folder in FOLDERS.items() if (folder / f"stdcseg_{part}.npz").is_file()]
    if folders == ["committed", "full"]:
        slim, full = (golden(folder, part) for folder in folders)
        if all(key in full.files and np.array_equal(slim[key], full[key]) for key in slim.files):
            return ["full"]
    return folders


def under(file, prefix: str) -> dict[str, np.ndarray]:
    """{rest of the name: array} of all keys that start with `prefix`."""
    return {key[len(prefix) :]: file[key] for key in file.files if key.startswith(prefix)}


def cases(part: str, pattern: str, names: str):
    """Parametrises with (folder, group 1) of every key of this part's files that `pattern` matches."""
    found = []
    for folder in files_of(part):
        matches = (re.fullmatch(pattern, key) for key in golden(folder, part).files)
        found += [(folder, case) for case in dict.fromkeys(match[1] for match in matches if match)]
    return pytest.mark.parametrize(names, found)


def canonical(name: str) -> str:
    """The name under `features` of a block's tensor that the official state dict lists twice (NOTES 1.4)."""
    return re.sub(r"(^|\.)x(2|4|8|16|32)\.0\.", r"\1features.", name)


def official_shapes(variant: str, classifier: bool = False) -> dict[str, tuple[int, ...]]:
    """{name: shape} of the official checkpoint, in its order."""
    return read_shapes(COMMITTED / f"stdcseg_{variant}{'_classifier' if classifier else ''}_state_dict.tsv")


def formula_weights(folder: str, variant: str, classifier: bool = False) -> dict[str, np.ndarray]:
    """The official-layout state dict that the figures of a network were made from."""
    file = golden(folder, "backbone" if classifier else variant)
    overrides = under(file, f"override/{variant}/" if classifier else "override/")
    names = official_shapes(variant, classifier)
    shapes = {canonical(name): shape for name, shape in names.items()}
    state = formula_state(shapes, int(file["meta/seed"]), float(file["meta/gain"]), overrides)
    return {name: state[canonical(name)] for name in names}


def formula_images(file, case: str, dtype: str) -> np.ndarray:
    """Input of one case, float32 values [N, 3, H, W] in `dtype` (NOTES 9.3)."""
    shape = tuple(int(side) for side in file[f"meta/input/{case}"])
    images = formula_input(case, shape, int(file["meta/seed"]))
    if case == "train":
        index = np.arange(shape[0], dtype=np.float32).reshape(-1, 1, 1, 1)
        images = images * (np.float32(0.5) + np.float32(0.4) * index) + np.float32(0.4) * (index - 1)
    return images.astype(np.float32).astype(dtype)


def difference(array, expected) -> float:
    """Largest difference relative to the largest expected value (absolute where all are 0)."""
    array, expected = np.asarray(array, np.float64), np.asarray(expected, np.float64)
    assert array.shape == expected.shape
    return float(np.abs(array - expected).max() / (np.abs(expected).max() or 1.0))


def check_output(file, suffix: str, key: str, array: np.ndarray, limit: float, stored: str | None = None) -> None:
    """An output against its stored slice, and against the mean, deviation and maximum of the whole.

    `stored` is the key of the figures if they have another than the slice and the shape.
    """
    stored = stored or key
    steps = file[f"meta/slice/{key}"] if f"meta/slice/{key}" in file.files else [1] * array.ndim
    if f"meta/shape/{key}" in file.files:
        assert list(array.shape) == file[f"meta/shape/{key}"].tolist()
    part = array[tuple(slice(None, None, int(step)) for step in steps)]
    assert difference(part, file[f"output{suffix}/{stored}"]) <= limit, key
    if f"output{suffix}_stats/{stored}" in file.files:
        mean, deviation, largest = file[f"output{suffix}_stats/{stored}"]
        array = array.astype(np.float64)
        assert abs(array.mean() - mean) <= limit * largest, key
        assert array.std() == pytest.approx(deviation, rel=limit), key
        assert np.abs(array).max() == pytest.approx(largest, rel=limit), key
