"""Ground truth of the test splits: computed from the data set, written in the reference's format, read safely."""

import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from shared import InputError
from shared.files import Refused, atomic_write, reading
from shared.weights.unpickle import PickledArray, PickledDtype, load

from .kitti import KITTIDepthDataset
from .splits import read_split

SPLITS = ("eigen", "eigen_benchmark", "mini")


def ground_truth(data_path: str | Path, split: str, split_dir: str | Path) -> list[np.ndarray]:
    """The depth maps of a test split in metres, float32 [h, w] of each image's own size, 0 where unknown (NOTES 2.11).

    eigen and mini: the laser scans seen by camera 2, depth being the scanner's x; eigen_benchmark: the depth
    benchmark's images. Shows a progress bar. InputError for missing or broken files.
    """
    lines = read_split(split_dir, split, "test")
    dataset = KITTIDepthDataset(data_path, lines, 192, 640, [0])

    def depth(line) -> np.ndarray:
        if split == "eigen_benchmark":
            return dataset.projected_depth(line)
        return dataset.depth_map(line, camera=2, vel_depth=True).astype(np.float32)

    return [depth(line) for line in tqdm(lines, desc=f"ground truth of {split}", unit="map", leave=False, disable=None)]


def write_gt_depths(path: str | Path, maps: Sequence[np.ndarray]) -> None:
    """Write maps of any sizes as the reference's gt_depths.npz, one object array `data`; whole or not at all."""
    data = np.empty(len(maps), object)
    data[:] = maps
    atomic_write(path, lambda file: np.savez_compressed(file, data=data))


def read_gt_depths(path: str | Path) -> list[np.ndarray]:
    """The maps in a gt_depths.npz, float [h, w] each; its pickle is read without executing anything.

    InputError for a missing, damaged or hostile file.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file; make it with python export_gt_depth.py")
    with reading(path, "cannot be read as ground truth; make it again with export_gt_depth.py"):
        try:
            archive = zipfile.ZipFile(path)
        except zipfile.BadZipFile as error:
            raise Refused("not a .npz file, or a damaged one; make it again with export_gt_depth.py") from error
        with archive, archive.open("data.npy") as stream:
            version = np.lib.format.read_magic(stream)
            header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
            shape, _, dtype = header[version](stream)
            if not dtype.hasobject:
                with archive.open("data.npy") as whole:
                    maps = list(np.lib.format.read_array(whole, allow_pickle=False))
            else:
                maps = _unbox(load(stream), shape)
        for number, depth in enumerate(maps):
            if depth.ndim != 2 or depth.dtype.kind != "f":
                raise Refused(f"map {number} is {depth.dtype} {list(depth.shape)}, not a map of depths")
    return maps


def _unbox(boxed: object, shape: tuple[int, ...]) -> list[np.ndarray]:
    """The arrays in a pickled object array."""
    is_list = isinstance(boxed, PickledArray) and isinstance(boxed.dtype, PickledDtype) and type(boxed.raw) is list
    if not is_list or shape != (len(boxed.raw),):
        raise Refused("`data` is not a list of depth maps; make it again with export_gt_depth.py")
    maps = []
    boxed.raw.reverse()
    while boxed.raw:  # each pickled map is freed once it is copied: there may be 1.3 GB of them
        depth = boxed.raw.pop()
        if not isinstance(depth, PickledArray):
            raise Refused(f"map {len(maps)} is not an array; make it again with export_gt_depth.py")
        maps.append(depth.value())
    return maps
