"""The data side against the golden figures of the official code, against closed forms, and against itself."""

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import paddle
import pytest
from PIL import Image

from shared.running.sampling import EpochBatchSampler

from constants import CLASSES, MEAN_SIZES
from datasets import build_dataset, build_loader, read_calibration, read_objects
from datasets.geometry import Calibration, affine_maps, apply, warp
from datasets.objects import parse_objects
from datasets.targets import angle2class, class2angle, draw_umich_gaussian, gaussian2D, gaussian_radius
from golden_files import DATA, close, fails, golden, lay_out, near
from options import parse_options
from reference import data as twin

EXACT = {"rtol": 1e-12, "atol": 1e-12}
LOOSE = {"rtol": 1e-6, "atol": 1e-9}

# ------------------------------------------------------------------------------------------------------- golden: units


def numbered(prefix: str) -> list[str]:
    """The k of `prefix`k/... among the keys of gupnet_units.npz."""
    found = (re.match(rf"{prefix}(\d+)", key) for key in golden("units"))
    return sorted({match[1] for match in found if match}, key=int)


def test_golden_radii():
    figures = golden("units")
    np.testing.assert_allclose(gaussian_radius(*figures["input/radius_wh"].T), figures["output/radius"], **EXACT)
    wanted = [max(0, int(value)) for value in figures["output/radius"]]
    assert [twin.radius(*pair) for pair in figures["input/radius_wh"]] == wanted


@pytest.mark.parametrize("radius", numbered("output/gaussian/"))
def test_golden_gaussians(radius):
    np.testing.assert_allclose(gaussian2D(int(radius)), golden("units")[f"output/gaussian/{radius}"], **EXACT)


def test_golden_painted_map():
    figures = golden("units")
    heatmap, painted = (np.zeros_like(figures["output/gaussian_drawn"]) for _ in range(2))
    for column, row, radius in figures["input/gaussian_places"].tolist():
        draw_umich_gaussian(heatmap, column, row, radius)
        np.maximum(painted, twin.gaussian((column, row), radius, *painted.shape), out=painted)
    near(heatmap, figures["output/gaussian_drawn"], 1e-7)
    near(painted, figures["output/gaussian_drawn"], 1e-7)


def test_golden_heading():
    figures = golden("units")
    bins, residual = angle2class(figures["input/angles"])
    np.testing.assert_array_equal(bins, figures["output/angle_bin"])
    np.testing.assert_allclose(residual, figures["output/angle_res"], **EXACT)
    np.testing.assert_allclose(class2angle(bins, residual), figures["output/angle_back"], **EXACT)
    for angle, number, rest in zip(figures["input/angles"], figures["output/angle_bin"], residual, strict=True):
        assert twin.heading_class(float(angle)) == (number, pytest.approx(rest, abs=1e-12))


def test_golden_affine_maps():
    figures = golden("units")
    for k, (x, y, width, _) in enumerate(figures["input/affine_center_crop"]):
        for maps in (affine_maps, twin.affine):
            forward, inverse = maps(np.array([x, y]), width, (1280, 384))
            np.testing.assert_allclose(forward, figures["output/affine"][k], **EXACT)
            np.testing.assert_allclose(inverse, figures["output/affine_inverse"][k], **EXACT)


@pytest.mark.parametrize("k", numbered("input/calib/"))
def test_golden_calibration(k):
    figures = golden("units")
    given = {name: figures[f"input/calib/{k}/{name}"] for name in ("P2", "points", "size")}
    wanted = {key.split("/")[-1]: value for key, value in figures.items() if key.startswith(f"output/calib/{k}/")}
    camera, points = Calibration(given["P2"]), given["points"]
    np.testing.assert_array_equal(camera.shift, wanted["tx_ty"])
    pixels = camera.project(points)
    np.testing.assert_allclose(pixels, wanted["image_points"], **EXACT)
    back = camera.back_project(*pixels.T, points[:, 2])
    np.testing.assert_allclose(back, wanted["back_points"], **LOOSE)
    np.testing.assert_allclose(back, points, rtol=1e-5, atol=1e-4)
    mirrored = camera.mirrored(*given["size"].tolist())
    np.testing.assert_allclose(mirrored.P2, wanted["flipped_P2"], rtol=1e-6, atol=1e-6)
    close(twin.mirrored(given["P2"], *given["size"]), wanted["flipped_P2"], 1e-6)
    np.testing.assert_allclose(
        mirrored.project(points * [-1, 1, 1]), wanted["flipped_image_points"], rtol=1e-6, atol=1e-4
    )


