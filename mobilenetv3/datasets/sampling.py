"""Repeated augmentation: several views of an image in one epoch (NOTES 3.17)."""

import numpy as np

from shared.running.sampling import EpochBatchSampler


class RASampler(EpochBatchSampler):
    """Batches of keys (index, repeat): each image `repeats` times in a row, different processes get different views.

    An epoch is cut to the length of the data set rounded down to a multiple of 256. A data set of fewer than 256 images
    is not cut; the reference's sampler gives nothing there.
    """

    def __init__(self, length: int, batch_size: int, repeats: int, **settings):
        self.repeats = repeats
        super().__init__(length, batch_size, **settings)

    @property
    def samples_per_epoch(self) -> int:
        """Samples of a whole epoch in one process."""
        return self.length // 256 * 256 // self.world if self.length >= 256 else super().samples_per_epoch

    def keys(self) -> list[tuple[int, int]]:
        """This process's keys in the order of this epoch."""
        views = np.arange(self.rank, self.samples_per_epoch * self.world, self.world)
        indices = self.order()[views // self.repeats % self.length]
        return list(zip(indices.tolist(), (views % self.repeats).tolist(), strict=True))
