"""Which samples form which batch (NOTES 3.16, 3.17): a pure function of seed, epoch, rank and step."""

import math
from collections.abc import Iterator

import numpy as np


class EpochBatchSampler:
    """Batches of keys for `ImageFolder`; a batch sampler of `paddle.io.DataLoader`.

    Epoch e visits the permutation of `np.random.default_rng([seed, e])`, or the natural order without `shuffle`. The
    order is filled up from its head until every one of `world` processes has the same count; process `rank` takes every
    world-th, as torch's DistributedSampler does. The last batch may be short.

    With `repeats` (--ra_sampler, repeated augmentation) each sample stands `repeats` times in a row, so that different
    processes get different views of it, and the epoch is cut to the length of the data set, rounded down to a multiple
    of 256 (a smaller data set is not cut: the reference's sampler gives nothing there). Keys are then (index, repeat)
    instead of index.
    """

    def __init__(
        self,
        length: int,
        batch_size: int,
        shuffle: bool = True,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        repeats: int | None = None,
    ):
        """`length` is the number of samples of the data set, `batch_size` that of one process."""
        if not 0 <= rank < world:
            raise ValueError(f"rank {rank} of {world} processes")
        self.length, self.batch_size, self.shuffle, self.seed = length, batch_size, shuffle, seed
        self.rank, self.world, self.repeats = rank, world, repeats
        self.epoch = self.start_step = 0

    def set_epoch(self, epoch: int, start_step: int = 0) -> None:
        """Go to `epoch`; leave out its first `start_step` batches, which a resumed training has already seen."""
        self.epoch, self.start_step = epoch, start_step

    @property
    def samples_per_epoch(self) -> int:
        """Samples of a whole epoch in one process."""
        if self.repeats and self.length >= 256:
            return self.length // 256 * 256 // self.world
        return math.ceil(self.length / self.world)

    @property
    def steps_per_epoch(self) -> int:
        """Batches of a whole epoch."""
        return math.ceil(self.samples_per_epoch / self.batch_size)

    def __len__(self) -> int:
        """Batches that an iteration gives: those of an epoch less `start_step`."""
        return max(self.steps_per_epoch - self.start_step, 0)

    def _keys(self) -> list:
        """This process's keys in the order of this epoch."""
        order = np.arange(self.length)
        if self.shuffle:
            order = np.random.default_rng([self.seed, self.epoch]).permutation(self.length)
        count = self.samples_per_epoch
        if not self.repeats:
            return np.resize(order, count * self.world)[self.rank :: self.world].tolist()  # np.resize starts over
        places = np.arange(self.rank, count * self.world, self.world)
        indices = order[places // self.repeats % self.length]
        return list(zip(indices.tolist(), (places % self.repeats).tolist(), strict=True))

    def __iter__(self) -> Iterator[list]:
        keys = self._keys()
        for start in range(self.start_step * self.batch_size, len(keys), self.batch_size):
            yield keys[start : start + self.batch_size]
