"""Where the golden figures are: the slim files of this folder, or in $GOLDEN the full ones (or held-out ones).

The formula weights of a figure are drawn again from the tensor names that stand in gupnet_state_dict.tsv. The KITTI
pictures are only at hand beside a full set: in $DATA, by default $GOLDEN/../data.
"""

import os
import shutil
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from shared import InputError
from shared.align.formula import formula_input, formula_state, read_shapes

COMMITTED = Path(__file__).parent / "golden"
FULL = Path(os.environ["GOLDEN"]) if os.environ.get("GOLDEN") else None
#: the one folder that the tests read
FOLDER = FULL or COMMITTED
DATA = None  # without the pictures the tests that need them do not exist; the report's head says so
if FULL and (os.environ.get("DATA") or (FULL / "../data/kitti_object").is_dir()):
    DATA = Path(os.environ.get("DATA") or FULL / "../data")

SHAPES = read_shapes(COMMITTED / "gupnet_state_dict.tsv")


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


def lay_out(root: Path, part: str) -> Path:
    """The frames of the figures of `part` in KITTI's folders, with grey pictures where KITTI's are not at hand."""
    figures, folder = golden(part), root / "training"
    for name in ("ImageSets", "training/image_2", "training/label_2", "training/calib"):
        (root / name).mkdir(parents=True)
    ids = figures["meta/ids"].tolist()
    for split in ("train", "val"):
        (root / f"ImageSets/{split}.txt").write_text("".join(f"{index:06d}\n" for index in ids))
    for k, index in enumerate(ids):
        (folder / f"label_2/{index:06d}.txt").write_text(str(figures[f"input/label_text/{index:06d}"]))
        (folder / f"calib/{index:06d}.txt").write_text(str(figures[f"input/calib_text/{index:06d}"]))
        picture = folder / f"image_2/{index:06d}.png"
        if DATA:
            shutil.copyfile(DATA / f"kitti_object/training/image_2/{index % 100:06d}.png", picture)
        else:
            Image.new("RGB", tuple(figures["meta/image_sizes"][k].tolist()), (90, 120, 70)).save(picture)
    return root


def statistics(array) -> list[float]:
    """Mean, standard deviation and largest magnitude, as the figures have them."""
    array = np.asarray(array, np.float64)
    return [array.mean(), array.std(), np.abs(array).max()]


def check_parts(parts: dict, mode: str, suffix: str, limit: float) -> None:
    """Levels of the backbone, the neck, and the features of the RoIs, {level0.., feat, roi}, against "model"."""
    expected = below("model", f"output{suffix}/{mode}_")
    for number, step in enumerate((16, 8, 4, 2, 1, 1)):
        level = parts[f"level{number}"]
        channels = max(level.shape[1] // 4, 1)
        near(level[:, ::channels, ::step, ::step], expected[f"level{number}_slice"], limit, f"level{number}")
    near(parts["feat"][:, ::16, ::4, ::4], expected["feat_slice"], limit, "feat")
    near(parts["roi"][:, 64:], expected["roi_tail"], 1e-10 if suffix else 1e-5, "coordinate maps and class planes")
    near(parts["roi"][:16, :64:16], expected["roi_slice"], 1e-8 if suffix else 1e-3, "RoIAlign")
    for name, part in parts.items():
        near(statistics(part), expected[f"{name}_stats"], (1e-8 if suffix else 1e-3) if name == "roi" else limit, name)


def check_lines(text: str, expected: np.ndarray) -> None:
    """Result lines: numbers within a unit of the last decimal, everything else equal."""
    own, wanted = ([line.split() for line in lines] for lines in (text.splitlines(), expected.tolist()))
    assert [line[:3] for line in own] == [line[:3] for line in wanted]
    near(*([[float(word) for word in line[3:]] for line in lines] for lines in (own, wanted)), 0.011)


def close(actual, expected, relative: float, what: str = "") -> None:
    """Assert that the largest difference is at most `relative` of `expected`'s largest magnitude; no NaN."""
    near(actual, expected, relative * max(float(np.abs(expected).max(initial=0)), 1e-30), what)


def near(actual, expected, absolute: float, what: str = "") -> None:
    """Assert that the largest difference is at most `absolute`; no NaN."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape, f"{what}: shape {actual.shape}, not {expected.shape}"
    worst = float(np.abs(actual - expected).max(initial=0))
    assert worst <= absolute, f"{what}: differs by {worst:.3g}, allowed {absolute:g}"


def fails(call, *parts: str) -> None:
    """`call` raises an InputError of one line that names all `parts`."""
    with pytest.raises(InputError) as caught:
        call()
    text = str(caught.value)
    assert "\n" not in text and all(part in text for part in parts), text
