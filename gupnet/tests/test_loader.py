"""Loader and sampler: the same batches with and without workers, and what happens when something fails."""

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
import paddle
import pytest

from shared import InputError

from datasets import EpochBatchSampler, build_dataset, build_loader
from mini.draw import ensure_mini
from options import parse_options


@pytest.fixture(scope="module")
def mini(tmp_path_factory) -> Path:
    return ensure_mini(tmp_path_factory.mktemp("data") / "mini", 3, {"train": 6, "val": 2, "test": 2})


def mini_options(root: Path, *words: str):
    return parse_options(["--data_path", str(root), "--input_size", "320", "96", *words])


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


def batches_of(root: Path, workers: int, split: str = "train", epoch: int = 0, start: int = 0, size: int = 4) -> list:
    dataset = build_dataset(mini_options(root), split)
    loader = build_loader(dataset, EpochBatchSampler(len(dataset), size, split == "train", seed=5), workers)
    loader.set_epoch(epoch, start)
    return list(loader)


def test_loader_batches(mini):
    batches = batches_of(mini, 0)
    assert [len(batch.images) for batch in batches] == [4, 2]
    images, calibs, coord_ranges, targets, info = batches[0]
    assert images.shape == [4, 3, 96, 320] and calibs.shape == [4, 3, 4] and coord_ranges.shape == [4, 2, 2]
    assert all(isinstance(value, paddle.Tensor) and len(value) == 4 for value in targets.values())
    assert targets["heatmap"].shape == [4, 3, 24, 80] and targets["mask_2d"].dtype == paddle.uint8
    assert info["bbox_downsample_ratio"].dtype == np.float64 and info["img_id"].shape == (4,)
    ids = np.concatenate([batch.info["img_id"] for batch in batches])
    assert sorted(ids.tolist()) == build_dataset(mini_options(mini), "train").ids


@pytest.mark.parametrize("split", ["train", "test"])
def test_workers_give_the_same_bits(mini, split):
    for epoch, start in ((0, 0), (1, 0), (1, 1)):
        alone = batches_of(mini, 0, split, epoch, start, 2)
        for one, other in zip(alone, batches_of(mini, 2, split, epoch, start, 2), strict=True):
            same(one, other)
    assert len(alone) == (2 if split == "train" else 0)


def test_loader_passes_errors_on_and_leaves_no_process(mini, tmp_path):
    root = tmp_path / "copy"
    shutil.copytree(mini, root)
    dataset = build_dataset(mini_options(root), "train")
    dataset.path(3, "label_2").write_text("Car 0 0\n")
    for workers in (0, 2):
        with pytest.raises(InputError, match="3 fields instead of 15"):
            list(build_loader(dataset, EpochBatchSampler(len(dataset), 2, False), workers))
    early = iter(build_loader(dataset, EpochBatchSampler(len(dataset), 1, False), 2))
    next(early)
    early.close()
    assert not multiprocessing.active_children()


def test_a_killed_worker_is_an_error(mini):
    dataset = build_dataset(mini_options(mini), "train")
    whole, parent = dataset.item, os.getpid()

    def deadly(index, rng):
        if os.getpid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)
        return whole(index, rng)

    dataset.item = deadly
    with pytest.raises(BrokenProcessPool):
        list(build_loader(dataset, EpochBatchSampler(len(dataset), 2), 2))
    assert not multiprocessing.active_children()


HOLDER = """
import multiprocessing, sys, time
sys.path.insert(0, sys.argv[1])
from datasets import EpochBatchSampler, build_dataset, build_loader
from options import parse_options
dataset = build_dataset(parse_options(["--data_path", sys.argv[2], "--input_size", "320", "96"]), "train")
batches = iter(build_loader(dataset, EpochBatchSampler(len(dataset), 2), 2))
next(batches)
print(*(child.pid for child in multiprocessing.active_children()), flush=True)
time.sleep(60)
"""


def test_workers_end_with_their_parent(mini):
    words = [sys.executable, "-c", HOLDER, str(Path(__file__).resolve().parents[1]), str(mini)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as parent:
        workers = [int(word) for word in parent.stdout.readline().split()]
        parent.kill()
    assert len(workers) == 2
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_bytes() for pid in workers):
        assert time.monotonic() < deadline, "a worker goes on without its parent"
        time.sleep(0.1)


def test_sampler_shares_an_epoch_between_processes():
    parts = []
    for rank in range(2):
        sampler = EpochBatchSampler(7, 2, True, seed=1, rank=rank, world=2)
        sampler.set_epoch(3)
        parts.append([list(sampler), len(sampler)])
        sampler.set_epoch(3, 1)
        assert list(sampler) == parts[-1][0][1:]
    assert [count for _, count in parts] == [2, 2]
    seen = sorted(index for batches, _ in parts for batch in batches for index in batch)
    assert len(seen) == 8 and set(seen) == set(range(7))
    with pytest.raises(InputError, match="--batch_size 4 or less"):
        EpochBatchSampler(7, 5, rank=0, world=2, drop_last=True)
