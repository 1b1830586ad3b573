"""Depth maps of laser scans: against the official code's, against the twin's loop, and with bad files."""

import re
import time

import numpy as np
import pytest

from data_sets import (
    CALIBRATION,
    DATE,
    DRIVE,
    check_map,
    drawn_scan,
    golden_tree,
    picture_test,
    refused,
    write_calibration,
    write_scan,
)
from datasets import velodyne
from golden_files import files_of, golden
from reference import data as twin

sides = pytest.mark.parametrize("side", ["port", "twin"])
with_pictures = pytest.mark.parametrize("folder", [name for name in files_of("data") if name != "committed"])


@picture_test
@sides
@with_pictures
@pytest.mark.parametrize("camera, vel", [(2, 0), (2, 1), (3, 0)])
def test_golden_depth_map(folder, camera, vel, side, tmp_path):
    root = golden_tree(tmp_path, folder)
    scan = root / DRIVE / "velodyne_points/data/0000000005.bin"
    if side == "port":
        calibration = velodyne.read_calibration(root / DATE)
        depth = velodyne.depth_map(velodyne.read_points(scan), calibration, camera, bool(vel))
    else:
        depth = twin.depth_map(root / DATE, scan, camera, bool(vel))
    check_map(depth, golden(folder, "data"), f"data/depth_map_cam{camera}_vel{vel}")


def identity_calibration(width: int, height: int) -> velodyne.Calibration:
    """u = -y / x, v = -z / x, depth x: the axes of the scanner turned into those of the camera, nothing else."""
    axes = np.array([[0.0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0]])
    return velodyne.Calibration(width, height, {2: axes, 3: axes})


def at_pixels(*points: tuple[float, float, float]) -> np.ndarray:
    """Scanner points float32 [n, 4] that the identity calibration puts at pixel (u, v) with depth d."""
    u, v, d = np.array(points, float).T
    return np.stack([d, -(u + 1) * d, -(v + 1) * d, np.full_like(d, 0.3)], 1).astype(np.float32)


def test_duplicates_by_the_official_key():
    """NOTES 2.10: the minimum goes to the first point's pixel; the last pixel of a row shares its key with the
    first of the next."""
    depth = velodyne.depth_map(at_pixels((4, 3, 9), (2, 2, 5), (4, 3, 7), (4, 3, 8)), identity_calibration(9, 6), 2)
    assert depth[3, 4] == 7 and depth[2, 2] == 5 and np.count_nonzero(depth) == 2
    for first, second in (((8, 3), (0, 4)), ((0, 4), (8, 3))):
        points = at_pixels((*first, 6), (*second, 4))
        depth = velodyne.depth_map(points, identity_calibration(9, 6), 2)
        assert depth[first[::-1]] == 4 and depth[second[::-1]] == 4  # the minimum, and the second's own value
        depth = velodyne.depth_map(points[[0, 1, 1]] * np.float32([[1], [2], [2]]), identity_calibration(9, 6), 2)
        assert depth[first[::-1]] == 6 and depth[second[::-1]] == 8
    with np.errstate(all="raise"):
        points = np.float32([[0, 0, 0, 1], [0, 1, 1, 1], [-3, 1, 1, 1]])  # no depth: 0 / 0 and 1 / 0; behind
        assert not velodyne.depth_map(points, identity_calibration(9, 6), 2).any()


@pytest.mark.parametrize("camera, vel", [(2, False), (2, True), (3, False)])
def test_depth_map_against_the_loop(camera, vel, tmp_path):
    """Many points per pixel, a width of which every row's end meets the next row's start."""
    write_calibration(tmp_path / DATE)
    for seed in range(3):
        points = drawn_scan(4000, seed)
        path = write_scan(tmp_path, points)
        text = str(golden("committed", "data")["data/calib_cam_to_cam.txt"])
        text = re.sub(r"(P_rect_0\d: )(.*)", lambda match: match[1] + scaled(match[2]), text)
        (tmp_path / DATE / CALIBRATION[0]).write_text(re.sub(r"S_rect_02: .*", "S_rect_02: 48.9 2.0e+01", text))
        ours = velodyne.depth_map(velodyne.read_points(path), velodyne.read_calibration(tmp_path / DATE), camera, vel)
        assert ours.shape == (20, 48) and np.count_nonzero(ours) > 200
        np.testing.assert_allclose(ours, twin.depth_map(tmp_path / DATE, path, camera, vel), rtol=1e-12)


