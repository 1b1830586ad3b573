"""Two processes, each with its images of a batch, against one process with all of them; then trainings.

    python -m paddle.distributed.launch --nproc_per_node 2 gupnet/tests/two_processes.py DIR 1 2 TRAIN_OPTIONS

A step in float64 by `engine.train_step`, with --sync_bn: after it Adam's first moments are the gradients, but for a
factor. One batch has objects in both processes, of unequal number; the other in the first process only.
"""

import sys
from pathlib import Path
from unittest import mock

import numpy as np
import paddle
import paddle.distributed as dist

from shared.tests.two_processes import equal, main

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import train
from datasets import Batch
from engine import Training, build_training, train_step
from losses import TERMS
from models import build_model
from options import parse_options

LIMIT = 1e-7  # Paddle's batch-norm and Adam operators keep some constants as float32
WIDTH, HEIGHT, SLOTS = 96, 64, 50


def drawn_batch(generator: np.random.Generator, objects: list[int]) -> dict:
    """{name: array} of as many images as there are numbers of objects; float64."""
    count, cells = len(objects), WIDTH * HEIGHT // 16
    batch = {
        "images": generator.standard_normal((count, 3, HEIGHT, WIDTH)),
        "calibs": np.tile([[700.0, 0, 600, 40], [0, 700, 180, 0.3], [0, 0, 1, 0.003]], (count, 1, 1)),
        "coord_ranges": np.tile([[0.0, 0.0], [1242.0, 375.0]], (count, 1, 1)),
    }
    mask = np.arange(SLOTS) < np.array(objects)[:, None]
    targets = {
        "indices": generator.integers(0, cells, (count, SLOTS)),
        "cls_ids": generator.integers(0, 3, (count, SLOTS)),
        "mask_2d": mask.astype(np.uint8),
        "heatmap": generator.uniform(0, 0.9, (count, 3, HEIGHT // 4, WIDTH // 4)),
        "heading_bin": generator.integers(0, 12, (count, SLOTS, 1)),
        "heading_res": generator.uniform(-0.2, 0.2, (count, SLOTS, 1)),
        "depth": generator.uniform(5, 50, (count, SLOTS, 1)),
        "size_3d": generator.standard_normal((count, SLOTS, 3)),
    }
    for name in ("offset_2d", "size_2d", "offset_3d"):
        targets[name] = generator.standard_normal((count, SLOTS, 2))
    for image, slot in zip(*np.nonzero(mask), strict=True):
        kind, cell = targets["cls_ids"][image, slot], targets["indices"][image, slot]
        targets["heatmap"][image, kind].flat[cell] = 1
    return batch | {"targets": targets}


def part_of(batch: dict, rows: slice) -> Batch:
    """Those images of `drawn_batch`'s result as tensors."""
    targets = {name: paddle.to_tensor(value[rows]) for name, value in batch["targets"].items()}
    arrays = (batch[name][rows] for name in ("images", "calibs", "coord_ranges"))
    return Batch(*(paddle.to_tensor(array) for array in arrays), targets, {})


def after_a_step(batch: Batch) -> dict[str, np.ndarray]:
    """Losses of a step in float64 where all tasks weigh 1, Adam's first moments, norms' statistics."""
    options = parse_options(["--sync_bn", "--weight_decay", "0"])
    paddle.seed(0)
    model = build_model(options)
    model.to(dtype="float64")
    training: Training = build_training(model, options)
    training.schedule.step(0)
    found = {n: np.array(v) for n, v in train_step(training, batch, dict.fromkeys(TERMS, 1.0)).items()}
    names = {parameter.name: name for name, parameter in model.named_parameters()}
    moments = training.optimizer._accumulators["moment1"]
    found |= {f"{names[name]}|moment": tensor.numpy() for name, tensor in moments.items()}
    return found | {n: t.numpy() for n, t in model.state_dict().items() if n.endswith(("_mean", "_variance"))}


def compare(title: str) -> bool:
    objects = [int(word) for word in title.split()[:2]]
    rank, world = dist.get_rank(), dist.get_world_size()
    batch = drawn_batch(np.random.default_rng(0), objects)
    together = after_a_step(part_of(batch, slice(rank, None, world)))
    if rank != 0:
        return True
    with mock.patch.object(dist, "get_world_size", lambda: 1):
        alone = after_a_step(part_of(batch, slice(None)))
    for name in ("depth", "offset_3d", "size_3d", "heading"):  # a norm follows: the gradient is all rounding
        del together[f"{name}.0.bias|moment"], alone[f"{name}.0.bias|moment"]
    return equal(title, together, alone, LIMIT, least=1e-9)


if __name__ == "__main__":
    sys.exit(main(compare, ["5 2 objects", "3 0 objects"], train.main, sys.argv[1:]))
