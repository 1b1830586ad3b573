"""Reading, transforms, batches and order, against the golden figures of the official code and against themselves."""

import json
import os
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

from data_sets import annotation, lay_out, small_options, small_set
from datasets import (
    CocoDetection,
    EpochBatchSampler,
    EvalTransform,
    TrainTransform,
    build_dataset,
    build_loader,
    collate,
    prepare_target,
    transforms,
)
from datasets.categories import CATEGORIES
from datasets.sampling import share_of
from golden_files import DATA, close, golden, sliced, statistics
from options import parse_options

FILE = golden("data")
EXACT = ("labels", "image_id", "iscrowd", "orig_size", "size")


def picture_test(function):
    """A test that needs the COCO pictures: without them there is no such test, rather than one that is skipped."""
    return function if DATA else None


class Recorded:
    """Python's draws from a seed, written down as the official run's were."""

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


def golden_annotations() -> dict:
    return json.loads(bytes(FILE["input/annotations_json"]))


@pytest.fixture(scope="module")
def official(tmp_path_factory) -> Path:
    """The golden annotation file on disk."""
    path = tmp_path_factory.mktemp("golden") / "instances.json"
    path.write_bytes(bytes(FILE["input/annotations_json"]))
    return path


def pictures_of(official: Path) -> Path:
    """Where the golden pictures are: the real ones, or grey ones of their sizes."""
    if DATA:
        return DATA / "coco"
    for entry in golden_annotations()["images"]:
        Image.new("RGB", (entry["width"], entry["height"]), (90, 90, 90)).save(official.parent / entry["file_name"])
    return official.parent


def check_sample(key: str, sample, with_image: bool) -> None:
    """A sample against the figures `key`: exact for labels and sizes, 1e-6 for boxes and areas, 1e-5 for pixels."""
    image, target = sample
    for name in EXACT:
        np.testing.assert_array_equal(target[name], FILE[f"{key}/{name}"], err_msg=f"{key}/{name}")
        assert target[name].dtype == FILE[f"{key}/{name}"].dtype, f"{key}/{name}"
    for name in ("boxes", "area"):
        assert target[name].dtype == np.float32
        np.testing.assert_allclose(target[name], FILE[f"{key}/{name}"], rtol=1e-6, atol=1e-7, err_msg=f"{key}/{name}")
    assert image.dtype == np.float32 and image.shape == (3, *target["size"])
    if with_image:
        close(sliced(FILE, f"{key}/image", image), FILE[f"{key}/image"], 1e-5, key, relative=False)
        close(statistics(image), FILE[f"{key}/image/stats"], 1e-5, key, relative=False)
        wide = image.astype(np.float64)
        both = np.stack([wide.mean((1, 2)), wide.std((1, 2))])
        close(both, FILE[f"{key}/channel_mean_std"], 1e-5, key, relative=False)
    elif f"meta/shape/{key}/image" in FILE.files:
        assert image.shape == tuple(FILE[f"meta/shape/{key}/image"])


# --------------------------------------------------------------------------------------------------------------------
# Golden
# --------------------------------------------------------------------------------------------------------------------


def test_golden_order_and_count_of_left_out_boxes(official, capsys):
    dataset = CocoDetection(pictures_of(official), official, EvalTransform(), 91)
    np.testing.assert_array_equal(dataset.ids, FILE["data/ids"])
    # Of each of the three annotated pictures: one box of no width, one beyond the right edge.
    assert dataset.left_out == 6
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "6 boxes lie outside" in said and "(annotation 9, 10, 21, 22, 33, ...)" in said


def test_golden_val(official):
    dataset = CocoDetection(pictures_of(official), official, EvalTransform(), 91)
    for index in range(len(dataset)):
        check_sample(f"data/val/{index}", dataset[index], DATA is not None)


