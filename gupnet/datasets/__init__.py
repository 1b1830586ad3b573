"""KITTI's object set: reading, augmentation, batches."""

import argparse
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import paddle

from shared.running.loader import Loader
from shared.running.sampling import EpochBatchSampler

from .geometry import read_calibration
from .kitti import KITTI, Sample
from .objects import read_objects

__all__ = ["KITTI", "Batch", "Sample", "build_dataset", "build_loader", "collate", "read_calibration", "read_objects"]


def build_dataset(options: argparse.Namespace, split: str, augment: bool | None = None) -> KITTI:
    """The frames of a split: "train" and "trainval" with augmentation, "val" and "test" without.

    `augment` False gives the training frames without augmentation, to evaluate on them. InputError as `KITTI`'s.
    """
    return KITTI(options, split, split in ("train", "trainval") if augment is None else augment)


class Batch(NamedTuple):
    """B frames; all but `info` are Paddle tensors."""

    images: paddle.Tensor  # float32 [B, 3, H, W]
    calibs: paddle.Tensor  # float32 [B, 3, 4]
    coord_ranges: paddle.Tensor  # float32 [B, 2, 2]
    targets: dict[str, paddle.Tensor]  # as a sample's, stacked
    info: dict[str, np.ndarray]  # as a sample's, stacked


def collate(samples: Sequence[Sample]) -> Batch:
    """Samples as a batch; their arrays are copied."""
    images, calibs, coord_ranges, targets, info = zip(*samples, strict=True)
    inputs = [paddle.to_tensor(np.stack(arrays)) for arrays in (images, calibs, coord_ranges)]
    stacked = {name: paddle.to_tensor(np.stack([own[name] for own in targets])) for name in targets[0]}
    return Batch(*inputs, stacked, {name: np.stack([own[name] for own in info]) for name in info[0]})


def build_loader(dataset: KITTI, sampler: EpochBatchSampler, workers: int) -> Loader:
    """Batches of `dataset`, read by that many processes; 0 reads in this one."""
    return Loader(dataset, sampler, workers, collate)
