"""Which samples form which batch (NOTES 6.1): a pure function of seed, epoch, rank and step."""

import math
from collections.abc import Iterator

import numpy as np

from shared import InputError


class EpochBatchSampler:
    """Batches of indices.

    Epoch e visits the permutation of `np.random.default_rng([seed, e])`, or the natural order without `shuffle`. The
    order is filled up from its head until every one of `world` processes has the same count; process `rank` takes every
    world-th, as torch's DistributedSampler does. The last batch may be short; with `drop_last` it is then left out, as
    in the reference's training.
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
    ):
        """`length` is the number of samples of the data set, `batch_size` that of one process.

        InputError if `drop_last` leaves no batch.
        """
        if not 0 <= rank < world:
            raise ValueError(f"rank {rank} of {world} processes")
        self.length, self.batch_size, self.shuffle, self.seed = length, batch_size, shuffle, seed
        self.rank, self.world, self.drop_last = rank, world, drop_last
        self.epoch = self.start_step = 0
        if not self.steps_per_epoch and drop_last:
            processes = f"on {world} processes " if world > 1 else ""
            most = f"give --batch_size {self.samples_per_epoch} or less"
            raise InputError(f"{length} pictures {processes}do not fill a batch of {batch_size}; {most}")

    def set_epoch(self, epoch: int, start_step: int = 0) -> None:
        """Go to `epoch`; leave out its first `start_step` batches, which a resumed training has already seen."""
        self.epoch, self.start_step = epoch, start_step

    @property
    def samples_per_epoch(self) -> int:
        """Samples of a whole epoch in one process, those of a batch that is left out included."""
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

    def __iter__(self) -> Iterator[list[int]]:
        order = np.arange(self.length)
        if self.shuffle:
            order = np.random.default_rng([self.seed, self.epoch]).permutation(self.length)
        count = self.samples_per_epoch
        mine = np.resize(order, count * self.world)[self.rank :: self.world].tolist()  # np.resize starts over
        for step in range(self.start_step, self.steps_per_epoch):
            yield mine[step * self.batch_size : (step + 1) * self.batch_size]
