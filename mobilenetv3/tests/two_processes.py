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
from shared.tests.two_processes import equal, main

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import train

from losses import build_criterion
from models import build_model
from options import parse_options

LIMIT = 1e-7  # Paddle's batch-norm operator keeps epsilon and momentum as float32
OPTIONS = "--model small --num_classes 10 --dropout 0 --label_smoothing 0.1".split()


def gradients(model, network, images, labels) -> dict[str, np.ndarray]:
    """Gradients and statistics of `network` through `model`: itself, or its parallel wrapper."""
    criterion = build_criterion(parse_options(OPTIONS))
    criterion(model(paddle.to_tensor(images)), paddle.to_tensor(labels))["loss"].backward()
    found = {name: p.grad.numpy() for name, p in network.named_parameters() if p.grad is not None}
    return found | {n: t.numpy() for n, t in network.state_dict().items() if n.endswith(("_mean", "_variance"))}


def network_of(mode: str) -> paddle.nn.Layer:
    """In float64; the same in every process."""
    paddle.seed(0)
    network = build_model(parse_options(OPTIONS))
    network.to(dtype="float64")
    network.train() if mode.startswith("train") else network.eval()
    return network


def compare(mode: str) -> bool:
    rank, world = dist.get_rank(), dist.get_world_size()
    generator = np.random.default_rng(0)
    images, labels = generator.standard_normal((8, 3, 64, 64)), generator.integers(0, 10, 8)
    whole, part = network_of(mode), network_of(mode)
    use_synchronised_batch_norm(part)
    together = gradients(paddle.DataParallel(part), part, images[rank::world], labels[rank::world])
    return rank != 0 or equal(mode, together, gradients(whole, whole, images, labels), LIMIT, least=1e-5)


if __name__ == "__main__":
    sys.exit(main(compare, ["train, --sync_bn", "eval"], train.main, sys.argv[1:]))
