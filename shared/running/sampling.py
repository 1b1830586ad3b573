"""Which samples form which batch: a pure function of seed, epoch, rank and step."""

import math
from collections.abc import Iterator

import numpy as np

from shared import InputError


class EpochBatchSampler:
    """Batches of indices.

    Epoch e visits the permutation of `np.random.default_rng([seed, e])`, or the natural order without `shuffle`. The
    order is filled up from its head until every one of `world` processes has the same count. Process `rank` takes every
    world-th, as torch's DistributedSampler does, or with `contiguous` one piece of the order. The last batch may be
    short; `drop_last` drops it.
    """

    def __init__(
        self,
        length: int,
        batch_size: int,
        shuffle: bool = True,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        drop_last: bool = False,
        contiguous: bool = False,
        batch_option: str = "--batch_size",
    ):
        """`length` is the number of samples of the data set, `batch_size` that of one process.

        InputError, which names `batch_option`, if `drop_last` leaves no batch.
        """
        if not 0 <= rank < world:
            raise ValueError(f"rank {rank} of {world} processes")
        self.length, self.batch_size, self.shuffle, self.seed = length, batch_size, shuffle, seed
        self.rank, self.world, self.drop_last, self.contiguous = rank, world, drop_last, contiguous
        self.epoch = self.start_step = 0
        if drop_last and not self.steps_per_epoch:
            processes = f"on {world} processes " if world > 1 else ""
            remedy = f"give {batch_option} {self.samples_per_epoch} or less"
            raise InputError(f"{length} samples {processes}do not fill a batch of {batch_size}; {remedy}")

    def set_epoch(self, epoch: int, start_step: int = 0) -> None:
        """Go to `epoch`, past its first `start_step` batches, which a resumed training has already seen."""
        self.epoch, self.start_step = epoch, start_step

    @property
    def samples_per_epoch(self) -> int:
        """Samples of a whole epoch in one process, those of a dropped batch included."""
        return math.ceil(self.length / self.world)

    @property
    def steps_per_epoch(self) -> int:
        """Batches of a whole epoch."""
        if self.drop_last:
            return self.samples_per_epoch // self.batch_size
        return math.ceil(self.samples_per_epoch / self.batch_size)

    def __len__(self) -> int:
        """Batches that an iteration gives: those of an epoch less `start_step`."""
        return max(self.steps_per_epoch - self.start_step, 0)

    def order(self) -> np.ndarray:
        """The order of this epoch over the whole data set, int64 [length]."""
        if self.shuffle:
            return np.random.default_rng([self.seed, self.epoch]).permutation(self.length)
        return np.arange(self.length)

    def keys(self) -> list:
        """What this process asks the data set for in this epoch, in order."""
        count = self.samples_per_epoch
        order = np.resize(self.order(), count * self.world)  # np.resize starts over
        if self.contiguous:
            return order[self.rank * count : (self.rank + 1) * count].tolist()
        return order[self.rank :: self.world].tolist()

    def __iter__(self) -> Iterator[list]:
        keys = self.keys()
        for step in range(self.start_step, self.steps_per_epoch):
            yield keys[step * self.batch_size : (step + 1) * self.batch_size]
