"""Reading, transforms and batches of Paddle and of the twin against the golden figures, and against themselves."""

import json
import random
from pathlib import Path

import numpy as np
import paddle
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some
from PIL import Image

from shared import InputError
from shared.running.sampling import EpochBatchSampler

from data_sets import annotation, lay_out, small_options, small_set
from datasets import (
    EvalTransform,
    TrainTransform,
    build_dataset,
    build_loader,
    pad_images,
    prepare_target,
    transforms,
)
from datasets.categories import CATEGORIES
from golden_files import DATA, close, golden, sliced, statistics
from networks import SIDES
from options import parse_options
from reference import data as reading

FILE = golden("data")
both = pytest.mark.parametrize("side", SIDES)


class Recorded:
    """Python's draws from a seed, recorded as the official run's were."""

    def __init__(self, seed: int):
        self.source, self.log = random.Random(seed), []

    def random(self) -> float:
        self.log.append(f"random={(value := self.source.random()):.6f}")
        return value

    def choice(self, values):
        self.log.append(f"choice{len(values)}={(value := self.source.choice(values))}")
        return value

    def randint(self, low: int, high: int) -> int:
        self.log.append(f"randint[{low},{high}]={(value := self.source.randint(low, high))}")
        return value


@pytest.fixture(scope="module")
def official(tmp_path_factory):
    """Options of a folder in COCO's layout with the golden annotations; its images are the real ones or grey."""
    root = tmp_path_factory.mktemp("golden")
    (root / "annotations").mkdir()
    for split in ("train", "val"):
        content = bytes(FILE["input/annotations_json"])
        (root / "annotations" / f"instances_{split}2017.json").write_bytes(content)
        if DATA:
            (root / f"{split}2017").symlink_to(DATA / "coco")
            continue
        (root / f"{split}2017").mkdir()
        for entry in json.loads(content)["images"]:
            image = Image.new("RGB", (entry["width"], entry["height"]), (90, 90, 90))
            image.save(root / f"{split}2017" / entry["file_name"])
    return parse_options(["--data_path", str(root)])


def check_sample(key: str, sample: tuple) -> None:
    """A sample against the figures `key`: exact for labels and sizes, 1e-6 for boxes and areas, 1e-5 for pixels."""
    image, target = sample
    for name, value in target.items():
        assert value.dtype == FILE[f"{key}/{name}"].dtype, f"{key}/{name}"
        bounds = {"rtol": 1e-6, "atol": 1e-7} if name in ("boxes", "area") else {"rtol": 0, "atol": 0}
        np.testing.assert_allclose(value, FILE[f"{key}/{name}"], **bounds, err_msg=f"{key}/{name}")
    assert image.dtype == np.float32 and image.shape == (3, *target["size"])
    if DATA:
        close(sliced(FILE, f"{key}/image", image), FILE[f"{key}/image"], 1e-5, key, relative=False)
        close(statistics(image), FILE[f"{key}/image/stats"], 1e-5, key, relative=False)
        wide = image.astype(np.float64)
        channels = np.stack([wide.mean((1, 2)), wide.std((1, 2))])
        close(channels, FILE[f"{key}/channel_mean_std"], 1e-5, key, relative=False)
    elif f"meta/shape/{key}/image" in FILE.files:
        assert image.shape == tuple(FILE[f"meta/shape/{key}/image"])


# -------------------- Golden


def test_golden_count_of_left_out_boxes(official, capsys):
    build_dataset(official, "val")
    # Of each of the three annotated images: one box of no width, one beyond the right edge.
    line = capsys.readouterr().err
    assert line.count("\n") == 1 and "6 boxes lie outside" in line and "(annotation 9, 10, 21, 22, 33, ...)" in line


@both
def test_golden_val(official, side):
    ids, read = SIDES[side].open_split(official, "val")
    np.testing.assert_array_equal(ids, FILE["data/ids"])
    samples = [read(0, index) for index in range(len(ids))]
    for index, sample in enumerate(samples):
        check_sample(f"data/val/{index}", sample)
    if DATA:
        images, mask = SIDES[side].pad([image[:, ::4, ::4] for image, _ in samples[:3]])
        assert list(images.shape) == FILE["data/collate/shape"].tolist()
        np.testing.assert_array_equal((~mask).sum((1, 2)), FILE["data/collate/valid"])
        np.testing.assert_array_equal(sliced(FILE, "data/collate/mask", mask), FILE["data/collate/mask"])
        close(sliced(FILE, "data/collate/tensors", images), FILE["data/collate/tensors"], 1e-5, relative=False)
        close(statistics(images), FILE["data/collate/tensors/stats"], 1e-5, relative=False)


