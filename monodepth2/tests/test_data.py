"""The data side against the golden figures of the official code, against the torch twin, and against itself."""

import argparse
import io
import multiprocessing
import os
import pickle
import random
import re
import shutil
import time
import zipfile
from pathlib import Path

import numpy as np
import paddle
import pytest
import torch
from PIL import Image

from shared import InputError
from shared.align.formula import formula_input

import datasets
import export_gt_depth
from datasets import velodyne
from datasets.kitti import KITTIDepthDataset, KITTIOdomDataset, KITTIRAWDataset
from datasets.splits import Line
from datasets.transforms import JitterDraw, adjust, draw_jitter
from golden_files import DATA, files_of, golden
from options import parse_options
from reference import data as twin

DATE = "2011_09_26"
DRIVE = f"{DATE}/{DATE}_drive_0001_sync"
CALIBRATION = ("calib_cam_to_cam.txt", "calib_velo_to_cam.txt")
FRAMES = [0, -1, 1, "s"]
TOLERANCE = {"rtol": 1e-6, "atol": 1e-6}

folders = pytest.mark.parametrize("folder", files_of("data"))
with_pictures = pytest.mark.parametrize("folder", [name for name in files_of("data") if name != "committed"])
sides = pytest.mark.parametrize("side", ["port", "twin"])


def picture_test(function):
    """A test that needs the KITTI pictures: without them there is no such test, rather than one that is skipped."""
    return function if DATA else None


# --------------------------------------------------------------------------------------------------------------------
# A tree of one drive: frames 4, 5, 6 of both cameras, one scan, the calibration of the golden file
# --------------------------------------------------------------------------------------------------------------------


def drawn_picture(width: int, height: int, seed: int) -> Image.Image:
    """An RGB picture with smooth areas, edges and noise."""
    rng = np.random.default_rng([seed, width, height])
    blobs = Image.fromarray(rng.integers(0, 256, (5, 7, 3), np.uint8)).resize((width, height), Image.Resampling.BICUBIC)
    noise = rng.integers(-12, 13, (height, width, 3))
    return Image.fromarray((np.asarray(blobs).astype(int) + noise).clip(0, 255).astype(np.uint8))


