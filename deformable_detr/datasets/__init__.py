"""Reading, augmenting and batching of COCO's images with their boxes."""

import argparse

from shared import InputError

from .annotations import read_annotations, read_json
from .coco import CocoDetection, load_image, split_paths
from .loader import Loader, build_loader
from .sampling import EpochBatchSampler
from .transforms import EvalTransform, TrainTransform, collate, prepare_target

__all__ = [
    "CocoDetection",
    "EpochBatchSampler",
    "EvalTransform",
    "Loader",
    "TrainTransform",
    "build_dataset",
    "build_loader",
    "collate",
    "eval_transform",
    "load_image",
    "prepare_target",
    "read_annotations",
    "read_json",
    "split_paths",
]


def eval_transform(options: argparse.Namespace) -> EvalTransform:
    """The transform of evaluation and demo: --val_size, --max_size."""
    return EvalTransform(options.val_size, options.max_size)


def build_dataset(options: argparse.Namespace, split: str, augment: bool | None = None) -> CocoDetection:
    """The images of "train" or "val"; augmented for "train" unless `augment` says otherwise.

    Reads from `options`: data_path, num_classes, seed; val_size and max_size; and for augmentation scales, crop_sides,
    crop_range. InputError for missing files, as `read_annotations` raises it, and for crops larger than images.
    """
    folder, annotations = split_paths(options.data_path, split)
    transform = eval_transform(options)
    if augment if augment is not None else split == "train":
        if options.crop_range[0] > min(options.crop_sides):
            raise InputError(
                f"--crop_range {options.crop_range[0]}: a crop of that side does not fit pictures of --crop_sides "
                f"{min(options.crop_sides)}; give a smaller one"
            )
        transform = TrainTransform(options.scales, options.max_size, options.crop_sides, options.crop_range)
    return CocoDetection(folder, annotations, transform, options.num_classes, options.seed)
