"""Damaged calibration, split, pose, scan and depth files: each is read right or refused with one line."""

import argparse
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from shared.tests.fuzz import fuzz_reader

from datasets.ground_truth import read_gt_depths, write_gt_depths
from datasets.kitti import load_depth_png
from datasets.splits import read_split
from datasets.velodyne import CAM_TO_CAM, VELO_TO_CAM, read_calibration, read_points
from demo import read_projection
from evaluate import read_disparities
from evaluate_pose import read_poses
from golden_files import golden

SPLIT = "2011_09_26/2011_09_26_drive_0001_sync 5 l\n2011_09_26/2011_09_26_drive_0001_sync 17 r\n" * 3
POSES = "".join(f"1 0 0 {step:e} 0 1 0 0.25 0 0 1 {2 * step:e}\n" for step in range(6))
OBJECT_CALIBRATION = (
    "P2: 7.2e+02 0 6.1e+02 4.5e+01 0 7.2e+02 1.7e+02 2.2e-01 0 0 1 2.7e-03\nR0_rect: 1 0 0 0 1 0 0 0 1\n"
    "Tr_velo_to_cam: 0 -1 0 0 0 0 -1 -0.08 1 0 0 -0.27\n"
)


def finite(read):
    """`read`, of which the numbers must be finite."""

    def check(path: Path) -> None:
        assert np.isfinite(read(path)).all()

    return check


@pytest.mark.parametrize("name", [CAM_TO_CAM, VELO_TO_CAM])
def test_calibration_of_a_day(name, tmp_path):
    for other in (CAM_TO_CAM, VELO_TO_CAM):
        (tmp_path / other).write_text(str(golden("committed", "data")[f"data/{other}"]))

    def read(path):
        found = read_calibration(path.parent)
        assert found.width > 0 and all(np.isfinite(matrix).all() for matrix in found.projections.values())

    assert fuzz_reader(read, tmp_path / name, (tmp_path / name).read_bytes(), 400) > 20


def test_calibration_of_an_object_frame(tmp_path):
    path = tmp_path / "000000.txt"
    assert fuzz_reader(finite(read_projection), path, OBJECT_CALIBRATION.encode(), 300) > 100


def test_split(tmp_path):
    path = tmp_path / "mine" / "test_files.txt"
    path.parent.mkdir()

    def read(path):
        assert all(line.index >= 0 and line.side in (None, "l", "r") for line in read_split(tmp_path, "mine", "test"))

    assert fuzz_reader(read, path, SPLIT.encode(), 500) > 100


def test_poses(tmp_path):
    (tmp_path / "splits" / "odom").mkdir(parents=True)
    (tmp_path / "splits" / "odom" / "test_files_09.txt").write_text("9 0 l\n9 1 l\n")
    (tmp_path / "poses").mkdir()
    options = argparse.Namespace(eval_split="odom_9", split_dir=str(tmp_path / "splits"), data_path=str(tmp_path))
    assert (
        fuzz_reader(finite(lambda path: read_poses(options)), tmp_path / "poses" / "09.txt", POSES.encode(), 400) > 100
    )


def test_scan(tmp_path):
    content = np.random.default_rng(0).normal(0, 9, (40, 4)).astype("<f4").tobytes()
    assert fuzz_reader(read_points, tmp_path / "0000000005.bin", content, 200) > 50


def test_depth_maps_and_disparities(tmp_path):
    maps = [np.ones((4, 5), np.float32), np.zeros((3, 6), np.float32)]
    write_gt_depths(tmp_path / "gt_depths.npz", maps)
    content = (tmp_path / "gt_depths.npz").read_bytes()
    assert fuzz_reader(read_gt_depths, tmp_path / "gt_depths.npz", content, 300) > 150
    np.save(tmp_path / "disps.npy", np.ones((2, 4, 5), np.float32))
    content = (tmp_path / "disps.npy").read_bytes()
    assert fuzz_reader(finite(read_disparities), tmp_path / "disps.npy", content, 300) > 50


def test_depth_images(tmp_path):
    path = tmp_path / "depth.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 65536, (24, 40)).astype(np.uint16)).save(path)
    assert fuzz_reader(load_depth_png, path, path.read_bytes(), 200) > 20
