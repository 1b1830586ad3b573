"""Batches of samples, read ahead by forked workers."""

import gc
import itertools
import math
import mmap
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import paddle

from .coco import CocoDetection
from .sampling import EpochBatchSampler
from .transforms import Sample, Target, collate

_PREFETCH = 2  # samples that each worker has ahead of it, at least

Batch = tuple[paddle.Tensor, paddle.Tensor, list[dict[str, paddle.Tensor]]]


class Loader:
    """Batches of a data set: iterate for (images float32 [N, 3, H, W], mask bool [N, H, W], N targets).

    All are Paddle tensors; the mask is True where an image is padded, and a target holds what the data set's does. With
    workers, forked processes read ahead; batches come in the sampler's order all the same. An error in the data set
    ends the iteration with that error, an InputError unchanged, whichever process met it.

    Not `paddle.io.DataLoader` (3.3.1), for what was met with it: without workers, an error in the data set hangs the
    loop for ever; with workers, it ends as "blocking queue is killed"; an iterator that is left early keeps its
    processes and threads; and its workers use Paddle after the fork, which hung now and then. The workers here use
    numpy and Pillow only, and leave each image in memory that they share with their parent, so that /dev/shm, small in
    containers, does not matter.
    """

    def __init__(self, dataset: CocoDetection, sampler: EpochBatchSampler, workers: int = 0):
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
            yield _batch([self.dataset[index] for index in indices])

    def _with_workers(self) -> Iterator[Batch]:
        batches, size = enumerate(self.sampler), self.sampler.batch_size
        # Batch n lies in place n % places until it has been copied out: one is waited for, the others are ahead.
        places = 1 + math.ceil(_PREFETCH * self.workers / size)
        images = _shared_array((places, size, 3 * self.dataset.transform.most_pixels))

        fork = multiprocessing.get_context("fork")
        pool = ProcessPoolExecutor(self.workers, fork, _start_worker, (self.dataset, images))
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
                samples = []
                for row, future in enumerate(futures):
                    image, target = future.result()
                    if isinstance(image, tuple):
                        image = images[place, row, : math.prod(image)].reshape(image)
                    samples.append((image, target))
                batch = _batch(samples)
                submit(1)
                yield batch
        finally:
            pool.shutdown(cancel_futures=True)


def _batch(samples: Sequence[Sample]) -> Batch:
    images, mask = collate([image for image, _ in samples])
    targets = [{key: paddle.to_tensor(value) for key, value in target.items()} for _, target in samples]
    return paddle.to_tensor(images), paddle.to_tensor(mask), targets


def _shared_array(shape: tuple[int, ...]) -> np.ndarray:
    """float32 memory that processes forked later share with this one; none is used before it is written to."""
    return np.frombuffer(mmap.mmap(-1, math.prod(shape) * 4), np.float32).reshape(shape)


def _start_worker(dataset: CocoDetection, images: np.ndarray) -> None:
    global _worker
    _worker = dataset, images
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)


def _work(index: int, place: tuple[int, int]) -> tuple[tuple[int, ...] | np.ndarray, Target]:
    """In a worker: read a sample, its image into its place in the shared memory. Returns the image's shape, and target.

    An image that is too large for its place, of an extreme shape, is returned itself.
    """
    dataset, images = _worker
    image, target = dataset[index]
    if image.size > images.shape[2]:
        return image, target
    images[place][: image.size] = image.ravel()
    return image.shape, target


def build_loader(dataset: CocoDetection, sampler: EpochBatchSampler, workers: int) -> Loader:
    """A `Loader` with that many processes; 0 reads in this one."""
    return Loader(dataset, sampler, workers)
