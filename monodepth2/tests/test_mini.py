"""The mini data set: its geometry by closed form, its scans and calibration, its files."""

import json
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from shared.tests.mini_suite import MiniSuite, World

from mini import draw, render, rig, street
from mini.rig import CAMERA

DATE = "2026_05_01/2026_05_01_drive"
ODOMETRY = "2026_05_02/2026_05_02_drive_0011_sync"


@cache
def drive(number: int) -> street.Street:
    return street.build(0, number, lead=number % draw.LEAD_EVERY == 0)


def view(scene: render.Scene, pose: np.ndarray, camera: render.Camera = CAMERA) -> tuple[np.ndarray, np.ndarray]:
    """The picture, and the depth of the pixels' middles, float32 [H, W] in metres, inf for the sky."""
    return render.picture(scene, pose, camera), render.cast(scene, pose, camera.rays())[0]


@cache
def seen(number: int, frame: int, side: str = "l") -> tuple[np.ndarray, np.ndarray]:
    place = drive(number)
    return view(place.at(frame), place.pose(frame, side))


def warped(source: np.ndarray, depth: np.ndarray, motion: np.ndarray) -> tuple[np.ndarray, ...]:
    """`source` as seen at `depth` [H, W] from elsewhere: `motion` [4, 4] leads to the source's camera.

    Written down anew: fx = 0.58 width, fy = 1.92 height, the principal point at half the size. Returns the picture,
    where it was sampled (x, y; -9 for the sky), and the depth from the source's camera.
    """
    height, width = depth.shape
    x = (np.arange(width) + 0.5 - 0.5 * width) / (0.58 * width)
    y = (np.arange(height) + 0.5 - 0.5 * height)[:, None] / (1.92 * height)
    known = np.where(np.isfinite(depth), depth, np.nan).astype(float)
    points = np.stack([known * x, known * y, known], -1) @ motion[:3, :3].T + motion[:3, 3]
    place_x = points[..., 0] / points[..., 2] * 0.58 * width + 0.5 * width - 0.5
    place_y = points[..., 1] / points[..., 2] * 1.92 * height + 0.5 * height - 0.5
    maps = [np.nan_to_num(place, nan=-9).astype(np.float32) for place in (place_x, place_y)]
    picture = cv2.remap(source, *maps, cv2.INTER_CUBIC, borderMode=cv2.BORDER_CONSTANT)
    return picture, *maps, points[..., 2]


