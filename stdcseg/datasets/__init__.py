"""Reading, augmenting and batching of images with their labels."""

import argparse

import numpy as np
import paddle

from shared.running.loader import Loader
from shared.running.sampling import EpochBatchSampler

from .cityscapes import CityScapes, load_image, load_label
from .transforms import EvalTransform, TrainTransform, normalise

__all__ = [
    "CityScapes",
    "EvalTransform",
    "TrainTransform",
    "build_dataset",
    "build_loader",
    "collate",
    "load_image",
    "load_label",
    "normalise",
]


def build_dataset(options: argparse.Namespace, split: str) -> CityScapes:
    """The images to train on, those of --mode, augmented ("train"), or those of another split, whole.

    Reads from `options`: data_path, seed; for training also mode, scales, crop_size, colour_jitter. InputError as from
    `CityScapes`.
    """
    if split == "train":
        transform = TrainTransform(options.scales, tuple(options.crop_size), options.colour_jitter)
        return CityScapes(options.data_path, options.mode, transform, options.seed)
    return CityScapes(options.data_path, split, EvalTransform(), options.seed)


def collate(samples: list[tuple[np.ndarray, np.ndarray]]) -> tuple[paddle.Tensor, paddle.Tensor]:
    """Samples of one size -> (images float32 [N, 3, H, W], train ids int64 [N, H, W])."""
    images, labels = zip(*samples, strict=True)
    return paddle.to_tensor(np.stack(images)), paddle.to_tensor(np.stack(labels))


def build_loader(dataset: CityScapes, sampler: EpochBatchSampler, workers: int) -> Loader:
    """Batches of `dataset` as `collate` makes them, read by that many processes; 0 reads in this one."""
    return Loader(dataset, sampler, workers, collate)
