"""KITTI: items of frames with their neighbours, augmentation, and the ground truth of the test splits."""

import argparse
from collections.abc import Container

import numpy as np

from shared.running.loader import Loader
from shared.running.sampling import EpochBatchSampler

from .kitti import KITTIDataset, KITTIDepthDataset, KITTIOdomDataset, KITTIRAWDataset, item_keys
from .splits import ODOMETRY, read_split
from options import sources

DATASETS = {"kitti": KITTIRAWDataset, "kitti_odom": KITTIOdomDataset, "kitti_depth": KITTIDepthDataset}


def training_keys(options: argparse.Namespace) -> set:
    """The keys of an item that a training step with these options reads.

    Losses read the sources at all scales only with --v1_multiscale; the networks read scale 0 only.
    """
    frames = [0, *sources(options)]

    def wanted(key) -> bool:
        match key:
            case ("color", frame, scale):
                return scale == 0 or frame == 0 or options.v1_multiscale
            case ("color_aug", _, scale):
                return scale == 0
            case ("K" | "inv_K", scale):
                return scale == 0 or options.v1_multiscale
        return True

    return {key for key in item_keys(frames) if wanted(key)}


def build_dataset(options: argparse.Namespace, part: str, keys: Container | None = None) -> KITTIDataset:
    """The data set of a split's list: part "train", with augmentation; "val", without; or "test", frame 0 alone.

    "test" reads --eval_split instead of --split; of odom_9 and odom_10 it reads frames 0 and 1 of KITTI odometry.
    `keys`: the keys of an item to make (`training_keys`, say), all by default.
    InputError for a missing data folder, and as `read_split` raises it.
    """
    kind, frames = DATASETS[options.dataset], [0, *sources(options)]
    split = options.split
    if part == "test":
        split, frames = options.eval_split, [0]
        if split in ODOMETRY:
            kind, frames = KITTIOdomDataset, [0, 1]
    return kind(
        options.data_path,
        read_split(options.split_dir, split, part),
        options.height,
        options.width,
        frames,
        is_train=part == "train",
        png=options.png,
        resize=options.resize,
        jitter=options.jitter,
        seed=options.seed,
        keys=keys,
    )


def collate(items: list[dict], dtype: str = "float32") -> dict:
    """Items {key: array} -> {key: Paddle tensor [n, ...]} of `dtype`."""
    import paddle  # here, so that data can be read beside torch in a process without Paddle

    return {key: paddle.to_tensor(np.stack([item[key] for item in items], dtype=dtype)) for key in items[0]}


def build_loader(dataset: KITTIDataset, sampler: EpochBatchSampler, workers: int) -> Loader:
    """Batches of `dataset`, read ahead by that many processes; 0 reads in this one."""
    return Loader(dataset, sampler, workers, collate)