@pytest.mark.parametrize("generator", ["python", "torch"])
@pytest.mark.parametrize("run", range(len(FILE["meta/train_seeds"])))
def test_golden_train(official, generator, run):
    """The official draws in the official order, the crop's corner from Python's generator or from torch's."""
    dataset, transform = CocoDetection(pictures_of(official), official, EvalTransform(), 91), official_transform()
    seed = int(FILE["meta/train_seeds"][run])
    draws = Recorded(seed)
    torch.manual_seed(seed)
    corners: list[int] = []

    def from_torch(low: int, high: int) -> int:
        corners.append(int(torch.randint(low, high + 1, (1,))))
        return corners[-1]

    for index in range(len(dataset)):
        draws.log.clear(), corners.clear()
        image, target = dataset.read(index)
        sample = transform(image, target, draws, from_torch if generator == "torch" else None)
        key = f"data/train_{generator}/{run}/{index}"
        words = str(FILE[f"{key}/draws"]).split()
        if corners:
            draws.log.insert(-1, f"torch_randint={','.join(map(str, corners))}")
        assert draws.log == words
        check_sample(key, sample, DATA is not None)


def official_transform() -> TrainTransform:
    options = parse_options([])
    return TrainTransform(options.scales, options.max_size, options.crop_sides, options.crop_range)


def test_golden_resize_sizes():
    for width, height, short, limit, *expected in FILE["data/resize_sizes"].tolist():
        assert list(transforms.resized_size((width, height), short, limit or None)) == expected


@picture_test
def test_golden_collate(official):
    dataset = CocoDetection(DATA / "coco", official, EvalTransform(), 91)
    images, mask = collate([dataset[index][0][:, ::4, ::4] for index in range(3)])
    assert list(images.shape) == FILE["data/collate/shape"].tolist()
    np.testing.assert_array_equal((~mask).sum((1, 2)), FILE["data/collate/valid"])
    np.testing.assert_array_equal(sliced(FILE, "data/collate/mask", mask), FILE["data/collate/mask"])
    close(sliced(FILE, "data/collate/tensors", images), FILE["data/collate/tensors"], 1e-5, relative=False)
    close(statistics(images), FILE["data/collate/tensors/stats"], 1e-5, relative=False)


def test_golden_shares_of_processes():
    """The official permutations are torch's; what is compared is how a permutation is dealt out."""
    pieces, found = golden("pieces"), 0
    for key in (key for key in pieces.files if key.startswith("data/sampler/")):
        _, _, split, epoch, rank = key.split("/")
        generator = torch.Generator().manual_seed(int(epoch[5:]))
        order = torch.randperm(23, generator=generator).numpy() if split == "train" else np.arange(23)
        np.testing.assert_array_equal(share_of(order, int(rank[4:]), 4), pieces[key])
        found += 1
    assert found == 16


# --------------------------------------------------------------------------------------------------------------------
# Targets and transforms by hand
# --------------------------------------------------------------------------------------------------------------------

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


def test_batches_are_padded_at_the_right_and_bottom():
    images = [np.full((3, 4, 6), 1, np.float32), np.full((3, 5, 2), 2, np.float32)]
    batch, mask = collate(images)
    assert batch.shape == (2, 3, 5, 6) and batch.dtype == np.float32 and mask.dtype == bool
    for one, padded, image in zip(batch, mask, images, strict=True):
        height, width = image.shape[1:]
        np.testing.assert_array_equal(one[:, :height, :width], image)
        assert not padded[:height, :width].any() and padded.sum() == 30 - height * width and one.sum() == image.sum()


