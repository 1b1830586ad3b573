"""The data side against the golden figures of the official code, against the torch twin, and against itself."""

import argparse
import random
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from shared.align.formula import formula_input
from shared.running.sampling import EpochBatchSampler

import datasets
from data_sets import (
    DATE,
    DRIVE,
    check_map,
    drawn_image,
    drawn_scan,
    golden_tree,
    image_path,
    picture_test,
    refused,
    write_calibration,
    write_image,
    write_scan,
    write_split,
)
from datasets.kitti import KITTIDepthDataset, KITTIOdomDataset, KITTIRAWDataset
from datasets.splits import Line, read_split
from datasets.transforms import JitterDraw, adjust, draw_jitter
from golden_files import files_of, golden
from options import parse_options
from reference import data as twin

FRAMES = [0, -1, 1, "s"]
folders = pytest.mark.parametrize("folder", files_of("data"))
sides = pytest.mark.parametrize("side", ["port", "twin"])


# ------------------------------------------------------------------------------------ a tree of one drive


def drawn_tree(root: Path, size: tuple[int, int] = (416, 125), count: int = 3, end: str = ".jpg") -> Path:
    for camera in (2, 3):
        for index in range(4, 4 + count):
            write_image(image_path(root, camera, index, end), drawn_image(*size, 10 * camera + index))
    write_calibration(root / DATE)
    return root


def options(root: Path | None = None, **changes) -> argparse.Namespace:
    """The default options, and the splits folder inside the tree."""
    given = {"data_path": str(root), "split_dir": str(root / "splits")} if root else {}
    return argparse.Namespace(**(vars(parse_options([])) | given | changes))


def small(root: Path, **changes) -> argparse.Namespace:
    """Pictures of 64 x 32 with all four frames, for tests of many items."""
    return options(root, **({"height": 32, "width": 64, "use_stereo": True} | changes))


def equal_items(item: dict, expected: dict) -> None:
    assert item.keys() == expected.keys()
    for key in item:
        ours, theirs = np.asarray(item[key]), np.asarray(expected[key])
        assert ours.dtype == theirs.dtype == np.float32, key
        np.testing.assert_array_equal(ours, theirs, err_msg=str(key))


# ------------------------------------------------------------------------------------ Golden: items


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
            np.testing.assert_allclose(value, figures[f"data/{name}_{scale}"], rtol=1e-6, atol=1e-6)


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
    path = image_path(tmp_path, 2 if camera_side == "l" else 3, 5)
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


# ------------------------------------------------------------------------------------ items on drawn images


def test_jitter_is_the_closed_form():
    rng = random.Random(0)
    levels = np.stack(np.meshgrid(*3 * [np.arange(0, 256, 15)]), -1).reshape(-1, 18, 3).astype(np.uint8)
    for image in (Image.fromarray(levels), drawn_image(50, 30, 1), Image.new("RGB", (4, 3), (9, 9, 9))):
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
        shutil.copyfile(image_path(tmp_path, 2, 5), image_path(tmp_path, 2, index))
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
            drawn_image(80, 40, index + 10 * camera).save(path, quality=90)
    write_split(tmp_path / "splits", "9 1 r\n", name="odom")
    opts = small(tmp_path, split="odom", dataset="kitti_odom")
    equal_items(datasets.build_dataset(opts, "train")[0], twin.item(opts, "train", 0, 0))
    write_split(tmp_path / "splits", "9 0 l\n9 1 l\n", "test_files_09.txt", "odom")
    test = datasets.build_dataset(options(tmp_path, eval_split="odom_9"), "test")
    assert len(test) == 2 and {key[1] for key in test[1] if key[0] == "color"} == {0, 1}


# ------------------------------------------------------------------------------------ Split files and other bad input


def fails(root: Path, *parts, part: str = "train", **changes) -> None:
    refused(lambda words: datasets.build_dataset(small(root, **changes), part)[0], [], *parts)


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
    path = image_path(drawn_tree(tmp_path), 2, 4)
    drawn_image(416, 125, 0).save(path, "JPEG")
    path.write_bytes(path.read_bytes()[:-300])
    write_split(tmp_path / "splits", f"{DRIVE} 5 l\n")
    fails(tmp_path, path, "truncated")


def test_two_words_and_long_indices(tmp_path):
    lines = read_split(
        write_split(tmp_path, "image 0\nimage 499\n", "test_files.txt", "benchmark"), "benchmark", "test"
    )
    assert [(line.folder, line.index, line.side) for line in lines] == [("image", 0, None), ("image", 499, None)]
    lines = read_split(write_split(tmp_path, f"{DRIVE} 0000000069 l\r\n"), "eigen_zhou", "train")
    assert lines[0][:3] == (DRIVE, 69, "l")


# ------------------------------------------------------------------------------------ Batches


@pytest.mark.parametrize("workers", [0, 2])
def test_batches(workers, tmp_path):
    """Those of the items, whose draws depend on (seed, epoch, index) and nothing else."""
    drawn_tree(tmp_path, (80, 40), 7)
    write_split(tmp_path / "splits", "".join(f"{DRIVE} {index} {'lr'[index % 2]}\n" for index in range(5, 10)))
    dataset = datasets.build_dataset(small(tmp_path, seed=3), "train")
    items = {}
    for epoch in (2, 3):
        dataset.set_epoch(epoch)
        items[epoch] = [dataset[index] for index in range(5)]
    assert any(
        not np.array_equal(*pair) for pair in zip(*([i["color", 0, 0] for i in items[e]] for e in items), strict=True)
    )
    random.seed(workers), np.random.seed(workers)  # global generators do not matter
    for size in (2, 3):
        loader = datasets.build_loader(dataset, EpochBatchSampler(5, size, seed=3), workers)
        loader.set_epoch(2)
        order = loader.sampler.order()
        for number, batch in enumerate(loader):
            for row, index in enumerate(order[number * size : (number + 1) * size]):
                equal_items({key: value.numpy()[row] for key, value in batch.items()}, items[2][index])
    assert batch["color", "s", 1].shape == [2, 3, 16, 32] and batch["K", 2].shape == [2, 4, 4]
