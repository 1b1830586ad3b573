"""Batches of samples, read ahead by forked processes."""

import gc
import itertools
import math
import mmap
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np

from shared.running.sampling import EpochBatchSampler

_PREFETCH = 2  # samples that each process has ahead of it, at least
_SMALL = 2048  # bytes up to which an array goes through the pipe rather than through shared memory


class Loader:
    """Batches `collate([dataset[key], ...])` for the keys of `sampler`, in its order.

    A sample is an array, or tuples, named tuples, lists and dictionaries of arrays and plain values; `collate` must
    copy the arrays. `dataset.set_epoch(epoch)` is called by `set_epoch`. With workers, forked processes read ahead. An
    error in the data set ends the iteration with that error, an InputError unchanged, whichever process met it.

    Not `paddle.io.DataLoader` (3.3.1), for what was met with it: without workers, an error in the data set hangs the
    loop for ever; with workers, it ends as "blocking queue is killed"; an iterator that is left early keeps its
    processes and threads; and its workers use Paddle after the fork, which hung now and then. The workers here use
    numpy, OpenCV and Pillow only, and write the arrays to memory that they share with their parent, so that /dev/shm,
    small in containers, does not matter.
    """

    def __init__(
        self,
        dataset: Any,
        sampler: EpochBatchSampler,
        workers: int,
        collate: Callable[[list], Any],
        sample_bytes: int | None = None,
    ):
        """`sample_bytes` is the shared memory of a sample; None takes the size of the first one. A larger sample is
        sent through a pipe, more slowly."""
        self.dataset, self.sampler, self.workers, self.collate = dataset, sampler, workers, collate
        self.sample_bytes = sample_bytes

    def set_epoch(self, epoch: int, start_step: int = 0) -> None:
        """Order and augmentation of `epoch`, from its batch `start_step` on. Takes effect with the next iteration."""
        self.dataset.set_epoch(epoch)
        self.sampler.set_epoch(epoch, start_step)

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[Any]:
        if self.workers and len(self):
            yield from self._with_workers()
            return
        for keys in self.sampler:
            yield self.collate([self.dataset[key] for key in keys])

    def _with_workers(self) -> Iterator[Any]:
        batches, size = enumerate(self.sampler), self.sampler.batch_size
        room = self.sample_bytes
        if room is None:
            room = _room(self.dataset[next(iter(self.sampler))[0]])
        # Batch n lies in slot n % slots until it has been copied out: one is waited for, the others are ahead.
        slots = 1 + math.ceil(_PREFETCH * self.workers / size)
        memory = np.frombuffer(mmap.mmap(-1, max(slots * size * room, 1)), np.uint8)
        memory = memory[: slots * size * room].reshape(slots, size, room)
        fork = multiprocessing.get_context("fork")
        pool = ProcessPoolExecutor(self.workers, fork, _start_worker, (self.dataset, memory))
        pending = deque()

        def submit(count: int) -> None:
            for number, keys in itertools.islice(batches, count):
                slot = number % slots
                pending.append((slot, [pool.submit(_read, key, slot, row) for row, key in enumerate(keys)]))

        try:
            # What is garbage now stays garbage in the workers: to free Paddle's objects there can hang, too.
            gc.freeze()
            try:
                submit(slots)
            finally:
                gc.unfreeze()
            while pending:
                slot, futures = pending.popleft()
                batch = self.collate(
                    [_unpacked(future.result(), memory[slot, row]) for row, future in enumerate(futures)]
                )
                submit(1)
                yield batch
        finally:
            pool.shutdown(cancel_futures=True)


class _Stored:
    """An array that lies in shared memory."""

    def __init__(self, offset: int, shape: tuple[int, ...], dtype: np.dtype):
        self.offset, self.shape, self.dtype = offset, shape, dtype


def _map(sample: Any, change: Callable[[Any], Any]) -> Any:
    """A sample with `change(leaf)` in place of every leaf."""
    if isinstance(sample, dict):
        return {key: _map(value, change) for key, value in sample.items()}
    if isinstance(sample, list | tuple):
        values = [_map(value, change) for value in sample]
        return type(sample)(*values) if hasattr(sample, "_fields") else type(sample)(values)
    return change(sample)


def _room(sample: Any) -> int:
    """The bytes that the arrays of a sample take, each from a multiple of 64 on."""
    sizes = [0]
    _map(sample, lambda leaf: sizes.append(-(-leaf.nbytes // 64) * 64 if isinstance(leaf, np.ndarray) else 0))
    return sum(sizes)


def _unpacked(sample: Any, memory: np.ndarray) -> Any:
    def view(leaf: Any) -> Any:
        if not isinstance(leaf, _Stored):
            return leaf
        size = math.prod(leaf.shape) * leaf.dtype.itemsize
        return memory[leaf.offset : leaf.offset + size].view(leaf.dtype).reshape(leaf.shape)

    return _map(sample, view)


# ------------------------------------------------------------------------------------ in a worker


def _start_worker(dataset: Any, memory: np.ndarray) -> None:
    global _worker
    _worker = dataset, memory
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)


def _read(key: Any, slot: int, row: int) -> Any:
    """The sample `key`, its larger arrays written to their slot as long as they fit."""
    dataset, memory = _worker
    target, used = memory[slot, row], 0

    def store(leaf: Any) -> Any:
        nonlocal used
        if not isinstance(leaf, np.ndarray) or leaf.nbytes <= _SMALL or used + leaf.nbytes > len(target):
            return leaf
        target[used : used + leaf.nbytes].view(leaf.dtype).reshape(leaf.shape)[...] = leaf
        stored = _Stored(used, leaf.shape, leaf.dtype)
        used += _room(leaf)
        return stored

    return _map(dataset[key], store)
