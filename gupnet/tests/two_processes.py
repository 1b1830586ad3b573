"""Two processes, each with its image of a batch, against one process with both; then trainings.

    python -m paddle.distributed.launch --nproc_per_node 2 gupnet/tests/two_processes.py DIR 1 2 TRAIN_OPTIONS

A step in float64 by `engine.train_step`, with --sync_bn: after it Adam's first moments are the gradients, but for a
factor. One batch has objects in both images, of unequal number; the other in the first image only.
"""

import sys
from pathlib import Path

import numpy as np
import paddle.distributed as dist

from shared.tests.two_processes import alone, equal, first_moments, main, network_in_float64

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import train
from datasets import Batch
from engine import build_training, train_step
from losses import TERMS
from models import build_model
from networks import batch_of
from options import parse_options

LIMIT = 1e-7  # Paddle's batch-norm and Adam operators keep some constants as float32


def part_of(images: slice, objects: list[int]) -> Batch:
    """Those of the golden batch's two images, with as many of their seven objects."""
    batch = batch_of("model", "float64")
    targets = batch.targets | {"mask_2d": batch.targets["mask_2d"].clone()}
    for image, count in enumerate(objects):
        targets["mask_2d"][image, count:] = 0
        if not count:
            targets["heatmap"][image] *= 0.5
    whole = [value[images] for value in batch[:3]]
    return Batch(*whole, {name: value[images] for name, value in targets.items()}, {})


def after_a_step(batch: Batch) -> dict[str, np.ndarray]:
    """Losses of a step where all tasks weigh 1, Adam's first moments, norms' statistics."""
    options = parse_options(["--sync_bn", "--weight_decay", "0"])
    training = build_training(network_in_float64(build_model, options), options)
    training.schedule.step(0)
    losses = train_step(training, batch, dict.fromkeys(TERMS, 1.0))
    return {name: np.array(value) for name, value in losses.items()} | first_moments(training.model, training.optimizer)


def compare(title: str) -> bool:
    objects = [int(word) for word in title.split()[:2]]
    rank, world = dist.get_rank(), dist.get_world_size()
    together = after_a_step(part_of(slice(rank, None, world), objects))
    if rank != 0:
        return True
    with alone():
        expected = after_a_step(part_of(slice(None), objects))
    for name in ("depth", "offset_3d", "size_3d", "heading"):  # a norm follows: the gradient is all rounding
        del together[f"{name}.0.bias"], expected[f"{name}.0.bias"]
    return equal(title, together, expected, LIMIT, least=1e-9)


if __name__ == "__main__":
    sys.exit(main(compare, ["5 2 objects", "3 0 objects"], train.main, sys.argv[1:]))
