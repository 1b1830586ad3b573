"""Where the golden figures are: the slim files of this folder, or in $GOLDEN the full ones (or held-out ones).

The formula weights of a figure are drawn again from the tensor names that stand in gupnet_state_dict.tsv. The KITTI
pictures are only at hand beside a full set: in $DATA, by default $GOLDEN/../data.
"""

import os
from functools import cache
from pathlib import Path

import numpy as np

from shared.align.formula import formula_input, formula_state, read_shapes

COMMITTED = Path(__file__).parent / "golden"
FULL = Path(os.environ["GOLDEN"]) if os.environ.get("GOLDEN") else None
#: the one folder that the tests read
FOLDER = FULL or COMMITTED
DATA = None  # without the pictures the tests that need them do not exist; the report's head says so
if FULL and (os.environ.get("DATA") or (FULL / "../data/kitti_object").is_dir()):
    DATA = Path(os.environ.get("DATA") or FULL / "../data")

SHAPES = read_shapes(COMMITTED / "gupnet_state_dict.tsv")


def has(part: str) -> bool:
    """Whether the folder holds figures of this part."""
    return (FOLDER / f"gupnet_{part}.npz").is_file()


@cache
def golden(part: str) -> dict[str, np.ndarray]:
    """The figures of one part: "model", "units", "schedule", "post", "trainer", "full", "data"."""
    with np.load(FOLDER / f"gupnet_{part}.npz") as file:
        return {name: file[name] for name in file.files}


def below(part: str, prefix: str) -> dict[str, np.ndarray]:
    """The figures of `part` whose keys start with `prefix`, without it."""
    return {name.removeprefix(prefix): value for name, value in golden(part).items() if name.startswith(prefix)}


def formula_weights(part: str) -> dict[str, np.ndarray]:
    """The official state dict {name: float32 array} that the figures of `part` were made from.

    The slimmed files keep the overrides, which are the same for all, with "model" alone.
    """
    figures = golden(part)
    overrides = below(part, "override/") or below("model", "override/")
    return formula_state(SHAPES, int(figures["meta/seed"]), float(figures["meta/gain"]), overrides)


def image_of(part: str, name: str | None = None) -> np.ndarray:
    """The input image [N, 3, H, W] float32 of the figures of `part`."""
    figures = golden(part)
    name = name or str(figures["meta/input_name"])
    return formula_input(name, tuple(int(size) for size in figures["meta/input_shape"]), int(figures["meta/seed"]))


def close(actual, expected, relative: float, what: str = "") -> None:
    """Assert that the largest difference is at most `relative` of `expected`'s largest magnitude; no NaN."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape, f"{what}: shape {actual.shape}, wanted {expected.shape}"
    scale = max(float(np.abs(expected).max(initial=0)), 1e-30)
    worst = float(np.abs(actual - expected).max(initial=0)) / scale
    assert worst <= relative, f"{what}: differs by {worst:.3g} of the largest magnitude, allowed {relative:g}"


def near(actual, expected, absolute: float, what: str = "") -> None:
    """Assert that the largest difference is at most `absolute`; no NaN."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape, f"{what}: shape {actual.shape}, wanted {expected.shape}"
    worst = float(np.abs(actual - expected).max(initial=0))
    assert worst <= absolute, f"{what}: differs by {worst:.3g}, allowed {absolute:g}"
