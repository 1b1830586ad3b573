"""Batches of frames, read ahead by forked workers."""

import gc
import itertools
import math
import mmap
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from typing import NamedTuple

import numpy as np
import paddle

from .kitti import KITTI, Sample
from .sampling import EpochBatchSampler

_PREFETCH = 2  # frames that each worker has ahead of it, at least

_Arrays = dict[tuple[str, ...], np.ndarray]


class Batch(NamedTuple):
    """B frames; all but `info` are Paddle tensors."""

    images: paddle.Tensor  # float32 [B, 3, H, W]
    calibs: paddle.Tensor  # float32 [B, 3, 4]
    coord_ranges: paddle.Tensor  # float32 [B, 2, 2]
    targets: dict[str, paddle.Tensor]  # as a sample's, stacked
    info: dict[str, np.ndarray]  # as a sample's, stacked


class Loader:
    """Batches of a data set: iterate for `Batch`es.

    With workers, forked processes read ahead; batches come in the sampler's order all the same. An error in the data
    set ends the iteration with that error, an InputError unchanged, whichever process met it.

    Not `paddle.io.DataLoader` (3.3.1), for what was met with it: without workers, an error in the data set hangs the
    loop for ever; with workers, it ends as "blocking queue is killed"; an iterator that is left early keeps its
    processes and threads; and its workers use Paddle after the fork, which hung now and then. The workers here use
    numpy, OpenCV and Pillow only, and leave each frame in memory that they share with their parent, so that /dev/shm,
    small in containers, does not matter.
    """

    def __init__(self, dataset: KITTI, sampler: EpochBatchSampler, workers: int = 0):
        self.dataset, self.sampler, self.workers = dataset, sampler, workers

    def set_epoch(self, epoch: int, start_step: int = 0) -> None:
        """Order and augmentation of `epoch`, from its batch `start_step` on. Takes effect with the next iteration."""
        self.dataset.set_epoch(epoch)
        self.sampler.set_epoch(epoch, start_step)

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[Batch]:
        if self.workers and len(self):
            yield from self._with_workers()
            return
        for indices in self.sampler:
            samples = [_flat(self.dataset[index]) for index in indices]
            yield _batch({key: np.stack([sample[key] for sample in samples]) for key in samples[0]})

    def _with_workers(self) -> Iterator[Batch]:
        batches, size = enumerate(self.sampler), self.sampler.batch_size
        first = _flat(self.dataset[next(iter(self.sampler))[0]])  # tells the shapes, which all frames share
        # Batch n lies in place n % places until it has been copied out: one is waited for, the others are ahead.
        places = 1 + math.ceil(_PREFETCH * self.workers / size)
        arrays = {key: _shared_array((places, size, *value.shape), value.dtype) for key, value in first.items()}

        fork = multiprocessing.get_context("fork")
        pool = ProcessPoolExecutor(self.workers, fork, _start_worker, (self.dataset, arrays))
        pending = deque()

        def submit(count: int) -> None:
            for number, indices in itertools.islice(batches, count):
                place = number % places
                futures = [pool.submit(_work, index, (place, row)) for row, index in enumerate(indices)]
                pending.append((place, futures))

        try:
            # What is garbage now stays garbage in the workers: to free Paddle's objects there can hang, too.
            gc.freeze()
            try:
                submit(places)
            finally:
                gc.unfreeze()
            while pending:
                place, futures = pending.popleft()
                for future in futures:
                    future.result()
                batch = _batch({key: array[place, : len(futures)] for key, array in arrays.items()})
                submit(1)
                yield batch
        finally:
            pool.shutdown(cancel_futures=True)


def _flat(sample: Sample) -> _Arrays:
    """Every array of a sample, by its path: ("image",), ("targets", "depth"), ..."""
    arrays = {}
    for name, value in sample._asdict().items():
        if isinstance(value, Mapping):
            arrays |= {(name, inner): array for inner, array in value.items()}
        else:
            arrays[name,] = value
    return arrays


def _batch(arrays: _Arrays) -> Batch:
    """Stacked arrays as a batch; they are copied."""
    targets = {key[1]: paddle.to_tensor(array) for key, array in arrays.items() if key[0] == "targets"}
    info = {key[1]: np.array(array) for key, array in arrays.items() if key[0] == "info"}
    inputs = [paddle.to_tensor(arrays[name,]) for name in ("image", "calib", "coord_range")]
    return Batch(*inputs, targets, info)


def _shared_array(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Memory that processes forked later share with this one; none is used before it is written to."""
    return np.frombuffer(mmap.mmap(-1, math.prod(shape) * dtype.itemsize), dtype).reshape(shape)


def _start_worker(dataset: KITTI, arrays: _Arrays) -> None:
    global _worker
    _worker = dataset, arrays
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)


def _work(index: int, place: tuple[int, int]) -> None:
    """In a worker: read a frame into its place in the shared memory."""
    dataset, arrays = _worker
    for key, value in _flat(dataset[index]).items():
        arrays[key][place] = value


def build_loader(dataset: KITTI, sampler: EpochBatchSampler, workers: int) -> Loader:
    """A `Loader` with that many processes; 0 reads in this one."""
    return Loader(dataset, sampler, workers)