@both
@pytest.mark.parametrize("generator", ["python", "torch"])
@pytest.mark.parametrize("run", range(len(FILE["meta/train_seeds"])))
def test_golden_train(official, generator, run, side):
    """The official draws in the official order, the crop's corner from Python's generator or from torch's."""
    seed, corners = int(FILE["meta/train_seeds"][run]), []
    draws, torch_draws = Recorded(seed), torch.Generator().manual_seed(seed)

    def draw(low: int, high: int) -> int:
        corners.append(int(torch.randint(low, high + 1, (1,), generator=torch_draws)))
        return corners[-1]

    corner = draw if generator == "torch" else None
    if side == "torch":
        source = reading.Reading(official, "train")
        twin_corner = corner and (lambda *largest: [draw(0, most) for most in largest])

        def read(index: int) -> tuple:
            return source.item(index, draws, twin_corner)
    else:
        source = build_dataset(official, "train")

        def read(index: int) -> tuple:
            return source.transform(*source.read(index), draws, corner)

    for index in range(len(source)):
        draws.log.clear(), corners.clear()
        sample, key = read(index), f"data/train_{generator}/{run}/{index}"
        if corners:
            draws.log.insert(-1, f"torch_randint={','.join(map(str, corners))}")
        assert draws.log == str(FILE[f"{key}/draws"]).split()
        check_sample(key, sample)


def test_golden_resize_sizes():
    for width, height, short, limit, *expected in FILE["data/resize_sizes"].tolist():
        assert list(transforms.resized_size((width, height), short, limit or None)) == expected
        assert list(reading.resized_size(width, height, short, limit or None)) == expected


def test_golden_shares_of_processes():
    """The official permutations are torch's; the figures hold how a permutation is dealt out."""
    pieces, compared = golden("pieces"), 0
    for key in (key for key in pieces.files if key.startswith("data/sampler/")):
        _, _, split, epoch, rank = key.split("/")
        generator = torch.Generator().manual_seed(int(epoch[5:]))
        order = torch.randperm(23, generator=generator).numpy() if split == "train" else np.arange(23)
        sampler = EpochBatchSampler(23, 2, rank=int(rank[4:]), world=4, contiguous=True)
        sampler.order = lambda order=order: order
        np.testing.assert_array_equal(sampler.keys(), pieces[key])
        compared += 1
    assert compared == 16


# -------------------- Targets and transforms by hand

SIZE = (60, 40)


def target_of(*boxes, size=SIZE) -> dict:
    return prepare_target(7, [annotation(list(box)) for box in boxes], size)


def test_target_by_hand():
    found = [annotation([5, 6, 10, 20], 3, 55.5), annotation([-4, 30, 100, 50], 9, 7.25), annotation([60, 0, 5, 5])]
    found += [annotation([3, 3, 0, 9]), annotation([3, 3, 9, 0]), annotation([3, -9, 9, 9]), annotation([9, 9, -2, 5])]
    target = prepare_target(7, found, SIZE)
    np.testing.assert_array_equal(target["boxes"], np.float32([[5, 6, 15, 26], [0, 30, 60, 40]]))
    assert target["labels"].tolist() == [3, 9] and target["area"].tolist() == [55.5, 7.25]
    assert target["iscrowd"].tolist() == [0, 0] and target["iscrowd"].dtype == np.int64
    assert target["orig_size"].tolist() == target["size"].tolist() == [40, 60] and target["image_id"].tolist() == [7]


def test_dtypes_as_the_reference_has_them():
    assert target_of((1, 1, 4, 4))["area"].dtype == np.int64  # whole numbers only
    assert target_of((1, 1, 4, 4.0))["area"].dtype == np.float32
    empty = target_of()
    assert empty["boxes"].shape == (0, 4) and empty["boxes"].dtype == np.float32
    assert empty["labels"].dtype == np.int64 and empty["labels"].shape == (0,)
    assert empty["area"].dtype == empty["iscrowd"].dtype == np.float32
    nothing_left = target_of((60, 0, 5, 5))
    assert nothing_left["iscrowd"].dtype == np.int64 and nothing_left["boxes"].shape == (0, 4)