def matches(number: int, other: tuple[int, str], frame: int = 10) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How far, in grey levels [H, W], the other view warped by true depth and motion is from frame's left picture, how
    far it is unwarped, and where both see the same surface."""
    place = drive(number)
    picture, depth = seen(number, frame)
    source, source_depth = seen(number, *other)
    motion = np.linalg.inv(place.pose(*other)) @ place.pose(frame)
    again, x, y, expected = warped(source, depth, motion)
    found = cv2.remap(source_depth, x, y, cv2.INTER_NEAREST, borderValue=0)
    both = np.abs(found - expected) < 0.02 * expected
    return *(np.abs(view.astype(float) - picture).mean(2) for view in (again, source)), both


@pytest.mark.parametrize("number", [1, 4])
@pytest.mark.parametrize("other", [(10, "r"), (9, "l"), (11, "l")])
def test_true_depth_and_motion_bring_one_view_upon_the_other(number, other):
    error, unwarped, both = matches(number, other)
    assert both.mean() > 0.6
    assert np.median(error[both]) <= 1.5 and error[both].mean() < 4
    assert unwarped[both].mean() > 15


def test_the_car_ahead_keeps_its_place():
    """Its pixels match without a warp, though the street moves past them: what auto-masking looks for."""
    with_car, without = drive(3), street.build(0, 3)
    _, empty = view(without.at(10), without.pose(10))
    ahead = cv2.erode((seen(3, 10)[1] < empty - 0.5).astype(np.uint8), np.ones((3, 3))) > 0
    assert with_car.lead and not without.lead and ahead.sum() > 600
    error, unwarped, _ = matches(3, (11, "l"))
    assert unwarped[ahead].mean() < 0.5 and error[ahead].mean() > 5
    assert np.array_equal(seen(3, 10)[1][ahead], seen(3, 11)[1][ahead])
    assert unwarped[~ahead].mean() > 10
    # the stereo pair sees it at its true distance
    error, _, both = matches(3, (10, "r"))
    assert (both & ahead).sum() > 0.6 * ahead.sum() and np.median(error[both & ahead]) <= 1.5


def test_cameras():
    place = drive(1)
    assert np.allclose(np.linalg.inv(place.pose(5)) @ place.pose(5, "r"), street.rigid(np.eye(3), (0.54, 0, 0)))
    x, y = CAMERA.rays().x, CAMERA.rays().y[:, 0]
    assert (len(x), len(y)) == (416, 126)
    assert np.allclose(x * 0.58 * 416, np.arange(416) - 207.5, atol=1e-4)
    assert np.allclose(y * 1.92 * 126, np.arange(126) - 62.5, atol=1e-4)
    # a mirrored picture is one of the same camera
    assert np.allclose(x, -x[::-1], atol=1e-7)


def plain_scene(boxes: list, blobs: list) -> render.Scene:
    return render.Scene(boxes, blobs, 0, (0, 0), 0, np.array([0, -1.0, 0]), drive(1).scene.atlas)


def test_depth_by_hand():
    """A wall 10 m ahead, 2 m wide, turned by nothing; a ball of radius 1 at 8 m; the ground 1.5 m below."""
    wall = render.Box(street.rigid(np.eye(3), (0, -1.5, 10.5)), np.array([1, 3, 0.5]), (0, 0, 0), np.ones((3, 2)))
    ball = render.Blob(np.array([-4.0, -1.5, 8.0]), np.ones(3), 0)
    camera = render.Camera(417, 127)  # its middle pixel looks straight ahead
    _, depth = view(plain_scene([wall], [ball]), street.rigid(np.eye(3), (0, -1.5, 0)), camera)
    fx, fy = camera.focal
    assert depth[63, 208] == pytest.approx(10)
    columns = np.flatnonzero(depth[63] == depth[63, 208])
    assert len(columns) == pytest.approx(2 * fx / 10, abs=1) and columns.mean() == pytest.approx(208, abs=0.6)
    # the ray through the ball's centre leaves its length, sqrt(80), but for the radius
    direction = np.array([(round(208 - fx / 2) - 208) / fx, 0, 1])
    nearest = (np.sqrt(80) - 1) / np.linalg.norm(direction)
    assert depth[63, round(208 - fx / 2)] == pytest.approx(nearest, abs=2e-3)
    for row in (100, 126):
        assert depth[row, 400] == pytest.approx(1.5 * fy / (row - 63), rel=1e-5)
    assert np.isinf(depth[0, 400]) and np.isinf(depth[63, 400])


def test_a_turned_box_by_hand():
    """A box turned by 45 degrees shows its edge: half its diagonal nearer than its middle."""
    box = render.Box(street.rigid(street.turned(45), (0, 0, 10)), np.array([1, 5, 1]), (0, 0, 0), np.ones((3, 2)))
    _, depth = view(plain_scene([box], []), street.rigid(np.eye(3), (0, -1.5, 0)), render.Camera(417, 127))
    assert depth[63, 208] == pytest.approx(10 - np.sqrt(2), rel=1e-5)
    assert np.allclose(depth[63], depth[63, ::-1], rtol=1e-5)


@pytest.mark.parametrize("number", [1, 4, 11])
def test_distances_suit_stereo_and_the_eye(number):
    picture, depth = seen(number, 10)
    known = depth[np.isfinite(depth)]
    assert len(known) > 0.75 * depth.size
    assert ((known > 3) & (known < 40)).mean() > 0.75
    small = cv2.resize(picture, (192, 64), interpolation=cv2.INTER_AREA).astype(float)
    contrast = np.abs(np.diff(small, axis=1)).mean(2)[24:]
    assert contrast.mean() > 6 and (contrast > 2).mean() > 0.5


def test_streets_and_drives_differ():
    steps = [np.linalg.inv(place.poses[:-1]) @ place.poses[1:] for place in map(drive, (1, 3, 4))]
    for motion in steps:
        assert ((motion[:, 2, 3] > 0.55) & (motion[:, 2, 3] < 1.05)).all()
        turns = np.degrees(np.arccos(np.clip((np.trace(motion[:, :3, :3], axis1=1, axis2=2) - 1) / 2, -1, 1)))
        assert turns.mean() > 0.05 and turns.max() < 3
    assert not np.allclose(steps[0], steps[1], atol=1e-3)
    assert np.abs(seen(1, 10)[0].astype(float) - seen(4, 10)[0]).mean() > 20


def test_scanned_depth_by_hand():
    """Two points ahead on rows of their own, one out of sight; then two of which the nearer hides the farther."""
    points = np.float32([[20, 0, 0, 0], [10, 0, 0, 0], [10, 50, 0, 0]])
    depth = rig.scanned_depth(points)
    rows, columns = depth.nonzero()
    assert len(rows) == 2 and sorted(depth[rows, columns]) == [10, 20]
    both = np.float32([[20, 0, 0, 0], [20.001, 0, 0, 0]])
    assert rig.scanned_depth(both).max() == 20


def test_baselines_by_hand():
    train, test = np.zeros((2, 126, 416))
    test[70:90], test[90:110] = 10, 20
    train[60], train[61:90], train[90:] = 7, 2, 4
    errors = rig.baselines([train], [test])
    # equal halves: the median is 15, and half the points are off by 5 of 10, half by 5 of 20
    assert errors["constant_depth"] == pytest.approx((0.5 + 0.25) / 2, abs=1e-4)
    assert errors["mean_inverse_depth_of_the_row"] == pytest.approx(0, abs=1e-4)


def write_lists(folder: Path, **lines: list[str]) -> Path:
    """Lists of their own for a small data set."""
    for name in (*draw.LISTS.values(), draw.ODOMETRY_LIST):
        part = "odometry" if "odom" in name else Path(name).stem.split("_")[0]
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("".join(f"{line}\n" for line in lines[part]))
    return folder


def read_calibration(file: Path) -> dict[str, np.ndarray]:
    """As the reference reads calibration files: values of numbers become arrays."""
    pairs = (line.split(":", 1) for line in file.read_text().splitlines())
    return {key: np.array(value.split(), float) for key, value in pairs if set(value) <= set("0123456789.e+- ")}


#: frames 0 to 3 of a drive, of which 1 and 2 are scanned, and 0 and 1 of another, which is the sequence
FILES = [f"{DATE}_0001_sync/image_0{camera}/data/{n:010d}.jpg" for camera in (2, 3) for n in range(4)]
FILES += [f"{ODOMETRY}/image_0{camera}/data/{n:010d}.jpg" for camera in (2, 3) for n in range(2)]
FILES += [f"sequences/09/image_{camera}/{n:06d}.jpg" for camera in (2, 3) for n in range(2)] + ["poses/09.txt"]
FILES += [f"{DATE}_0001_sync/velodyne_points/data/{n:010d}.bin" for n in (1, 2)]
FILES += [f"{ODOMETRY}/velodyne_points/data/{0:010d}.bin"]
FILES += [f"2026_05_0{n}/calib_{kind}.txt" for n in (1, 2) for kind in ("cam_to_cam", "velo_to_cam")]


class TestDataSet(MiniSuite):
    @pytest.fixture(scope="class")
    def lists(self, tmp_path_factory) -> Path:
        """Five moments, three scans."""
        train, test = [f"{DATE}_0001_sync 1 {side}" for side in "lr"], [f"{ODOMETRY} {0:010d} l"]
        folder, val = tmp_path_factory.mktemp("lists"), [f"{DATE}_0001_sync 2 r"]
        return write_lists(folder, train=train, val=val, test=test, odometry=["9 0 l"])

    @pytest.fixture(scope="class")
    def world(self, lists, tmp_path_factory) -> World:
        def other(line: str) -> dict:
            folder, sequence = tmp_path_factory.mktemp("other"), ["9 0 l"]
            return {"lists": str(write_lists(folder, train=[line], val=[], test=[line], odometry=sequence))}

        few = f"{DATE}_0001_sync 1 l"
        wrong = ["one word", f"{DATE}_0001_sync first l", f"{DATE}_0001_sync 0 l", f"{DATE}_0001_sync 44 l", "road 3 l"]
        return World(
            draw,
            small={"lists": str(lists)},
            files=FILES,
            size=(416, 126),
            fewer=other(few),
            large={},
            wrong=[({"lists": str(lists / "nowhere")}, "train_files.txt"), *((other(line), "list") for line in wrong)],
            copies=4,  # of the sequence
        )

    @pytest.mark.parametrize("camera", [2, 3])
    def test_scans_project_onto_what_is_rendered(self, root, camera):
        """As the reference projects velodyne points, from the files alone."""
        cams = read_calibration(root / "2026_05_01" / "calib_cam_to_cam.txt")
        velo = read_calibration(root / "2026_05_01" / "calib_velo_to_cam.txt")
        rectify = np.eye(4)
        rectify[:3, :3] = cams["R_rect_00"].reshape(3, 3)
        matrix = cams[f"P_rect_0{camera}"].reshape(3, 4) @ rectify
        matrix = matrix @ street.rigid(velo["R"].reshape(3, 3), velo["T"])
        width, height = cams["S_rect_02"].astype(int)
        file = root / f"{DATE}_0001_sync" / "velodyne_points" / "data" / f"{1:010d}.bin"
        points = np.fromfile(file, np.float32).reshape(-1, 4)
        assert points[:, 3].min() >= 0 and 0.2 < points[:, 3].max() <= 1
        assert (points[:, 0] > 0).all() and np.linalg.norm(points[:, :3], axis=1).max() < 80
        u, v, depth = matrix @ np.column_stack([points[:, :3], np.ones(len(points))]).T
        column, row = np.round(u / depth).astype(int) - 1, np.round(v / depth).astype(int) - 1
        inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
        assert inside.mean() > 0.75
        assert len(np.unique(row[inside] * width + column[inside])) > 0.08 * width * height
        rendered = seen(1, 1, "l" if camera == 2 else "r")[1][row[inside], column[inside]]
        off = np.abs(depth[inside] - rendered) / rendered
        # within a pixel depth varies, and the scanner sees past some edges
        assert np.median(off) < 0.01 and (off < 0.05).mean() > 0.88

    def test_calibration_files(self, root):
        for date in ("2026_05_01", "2026_05_02"):
            cams = read_calibration(root / date / "calib_cam_to_cam.txt")
            assert set(cams) == {"corner_dist"} | {
                f"{name}_0{k}" for name in ("S", "K", "D", "R", "T", "S_rect", "R_rect", "P_rect") for k in range(4)
            }
            for k in (2, 3):
                matrix = cams[f"P_rect_0{k}"].reshape(3, 4)
                assert cams["S_rect_02"].tolist() == [416, 126]
                assert matrix[0, 0] / 416 == 0.58 and matrix[1, 1] / 126 == 1.92
                assert (matrix[0, 2] - 0.5) / 416 == 0.5 and (matrix[1, 2] - 0.5) / 126 == 0.5  # pixels count from 1
                assert matrix[0, 3] == pytest.approx(-(k - 2) * 0.54 * matrix[0, 0], rel=1e-6)
            assert (root / date / "calib_velo_to_cam.txt").read_text().startswith("calib_time: ")
            assert set(read_calibration(root / date / "calib_velo_to_cam.txt")) == {"R", "T", "delta_f", "delta_c"}

    def test_odometry(self, root):
        for camera in (2, 3):
            for frame in (0, 1):
                copy = root / "sequences" / "09" / f"image_{camera}" / f"{frame:06d}.jpg"
                original = root / ODOMETRY / f"image_0{camera}" / "data" / f"{frame:010d}.jpg"
                assert copy.read_bytes() == original.read_bytes()
        poses = np.loadtxt(root / "poses" / "09.txt").reshape(-1, 3, 4)
        assert len(poses) == 2 and np.allclose(poses[0], np.eye(4)[:3])
        place = drive(11)
        assert np.allclose(poses[1], (np.linalg.inv(place.pose(0)) @ place.pose(1))[:3], atol=1e-6)

    def test_pictures_are_what_is_rendered(self, root):
        with Image.open(root / f"{DATE}_0001_sync" / "image_03" / "data" / f"{1:010d}.jpg") as file:
            assert np.abs(np.asarray(file).astype(float) - seen(1, 1, "r")[0]).mean() < 6  # but for JPEG

    def test_record(self, root):
        record = json.loads((root / "mini.json").read_text())
        assert record["lines"] == {"train": 2, "val": 1, "test": 1, "odometry": 1}
        assert (record["size"], record["frames"], record["scans"]) == ([416, 126], 6, 3)
        assert set(record["versions"]) == {"numpy", "opencv", "pillow"}
        assert all(0.1 < error < 1 for error in record["abs_rel"].values()) and len(record["abs_rel"]) == 2


def test_the_committed_lists():
    named = draw.read_lists(draw.DEFAULT_LISTS)
    jobs = draw.jobs_of(named)
    assert len(jobs) == len({job[:2] for job in jobs}) and len(named["train"]) >= 160 and len(named["test"]) >= 16
    drives = {part: {entry[0] for entry in named[part]} for part in draw.LISTS}
    assert not drives["train"] & (drives["val"] | drives["test"]) and not drives["val"] & drives["test"]
    for part, name in draw.LISTS.items():
        lines = (draw.DEFAULT_LISTS / name).read_text().splitlines()
        assert len(set(lines)) == len(lines)
        assert {line.split()[2] for line in lines} == ({"l"} if part == "test" else {"l", "r"})
    assert named["odometry"] == [("9", frame) for frame in range(len(named["odometry"]))]