def test_golden_difficulty():
    figures = golden("units")
    np.testing.assert_array_equal(parse_objects(figures["input/level_lines"], "lines").levels, figures["output/level"])
    levels = [twin.LEVELS.index(label.level) for label in twin.labels("\n".join(figures["input/level_lines"]))]
    assert levels == figures["output/level"].tolist()


# --------------------------------------------------------------------------------------------------- golden: data set


@pytest.fixture(scope="module")
def kitti(tmp_path_factory) -> Path:
    return lay_out(tmp_path_factory.mktemp("kitti"), "data")


def options(root: Path, *words: str):
    return parse_options(["--data_path", str(root), *words])


@pytest.fixture(params=["data set", "twin"])
def read(request, kitti):
    """(options, split, index, generator or None) -> a sample, by the data set or by the torch twin's reader."""

    def by_data_set(words, split, index, rng):
        dataset = build_dataset(options(kitti, *words), split)
        assert dataset.ids == golden("data")["meta/ids"].tolist()
        sample = dataset.item(index, rng)
        dtypes = {name: golden("data")[f"data/val/0/{name}"].dtype for name in sample.targets}
        assert {name: value.dtype for name, value in sample.targets.items()} == dtypes
        return sample

    def by_twin(words, split, index, rng):
        return twin.sample(options(kitti, *words), split, index, rng)

    return {"data set": by_data_set, "twin": by_twin}[request.param]


def check_sample(sample, prefix: str, names: Sequence[str] = ()) -> None:
    """These fields of a sample, or all, are equal to the figures, heading_res but for its dtype (NOTES 3.15)."""
    image, calib, coord_range, targets, info = sample
    fields = {"P2": calib, "coord_range": coord_range} | targets | info
    if DATA:
        wide = image.astype(np.float64)
        stats = [wide.mean(), wide.std(), np.abs(wide).max()]
        fields |= {"image_slice": image[:, ::16, ::16], "image_stats": stats}
    for name in names or fields:
        limit = {"heading_res": 1e-6, "image_stats": 1e-6}.get(name, 0)
        near(fields[name], golden("data")[f"{prefix}/{name}"], limit, f"{prefix}/{name}")


def test_golden_samples(read):
    """Without augmentation; and 18 by one generator in the reference's order, with the number after them."""
    for k in range(6):
        check_sample(read((), "val", k, None), f"data/val/{k}")
    rng = np.random.RandomState(int(golden("data")["meta/numpy_seed"]))
    for k in range(18):
        check_sample(read((), "train", k % 6, rng), f"data/train/{k}")
    assert rng.random() == golden("data")["data/train/next_random"]


@pytest.mark.parametrize(
    "variant, words",
    [("merge", "--class_merging true"), ("center2d", "--use_3d_center false"), ("dontcare", "--use_dontcare true")],
)
def test_golden_variants(read, variant, words):
    names = ("heatmap", "indices", "offset_2d", "offset_3d", "mask_2d")
    for k in range(6):
        check_sample(read(words.split(), "val", k, None), f"data/{variant}/{k}", names)


if DATA:  # the real frames; the other figures of this part are the network's

    def test_golden_full_input(tmp_path):
        dataset = build_dataset(options(lay_out(tmp_path, "full")), "val")
        images = np.stack([dataset[k].image for k in range(len(dataset))]).astype(np.float64)
        stats = [images.mean(), images.std(), np.abs(images).max()]
        np.testing.assert_allclose(stats, golden("full")["input/image_stats"], rtol=1e-6, atol=1e-6)


# ------------------------------------------------------------------------------------------------ what must always hold


def mini_options(root: Path, *words: str):
    return options(root, "--input_size", "320", "96", *words)


def same(first, second) -> None:
    """Two samples or batches with the same bits."""
    for one, other in zip(first, second, strict=True):
        if isinstance(one, dict):
            assert one.keys() == other.keys()
            one, other = list(one.values()), list(other.values())
        else:
            one, other = [one], [other]
        for a, b in zip(one, other, strict=True):
            np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


