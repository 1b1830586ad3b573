"""Two processes against one: a step in float64, and a training that is stopped and resumed.

    python -m paddle.distributed.launch --nproc_per_node 2 gupnet/tests/two_processes.py TRAIN_OPTIONS

The step is the trainer's own, with --sync_bn: after it Adam's first moments are the gradients, but for a factor. One
batch has objects in both processes, of unequal number; the other in the first process only. Prints the largest relative
difference over moments, statistics and losses; exit status 1 when one is above the limit. Then train.py, with its
options, trains three batches, and resumes for the rest.
"""

import sys
from pathlib import Path

import numpy as np
import paddle
import paddle.distributed as dist

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import train
from datasets import Batch
from learner import Learner
from losses import TERMS
from models import build_model
from options import parse_options

LIMIT = 1e-7  # Paddle's batch-norm and Adam operators keep some constants as float32
FLOOR = 1e-9
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


def learner_of(options) -> Learner:
    """In float64; the same in every process. All tasks weigh 1."""
    paddle.seed(0)
    model = build_model(options)
    model.to(dtype="float64")
    learner = Learner(model, options)
    learner.weights = dict.fromkeys(TERMS, 1.0)
    learner.scheduler.step(0)
    return learner


def after_a_step(learner: Learner, batch: Batch) -> dict[str, np.ndarray]:
    """Losses of the step, Adam's first moments, norms' statistics."""
    found = {name: np.array(value) for name, value in learner.learn(batch).items()}
    names = {parameter.name: name for name, parameter in learner.model.named_parameters()}
    moments = learner.optimizer._accumulators["moment1"]
    found |= {f"{names[name]}|moment": tensor.numpy() for name, tensor in moments.items()}
    return found | {n: t.numpy() for n, t in learner.model.state_dict().items() if n.endswith(("_mean", "_variance"))}


def compare(objects: list[int]) -> bool:
    """Whether the processes, each with its images, do what one does with all of them; said by the first."""
    options = parse_options(["--sync_bn", "--weight_decay", "0"])
    rank, world = dist.get_rank(), dist.get_world_size()
    batch = drawn_batch(np.random.default_rng(0), objects)
    learner, alone = learner_of(options), learner_of(options)
    together = after_a_step(learner, part_of(batch, slice(rank, None, world)))
    if rank != 0:
        return True
    alone.world = 1
    for layer in alone.model.sublayers():
        if hasattr(layer, "synchronise"):
            layer.synchronise = False
    alone = after_a_step(alone, part_of(batch, slice(None)))
    assert alone.keys() == together.keys()
    dead = {f"{name}.0.bias|moment" for name in ("depth", "offset_3d", "size_3d", "heading")}  # a norm follows
    worst = max(
        np.linalg.norm(together[name] - alone[name]) / max(np.linalg.norm(alone[name]), FLOOR)
        for name in alone.keys() - dead
    )
    verdict = "equal" if worst <= LIMIT else "DIFFERENT"
    print(
        f"{world} processes against one, {objects} objects: {len(alone)} losses, moments and statistics {verdict}, "
        f"largest relative difference {worst:.2e} (limit {LIMIT:.0e})"
    )
    return worst <= LIMIT


def main(argv: list[str]) -> int:
    dist.init_parallel_env()
    if not all([compare([5, 2]), compare([3, 0])]):
        return 1
    latest = Path(train.options_of(argv).output_dir) / "latest"
    for words in (["--max_steps", "1"], ["--resume", str(latest)]):
        if train.main([*argv, *words]) != 0:
            return 1
        dist.barrier()  # the first process has written its checkpoint
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
