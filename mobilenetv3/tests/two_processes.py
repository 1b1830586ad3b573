"""Two processes, each with its half of a batch, against one process with the joined batch; then trainings.

    python -m paddle.distributed.launch --nproc_per_node 2 mobilenetv3/tests/two_processes.py DIR 3 7 TRAIN_OPTIONS

Gradients in float64 through the trainer's own parts: the network, --sync_bn, paddle.DataParallel.
"""

import sys
from pathlib import Path

import numpy as np
import paddle
import paddle.distributed as dist

from shared.norms import use_synchronised_batch_norm
from shared.tests.two_processes import alone, equal, gradients_of, main, network_in_float64

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import train
from losses import build_criterion
from models import build_model
from options import parse_options

LIMIT = 1e-7  # Paddle's batch-norm operator keeps epsilon and momentum as float32
OPTIONS = "--model small --num_classes 10 --dropout 0 --label_smoothing 0.1".split()


def gradients(images: np.ndarray, labels: np.ndarray, mode: str) -> dict[str, np.ndarray]:
    options = parse_options(OPTIONS)
    network = network_in_float64(build_model, options)
    use_synchronised_batch_norm(network)
    model = paddle.DataParallel(network) if dist.get_world_size() > 1 else network
    model.eval() if mode == "eval" else model.train()
    build_criterion(options)(model(paddle.to_tensor(images)), paddle.to_tensor(labels))["loss"].backward()
    return gradients_of(network)


def compare(mode: str) -> bool:
    rank, world = dist.get_rank(), dist.get_world_size()
    generator = np.random.default_rng(0)
    images, labels = generator.standard_normal((8, 3, 64, 64)), generator.integers(0, 10, 8)
    together = gradients(images[rank::world], labels[rank::world], mode)
    with alone():
        return rank != 0 or equal(mode, together, gradients(images, labels, mode), LIMIT, least=1e-5)


if __name__ == "__main__":
    sys.exit(main(compare, ["train, --sync_bn", "eval"], train.main, sys.argv[1:]))
