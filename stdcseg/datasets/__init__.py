"""Reading, augmenting and batching of pictures with their labels."""

import argparse
import gc
import itertools
import math
import mmap
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import paddle

from shared import InputError

from .cityscapes import CityScapes, load_image, load_label
from .sampling import EpochBatchSampler
from .transforms import EvalTransform, TrainTransform, normalise
from constants import CLASS_NAMES, IGNORE, LABELS, PALETTE, Label, to_label_ids, to_train_ids

__all__ = [
    "CLASS_NAMES",
    "IGNORE",
    "LABELS",
    "PALETTE",
    "CityScapes",
    "EpochBatchSampler",
    "EvalTransform",
    "Label",
    "Loader",
    "TrainTransform",
    "build_dataset",
    "build_loader",
    "load_image",
    "load_label",
    "normalise",
    "to_label_ids",
    "to_train_ids",
]

_PREFETCH = 2  # samples that each worker has ahead of it, at least

Batch = tuple[paddle.Tensor, paddle.Tensor]


def build_dataset(options: argparse.Namespace, split: str) -> CityScapes:
    """The images to train on, those of --mode, augmented ("train"), or those to evaluate on, whole ("val").

    Reads from `options`: data_path, seed; for training also mode, scales, crop_size, colour_jitter. InputError as from
    `CityScapes`.
    """
    if split == "train":
        transform = TrainTransform(options.scales, tuple(options.crop_size), options.colour_jitter)
        return CityScapes(options.data_path, options.mode, transform, options.seed)
    return CityScapes(options.data_path, split, EvalTransform(), options.seed)


class Loader:
    """Batches of a data set: iterate for (images float32 [N, 3, H, W], train ids int64 [N, H, W]), Paddle tensors.

    With workers, forked processes read ahead; batches come in the sampler's order all the same. An error in the data
    set ends the iteration with that error, an InputError unchanged, whichever process met it. Pictures of different
    sizes in one batch are an InputError.

    Not `paddle.io.DataLoader` (3.3.1), for what was met with it: without workers, an error in the data set hangs the
    loop for ever; with workers, it ends as "blocking queue is killed"; an iterator that is left early keeps its
    processes and threads; and its workers use Paddle after the fork, which hung now and then. The workers here use
    numpy and Pillow only, and leave each sample in memory that they share with their parent, so that /dev/shm, small in
    containers, does not matter.
    """

    def __init__(self, dataset: CityScapes, sampler: EpochBatchSampler, workers: int = 0):
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
        for keys in self.sampler:
            yield self._batch(keys, [self.dataset[key] for key in keys])

    def _batch(self, keys: list[int], samples: list[tuple[np.ndarray, np.ndarray]]) -> Batch:
        images, labels = zip(*samples, strict=True)
        sizes = {f"{label.shape[1]}x{label.shape[0]}": key for key, label in zip(keys, labels, strict=True)}
        if len(sizes) > 1:
            pictures = ", ".join(f"{self.dataset.image_path(key)} is {size}" for size, key in list(sizes.items())[:2])
            raise InputError(f"pictures of different sizes in one batch: {pictures}; give --n_img_per_gpu 1")
        return paddle.to_tensor(np.stack(images)), paddle.to_tensor(np.stack(labels).astype(np.int64, copy=False))

    def _with_workers(self) -> Iterator[Batch]:
        batches, size = enumerate(self.sampler), self.sampler.batch_size
        image, label = self.dataset[next(iter(self.sampler))[0]]  # tells the shapes
        # Batch n lies in place n % places until it has been copied out: one is waited for, the others are ahead.
        places = 1 + math.ceil(_PREFETCH * self.workers / size)
        images = _shared_array((places, size, *image.shape), np.float32)
        labels = _shared_array((places, size, *label.shape), np.uint8)

        fork = multiprocessing.get_context("fork")
        pool = ProcessPoolExecutor(self.workers, fork, _start_worker, (self.dataset, images, labels))
        pending = deque()

        def submit(count: int) -> None:
            for number, keys in itertools.islice(batches, count):
                place = number % places
                pending.append((keys, place, [pool.submit(_work, key, (place, row)) for row, key in enumerate(keys)]))

        try:
            # What is garbage now stays garbage in the workers: to free Paddle's objects there can hang, too.
            gc.freeze()
            try:
                submit(places)
            finally:
                gc.unfreeze()
            while pending:
                keys, place, futures = pending.popleft()
                sent = [future.result() for future in futures]
                if any(sent):
                    here = zip(images[place], labels[place], strict=True)
                    batch = self._batch(keys, [sample or mine for sample, mine in zip(sent, here, strict=False)])
                else:
                    batch = tuple(paddle.to_tensor(array[place, : len(keys)]) for array in (images, labels))
                    batch = batch[0], batch[1].astype("int64")
                submit(1)
                yield batch
        finally:
            pool.shutdown(cancel_futures=True)


def _shared_array(shape: tuple[int, ...], dtype: type) -> np.ndarray:
    """Memory that processes forked later share with this one; none is used before it is written to."""
    return np.frombuffer(mmap.mmap(-1, math.prod(shape) * np.dtype(dtype).itemsize), dtype).reshape(shape)


def _start_worker(dataset: CityScapes, images: np.ndarray, labels: np.ndarray) -> None:
    global _worker
    _worker = dataset, images, labels
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)


def _work(key: int, place: tuple[int, int]) -> tuple[np.ndarray, np.ndarray] | None:
    """In a worker: read a sample into its place in the shared memory; send it if it is of another size."""
    dataset, images, labels = _worker
    image, label = dataset[key]
    if label.shape != labels.shape[2:]:
        return image, label
    images[place], labels[place] = image, label
    return None


def build_loader(dataset: CityScapes, sampler: EpochBatchSampler, workers: int) -> Loader:
    """A `Loader` with that many processes; 0 reads in this one."""
    return Loader(dataset, sampler, workers)
