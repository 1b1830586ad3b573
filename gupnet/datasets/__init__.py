"""KITTI's object set: reading, augmentation, batches."""

import argparse

from .geometry import Calibration, read_calibration
from .kitti import KITTI, Sample, find_root, load_image, network_input, read_split
from .loader import Batch, Loader, build_loader
from .objects import TYPES, Objects, box_corners, parse_objects, read_objects
from .sampling import EpochBatchSampler
from .targets import angle2class, build_targets, class2angle

__all__ = [
    "TYPES",
    "Batch",
    "Calibration",
    "EpochBatchSampler",
    "KITTI",
    "Loader",
    "Objects",
    "Sample",
    "box_corners",
    "build_dataset",
    "build_loader",
    "build_targets",
    "class2angle",
    "angle2class",
    "find_root",
    "load_image",
    "network_input",
    "parse_objects",
    "read_calibration",
    "read_objects",
    "read_split",
]


def build_dataset(options: argparse.Namespace, split: str, augment: bool | None = None) -> KITTI:
    """The frames of a split: "train" and "trainval" with augmentation, "val" and "test" without.

    Reads from `options`: data_path, writelist, class_merging, use_dontcare, use_3d_center, random_flip, random_crop,
    scale, shift, input_size, seed. `augment` False gives the training frames without augmentation, to evaluate on them.
    InputError for missing folders, lists and files.
    """
    return KITTI(
        options.data_path,
        split,
        augment=split in ("train", "trainval") if augment is None else augment,
        writelist=options.writelist,
        class_merging=options.class_merging,
        use_dontcare=options.use_dontcare,
        use_3d_center=options.use_3d_center,
        random_flip=options.random_flip,
        random_crop=options.random_crop,
        scale=options.scale,
        shift=options.shift,
        input_size=options.input_size,
        seed=options.seed,
    )
