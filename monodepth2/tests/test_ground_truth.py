"""Ground truth of the test splits: computed, written, read back, and refused where it is damaged or hostile."""

import io
import pickle
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import export_gt_depth
from data_sets import CALIBRATION, Bomb, drawn_scan, refused, write_calibration, write_split
from datasets import ground_truth as truth
from reference import data as twin


def ground_truth_tree(root: Path) -> Path:
    """Two drives of different days and picture sizes, with a scan and a projected depth each."""
    lines = ""
    for number, (date, size) in enumerate({"2011_09_26": "1242 375", "2011_09_28": "1224 370"}.items()):
        folder = f"{date}/{date}_drive_0001_sync"
        write_calibration(root / date)
        text = (root / date / CALIBRATION[0]).read_text()
        (root / date / CALIBRATION[0]).write_text(re.sub("(?m)^S_rect_02: .*$", f"S_rect_02: {size}", text))
        scan = root / folder / "velodyne_points/data/0000000003.bin"
        depth = root / folder / "proj_depth/groundtruth/image_02/0000000003.png"
        scan.parent.mkdir(parents=True), depth.parent.mkdir(parents=True)
        drawn_scan(400, number).tofile(scan)
        values = np.random.default_rng(number).integers(0, 65536, (20 + number, 30)).astype(np.uint16)
        Image.fromarray(values).save(depth)
        lines += f"{folder} 0000000003 l\n"
    for split in ("eigen", "eigen_benchmark", "mini"):
        write_split(root / "splits", lines, "test_files.txt", split)
    return root


@pytest.mark.parametrize("split", ["eigen", "mini", "eigen_benchmark"])
def test_export_gt_depth(split, tmp_path, capsys):
    root = ground_truth_tree(tmp_path)
    export_gt_depth.main(["--data_path", str(root), "--split", split, "--split_dir", str(root / "splits")])
    path = root / "splits" / split / "gt_depths.npz"
    assert str(path) in capsys.readouterr().out
    maps = truth.read_gt_depths(path)
    for depth, reference in zip(maps, np.load(path, allow_pickle=True)["data"], strict=True):
        assert depth.dtype == reference.dtype == np.float32
        np.testing.assert_array_equal(depth, reference)
    for depth, direct in zip(maps, truth.ground_truth(root, split, root / "splits"), strict=True):
        np.testing.assert_array_equal(depth, direct)
    if split == "eigen_benchmark":
        assert [depth.shape for depth in maps] == [(20, 30), (21, 30)]
        values = np.random.default_rng(0).integers(0, 65536, (20, 30))
        np.testing.assert_array_equal(maps[0], (values / 256).astype(np.float32))
    else:
        assert [depth.shape for depth in maps] == [(375, 1242), (370, 1224)]
        scan = root / "2011_09_28/2011_09_28_drive_0001_sync/velodyne_points/data/0000000003.bin"
        np.testing.assert_array_equal(maps[1], twin.depth_map(root / "2011_09_28", scan, 2, True).astype(np.float32))
    assert [file.name for file in path.parent.iterdir() if file.name.startswith(".")] == []


def test_export_errors(tmp_path):
    root = ground_truth_tree(tmp_path)
    arguments = ["--data_path", str(root), "--split_dir", str(root / "splits"), "--split"]
    (root / "2011_09_28/2011_09_28_drive_0001_sync/velodyne_points/data/0000000003.bin").unlink()
    refused(export_gt_depth.main, [*arguments, "eigen"], "test_files.txt, line 2", "0000000003.bin")
    assert not (root / "splits/eigen/gt_depths.npz").exists()
    (root / "2011_09_26/2011_09_26_drive_0001_sync/proj_depth/groundtruth/image_02/0000000003.png").unlink()
    refused(export_gt_depth.main, [*arguments, "eigen_benchmark"], "test_files.txt, line 1", "0000000003.png")


def test_maps_of_one_size_and_plain_arrays(tmp_path):
    maps = [np.full((2, 3), value, np.float32) for value in (1, 2)]
    truth.write_gt_depths(tmp_path / "a.npz", maps)
    np.savez(tmp_path / "b.npz", data=np.stack(maps))  # what the reference's old numpy made of equal sizes
    for name in ("a", "b"):
        read = truth.read_gt_depths(tmp_path / f"{name}.npz")
        assert len(read) == 2 and np.array_equal(read, maps)


def test_ground_truth_files_run_nothing(tmp_path):
    path = tmp_path / "gt.npz"
    np.savez(path, data=objects(np.zeros((2, 2), np.float32), Bomb(tmp_path / "touched")))
    refused(lambda words: truth.read_gt_depths(path), [], path, "nothing was executed")
    assert not (tmp_path / "touched").exists()


def npz_of(content: bytes, name: str = "data.npy") -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr(name, content)
    return stream.getvalue()


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=True)
    return stream.getvalue()


def objects(*values) -> np.ndarray:
    array = np.empty(len(values), object)
    array[:] = values
    return array


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no zip",
        npz_of(npy(np.zeros((2, 3, 3), np.float32)), "other.npy"),
        npz_of(b"\x93NUMPY\x01"),
        npz_of(npy(objects(np.zeros((2, 2), np.float32), np.zeros((3, 2))))[:-9]),
        npz_of(npy(objects(np.zeros((2, 2), np.float32), "text"))),
        npz_of(npy(objects(np.zeros((2, 2, 2)), np.zeros((3, 2))))),
        npz_of(npy(objects(np.zeros((2, 2), object), np.zeros((3, 2))))),
        npz_of(npy(np.zeros(3))),
        npz_of(npy(objects(np.zeros((2, 2))))[: -len(pickle.dumps(objects(np.zeros((2, 2)))))] + pickle.dumps(7)),
    ],
    ids=range(10),
)
def test_damaged_ground_truth(content, tmp_path):
    path = tmp_path / "gt.npz"
    refused(lambda words: truth.read_gt_depths(path), [], path, "no such file", "export_gt_depth.py")
    path.write_bytes(content)
    refused(lambda words: truth.read_gt_depths(path), [], path)
