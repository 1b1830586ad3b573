"""Image folders, views of repeated augmentation, class names."""

import os
from pathlib import Path

import numpy as np
import pytest

from shared import InputError
from shared.pictures import read_picture

from data_sets import (
    PHOTOS,
    one_line,
    options,
    photo_test,
    port_eval,
    port_listing,
    write_images,
)
from datasets import build_dataset, build_loader, build_transform, classes_for
from datasets.folder import ImageFolder, find_classes, list_images
from datasets.imagenet import CLASS_NAMES, SYNSETS, label_names
from datasets.sampling import RASampler
from reference import data as twin


@pytest.mark.parametrize("train", [True, False])
def test_samples_equal_twin(tmp_path, train):
    opts = options(
        data_path=tmp_path,
        seed=5,
        train_crop_size=32,
        val_resize_size=48,
        val_crop_size=32,
        auto_augment="imagenet",
        random_erase=0.5,
    )
    split = "train" if train else "val"
    root = write_images(tmp_path / split, {"b": 4, "B": 3, "a/deep": 5})
    dataset = build_dataset(opts, split)
    classes, samples = twin.listing(root)
    assert (dataset.classes, dataset.samples) == (classes, samples)
    for epoch in (0, 3):
        dataset.set_epoch(epoch)
        for index in range(len(dataset)):
            image, label = dataset[index]
            assert label.dtype == np.int64 and image.dtype == np.float32
            expected, rank = twin.sample(root, index, opts, epoch, seed=5, train=train)
            np.testing.assert_array_equal(image, expected.numpy())
            assert label == rank


def test_links_hidden_files_and_odd_names(tmp_path):
    root = write_images(tmp_path / "root", {"a": 1, "a/x": 1, "a/x-y": 1, ".hidden": 1})
    outside = write_images(tmp_path / "outside", {"c": 2})
    (root / "linked").symlink_to(outside / "c")
    (root / "a" / "loop.jpg").symlink_to(root / "a" / "000.JPEG")
    (root / "a" / "folder.jpg").mkdir()
    (root / "a" / "name without ending jpg").touch()
    (root / "a" / "jpg").touch()
    classes, samples = port_listing(root)
    assert classes == [".hidden", "a", "linked"]
    names = [os.path.relpath(path, root) for path, _ in samples]
    expected = ["a/000.JPEG", "a/loop.jpg", "a/x/000.JPEG", "a/x-y/000.JPEG"]
    assert names == [".hidden/000.JPEG", *sorted(expected[:2]), expected[2], expected[3], *names[5:]]
    assert names[5:] == ["linked/000.JPEG", "linked/001.png"]


def test_link_to_a_parent_is_refused(tmp_path):
    root = write_images(tmp_path / "root", {"a": 1})
    (root / "a" / "again").symlink_to(root)
    with pytest.raises(InputError, match="parent folders"):
        list_images(root / "a")


def test_empty_classes(tmp_path):
    root = write_images(tmp_path, {"a": 1, "b": 0, "c": 2, "d": 0})
    (root / "d" / "notes.txt").touch()
    with pytest.raises(InputError) as caught:
        ImageFolder(root, None)
    one_line(caught, root, "b, d", "add images")
    many = write_images(tmp_path / "many", {f"{n:03d}": 0 for n in range(200)})
    with pytest.raises(InputError) as caught:
        ImageFolder(many, None)
    one_line(caught, "195 more folders")


def test_missing_folders(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "bare").mkdir()
    for root, words in [("nowhere", "no such folder"), ("file", "not a folder"), ("bare", "no class folders")]:
        with pytest.raises(InputError) as caught:
            find_classes(tmp_path / root)
        one_line(caught, tmp_path / root, words)
    for data_path, words in [
        (None, "--data_path is missing"),
        (tmp_path / "nowhere", "no such folder"),
        (tmp_path / "bare", "no folder val/"),
    ]:
        with pytest.raises(InputError) as caught:
            build_dataset(options(data_path=data_path), "val")
        one_line(caught, words, "train/ and val/", "mini.py")


# --------------------------------------------------------------------------------------------------------------------
# Repeated augmentation
# --------------------------------------------------------------------------------------------------------------------


def test_repeats_give_different_views(tmp_path):
    write_images(tmp_path / "train", {"a": 6})
    dataset = build_dataset(options(data_path=tmp_path, train_crop_size=24), "train")
    np.testing.assert_array_equal(dataset[2][0], dataset[2, 0][0])
    np.testing.assert_array_equal(dataset[2, 1][0], dataset[2, 1][0])
    assert not np.array_equal(dataset[2, 0][0], dataset[2, 1][0])
    [(images, labels)] = build_loader(dataset, RASampler(6, 6, repeats=3), workers=0)
    assert images.shape == [6, 3, 24, 24] and labels.tolist() == [0] * 6


