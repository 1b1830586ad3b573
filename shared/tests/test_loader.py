"""The loader of batches: the same with and without workers, and what happens when something fails."""

import gc
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import paddle
import pytest

from shared import InputError
from shared.running.loader import Loader
from shared.running.sampling import EpochBatchSampler


class Sample(NamedTuple):
    image: np.ndarray
    targets: dict[Any, Any]


class Drawn:
    """Samples of every kind of nesting, drawn from (epoch, index); image `index` has 4 + index rows if `ragged`."""

    def __init__(self, length: int, ragged: bool = False):
        self.length, self.ragged, self.epoch = length, ragged, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Sample:
        rng = np.random.default_rng([self.epoch, index])
        image = rng.standard_normal((3, 4 + index * self.ragged, 200)).astype(np.float32)
        mask = rng.integers(0, 2, (60, 50)).astype(bool)
        targets = {"ids": [index, f"{index}.png"], ("mask", 0): (mask, rng.integers(0, 9, 5)), "large": image[:, ::-1]}
        return Sample(image, targets)


def copied(samples: list) -> list:
    """A batch as its list of samples, arrays copied, as a loader's `collate` must."""

    def copy(value):
        if isinstance(value, np.ndarray):
            return value.copy()
        if isinstance(value, dict):
            return {key: copy(item) for key, item in value.items()}
        if isinstance(value, Sample):
            return Sample(*map(copy, value))
        return type(value)(map(copy, value)) if isinstance(value, list | tuple) else value

    return [copy(sample) for sample in samples]


def loader_of(dataset, workers: int = 0, batch_size: int = 2, collate=copied, sample_bytes=None, **settings) -> Loader:
    return Loader(dataset, EpochBatchSampler(len(dataset), batch_size, **settings), workers, collate, sample_bytes)


def batches(dataset, *arguments, epoch: int = 2, start: int = 0, **settings) -> list:
    loader = loader_of(dataset, *arguments, **settings)
    loader.set_epoch(epoch, start)
    found = list(loader)
    assert len(found) == len(loader)
    return found


def bits(value: Any) -> Any:
    """A value with the type, shape and bytes of every array in it, to be compared by ==."""
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    if isinstance(value, dict):
        return {key: bits(item) for key, item in value.items()}
    return (type(value), *map(bits, value)) if isinstance(value, list | tuple) else value


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("sample_bytes", [None, 0, 3000, 10**6])
def test_workers_change_nothing(ragged, sample_bytes):
    """Nor does the size of the shared memory; what is too large for it goes through a pipe."""
    dataset, runs = Drawn(7, ragged), []
    for workers in (0, 1, 3):
        random.seed(workers), np.random.seed(workers), paddle.seed(workers)  # global generators must not matter
        runs.append(batches(dataset, workers, 3, seed=3, sample_bytes=sample_bytes))
    assert [len(batch) for batch in runs[0]] == [3, 3, 1] and isinstance(runs[0][0][0], Sample)
    assert bits(runs[0]) == bits(runs[1]) == bits(runs[2])


@pytest.mark.parametrize("workers", [0, 2])
def test_batch_size_changes_nothing_in_the_samples(workers):
    runs = [sum(batches(Drawn(7), workers, size, seed=3), []) for size in (1, 2, 7, 9)]
    assert all(bits(run) == bits(runs[0]) for run in runs)


@pytest.mark.parametrize("workers", [0, 2])
def test_epochs_differ_and_return(workers):
    loader, seen = loader_of(Drawn(4), workers, 4, shuffle=False), []
    for epoch in (0, 1, 0):
        loader.set_epoch(epoch)
        seen += loader
    assert bits(seen[0]) == bits(seen[2])
    assert not any(np.array_equal(one.image, two.image) for one, two in zip(seen[0], seen[1], strict=True))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("drop_last", [False, True])
def test_resume_in_the_middle_of_an_epoch(workers, drop_last):
    whole = batches(Drawn(7), 0, epoch=4, drop_last=drop_last)
    assert len(whole) == 4 - drop_last
    for start in range(len(whole) + 2):
        assert bits(batches(Drawn(7), workers, epoch=4, start=start, drop_last=drop_last)) == bits(whole[start:])


def test_batches_survive_the_next_ones():
    """Shared memory is used again: what was handed out, as tensors too, must be a copy."""
    dataset = Drawn(12)
    for collate in (copied, lambda samples: paddle.to_tensor(np.stack([sample.image for sample in samples]))):
        kept = list(loader_of(dataset, 2, 1, collate, shuffle=False))
        for index, batch in enumerate(kept):
            image = batch[0].image if collate is copied else batch.numpy()[0]
            np.testing.assert_array_equal(image, dataset[index].image)


# ------------------------------------------------------------------------------------------------------------ failures


class Failing(Drawn):
    """`act(in_worker)` in place of sample 3."""

    def __init__(self, length: int, act):
        super().__init__(length)
        self.act, self.parent = act, os.getpid()

    def __getitem__(self, index: int) -> Sample:
        if index == 3:
            self.act(os.getpid() != self.parent)
        return super().__getitem__(index)


def raising(error: Exception):
    def act(in_worker: bool) -> None:
        raise error

    return act


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("error", [InputError("a.png: cannot be read"), KeyError("a bug")])
def test_an_error_of_the_data_set_ends_the_loop_unchanged(workers, error):
    seen = 0
    with pytest.raises(type(error)) as caught:
        for _ in loader_of(Failing(6, raising(error)), workers, shuffle=False):
            seen += 1
    assert caught.value.args == error.args and seen == 1
    assert not multiprocessing.active_children()


def test_a_killed_worker_is_an_error():
    def act(in_worker: bool) -> None:
        if in_worker:
            os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(BrokenProcessPool):
        list(loader_of(Failing(6, act), 2))
    assert not multiprocessing.active_children()


def test_ctrl_c_is_for_the_parent():
    def act(in_worker: bool) -> None:
        if in_worker:
            os.kill(os.getpid(), signal.SIGINT)

    assert bits(batches(Failing(6, act), 2)) == bits(batches(Drawn(6)))


def test_workers_leave_their_parents_garbage_alone(tmp_path):
    parent = os.getpid()

    class Garbage:
        def __init__(self):
            self.cycle = self

        def __del__(self):
            if os.getpid() != parent:
                (tmp_path / "collected").touch()

    gc.disable()
    try:
        loader = loader_of(Failing(4, lambda in_worker: in_worker and gc.collect()), 2)
        Garbage()
        assert len(list(loader)) == 2
    finally:
        gc.enable()
    assert not (tmp_path / "collected").exists()


@pytest.mark.parametrize("workers", [0, 2])
def test_leaving_a_loop_early_leaves_nothing_behind(workers):
    threads = threading.active_count()
    for _ in loader_of(Drawn(30), workers):
        break
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and (multiprocessing.active_children() or threading.active_count() > threads):
        time.sleep(0.02)
    assert not multiprocessing.active_children()
    assert threading.active_count() <= threads


HOLDER = """
import multiprocessing, time
from shared.tests.test_loader import Drawn, loader_of
batches = iter(loader_of(Drawn(30), 2))
next(batches)
print(*(child.pid for child in multiprocessing.active_children()), flush=True)
time.sleep(60)
"""


def test_workers_end_with_their_parent():
    words = [sys.executable, "-c", HOLDER]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as parent:
        workers = [int(word) for word in parent.stdout.readline().split()]
        parent.kill()
    assert len(workers) == 2
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_bytes() for pid in workers):
        assert time.monotonic() < deadline, "a worker goes on without its parent"
        time.sleep(0.05)