def test_no_transform_changes_what_it_is_given():
    image, target = Image.new("RGB", SIZE, (9, 99, 200)), target_of((5, 6, 10, 20), (20, 10, 30, 20.5))
    before = {key: value.copy() for key, value in target.items()}
    transform = TrainTransform([30, 50], 90, [45], (20, 40))
    for seed in range(8):
        transform(image, target, random.Random(seed))
    for key, value in before.items():
        np.testing.assert_array_equal(target[key], value)


def bright_box(image: np.ndarray) -> np.ndarray:
    """[x0, y0, x1, y1] of where a normalised picture is bright, by shares of its sides."""
    there = (image * transforms.STD + transforms.MEAN).mean(0) > 0.5
    rows, columns = np.flatnonzero(there.any(1)), np.flatnonzero(there.any(0))
    height, width = there.shape
    return np.array([columns[0] / width, rows[0] / height, (columns[-1] + 1) / width, (rows[-1] + 1) / height])


@settings(max_examples=60, deadline=None)
@given(some.integers(0, 10**6))
def test_boxes_go_where_their_pixels_go(seed):
    """A white rectangle on black, through all of the training transform: its box is still where it is white."""
    place = np.random.default_rng(seed)
    width, height = (int(side) for side in place.integers(60, 160, 2))
    x, y = int(place.integers(0, width - 30)), int(place.integers(0, height - 30))
    w, h = int(place.integers(20, width - x + 1)), int(place.integers(20, height - y + 1))
    image = Image.new("RGB", (width, height))
    image.paste((255, 255, 255), (x, y, x + w, y + h))
    target = target_of((x, y, w, h), size=image.size)
    pixels, target = TrainTransform([64, 96, 128], 200, [60, 90], (50, 90))(image, target, random.Random(seed))
    assert pixels.shape[1:] == tuple(target["size"])
    if len(target["boxes"]) and (target["boxes"][0, 2:] * target["size"][::-1]).min() > 3:
        centre, sides = target["boxes"][0, :2], target["boxes"][0, 2:]
        expected = np.concatenate([centre - sides / 2, centre + sides / 2])
        off = np.abs(bright_box(pixels) - expected) * np.tile(target["size"][::-1], 2)
        assert off.max() <= 1.6  # pixels: half a grey level's worth of blur on each side
    elif not len(target["boxes"]):
        assert ((pixels * transforms.STD + transforms.MEAN) < 0.6).all()


def test_flip_by_hand():
    image, target = transforms.flip(Image.new("RGB", SIZE), target_of((5, 6, 10, 20)))
    assert target["boxes"].tolist() == [[45, 6, 55, 26]] and image.size == SIZE


def test_crop_by_hand():
    """Cut boxes get the area of what is left; those that only touch the crop go."""
    target = target_of((0, 0, 20, 20), (30, 10, 20, 20), (45, 0, 15, 40), (0, 30, 10, 10))
    image, cut = transforms.crop(Image.new("RGB", SIZE), target, top=10, left=10, height=20, width=35)
    assert image.size == (35, 20) and cut["size"].tolist() == [20, 35] and cut["orig_size"].tolist() == [40, 60]
    assert cut["boxes"].tolist() == [[0, 0, 10, 10], [20, 0, 35, 20]]
    assert cut["area"].tolist() == [100, 300] and len(cut["labels"]) == len(cut["iscrowd"]) == 2


def test_resize_by_hand():
    image, target = transforms.resize(Image.new("RGB", SIZE), target_of((6, 8, 12, 16)), 80, 100)
    assert image.size == (100, 67) and target["size"].tolist() == [67, 100]  # 100 * 40 / 60 is rounded, not cut
    np.testing.assert_allclose(target["boxes"], [[10, 13.4, 30, 40.2]], rtol=1e-6)
    np.testing.assert_allclose(target["area"], [192 * (100 / 60) * (67 / 40)], rtol=1e-6)