def test_names_of_categories():
    assert len(CATEGORIES) == 80 and set(range(1, 91)) - set(CATEGORIES) == {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
    assert CATEGORIES[1] == "person" and CATEGORIES[44] == "bottle" and CATEGORIES[90] == "toothbrush"


# --------------------------------------------------------------------------------------------------------------------
# Data sets on disk
# --------------------------------------------------------------------------------------------------------------------


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
    def figures(seed: int, epoch: int, order) -> dict:
        dataset = build_dataset(small_options(root, "--seed", str(seed)), "train")
        dataset.set_epoch(epoch)
        return {index: dataset[index][0].tobytes() for index in order}

    first = figures(3, 1, range(7))
    assert figures(3, 1, [6, 2, 0]).items() <= first.items()
    for other in (figures(4, 1, range(7)), figures(3, 2, range(7))):
        assert sum(other[index] != first[index] for index in range(7)) > 4


def same(first, second) -> bool:
    """Whether two batches are equal, bit for bit."""
    if not all(np.array_equal(a.numpy(), b.numpy()) for a, b in zip(first[:2], second[:2], strict=True)):
        return False
    return all(
        one.keys() == two.keys() and all(np.array_equal(one[key].numpy(), two[key].numpy()) for key in one)
        for one, two in zip(first[2], second[2], strict=True)
    )


@pytest.mark.parametrize("most_pixels", [None, 1])
def test_workers_change_nothing(root, most_pixels):
    """Not even where images are too large for the shared memory."""
    dataset = small_set(root)
    sampler = EpochBatchSampler(len(dataset), 2, seed=5)
    if most_pixels:
        dataset.transform.most_pixels = most_pixels
    loaders = [build_loader(dataset, sampler, workers) for workers in (0, 1, 3)]
    for loader in loaders:
        loader.set_epoch(2)
    batches = [list(loader) for loader in loaders]
    assert [len(found) for found in batches] == [4, 4, 4]
    for plain, one, three in zip(*batches, strict=True):
        assert same(plain, one) and same(plain, three)
    images, mask, targets = batches[0][0]
    assert images.dtype == paddle.float32 and mask.dtype == paddle.bool and len(targets) == 2
    assert tuple(images.shape[2:]) == tuple(mask.shape[1:])
    assert {"boxes", "labels", "area", "iscrowd", "image_id", "orig_size", "size"} == set(targets[0])


@pytest.mark.parametrize("workers", [0, 2])
def test_resume_in_the_middle_of_an_epoch(root, workers):
    dataset = small_set(root)
    loader = build_loader(dataset, EpochBatchSampler(len(dataset), 2, seed=5), workers)
    loader.set_epoch(3)
    whole = list(loader)
    loader.set_epoch(3, 2)
    rest = list(loader)
    assert len(rest) == len(loader) == 2 and all(map(same, whole[2:], rest))


@pytest.mark.parametrize("workers", [0, 2])
def test_an_unreadable_picture_ends_the_loop(tmp_path, workers):
    root = lay_out(tmp_path)
    (root / "train2017/003.png").write_bytes(b"no picture")
    dataset = small_set(root)
    with pytest.raises(InputError, match=r"003.png: cannot be read as a picture \(not a picture"):
        list(build_loader(dataset, EpochBatchSampler(len(dataset), 2), workers))


def test_leaving_a_loop_early_leaves_no_process(root):
    dataset = small_set(root)
    batches = iter(build_loader(dataset, EpochBatchSampler(len(dataset), 1), 2))
    next(batches)
    batches.close()
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    assert not [child for child in children if "pytest" in Path(f"/proc/{child}/cmdline").read_text()]


# --------------------------------------------------------------------------------------------------------------------
# Order
# --------------------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(some.integers(1, 40), some.integers(1, 5), some.integers(1, 6), some.booleans())
def test_processes_share_an_epoch(length, world, size, shuffle):
    samplers = [EpochBatchSampler(length, size, shuffle, 3, rank, world) for rank in range(world)]
    for sampler in samplers:
        sampler.set_epoch(4)
    shares = [[index for batch in sampler for index in batch] for sampler in samplers]
    assert len({len(share) for share in shares}) == 1
    order = np.random.default_rng([3, 4]).permutation(length).tolist() if shuffle else list(range(length))
    assert (np.concatenate(shares)[:length] == order).all()  # contiguous pieces, one after the other
    assert set(order) == set(np.concatenate(shares).tolist())


def test_drop_last_and_resume():
    sampler = EpochBatchSampler(23, 4, seed=1, drop_last=True)
    sampler.set_epoch(6)
    whole = list(sampler)
    assert len(whole) == len(sampler) == 5 and all(len(batch) == 4 for batch in whole)
    sampler.set_epoch(6, 3)
    assert list(sampler) == whole[3:]
    sampler.set_epoch(7)
    assert list(sampler) != whole


def test_an_epoch_without_a_batch():
    with pytest.raises(InputError, match="5 pictures on 2 processes do not fill a batch of 4; give --batch_size 3 or"):
        EpochBatchSampler(5, 4, world=2, drop_last=True)
    with pytest.raises(ValueError, match="rank 2 of 2"):
        EpochBatchSampler(5, 4, rank=2, world=2)


def test_the_official_epoch():
    """16 processes, 2 pictures each: 7,393 pictures a process and 3,696 steps (NOTES 2.11)."""
    sampler = EpochBatchSampler(118287, 2, world=16, rank=15, drop_last=True)
    assert sampler.samples_per_epoch == 7393 and len(sampler) == 3696