def scaled(numbers: str) -> str:
    """A projection matrix for a picture a 25th in size."""
    matrix = np.array(numbers.split(), float).reshape(3, 4)
    matrix[:2] /= 25
    return " ".join(map(repr, matrix.ravel().tolist()))


@pytest.mark.parametrize("shape", [(370, 1224), (370, 1226), (374, 1238), (375, 1242), (376, 1241)])
def test_nearest_resize_is_the_official_rule(shape):
    resized = velodyne.resize_nearest(np.arange(shape[0] * shape[1], dtype=float).reshape(shape), (375, 1242))
    rows, columns = (
        np.floor((np.arange(n) + 0.5) * side / n).astype(int) for n, side in zip((375, 1242), shape, strict=True)
    )
    np.testing.assert_array_equal(resized, rows[:, None] * shape[1] + columns)


def test_the_loop_is_ten_times_slower(tmp_path):
    write_calibration(tmp_path / DATE)
    path = write_scan(tmp_path, drawn_scan(60000))
    calibration = velodyne.read_calibration(tmp_path / DATE)
    times = {"port": [], "twin": []}
    for _ in range(3):
        start = time.perf_counter()
        velodyne.depth_map(velodyne.read_points(path), calibration, 2)
        times["port"].append(time.perf_counter() - start)
        start = time.perf_counter()
        twin.depth_map(tmp_path / DATE, path, 2, False)
        times["twin"].append(time.perf_counter() - start)
    assert min(times["twin"]) > 10 * min(times["port"]), times


def changed(text: str, key: str, replacement: str) -> str:
    return re.sub(rf"(?m)^{key}: .*$", replacement, text)


@pytest.mark.parametrize(
    "file, key, replacement, complaint",
    [
        (0, "P_rect_02", "P_rect_04: 1 2", "P_rect_02"),
        (0, "S_rect_02", "S_rect_02: 1224", "S_rect_02"),
        (0, "S_rect_02", "S_rect_02: 0 370", "S_rect_02"),
        (0, "R_rect_00", "R_rect_00: 1 2 x 4 5 6 7 8 9", "R_rect_00"),
        (0, "R_rect_00", "R_rect_00: 1 2 1e+-3 4 5 6 7 8 9", "R_rect_00"),
        (0, "corner_dist", "corner_dist 9", "line 2"),
        (1, "T", "T: 1 2 3 4", "T"),
        (1, "R", "R 1 2 3", "line 2"),
    ],
)
def test_bad_calibration(file, key, replacement, complaint, tmp_path):
    write_calibration(tmp_path)
    path = tmp_path / CALIBRATION[file]
    path.write_text(changed(path.read_text(), key, replacement))
    refused(lambda words: velodyne.read_calibration(tmp_path), [], path, complaint)


def test_unreadable_calibration_and_scans(tmp_path):
    write_calibration(tmp_path)
    path = tmp_path / CALIBRATION[0]
    path.write_bytes(b"\xff\xfe\x00")
    refused(lambda words: velodyne.read_calibration(tmp_path), [], path)
    path.unlink()
    refused(lambda words: velodyne.read_calibration(tmp_path), [], path, "is missing")
    scan = tmp_path / "5.bin"
    refused(lambda words: velodyne.read_points(scan), [], scan, "missing")
    for content, complaint in ((b"", "empty"), (b"12345678" * 5, "16")):
        scan.write_bytes(content)
        refused(lambda words: velodyne.read_points(scan), [], scan, complaint)
