"""Reading, augmenting and batching of COCO's images with their boxes."""

import argparse
from collections.abc import Sequence

import paddle

from shared import InputError
from shared.running.loader import Loader
from shared.running.sampling import EpochBatchSampler

from .annotations import read_annotations
from .coco import CocoDetection, split_paths
from .transforms import EvalTransform, Sample, TrainTransform, pad_images, prepare_target

__all__ = [
    "Batch",
    "CocoDetection",
    "EvalTransform",
    "TrainTransform",
    "build_dataset",
    "build_loader",
    "collate",
    "eval_transform",
    "pad_images",
    "prepare_target",
    "read_annotations",
    "split_paths",
]

Batch = tuple[paddle.Tensor, paddle.Tensor, list[dict[str, paddle.Tensor]]]


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
                f"--crop_range {options.crop_range[0]}: a crop of that side does not fit images of --crop_sides "
                f"{min(options.crop_sides)}; give a smaller one"
            )
        transform = TrainTransform(options.scales, options.max_size, options.crop_sides, options.crop_range)
    return CocoDetection(folder, annotations, transform, options.num_classes, options.seed)


def collate(samples: Sequence[Sample]) -> Batch:
    """(images float32 [N, 3, H, W], mask bool [N, H, W], N targets) of samples; `mask` is True where padded."""
    images, mask = pad_images([image for image, _ in samples])
    targets = [{key: paddle.to_tensor(value) for key, value in target.items()} for _, target in samples]
    return paddle.to_tensor(images), paddle.to_tensor(mask), targets


def build_loader(dataset: CocoDetection, sampler: EpochBatchSampler, workers: int) -> Loader:
    """Batches of `collate`, read ahead by that many processes; 0 reads in this one."""
    return Loader(dataset, sampler, workers, collate, sample_bytes=12 * dataset.transform.most_pixels)
