"""Which samples form which batch of which process."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some

from shared import InputError
from shared.running.sampling import EpochBatchSampler


def keys(epoch: int = 0, start: int = 0, **arguments) -> list:
    sampler = EpochBatchSampler(**arguments)
    sampler.set_epoch(epoch, start)
    found = list(sampler)
    assert len(found) == len(sampler) == max(sampler.steps_per_epoch - start, 0)
    return found


def flat(groups: list) -> list:
    return [key for group in groups for key in group]


def test_order_is_a_permutation_of_seed_and_epoch():
    orders = [tuple(flat(keys(e, length=23, batch_size=4, seed=seed))) for seed in (0, 1) for e in (0, 1)]
    assert len(set(orders)) == 4 and all(sorted(order) == list(range(23)) for order in orders)
    assert orders[3] == tuple(np.random.default_rng([1, 1]).permutation(23))
    assert [len(batch) for batch in keys(length=23, batch_size=4)] == [4, 4, 4, 4, 4, 3]
    assert flat(keys(length=5, batch_size=2, shuffle=False)) == [0, 1, 2, 3, 4]


@settings(max_examples=60, deadline=None)
@given(some.integers(1, 40), some.integers(1, 5), some.integers(1, 6), some.booleans(), some.booleans())
def test_processes_share_an_epoch(length, world, size, shuffle, contiguous):
    """Equal counts, in turn as torch's DistributedSampler or in contiguous pieces; the head fills up the end."""
    shared = {"length": length, "batch_size": size, "shuffle": shuffle, "seed": 3, "contiguous": contiguous}
    ranks = [flat(keys(4, **shared, rank=rank, world=world)) for rank in range(world)]
    assert {len(rank) for rank in ranks} == {-(-length // world)}
    whole = flat(ranks) if contiguous else flat(zip(*ranks, strict=True))
    order = np.random.default_rng([3, 4]).permutation(length) if shuffle else np.arange(length)
    assert whole == [order[index % length] for index in range(len(whole))]
    if not shuffle and not contiguous:
        for rank in range(world):
            assert ranks[rank] == list(torch.utils.data.DistributedSampler(range(length), world, rank, shuffle=False))


@pytest.mark.parametrize("drop_last", [True, False])
@pytest.mark.parametrize("contiguous", [True, False])
def test_a_resumed_epoch_gives_the_rest(drop_last, contiguous):
    arguments = {"length": 31, "batch_size": 5, "rank": 1, "world": 2, "drop_last": drop_last, "contiguous": contiguous}
    whole = keys(3, **arguments)
    assert [len(batch) for batch in whole] == [5] * 3 + [1] * (not drop_last)  # 16 samples
    for start in range(len(whole) + 2):
        assert keys(3, start, **arguments) == whole[start:]
    assert keys(4, **arguments) != whole


def test_drop_last():
    assert [len(batch) for batch in keys(length=23, batch_size=4, drop_last=True)] == [4] * 5
    assert keys(length=23, batch_size=4, drop_last=True) == keys(length=23, batch_size=4)[:5]
    assert len(EpochBatchSampler(7, 4, world=2, rank=1, drop_last=True)) == 1
    with pytest.raises(InputError, match=r"^7 samples on 2 processes do not fill a batch of 5; give --size 4 or less$"):
        EpochBatchSampler(7, 5, world=2, drop_last=True, batch_option="--size")
    with pytest.raises(InputError, match=r"^7 samples do not fill a batch of 12; give --batch_size 7 or less$"):
        EpochBatchSampler(7, 12, drop_last=True)


def test_published_epochs():
    """Cityscapes on 3 processes and on one, its validation, KITTI's Eigen split, COCO on 16 processes."""
    for arguments, samples, steps in (
        ((2975, 16, 3), 992, 62),
        ((2975, 16, 1), 2975, 185),
        ((500, 5, 1), 500, 100),
        ((39810, 12, 1), 39810, 3317),
        ((118287, 2, 16), 7393, 3696),
    ):
        length, size, world = arguments
        sampler = EpochBatchSampler(length, size, world=world, rank=world - 1, drop_last=True)
        assert (sampler.samples_per_epoch, sampler.steps_per_epoch, len(sampler)) == (samples, steps, steps)


def test_bad_rank():
    with pytest.raises(ValueError, match="rank 2 of 2"):
        EpochBatchSampler(4, 2, rank=2, world=2)