def drawn_scan(count: int = 3000, seed: int = 0) -> np.ndarray:
    """Points (x forward, y left, z up, reflectance) float32 [count, 4], most of them in view, some behind."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(-2, 60, count)
    return np.stack([x, rng.normal(0, 0.5, count) * x, rng.normal(0, 0.1, count) * x, rng.random(count)], 1).astype(
        "<f4"
    )


def write_calibration(root: Path, folder: str = "committed") -> None:
    (root / DATE).mkdir(parents=True, exist_ok=True)
    for name in CALIBRATION:
        (root / DATE / name).write_text(str(golden(folder, "data")[f"data/{name}"]))


def write_scan(root: Path, points: np.ndarray, index: int = 5) -> Path:
    path = root / DRIVE / f"velodyne_points/data/{index:010d}.bin"
    path.parent.mkdir(parents=True, exist_ok=True)
    points.astype("<f4").tofile(path)
    return path


def picture_path(root: Path, camera: int, index: int, end: str = ".jpg") -> Path:
    return root / DRIVE / f"image_0{camera}/data/{index:010d}{end}"


def drawn_tree(root: Path, size: tuple[int, int] = (416, 125), count: int = 3, end: str = ".jpg") -> Path:
    for camera in (2, 3):
        picture_path(root, camera, 0).parent.mkdir(parents=True)
        for index in range(4, 4 + count):
            # PNG whatever the name: Pillow looks at the content
            drawn_picture(*size, 10 * camera + index).save(picture_path(root, camera, index, end), "PNG")
    write_calibration(root)
    return root


def golden_tree(root: Path, folder: str) -> Path:
    """The tree that the golden items were read from."""
    figures = golden(folder, "data")
    for entry in figures["meta/frames"].tolist():
        camera, index, source = re.fullmatch(r"image_0(\d) (\d+)\.jpg = (\S+)", entry).groups()
        target = picture_path(root, int(camera), int(index))
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(DATA / source, target)
    write_calibration(root, folder)
    write_scan(root, np.fromfile(DATA / str(figures["meta/velodyne"]), "<f4").reshape(-1, 4))
    return root


def write_split(folder: Path, text: str, file: str = "train_files.txt", name: str = "eigen_zhou") -> Path:
    """`folder`, now with this list in a split of that name."""
    (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / name / file).write_text(text)
    return folder


def options(root: Path | None = None, **changes) -> argparse.Namespace:
    """The default options, and the splits folder inside the tree."""
    given = {"data_path": str(root), "split_dir": str(root / "splits")} if root else {}
    return argparse.Namespace(**(vars(parse_options([])) | given | changes))


def small(root: Path, **changes) -> argparse.Namespace:
    """Pictures of 64 x 32 with all four frames, for tests of many items."""
    return options(root, **({"height": 32, "width": 64, "use_stereo": True} | changes))


def one_line(caught, *parts) -> None:
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert str(part) in message, f"{part!r} is not in: {message}"


def equal_items(item: dict, expected: dict) -> None:
    assert item.keys() == expected.keys()
    for key in item:
        ours, theirs = np.asarray(item[key]), np.asarray(expected[key])
        assert ours.dtype == theirs.dtype == np.float32, key
        np.testing.assert_array_equal(ours, theirs, err_msg=str(key))


# --------------------------------------------------------------------------------------------------------------------
# Golden: items
# --------------------------------------------------------------------------------------------------------------------


def golden_items(folder: str) -> list[tuple[int, str, str, int, bool, bool]]:
    """(number, mode, side, seed, colour coin, flip coin) of each item."""
    entries = []
    for entry in golden(folder, "data")["meta/items"].tolist():
        found = re.fullmatch(r"(\d+): (\w+) side=(\w) random.seed\((\d+)\) colour=(\d) flip=(\d)", entry).groups()
        entries.append((int(found[0]), found[1], found[2], int(found[3]), found[4] == "1", found[5] == "1"))
    return entries


item_cases = [
    pytest.param(name, case, id=f"{name}-{case[0]}") for name in files_of("data") for case in golden_items(name)
]
picture_cases = [case for case in item_cases if case.values[0] != "committed"]


def read_item(side: str, root: Path, mode: str, camera_side: str, seed: int) -> dict[object, np.ndarray]:
    """The item of frame 5 as both sides make it from `random.Random(seed)`."""
    opts = options(write_split(root / "splits", f"{DRIVE} 5 {camera_side}\n").parent, use_stereo=True)
    part = {"train": "train", "test": "val"}[mode]
    if part == "val":
        write_split(root / "splits", f"{DRIVE} 5 {camera_side}\n", "val_files.txt")
    if side == "port":
        return datasets.build_dataset(opts, part).item(0, random.Random(seed))
    return {key: value.numpy() for key, value in twin.item(opts, part, 0, rng=random.Random(seed)).items()}


def check_intrinsics(item: dict, figures) -> None:
    for scale in range(4):
        for name in ("K", "inv_K"):
            value = item[name, scale]
            assert value.dtype == np.float32
            np.testing.assert_allclose(value, figures[f"data/{name}_{scale}"], **TOLERANCE)


@sides
@pytest.mark.parametrize("folder, case", item_cases)
def test_golden_item_on_drawn_pictures(folder, case, side, tmp_path):
    """What of an item does not depend on the pictures."""
    number, mode, camera_side, seed, colour, flip = case
    figures = golden(folder, "data")
    write_scan(drawn_tree(tmp_path), drawn_scan())
    item = read_item(side, tmp_path, mode, camera_side, seed)
    assert sorted(map(str, item)) == sorted(figures["meta/item_keys"].tolist())
    check_intrinsics(item, figures)
    np.testing.assert_array_equal(item["stereo_T"], figures[f"data/{number}/stereo_T"])
    assert item["depth_gt"].shape == (1, 375, 1242)
    assert colour != np.array_equal(item["color", 0, 0], item["color_aug", 0, 0])
    path = picture_path(tmp_path, 2 if camera_side == "l" else 3, 5)
    plain = (
        np.asarray(Image.open(path).resize((640, 192), Image.Resampling.LANCZOS), np.float32).transpose(2, 0, 1) / 255
    )
    near = np.abs(item["color", 0, 0] - (plain[..., ::-1] if flip else plain)).mean()
    assert near < 1e-3 < np.abs(item["color", 0, 0] - (plain if flip else plain[..., ::-1])).mean()


@picture_test
@sides
@pytest.mark.parametrize("folder, case", picture_cases)
def test_golden_item(folder, case, side, tmp_path):
    number, mode, camera_side, seed, *_ = case
    figures = golden(folder, "data")
    item = read_item(side, golden_tree(tmp_path, folder), mode, camera_side, seed)
    assert sorted(map(str, item)) == sorted(figures["meta/item_keys"].tolist())
    compared = 0
    for name in ("color", "color_aug"):
        for frame in FRAMES:
            for scale in range(4):
                key = f"data/{number}/{name}_{frame}_{scale}"
                if key not in figures:
                    continue
                value = item[name, frame, scale]
                assert value.dtype == np.float32
                levels = np.round(value * 255).astype(np.uint8)
                np.testing.assert_array_equal(levels / np.float32(255), value)
                step = 16 >> scale
                np.testing.assert_array_equal(levels[:, ::step, ::step], figures[key], err_msg=key)
                shape_sum = [*levels.shape, levels.sum(dtype=np.int64)]
                np.testing.assert_array_equal(shape_sum, figures[f"{key}/shape_sum"], err_msg=key)
                compared += 1
    assert compared >= 20
    check_intrinsics(item, figures)
    np.testing.assert_array_equal(item["stereo_T"], figures[f"data/{number}/stereo_T"])
    check_map(item["depth_gt"][0], figures, f"data/{number}/depth_gt")


def check_map(depth: np.ndarray, figures, key: str) -> None:
    """A depth map against a golden one: positions equal, values and sum 1e-6; of some only the sum is stored."""
    np.testing.assert_allclose(depth.sum(dtype=np.float64), figures[f"{key}/sum"], rtol=1e-6)
    if f"{key}/rows" not in figures:
        return
    assert list(depth.shape) == figures[f"{key}/shape"].tolist()
    rows, columns = np.nonzero(depth)
    np.testing.assert_array_equal(rows, figures[f"{key}/rows"])
    np.testing.assert_array_equal(columns, figures[f"{key}/cols"])
    np.testing.assert_allclose(depth[rows, columns], figures[f"{key}/values"], **TOLERANCE)


@folders
def test_golden_jitter_draw(folder):
    figures = golden(folder, "data")
    [seed] = [case[3] for case in golden_items(folder) if case[0] == 2]
    rng = random.Random(seed)
    np.testing.assert_array_equal([rng.random(), rng.random()], figures["data/jitter_coins"])
    draw = draw_jitter(rng)
    np.testing.assert_array_equal(draw.factors, figures["data/jitter_factors"])
    np.testing.assert_array_equal(draw.order, figures["data/jitter_order"])


@folders
def test_golden_paths(folder, tmp_path):
    classes = {kind.__name__: kind for kind in (KITTIRAWDataset, KITTIOdomDataset, KITTIDepthDataset)}
    for entry in golden(folder, "data")["data/paths"].tolist():
        name, side, path = re.fullmatch(r"(\w+) (\w): (\S+)", entry).groups()
        line = Line("9" if "Odom" in name else DRIVE, 5, side, tmp_path / "list.txt", 1)
        dataset = classes[name](tmp_path, [line], 192, 640, [0])
        assert str(dataset.image_path(line, 0)) == path.replace("ROOT", str(tmp_path))


@folders
@sides
@pytest.mark.parametrize("flip", [0, 1])
def test_golden_kitti_depth(folder, side, flip, tmp_path):
    figures = golden(folder, "data")
    noise = formula_input("depth_png", (123, 411), int(figures["meta/seed"]))
    path = tmp_path / DRIVE / "proj_depth/groundtruth/image_02/0000000005.png"
    path.parent.mkdir(parents=True)
    Image.fromarray(np.clip(8000 + 6000 * noise, 0, 65535).astype(np.uint16)).save(path)
    if side == "port":
        line = Line(DRIVE, 5, "l", tmp_path / "list.txt", 1)
        depth = KITTIDepthDataset(tmp_path, [line], 192, 640, [0]).depth(line, bool(flip))
    else:
        depth = twin.projected_depth(path, bool(flip))
    assert depth.shape == (375, 1242) and depth.dtype == np.float32
    key = f"data/kitti_depth_flip{flip}"
    np.testing.assert_array_equal(depth[::9, ::9], figures[key])
    np.testing.assert_allclose(
        [depth.mean(dtype=float), depth.std(dtype=float), depth.max()], figures[f"{key}/stats"], rtol=1e-6
    )


# --------------------------------------------------------------------------------------------------------------------
# Velodyne
# --------------------------------------------------------------------------------------------------------------------


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
    write_calibration(tmp_path)
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
    write_calibration(tmp_path)
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
    path = tmp_path / DATE / CALIBRATION[file]
    path.write_text(changed(path.read_text(), key, replacement))
    with pytest.raises(InputError) as caught:
        velodyne.read_calibration(tmp_path / DATE)
    one_line(caught, path, complaint)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError) as caught:
        velodyne.read_calibration(tmp_path / DATE)
    one_line(caught, path)
    path.unlink()
    with pytest.raises(InputError) as caught:
        velodyne.read_calibration(tmp_path / DATE)
    one_line(caught, path, "calib")


@pytest.mark.parametrize("content", [b"", b"12345678" * 5, None])
def test_bad_scan(content, tmp_path):
    path = tmp_path / "5.bin"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        velodyne.read_points(path)
    one_line(caught, path, "empty" if content == b"" else "16" if content else "missing")


# --------------------------------------------------------------------------------------------------------------------
# Items on drawn pictures: port against twin, options, keys
# --------------------------------------------------------------------------------------------------------------------


def test_jitter_is_the_closed_form():
    rng = random.Random(0)
    levels = np.stack(np.meshgrid(*3 * [np.arange(0, 256, 15)]), -1).reshape(-1, 18, 3).astype(np.uint8)
    for image in (Image.fromarray(levels), drawn_picture(50, 30, 1), Image.new("RGB", (4, 3), (9, 9, 9))):
        for hue in (-0.1, -0.033, 0.0, 0.004, 0.1, *(rng.uniform(-0.1, 0.1) for _ in range(8))):
            draw = JitterDraw((*(rng.uniform(0.8, 1.2) for _ in range(3)), hue), tuple(rng.sample(range(4), 4)))
            expected = twin.jitter(torch.from_numpy(np.array(image)), draw.factors, draw.order)
            np.testing.assert_array_equal(np.asarray(adjust(image, draw)), expected, err_msg=str(draw))


@pytest.mark.parametrize(
    "changes", [{}, {"resize": "nearest"}, {"jitter": "per_image"}, {"png": True}, {"dataset": "kitti_depth"}]
)
def test_items_equal_the_twins(changes, tmp_path):
    drawn_tree(tmp_path, end=".png" if changes.get("png") else ".jpg")
    for camera in (2, 3):
        depth = np.random.default_rng(camera).integers(0, 65536, (370, 1224)).astype(np.uint16)
        path = tmp_path / DRIVE / f"proj_depth/groundtruth/image_0{camera}/0000000005.png"
        path.parent.mkdir(parents=True)
        Image.fromarray(depth).save(path, compress_level=1)
    write_scan(tmp_path, drawn_scan(500))
    write_split(tmp_path / "splits", f"{DRIVE} 5 l\n{DRIVE} 5 r\n")
    opts = small(tmp_path, seed=4, **changes)
    dataset = datasets.build_dataset(opts, "train")
    coloured = set()
    for epoch in range(3):
        dataset.set_epoch(epoch)
        for index in range(2):
            item = dataset[index]
            equal_items(item, twin.item(opts, "train", index, epoch))
            coloured.add(not np.array_equal(item["color", 0, 0], item["color_aug", 0, 0]))
    assert coloured == {True, False}


def test_jitter_per_item_and_per_image(tmp_path):
    """Equal pictures stay equal with one draw for the item, and differ with a draw for each."""
    drawn_tree(tmp_path)
    for index in (4, 6):
        shutil.copyfile(picture_path(tmp_path, 2, 5), picture_path(tmp_path, 2, index))
    write_split(tmp_path / "splits", f"{DRIVE} 5 l\n")
    for jitter in ("per_item", "per_image"):
        dataset = datasets.build_dataset(small(tmp_path, jitter=jitter), "train")
        item = dataset.item(0, random.Random(2029))
        assert np.array_equal(item["color", 0, 0], item["color", 1, 0])
        assert np.array_equal(item["color_aug", 0, 0], item["color_aug", 1, 0]) == (jitter == "per_item")


@pytest.mark.parametrize("jitter", ["per_item", "per_image"])
def test_chosen_keys_change_nothing_else(jitter, tmp_path):
    write_scan(drawn_tree(tmp_path), drawn_scan(100))
    write_split(tmp_path / "splits", f"{DRIVE} 5 l\n")
    opts = small(tmp_path, jitter=jitter)
    for settings in (opts, argparse.Namespace(**vars(opts) | {"v1_multiscale": True})):
        keys = datasets.training_keys(settings)
        assert ("color", "s", 3) in keys if settings.v1_multiscale else ("color", "s", 1) not in keys
        for seed in (2026, 2029, 2032):
            whole = datasets.build_dataset(opts, "train").item(0, random.Random(seed))
            chosen = datasets.build_dataset(opts, "train", keys).item(0, random.Random(seed))
            assert set(chosen) == set(keys)
            equal_items(chosen, {key: whole[key] for key in chosen})


def test_training_keys():
    keys = datasets.training_keys(options(frame_ids=[0, -1, 1], use_stereo=True))
    pictures = {("color", 0, s) for s in range(4)} | {("color", f, 0) for f in (-1, 1, "s")}
    assert pictures | {("color_aug", f, 0) for f in FRAMES} == {key for key in keys if key[0][:5] == "color"}
    assert {("K", 0), ("inv_K", 0), "stereo_T", "depth_gt"} <= set(keys)


def test_validation_and_test_draw_nothing(tmp_path):
    drawn_tree(tmp_path)
    write_split(tmp_path / "splits", f"{DRIVE} 5 l\n", "val_files.txt")
    write_split(tmp_path / "splits", f"{DRIVE} 0000000005 l\n", "test_files.txt", "eigen")
    for part in ("val", "test"):
        item = datasets.build_dataset(small(tmp_path), part).item(0, None)
        np.testing.assert_array_equal(item["color", 0, 0], item["color_aug", 0, 0])
    assert {key[1] for key in item if key[0] == "color"} == {0} and "stereo_T" not in item and "depth_gt" not in item


def test_odometry(tmp_path):
    for index in range(3):
        for camera in (2, 3):
            path = tmp_path / f"sequences/09/image_{camera}/{index:06d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            drawn_picture(80, 40, index + 10 * camera).save(path, quality=90)
    write_split(tmp_path / "splits", "9 1 r\n", name="odom")
    opts = small(tmp_path, split="odom", dataset="kitti_odom")
    equal_items(datasets.build_dataset(opts, "train")[0], twin.item(opts, "train", 0, 0))
    write_split(tmp_path / "splits", "9 0 l\n9 1 l\n", "test_files_09.txt", "odom")
    test = datasets.build_dataset(options(tmp_path, eval_split="odom_9"), "test")
    assert len(test) == 2 and {key[1] for key in test[1] if key[0] == "color"} == {0, 1}


# --------------------------------------------------------------------------------------------------------------------
# Split files and other bad input
# --------------------------------------------------------------------------------------------------------------------


def fails(root: Path, *parts, part: str = "train", **changes) -> None:
    with pytest.raises(InputError) as caught:
        datasets.build_dataset(small(root, **changes), part)[0]
    one_line(caught, *parts)


@pytest.mark.parametrize(
    "text, complaint",
    [
        (f"{DRIVE}\n", "1 words"),
        (f"{DRIVE} 5 l l\n", "4 words"),
        (f"{DRIVE} five l\n", "'five'"),
        (f"{DRIVE} -5 l\n", "'-5'"),
        (f"{DRIVE} 5 m\n", "'m'"),
        (f"{DRIVE} 5 2\n", "opposite"),
        (f"{DRIVE} 5\n", "no side"),
        (f"{DRIVE} 4 l\n", "frame -1"),
        (f"{DRIVE} 6 l\n", "0000000007.jpg"),
    ],
)
def test_bad_split_line(text, complaint, tmp_path):
    drawn_tree(tmp_path)
    write_split(tmp_path / "splits", text)
    fails(tmp_path, tmp_path / "splits/eigen_zhou/train_files.txt, line 1", complaint)


def test_bad_splits(tmp_path):
    drawn_tree(tmp_path)
    write_split(tmp_path / "splits", f"{DRIVE} 5 l\n\n{DRIVE} 5 q\n")
    fails(tmp_path, "line 3", "'q'")
    write_split(tmp_path / "splits", "\n")
    fails(tmp_path, tmp_path / "splits/eigen_zhou/train_files.txt", "empty")
    fails(tmp_path, tmp_path / "splits/eigen_full", "official split files", split="eigen_full")
    fails(tmp_path, tmp_path / "splits/eigen_zhou/val_files.txt", "no such file", part="val")
    write_split(tmp_path / "splits", "one 5 l\n")
    fails(tmp_path, "line 1", "'one'", dataset="kitti_odom")
    fails(tmp_path, "--data_path", data_path=None)
    fails(tmp_path, "--data_path", tmp_path / "nowhere", data_path=str(tmp_path / "nowhere"))


def test_missing_frame_of_the_other_ending(tmp_path):
    write_split(drawn_tree(tmp_path) / "splits", f"{DRIVE} 5 l\n")
    fails(tmp_path, "0000000005.png", "without --png", png=True)


def test_truncated_jpeg(tmp_path):
    path = picture_path(drawn_tree(tmp_path), 2, 4)
    drawn_picture(416, 125, 0).save(path, "JPEG")
    path.write_bytes(path.read_bytes()[:-300])
    write_split(tmp_path / "splits", f"{DRIVE} 5 l\n")
    fails(tmp_path, path, "truncated")


@pytest.mark.parametrize("content", [b"", b"no picture", None])
def test_unreadable_picture(content, tmp_path):
    path = picture_path(drawn_tree(tmp_path), 2, 4)
    write_split(tmp_path / "splits", f"{DRIVE} 5 l\n")
    path.write_bytes(path.read_bytes()[:2000] if content is None else content)
    fails(tmp_path, path, "cannot be read as a picture")


def test_two_words_and_long_indices(tmp_path):
    lines = datasets.read_split(
        write_split(tmp_path, "image 0\nimage 499\n", "test_files.txt", "benchmark"), "benchmark", "test"
    )
    assert [(line.folder, line.index, line.side) for line in lines] == [("image", 0, None), ("image", 499, None)]
    lines = datasets.read_split(write_split(tmp_path, f"{DRIVE} 0000000069 l\r\n"), "eigen_zhou", "train")
    assert lines[0][:3] == (DRIVE, 69, "l")


# --------------------------------------------------------------------------------------------------------------------
# Loading
# --------------------------------------------------------------------------------------------------------------------


def train_set(root: Path, count: int = 5, **changes) -> datasets.KITTIDataset:
    drawn_tree(root, (80, 40), count + 2)
    text = "".join(f"{DRIVE} {index} {'lr'[index % 2]}\n" for index in range(5, 5 + count))
    write_split(root / "splits", text)
    return datasets.build_dataset(small(root, seed=3, **changes), "train")


def batches(dataset, workers: int, epoch: int = 2, **settings) -> list[dict]:
    loader = datasets.build_loader(dataset, datasets.EpochBatchSampler(len(dataset), **settings), workers)
    loader.set_epoch(epoch)
    found = [{key: value.numpy() for key, value in batch.items()} for batch in loader]
    assert len(found) == len(loader)
    return found


def test_workers_change_nothing(tmp_path):
    dataset, runs = train_set(tmp_path), []
    for workers in (0, 1, 2):
        random.seed(workers), np.random.seed(workers), paddle.seed(workers)  # global generators must not matter
        runs.append(batches(dataset, workers, batch_size=2, seed=3))
    for run in runs:
        assert [len(batch["color", 0, 0]) for batch in run] == [2, 2, 1]
        for batch, first in zip(run, runs[0], strict=True):
            equal_items(batch, first)
    assert runs[0][0]["color", "s", 1].shape == (2, 3, 16, 32) and runs[0][0]["K", 2].shape == (2, 4, 4)


@pytest.mark.parametrize("workers", [0, 2])
def test_training_batches_resume_within_an_epoch(workers, tmp_path):
    dataset = train_set(tmp_path)
    sampler = datasets.EpochBatchSampler(len(dataset), 2, seed=1, drop_last=True)
    loader = datasets.build_loader(dataset, sampler, workers)
    loader.set_epoch(4)
    whole = list(loader)
    assert len(whole) == 2
    loader.set_epoch(4, 1)
    [rest] = loader
    equal_items(rest, whole[1])
    loader.set_epoch(5)
    assert not np.array_equal(next(iter(loader))["color", 0, 0], whole[0]["color", 0, 0])


def test_an_items_draws_are_those_of_its_index(tmp_path):
    """Neither the batch size nor the place in the batch changes an item."""
    dataset = train_set(tmp_path)
    dataset.set_epoch(2)
    for size in (1, 3):
        items = [batch["color_aug", 0, 0] for batch in batches(dataset, 0, batch_size=size, shuffle=False)]
        np.testing.assert_array_equal(
            np.concatenate(items), np.stack([dataset[i]["color_aug", 0, 0] for i in range(5)])
        )


def test_batches_survive_the_next_ones(tmp_path):
    """Shared memory is used again: what was handed out must be a copy."""
    dataset = train_set(tmp_path, 9)
    loader = datasets.build_loader(dataset, datasets.EpochBatchSampler(9, 1, shuffle=False), 2)
    for index, batch in enumerate(list(loader)):
        equal_items({key: value.numpy()[0] for key, value in batch.items()}, dataset[index])


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_comes_through_the_loader(workers, tmp_path):
    dataset = train_set(tmp_path)
    path = picture_path(tmp_path, 2, 8)
    path.write_bytes(path.read_bytes()[:500])
    seen = 0
    with pytest.raises(InputError) as caught:
        for _ in datasets.build_loader(dataset, datasets.EpochBatchSampler(5, 1, shuffle=False), workers):
            seen += 1
    one_line(caught, path, "cannot be read as a picture")
    assert seen == 3 and not multiprocessing.active_children()


@pytest.mark.parametrize("workers", [0, 2])
def test_leaving_a_loop_early_leaves_no_process(workers, tmp_path):
    for _ in datasets.build_loader(train_set(tmp_path, 9), datasets.EpochBatchSampler(9, 1), workers):
        break
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and multiprocessing.active_children():
        time.sleep(0.05)
    assert not multiprocessing.active_children()


def keys_of(epoch: int = 0, start: int = 0, **settings) -> list[list[int]]:
    sampler = datasets.EpochBatchSampler(**settings)
    sampler.set_epoch(epoch, start)
    found = list(sampler)
    assert len(found) == len(sampler)
    return found


def test_sampler():
    orders = {tuple(sum(keys_of(e, length=23, batch_size=4, seed=s), [])) for s in (0, 1) for e in (0, 1)}
    assert len(orders) == 4 and all(sorted(order) == list(range(23)) for order in orders)
    assert datasets.EpochBatchSampler(39810, 12, drop_last=True).steps_per_epoch == 3317  # NOTES 2.1
    whole = keys_of(3, length=31, batch_size=4, rank=1, world=2, drop_last=True)
    assert keys_of(3, 2, length=31, batch_size=4, rank=1, world=2, drop_last=True) == whole[2:]
    ranks = [sum(keys_of(2, length=23, batch_size=3, rank=rank, world=4), []) for rank in range(4)]
    order = np.random.default_rng([0, 2]).permutation(23)
    assert [key for group in zip(*ranks, strict=True) for key in group] == [*order, order[0]]
    with pytest.raises(InputError) as caught:
        datasets.EpochBatchSampler(7, 12, drop_last=True)
    one_line(caught, "7", "--batch_size 7")


# --------------------------------------------------------------------------------------------------------------------
# Ground truth
# --------------------------------------------------------------------------------------------------------------------


def ground_truth_tree(root: Path) -> Path:
    """Two drives of different days and picture sizes, with a scan and a projected depth each."""
    lines = ""
    for number, (date, size) in enumerate({"2011_09_26": "1242 375", "2011_09_28": "1224 370"}.items()):
        folder = f"{date}/{date}_drive_0001_sync"
        for name in CALIBRATION:
            text = str(golden("committed", "data")[f"data/{name}"])
            (root / date).mkdir(parents=True, exist_ok=True)
            (root / date / name).write_text(changed(text, "S_rect_02", f"S_rect_02: {size}"))
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
    maps = datasets.read_gt_depths(path)
    for depth, reference in zip(maps, np.load(path, allow_pickle=True)["data"], strict=True):
        assert depth.dtype == reference.dtype == np.float32
        np.testing.assert_array_equal(depth, reference)
    for depth, direct in zip(maps, datasets.ground_truth(root, split, root / "splits"), strict=True):
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
    with pytest.raises(InputError) as caught:
        export_gt_depth.main([*arguments, "eigen"])
    one_line(caught, "test_files.txt, line 2", "0000000003.bin")
    assert not (root / "splits/eigen/gt_depths.npz").exists()
    (root / "2011_09_26/2011_09_26_drive_0001_sync/proj_depth/groundtruth/image_02/0000000003.png").unlink()
    with pytest.raises(InputError) as caught:
        export_gt_depth.main([*arguments, "eigen_benchmark"])
    one_line(caught, "test_files.txt, line 1", "0000000003.png")


def test_maps_of_one_size_and_plain_arrays(tmp_path):
    maps = [np.full((2, 3), value, np.float32) for value in (1, 2)]
    datasets.write_gt_depths(tmp_path / "a.npz", maps)
    np.savez(tmp_path / "b.npz", data=np.stack(maps))  # what the reference's old numpy made of equal sizes
    for name in ("a", "b"):
        read = datasets.read_gt_depths(tmp_path / f"{name}.npz")
        assert len(read) == 2 and np.array_equal(read, maps)


class Bomb:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_ground_truth_files_run_nothing(tmp_path):
    path = tmp_path / "gt.npz"
    boxed = np.empty(2, object)
    boxed[:] = [np.zeros((2, 2), np.float32), Bomb(tmp_path / "touched")]
    np.savez(path, data=boxed)
    with pytest.raises(InputError) as caught:
        datasets.read_gt_depths(path)
    one_line(caught, path, "nothing was executed")
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
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        datasets.read_gt_depths(path)
    one_line(caught, path)


def test_missing_ground_truth(tmp_path):
    with pytest.raises(InputError) as caught:
        datasets.read_gt_depths(tmp_path / "gt.npz")
    one_line(caught, tmp_path / "gt.npz", "no such file", "export_gt_depth.py")
