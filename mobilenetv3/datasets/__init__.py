"""Reading, augmenting and batching of images."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import paddle

from shared import InputError
from shared.running.loader import Loader
from shared.running.sampling import EpochBatchSampler

from .folder import ImageFolder, find_classes
from .imagenet import SYNSETS, all_synsets
from .transforms import build_transform


def split_folder(data_path: str | os.PathLike | None, split: str) -> Path:
    """`data_path`/`split`, the folder that holds the class folders of "train" or "val". InputError if it is missing."""
    remedy = "give a folder that holds train/ and val/ (python mobilenetv3/draw_mini.py --output_dir DIR draws one)"
    if not data_path:
        raise InputError(f"--data_path is missing: {remedy}")
    if not Path(data_path).is_dir():
        raise InputError(f"--data_path {data_path}: no such folder; {remedy}")
    folder = Path(data_path) / split
    if not folder.is_dir():
        raise InputError(f"--data_path {data_path}: has no folder {split}/; {remedy}")
    return folder


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
        count = len(model_classes)
        if count != num_classes:
            text = f"the weights name {count} classes but the network has {num_classes} outputs"
            raise InputError(f"{text}; give --num_classes {count}")
        return list(model_classes)
    if num_classes == len(SYNSETS) and all_synsets(folders):
        return list(SYNSETS)
    count = len(folders)
    if count > num_classes:
        text = f"{root}: holds {count} class folders but the network has {num_classes} outputs"
        raise InputError(f"{text}; give --num_classes {count}")
    return None


def build_dataset(options: argparse.Namespace, split: str, classes: Sequence[str] | None = None) -> ImageFolder:
    """The images of --data_path/`split` with the training preset ("train") or the evaluation preset ("val").

    `classes`: see `classes_for`. Reads from `options`: data_path, seed and what `build_transform` reads. InputError as
    `ImageFolder` raises it.
    """
    transform = build_transform(options, train=split == "train")
    return ImageFolder(split_folder(options.data_path, split), transform, options.seed, classes)


def collate(samples: Sequence[tuple[np.ndarray, np.int64]]) -> tuple[paddle.Tensor, paddle.Tensor]:
    """A batch: images float32 [N, 3, H, W] and labels int64 [N]."""
    images, labels = zip(*samples, strict=True)
    return paddle.to_tensor(np.stack(images)), paddle.to_tensor(np.array(labels))


def build_loader(dataset: ImageFolder, sampler: EpochBatchSampler, workers: int) -> Loader:
    """Batches of `collate`, read ahead by `workers` processes; 0 reads in this one."""
    return Loader(dataset, sampler, workers, collate)