@pytest.mark.parametrize("augment", [False, True])
def test_targets_lead_back_to_the_labels(mini, augment):
    """From a target's cell, offsets, sizes and bins, through the crop and the camera, to what the label says."""
    found, mirrored = 0, set()
    for split, epoch in [("train", epoch) for epoch in range(4)] if augment else [("train", 0), ("val", 0)]:
        dataset = build_dataset(mini_options(mini), split, augment)
        dataset.set_epoch(epoch)
        for k in range(len(dataset)):
            sample, objects = dataset[k], read_objects(dataset.path(k, "label_2"))
            flipped = not np.array_equal(sample.calib, read_calibration(dataset.path(k, "calib")).P2)
            mirrored.add(flipped)
            found += check_targets(sample, objects.mirrored(sample.info["img_size"][0]) if flipped else objects)
    assert found > 20 and mirrored == ({False, True} if augment else {False})


def check_targets(sample, wanted) -> int:
    """That a sample's targets say what its objects are; the number of objects."""
    targets, camera = sample.targets, Calibration(sample.calib)
    low, high = sample.coord_range.astype(np.float64)
    scale = (high - low)[0] / 80  # pixels of the image per cell, on both axes
    origin = (low + high) / 2 - scale * np.array([40, 12])
    slots = np.flatnonzero(targets["mask_2d"])
    cells, classes = np.stack(divmod(targets["indices"][slots], 80)[::-1], -1), targets["cls_ids"][slots]
    middle = origin + scale * (cells + targets["offset_2d"][slots])
    size = scale * targets["size_2d"][slots]
    np.testing.assert_allclose(np.hstack([middle - size / 2, middle + size / 2]), wanted.boxes[slots], atol=2e-3)
    sizes = targets["size_3d"][slots] + MEAN_SIZES[classes]
    np.testing.assert_allclose(sizes, wanted.sizes[slots], atol=1e-6)
    centre = origin + scale * (cells + targets["offset_3d"][slots])
    position = camera.back_project(*centre.T, targets["depth"][slots, 0])
    position[:, 1] += sizes[:, 0] / 2
    np.testing.assert_allclose(position, wanted.positions[slots], atol=1e-3)
    alpha = class2angle(targets["heading_bin"][slots, 0], targets["heading_res"][slots, 0])
    turn = camera.rotation_of(alpha, middle[:, 0]) - wanted.rotations[slots]
    np.testing.assert_allclose(np.cos(turn), 1, atol=1e-9)
    assert [CLASSES[c] for c in classes] == [wanted.types[slot] for slot in slots]
    assert (targets["heatmap"][classes, cells[:, 1], cells[:, 0]] == 1).all() and targets["heatmap"].max() <= 1
    return len(slots)


def test_image_is_where_the_affine_map_says():
    """A bright spot of the picture arrives at the cell that the targets' map gives it."""
    spots = Image.new("RGB", (1242, 375))
    places = [(100, 60), (621, 187), (1100, 300)]
    for x, y in places:
        spots.paste((255, 255, 255), (x - 4, y - 4, x + 5, y + 5))
    for centre, width in (((621, 187.5), 1242), ((500, 150), 1700), ((700, 200), 900)):
        forward, inverse = affine_maps(np.array(centre), width, (1280, 384))
        warped = np.asarray(warp(spots, inverse, (1280, 384)).convert("L"), np.float64)
        for place in apply(forward, np.array(places) + 0.5):  # Pillow counts from the corner of the first pixel
            column, row = place.round().astype(int)
            if 12 < column < 1268 and 12 < row < 372:
                part = warped[row - 12 : row + 12, column - 12 : column + 12]
                grid = np.arange(-12, 12) + 0.5
                spot = np.array([(part * grid).sum(), (part * grid[:, None]).sum()]) / part.sum()
                assert np.abs(spot + [column, row] - place).max() < 0.2  # half a pixel would be a mistake


def test_draws_depend_on_seed_epoch_and_index_only(mini):
    dataset = build_dataset(mini_options(mini), "train")
    first = [dataset[k] for k in range(len(dataset))]
    same(dataset[1], first[1])
    dataset.set_epoch(1)
    assert any(not np.array_equal(dataset[k].image, first[k].image) for k in range(len(dataset)))
    dataset.set_epoch(0)
    same(dataset[1], first[1])
    other = build_dataset(mini_options(mini, "--seed", "9"), "train")
    assert any(not np.array_equal(other[k].image, first[k].image) for k in range(len(dataset)))
    plain = build_dataset(mini_options(mini), "train", augment=False)
    assert (plain[0].coord_range == [[0, 0], [640, 192]]).all()