def test_normalise():
    image, _ = EvalTransform(2, 9)(Image.new("RGB", (2, 2), (0, 128, 255)), target_of(size=(2, 2)))
    expected = [(value / 255 - mean) / std for value, mean, std in zip((0, 128, 255), (0.485, 0.456, 0.406),
                                                                      (0.229, 0.224, 0.225), strict=True)]  # fmt: skip
    np.testing.assert_allclose(image[:, 0, 0], expected, rtol=1e-6)


def test_images_are_padded_at_the_right_and_bottom():
    images = [np.full((3, 4, 6), 1, np.float32), np.full((3, 5, 2), 2, np.float32)]
    batch, mask = pad_images(images)
    assert batch.shape == (2, 3, 5, 6) and batch.dtype == np.float32 and mask.dtype == bool
    for one, padded, image in zip(batch, mask, images, strict=True):
        height, width = image.shape[1:]
        np.testing.assert_array_equal(one[:, :height, :width], image)
        assert not padded[:height, :width].any() and padded.sum() == 30 - height * width and one.sum() == image.sum()


def test_names_of_categories():
    assert len(CATEGORIES) == 80 and set(range(1, 91)) - set(CATEGORIES) == {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
    assert CATEGORIES[1] == "person" and CATEGORIES[44] == "bottle" and CATEGORIES[90] == "toothbrush"


# -------------------- Data sets on disk


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return lay_out(lay_out(tmp_path_factory.mktemp("coco")), 5, "val")


def test_items_come_by_ascending_id(root):
    dataset = small_set(root)
    assert dataset.ids == [84, 85, 86, 87, 88, 89, 90] and len(dataset) == 7
    assert [dataset.image_path(index).name for index in (0, 6)] == ["006.png", "000.png"]
    assert [int(dataset[index][1]["image_id"][0]) for index in range(7)] == dataset.ids


def test_validation_is_not_augmented(root):
    for dataset in (small_set(root, "val"), small_set(root, augment=False)):
        assert isinstance(dataset.transform, EvalTransform)
        image, _ = dataset[len(dataset) - 1]
        assert image.shape == (3, 40, 45)  # of 50 x 44


def test_draws_are_of_seed_epoch_and_index(root):
    def samples(seed: int, epoch: int, order) -> dict:
        dataset = build_dataset(small_options(root, "--seed", str(seed)), "train")
        dataset.set_epoch(epoch)
        return {index: dataset[index][0].tobytes() for index in order}

    first = samples(3, 1, range(7))
    assert samples(3, 1, [6, 2, 0]).items() <= first.items()
    for other in (samples(4, 1, range(7)), samples(3, 2, range(7))):
        assert sum(other[index] != first[index] for index in range(7)) > 4


@pytest.mark.parametrize("most_pixels", [None, 1])
def test_batches_and_workers(root, most_pixels):
    """Workers change nothing, not even where images are too large for the shared memory."""
    dataset = small_set(root)
    if most_pixels:
        dataset.transform.most_pixels = most_pixels
    batches = []
    for workers in (0, 2):
        loader = build_loader(dataset, EpochBatchSampler(len(dataset), 2, seed=5), workers)
        loader.set_epoch(2)
        batches.append(list(loader))
    assert [len(batch) for batch in batches] == [4, 4]
    for (images, mask, targets), (other, other_mask, other_targets) in zip(*batches, strict=True):
        assert (
            images.dtype == paddle.float32
            and mask.dtype == paddle.bool
            and mask.shape == [len(targets), *images.shape[2:]]
        )
        np.testing.assert_array_equal(images.numpy(), other.numpy())
        np.testing.assert_array_equal(mask.numpy(), other_mask.numpy())
        for target, same in zip(targets, other_targets, strict=True):
            assert set(target) == {"boxes", "labels", "area", "iscrowd", "image_id", "orig_size", "size"} == set(same)
            assert all(np.array_equal(target[key].numpy(), same[key].numpy()) for key in target)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_unreadable_image_ends_the_loop(tmp_path, workers):
    root = lay_out(tmp_path)
    (root / "train2017/003.png").write_bytes(b"no picture")
    dataset = small_set(root)
    with pytest.raises(InputError, match=r"003.png: cannot be read as a picture \(not a picture"):
        list(build_loader(dataset, EpochBatchSampler(len(dataset), 2), workers))
