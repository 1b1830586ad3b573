"""Two processes, each with its half of a batch, against one process with the joined batch; then trainings.

    python -m paddle.distributed.launch --nproc_per_node 2 monodepth2/tests/two_processes.py DIR 1 2 TRAIN_OPTIONS

A step in float64 by `engine.train_step`, with --sync_bn or --freeze_bn and paddle.DataParallel: after it Adam's first
moments are the gradients, but for a factor.
"""

import sys
from pathlib import Path

import numpy as np
import paddle
import paddle.distributed as dist

from shared.norms import use_synchronised_batch_norm
from shared.tests.two_processes import alone, equal, first_moments, main, network_in_float64

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import train
from engine import build_training, train_step
from models import build_model
from options import parse_options

LIMIT = 1e-7  # Paddle's batch-norm and pooling operators keep some constants as float32
OPTIONS = "--pose_model_type posecnn --frame_ids 0 1 --use_stereo --scales 0 2 --height 64 --width 64".split()


def drawn_batch(rows: slice) -> tuple[dict[tuple | str, paddle.Tensor], list[paddle.Tensor]]:
    """(batch, noise): these of two items, float64."""
    generator = np.random.default_rng(0)
    camera = np.array([[37.12, 0, 32, 0], [0, 122.88, 32, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    batch = {("K", 0): np.tile(camera, (2, 1, 1)), ("inv_K", 0): np.tile(np.linalg.inv(camera), (2, 1, 1))}
    batch["stereo_T"] = np.tile(np.eye(4), (2, 1, 1))
    batch["stereo_T"][:, 0, 3] = generator.choice([-0.1, 0.1], 2)
    for frame in (0, 1, "s"):
        batch["color", frame, 0] = batch["color_aug", frame, 0] = generator.random((2, 3, 64, 64))
    batch["color", 0, 2] = batch["color", 0, 0][:, :, ::4, ::4]
    noise = [paddle.to_tensor(generator.standard_normal((2, 2, 64, 64))[rows]) for _ in range(2)]
    return {name: paddle.to_tensor(value[rows]) for name, value in batch.items()}, noise


def after_a_step(mode: str, rows: slice) -> dict[str, np.ndarray]:
    options = parse_options([*OPTIONS, mode])
    network = network_in_float64(build_model, options)
    if options.sync_bn:
        use_synchronised_batch_norm(network)
    training = build_training(network, options)
    if dist.get_world_size() > 1:
        training = training._replace(model=paddle.DataParallel(network))
    batch, noise = drawn_batch(rows)
    train_step(training, batch, options, 0, noise)
    return first_moments(network, training.optimizer)


def compare(mode: str) -> bool:
    rank, world = dist.get_rank(), dist.get_world_size()
    together = after_a_step(mode, slice(rank, None, world))
    with alone():
        return rank != 0 or equal(mode, together, after_a_step(mode, slice(None)), LIMIT, least=1e-6)


if __name__ == "__main__":
    sys.exit(main(compare, ["--sync_bn", "--freeze_bn"], train.main, sys.argv[1:]))
