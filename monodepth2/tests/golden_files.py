"""The golden figures: the slim files of this folder, and in $GOLDEN the full ones (or held-out ones).

The formula weights of a figure are drawn again from the tensor names that stand in the *_state_dict.tsv beside it.
The KITTI pictures and the scan are only at hand beside a full set: in $DATA, by default $GOLDEN/../data.
"""

import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import numpy as np

from shared.align.formula import formula_tensor, read_shapes

COMMITTED = Path(__file__).parent / "golden"
FULL = Path(os.environ["GOLDEN"]) if os.environ.get("GOLDEN") else None
FOLDERS = {"committed": COMMITTED} | ({"full": FULL} if FULL else {})
DATA = None  # without the pictures the tests that need them do not exist; the report's head says so
if FULL and (os.environ.get("DATA") or (FULL / "../data/kitti_raw").is_dir()):
    DATA = Path(os.environ.get("DATA") or FULL / "../data")

#: submodel of a golden figure -> the listing of its tensors, for ResNet-18 unless the name says otherwise
LISTINGS = {
    "encoder": "encoder{layers}",
    "depth": "depth{layers}",
    "pose_encoder": "pose_encoder{layers}",
    "pose": "pose{layers}",
    "pose_shared": "pose_shared18",
    "posecnn2": "posecnn2",
    "posecnn3": "posecnn3",
    "predictive_mask": "predictive_mask18_mono",
}


@cache
def golden(folder: str, part: str) -> np.lib.npyio.NpzFile:
    """The figures of one part: "layers", "net18", "net34", "net50", "loss_mono", "loss_ms", "data", "eval", ..."""
    return np.load(FOLDERS[folder] / f"monodepth2_{part}.npz")


@cache
def files_of(part: str) -> list[str]:
    """The folders that hold figures of this part; a slim file that is only a part of the full one is left out."""
    folders = [name for name, folder in FOLDERS.items() if (folder / f"monodepth2_{part}.npz").is_file()]
    if folders == ["committed", "full"]:
        slim, full = (golden(folder, part) for folder in folders)
        lists = {"meta/variants"}  # which of the full file's cases the slim one has
        if all(key in full.files and np.array_equal(slim[key], full[key]) for key in {*slim.files} - lists):
            return ["full"]
    return folders


def official_shapes(submodel: str, layers: int = 18) -> dict[str, tuple[int, ...]]:
    """{name: shape} of one official sub-network's state dict, in its order. Of LISTINGS, or a listing's own name."""
    layers_of_depth = 18 if submodel == "depth" and layers == 34 else layers  # the two decoders are the same
    listing = LISTINGS.get(submodel, submodel).format(layers=layers_of_depth)
    return read_shapes(COMMITTED / f"monodepth2_{listing}_state_dict.tsv")


def formula_weights(file, submodel: str, shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """The state dict {name: array} of `submodel` that the figures of `file` were made from (NOTES 9.1).

    `file` is an opened golden file; `submodel` is the name that the figure gives the sub-network and `shapes` its
    tensors'. An override of another shape is that of another depth's ResNet, and is not used.
    """
    return {name: _formula_weight(file, f"{submodel}.{name}", shape) for name, shape in shapes.items()}


def _formula_weight(file, name: str, shape: tuple[int, ...]) -> np.ndarray:
    if f"override/{name}" in file.files and file[f"override/{name}"].shape == shape:
        return file[f"override/{name}"]
    return _drawn(name, shape, int(file["meta/seed"]), float(file["meta/gain"]))


_drawn = cache(formula_tensor)


def network_weights(file, shapes: dict[str, tuple[int, ...]], names: Mapping[str, str]) -> dict[str, np.ndarray]:
    """The same of a whole network, of which `shapes` are the official tensors' `<sub-network>.<name>`.

    `names` gives {sub-network: what the figure calls it}, where that differs.
    """
    parts = {name: name.split(".", 1) for name in shapes}
    return {
        name: _formula_weight(file, f"{names.get(part, part)}.{leaf}", shapes[name])
        for name, (part, leaf) in parts.items()
    }


def close(actual, expected, relative: float, what: str = "") -> None:
    """Assert that the largest difference is at most `relative` of `expected`'s largest magnitude; no NaN."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape, f"{what}: shape {actual.shape}, wanted {expected.shape}"
    scale = max(float(np.abs(expected).max(initial=0)), 1e-30)
    worst = float(np.abs(actual - expected).max(initial=0)) / scale
    assert worst <= relative, f"{what}: differs by {worst:.3g} of the largest magnitude, allowed {relative:g}"


def equal(actual, expected, relative: float = 1e-6) -> None:
    """Assert that every value differs by at most `relative` of its expected value."""
    np.testing.assert_allclose(np.asarray(actual, float), np.asarray(expected, float), rtol=relative, atol=0)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))
