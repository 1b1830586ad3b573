"""Where the golden figures are: the full files in $GOLDEN (or held-out ones), else the slim ones of this folder.

The weights of a figure are drawn again from the tensor names in the *_state_dict.tsv files here (NOTES 9.2).
The COCO pictures are only at hand beside a full set: in $DATA, by default $GOLDEN/../data.
"""

import os
import re
from functools import cache
from pathlib import Path

import numpy as np

from shared.align.formula import formula_tensor, read_shapes

COMMITTED = Path(__file__).parent / "golden"
FIGURES = Path(os.environ["GOLDEN"]) if os.environ.get("GOLDEN") else COMMITTED
DATA = None  # without the pictures the tests that need them do not exist; the report's head says so
if FIGURES != COMMITTED and (os.environ.get("DATA") or (FIGURES / "../data/coco").is_dir()):
    DATA = Path(os.environ.get("DATA") or FIGURES / "../data")

#: short name of a variant -> (the official configuration, its options)
VARIANTS = {
    "base": ("r50_deformable_detr", ""),
    "single_scale": ("r50_deformable_detr_single_scale", "--num_feature_levels 1"),
    "single_scale_dc5": ("r50_deformable_detr_single_scale_dc5", "--num_feature_levels 1 --dilation"),
    "refine": ("r50_deformable_detr_plus_iterative_bbox_refinement", "--with_box_refine"),
    "two_stage": (
        "r50_deformable_detr_plus_iterative_bbox_refinement_plus_plus_two_stage",
        "--with_box_refine --two_stage",
    ),
}


@cache
def golden(part: str = "") -> np.lib.npyio.NpzFile:
    """The figures of one part: "" (the base variant), "variants", "pieces", "op", "data"."""
    return np.load(FIGURES / f"deformable_detr{'_' if part else ''}{part}.npz")


def official_shapes(variant: str) -> dict[str, tuple[int, ...]]:
    """{name: shape} of the official state dict of one of VARIANTS, in its order."""
    return read_shapes(COMMITTED / f"deformable_detr_{VARIANTS[variant][0]}_state_dict.tsv")


def formula_weights(file, variant: str, shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """The state dict {official name: float32 array} that the figures of `file` were made from (NOTES 9.2).

    `file` is an opened golden file; `variant` one of VARIANTS.
    """
    seed = int(file["meta/seed"])
    factors = dict(zip(file["meta/scale_endings"].tolist(), file["meta/scale_factors"].tolist(), strict=True))
    state = {}
    for name, shape in shapes.items():
        alias = re.sub(r"^transformer\.decoder\.(?=(bbox|class)_embed\.)", "", name)
        if "--with_box_refine" not in VARIANTS[variant][1]:
            alias = re.sub(r"^(bbox|class)_embed\.\d+\.", r"\1_embed.0.", alias)
        tensor = formula_tensor(alias, shape, seed, 1.0)
        for ending, factor in factors.items():
            if alias.endswith(ending):
                tensor = tensor * np.float32(factor)
        for key in (f"override/{variant}/{name}", f"override/{name}"):
            if key in file.files and file[key].shape == shape:
                tensor = file[key]
                break
        state[name] = tensor
    return state


def sliced(file, key: str, array: np.ndarray) -> np.ndarray:
    """The part of `array` that `key` keeps, after a look at the whole shape. float64's figures keep the same parts."""
    key = key.replace("64/", "/", 1)
    if f"meta/shape/{key}" in file.files:
        assert array.shape == tuple(file[f"meta/shape/{key}"]), f"{key}: shape {array.shape}"
    if f"meta/strides/{key}" in file.files:
        array = array[tuple(slice(None, None, int(step)) for step in file[f"meta/strides/{key}"])]
    return array


def statistics(array: np.ndarray) -> np.ndarray:
    """[mean, std, largest magnitude], as under `<key>/stats`."""
    array = np.asarray(array, np.float64)
    return np.array([array.mean(), array.std(), np.abs(array).max(initial=0)])


def close(actual, expected, bound: float, what: str = "", relative: bool = True) -> float:
    """Assert that the largest difference is at most `bound`, by default of `expected`'s largest magnitude; no NaN.

    Returns that difference.
    """
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape, f"{what}: shape {actual.shape}, wanted {expected.shape}"
    scale = max(float(np.abs(expected).max(initial=0)), 1e-30) if relative else 1.0
    worst = float(np.abs(actual - expected).max(initial=0)) / scale
    assert worst <= bound, f"{what}: differs by {worst:.3g}, allowed {bound:g}"
    return worst
