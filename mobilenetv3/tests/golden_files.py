"""Where the golden figures are: the slim files of this folder, and in $GOLDEN the full ones (or held-out ones).

The formula weights of a figure are drawn again from the tensor names that stand in the *_state_dict.tsv beside it.
Photographs are only at hand beside a full set: $PHOTOS, by default $GOLDEN/../data/imagenet/val.
"""

import os
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from shared.align.formula import formula_input, formula_state, read_shapes
from shared.pictures import read_picture

from datasets.transforms import ClassificationPresetEval
from options import parse_options

COMMITTED = Path(__file__).parent / "golden"
FULL = Path(os.environ["GOLDEN"]) if os.environ.get("GOLDEN") else None
FOLDERS = {"committed": COMMITTED} | ({"full": FULL} if FULL else {})
PHOTOS = None  # without photographs the tests that need them do not exist; the report's head says so
if FULL and (os.environ.get("PHOTOS") or (FULL / "../data/imagenet/val").is_dir()):
    PHOTOS = Path(os.environ.get("PHOTOS") or FULL / "../data/imagenet/val")
SIZES = ("small", "large")


class Golden:
    """The figures of one model file, with the weights and inputs they were made from."""

    def __init__(self, folder: str, size: str):
        self.name = f"{folder}-{size}"
        self.size = size
        self.file = np.load(FOLDERS[folder] / f"mobilenetv3_{size}.npz")
        self.keys = set(self.file.files)
        self.seed, self.gain = int(self["meta/seed"]), float(self["meta/gain"])

    def __getitem__(self, key: str) -> np.ndarray:
        return self.file[key]

    def under(self, prefix: str) -> dict[str, np.ndarray]:
        """{rest of the name: array} of all keys that start with `prefix`."""
        return {key[len(prefix) :]: self[key] for key in self.file.files if key.startswith(prefix)}

    def options(self, *argv: str):
        """Network options of this size."""
        return parse_options(["--model", self.size, *argv])

    def weights(self, shapes: dict | None = None, overrides: bool = True) -> dict[str, np.ndarray]:
        """The official-layout state dict that the figures were made from."""
        shapes = shapes or read_shapes(COMMITTED / f"mobilenetv3_{self.size}_state_dict.tsv")
        return formula_state(shapes, self.seed, self.gain, self.under("override/") if overrides else None)

    def formula(self, name: str) -> np.ndarray:
        """Input `noise`, `batch` or `variant`, float32 [N, 3, H, W]."""
        shape = tuple(int(side) for side in self[f"meta/{name}/shape"])
        return formula_input(str(self[f"meta/{name}/name"]), shape, self.seed) * np.float32(self["meta/scale"])

    def photos(self) -> np.ndarray:
        """The photographs of `meta/images` under the evaluation preset, float32 [N, 3, 224, 224]."""
        transform = ClassificationPresetEval(256, 224, Image.Resampling.BILINEAR)
        return np.stack([transform(read_picture(PHOTOS / str(name))) for name in self["meta/images"]])

    def inputs(self) -> list[str]:
        """Inputs whose outputs the file holds and that can be made here."""
        names = ("noise", "photos") if PHOTOS else ("noise",)
        return [name for name in names if f"output/{name}/logits" in self.keys]


@cache
def golden(folder: str, size: str) -> Golden:
    return Golden(folder, size)


@cache
def files_of(part: str) -> dict[str, np.lib.npyio.NpzFile]:
    """The files with figures of this part, by folder; a slim one that is only a part of the full one is left out."""
    files = {name: np.load(folder / f"mobilenetv3_{part}.npz") for name, folder in FOLDERS.items()}
    if list(files) == ["committed", "full"]:
        slim, full = files.values()
        if all(key in full.files and np.array_equal(slim[key], full[key]) for key in slim.files):
            del files["committed"]
    return files


def model_files() -> list[Golden]:
    return [golden(folder, size) for size in SIZES for folder in files_of(size)]


def train_files() -> list[tuple[str, np.lib.npyio.NpzFile]]:
    return list(files_of("train").items())
