"""Reading, augmenting and batching of images."""

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
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import paddle

from shared import InputError

from .folder import ImageFolder, find_classes, load_image
from .imagenet import CLASS_NAMES, SYNSETS, all_synsets, label_names
from .mixing import build_mixing
from .sampling import EpochBatchSampler
from .transforms import build_transform

__all__ = [
    "CLASS_NAMES",
    "SYNSETS",
    "EpochBatchSampler",
    "ImageFolder",
    "Loader",
    "build_dataset",
    "build_loader",
    "build_mixing",
    "build_transform",
    "classes_for",
    "label_names",
    "load_image",
    "split_folder",
]

_PREFETCH = 2  # batches that each worker prepares ahead


def split_folder(data_path: str | os.PathLike | None, split: str) -> Path:
    """`data_path`/`split`, the folder that holds the class folders of "train" or "val". InputError if it is missing."""
    mini = "(python mobilenetv3/draw_mini.py --output_dir DIR draws a small one)"
    if not data_path:
        raise InputError(f"--data_path is missing: give a folder that holds train/ and val/ {mini}")
    root = Path(data_path)
    if not root.is_dir():
        raise InputError(f"--data_path {root}: no such folder; give one that holds train/ and val/ {mini}")
    if not (root / split).is_dir():
        raise InputError(f"--data_path {root}: has no folder {split}/; it must hold train/ and val/ {mini}")
    return root / split


def classes_for(
    root: str | os.PathLike, num_classes: int, model_classes: Sequence[str] | None = None
) -> list[str] | None:
    """The class names by which to label the folders of `root` (a split) for a network with `num_classes` outputs.

    `model_classes`, the class names in the checkpoint, where there are any; else the ImageNet synsets where the network
    has 1000 outputs and all folders are synsets (NOTES 3.3); else None, which means by rank. InputError where the
    labels would not fit the outputs.
    """
    folders = find_classes(root)
    if model_classes is not None:
        if len(model_classes) != num_classes:
            raise InputError(
                f"the weights name {len(model_classes)} classes but the network has {num_classes} outputs; "
                f"give --num_classes {len(model_classes)}"
            )
        return list(model_classes)
    if num_classes == len(SYNSETS) and all_synsets(folders):
        return list(SYNSETS)
    if len(folders) > num_classes:
        raise InputError(
            f"{root}: holds {len(folders)} class folders but the network has {num_classes} outputs; "
            f"give --num_classes {len(folders)}"
        )
    return None


def build_dataset(
    options: argparse.Namespace, split: str, classes: Sequence[str] | None = None, allow_empty: bool = False
) -> ImageFolder:
    """The images of --data_path/`split` with the training preset ("train") or the evaluation preset ("val").

    `classes`: see `classes_for`. `allow_empty` accepts class folders without an image. Reads from `options`: data_path,
    seed and what `build_transform` reads. InputError as `ImageFolder` raises it.
    """
    transform = build_transform(options, train=split == "train")
    return ImageFolder(split_folder(options.data_path, split), transform, options.seed, classes, allow_empty)


class Loader:
    """Batches of a data set: iterate for (images float32 [N, 3, H, W], labels int64 [N]), Paddle tensors.

    With workers, forked processes read ahead; batches come in the sampler's order all the same. An error in the data
    set ends the iteration with that error, an InputError unchanged, whichever process met it.

    Not `paddle.io.DataLoader` (3.3.1), for what was met with it: without workers, an error in the data set hangs the
    loop for ever; with workers, it ends as "blocking queue is killed"; an iterator that is left early keeps its
    processes and threads; and its workers use Paddle after the fork, which hung one in ten runs of this folder's tests.
    The workers here use numpy and Pillow only, and leave each batch in memory that they share with their parent, so
    that /dev/shm, small in containers, does not matter.
    """

    def __init__(self, dataset: ImageFolder, sampler: EpochBatchSampler, workers: int = 0):
        self.dataset, self.sampler, self.workers = dataset, sampler, workers

    def set_epoch(self, epoch: int, start_step: int = 0) -> None:
        """Order and augmentation of `epoch`, from its batch `start_step` on. Takes effect with the next iteration."""
        self.dataset.set_epoch(epoch)
        self.sampler.set_epoch(epoch, start_step)

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[tuple[paddle.Tensor, paddle.Tensor]]:
        if self.workers and len(self):
            yield from self._with_workers()
            return
        for keys in self.sampler:
            yield tuple(map(paddle.to_tensor, _read(self.dataset, keys)))

    def _with_workers(self) -> Iterator[tuple[paddle.Tensor, paddle.Tensor]]:
        tasks = enumerate(self.sampler)
        first = self.dataset[next(iter(self.sampler))[0]][0]  # tells the shape
        places = _PREFETCH * self.workers  # batch n lies in place n % places until it has been copied out
        shape = (places, self.sampler.batch_size, *first.shape)
        shared = np.frombuffer(mmap.mmap(-1, math.prod(shape) * first.itemsize), first.dtype).reshape(shape)

        fork = multiprocessing.get_context("fork")
        pool = ProcessPoolExecutor(self.workers, fork, _start_worker, (self.dataset, shared))
        pending = deque()

        def submit(count: int) -> None:
            for number, keys in itertools.islice(tasks, count):
                pending.append((number % places, pool.submit(_work, number % places, keys)))

        try:
            # What is garbage now stays garbage in the workers: to free Paddle's objects there can hang, too.
            gc.freeze()
            try:
                submit(places)
            finally:
                gc.unfreeze()
            while pending:
                place, future = pending.popleft()
                labels = future.result()
                images = paddle.to_tensor(shared[place, : len(labels)])
                submit(1)
                yield images, paddle.to_tensor(labels)
        finally:
            pool.shutdown(cancel_futures=True)


def _read(dataset: ImageFolder, keys: list) -> tuple[np.ndarray, np.ndarray]:
    """One batch: images float32 [N, 3, H, W], labels int64 [N]."""
    images, labels = zip(*(dataset[key] for key in keys), strict=True)
    return np.stack(images), np.array(labels, np.int64)


def _start_worker(dataset: ImageFolder, shared: np.ndarray) -> None:
    global _worker
    _worker = dataset, shared
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)


def _work(place: int, keys: list) -> np.ndarray:
    """In a worker: read a batch into its place in the shared memory, return its labels."""
    dataset, shared = _worker
    images, labels = _read(dataset, keys)
    shared[place, : len(images)] = images
    return labels


def build_loader(dataset: ImageFolder, sampler: EpochBatchSampler, options: argparse.Namespace) -> Loader:
    """A `Loader` with --workers processes; 0 reads in this one."""
    return Loader(dataset, sampler, options.workers)