def views(start: int = 0, **settings) -> list:
    sampler = RASampler(repeats=settings.pop("repeats", 3), **settings)
    sampler.set_epoch(1, start)
    assert len(list(sampler)) == len(sampler) == max(sampler.steps_per_epoch - start, 0)
    return list(sampler)


@pytest.mark.parametrize("length", [600, 256, 100])
def test_repeated_augmentation(length):
    world, repeats = 4, 3
    ranks = [sum(views(length=length, batch_size=16, rank=r, world=world), []) for r in range(world)]
    assert {len(rank) for rank in ranks} == {(length // 256 * 256 or length) // world}
    whole = [key for group in zip(*ranks, strict=True) for key in group]
    order = np.random.default_rng([0, 1]).permutation(length).tolist()
    assert whole == [(index, repeat) for index in order for repeat in range(repeats)][: len(whole)]
    for group in zip(*ranks, strict=True):  # processes never see one view twice at one step
        assert len(set(group)) == world


def test_resume_in_the_middle_of_an_epoch_of_repeats():
    settings = {"length": 31, "batch_size": 4, "rank": 1, "world": 2, "repeats": 2}
    whole = views(**settings)
    for start in range(len(whole) + 2):
        assert views(start, **settings) == whole[start:]


# --------------------------------------------------------------------------------------------------------------------
# Class names
# --------------------------------------------------------------------------------------------------------------------

# NOTES 3.3
INDEX_OF = {
    "n01532829": 12,
    "n01770081": 70,
    "n01873310": 103,
    "n01930112": 111,
    "n02086910": 157,
    "n02097130": 197,
    "n02102040": 217,
    "n03743016": 649,
    "n04264628": 810,
    "n04366367": 839,
    "n04370456": 841,
    "n04404412": 851,
    "n04456115": 862,
    "n04525305": 886,
    "n07714571": 936,
    "n12057211": 986,
}


def test_synsets():
    assert len(SYNSETS) == len(set(SYNSETS)) == len(CLASS_NAMES) == 1000
    assert list(SYNSETS) == sorted(SYNSETS)
    assert (SYNSETS[0], CLASS_NAMES[0], SYNSETS[-1]) == ("n01440764", "tench, Tinca tinca", "n15075141")
    assert CLASS_NAMES[8] == "hen" and all(CLASS_NAMES)
    assert {synset: SYNSETS.index(synset) for synset in INDEX_OF} == INDEX_OF


def test_label_names():
    assert label_names(["n01514859", "n01440764"]) == ["hen", "tench, Tinca tinca"]
    assert label_names(["n01514859", "cat"]) == ["n01514859", "cat"]


def test_part_of_imagenet_is_labelled_by_synset(tmp_path):
    root = write_images(tmp_path / "val", dict.fromkeys(INDEX_OF, 1))
    classes = classes_for(root, 1000)
    dataset = build_dataset(options(data_path=tmp_path), "val", classes)
    assert dataset.targets == list(INDEX_OF.values()) and dataset.classes == list(SYNSETS)
    assert classes_for(root, 16) is None
    assert build_dataset(options(data_path=tmp_path), "val").targets == list(range(16))


def test_classes_of_the_network_come_first(tmp_path):
    root = write_images(tmp_path / "val", {"cat": 1, "dog": 2})
    names = ["dog", "bird", "cat"]
    assert classes_for(root, 3, names) == names
    assert build_dataset(options(data_path=tmp_path), "val", names).targets == [2, 0, 0]
    assert classes_for(root, 1000) is None
    with pytest.raises(InputError) as caught:
        build_dataset(options(data_path=tmp_path), "val", ["dog", "bird"])
    one_line(caught, root, "cat", "remove the folder")
    with pytest.raises(InputError) as caught:
        classes_for(root, 2, names)
    one_line(caught, "--num_classes 3")
    with pytest.raises(InputError) as caught:
        classes_for(root, 1)
    one_line(caught, root, "--num_classes 2")


@photo_test
def test_photographs_are_labelled_by_synset():
    dataset = ImageFolder(PHOTOS, build_transform(options(), train=False), classes=classes_for(PHOTOS, len(SYNSETS)))
    for path, label in dataset.samples:
        assert SYNSETS[label] == Path(path).relative_to(PHOTOS).parts[0]
    expected = port_eval(read_picture(dataset.samples[0][0]), options())
    np.testing.assert_array_equal(dataset[0][0], expected)