def test_test_split_has_no_targets(mini):
    sample = build_dataset(mini_options(mini), "test")[1]
    assert sample.targets == {} and sample.info["img_id"] == 1 and sample.image.shape == (3, 96, 320)


def test_batches_are_the_samples_stacked(mini):
    """Of a split with and without targets, and by workers the same bits."""
    for split in ("train", "test"):
        dataset = build_dataset(mini_options(mini), split)
        for epoch in (0, 1):
            batches = []
            for workers in (0, 1):
                sampler = EpochBatchSampler(len(dataset), 3, split == "train", seed=5)
                loader = build_loader(dataset, sampler, workers)
                loader.set_epoch(epoch)
                batches.append(list(loader))
            for batch, other in zip(*batches, strict=True):
                same(batch, other)
            samples = [dataset[index] for indices in sampler for index in indices]
            for row, sample in enumerate(samples[:3]):
                same([field[row] for field in batches[0][0][:3]], [sample.image, sample.calib, sample.coord_range])
                for name, value in (sample.targets | sample.info).items():
                    stacked = (batches[0][0].targets | batches[0][0].info)[name]
                    np.testing.assert_array_equal(np.asarray(stacked[row]), value)
            assert [len(batch.images) for batch in batches[0]] == ([3, 1] if split == "train" else [2])
    images, calibs, coord_ranges, targets, info = batches[0][0]
    assert images.dtype == calibs.dtype == coord_ranges.dtype == paddle.float32 and targets == {}
    assert info["bbox_downsample_ratio"].dtype == np.float64


def test_both_places_of_the_root(mini, tmp_path):
    (tmp_path / "KITTI").symlink_to(mini)
    assert build_dataset(mini_options(tmp_path), "val").ids == build_dataset(mini_options(mini), "val").ids


# ----------------------------------------------------------------------------------------------------------- bad input


def damage(root: Path, name: str, change) -> Path:
    """Change, or with None remove, a file of the copy of the mini data; returns its path."""
    path = root / name
    if change is None:
        path.unlink()
    else:
        path.write_bytes(change(path.read_bytes()) if callable(change) else change)
    return path


@pytest.mark.parametrize(
    "name, change, reason",
    [
        ("training/image_2/000000.png", None, "no such file"),
        ("training/label_2/000000.txt", None, "no such file"),
        ("training/calib/000000.txt", None, "no such file"),
        ("training/image_2/000000.png", lambda content: content[: len(content) // 2], "cannot be read as a picture"),
        ("training/image_2/000000.png", b"", "an empty file"),
        ("training/image_2/000000.png", b"GIF? no", "not a picture"),
        ("ImageSets/train.txt", None, "no such list"),
        ("ImageSets/train.txt", b"\n \n", "is empty"),
        ("ImageSets/train.txt", b"000000\nsix\n", "'six' is not a frame number"),
        ("ImageSets/train.txt", b"-1\n", "'-1' is not a frame number"),
        ("ImageSets/train.txt", b"9" * 5000, "is not a frame number"),
        ("ImageSets/train.txt", b"999\n998", "nor 1 others, though"),
    ],
)
def test_bad_data_sets(mini, name, change, reason, tmp_path):
    root = tmp_path / "copy"
    shutil.copytree(mini, root)
    path = damage(root, name, change)
    expected = [str(path)] if "others" not in reason else [str(root / "training/image_2/000999.png"), str(path)]
    fails(lambda: [dataset := build_dataset(mini_options(root), "train"), dataset[0]], reason, *expected)


def test_bad_roots(tmp_path):
    fails(lambda: build_dataset(parse_options([]), "train"), "--data_path is missing", "draw_mini.py")
    fails(lambda: build_dataset(options(tmp_path / "none"), "train"), "no such folder")
    fails(lambda: build_dataset(options(tmp_path), "train"), "neither ImageSets/ nor training/")
    (tmp_path / "file").write_text("")
    fails(lambda: build_dataset(options(tmp_path / "file"), "train"), "not a folder")


def test_windows_lists(mini, tmp_path):
    root = tmp_path / "copy"
    shutil.copytree(mini, root)
    ids = build_dataset(mini_options(root), "train").ids
    (root / "ImageSets/train.txt").write_bytes("".join(f"{index:06d} \r\n" for index in ids).encode() + b"\r\n")
    assert build_dataset(mini_options(root), "train").ids == ids
