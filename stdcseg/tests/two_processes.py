"""Two processes, each with its half of a batch, against one process with the joined batch; then trainings.

    python -m paddle.distributed.launch --nproc_per_node 2 stdcseg/tests/two_processes.py DIR 2 4 TRAIN_OPTIONS

Gradients in float64 through the trainer's own parts: the network, --sync_bn, paddle.DataParallel. The hard pixels are
chosen by each process from its own half, so the two agree with one where every pixel is hard; the threshold sees to
that here.
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
OPTIONS = "--base 16 --use_boundary_8 true --use_boundary_4 true --ohem_thresh 0.99999".split()


def gradients(images: np.ndarray, labels: np.ndarray, mode: str) -> dict[str, np.ndarray]:
    options = parse_options(OPTIONS)
    network = network_in_float64(build_model, options)
    use_synchronised_batch_norm(network)
    several = dist.get_world_size() > 1
    model = paddle.DataParallel(network, find_unused_parameters=True) if several else network
    model.eval() if mode == "eval" else model.train()
    build_criterion(options)(model(paddle.to_tensor(images)), paddle.to_tensor(labels))["loss"].backward()
    return gradients_of(network)


def compare(mode: str) -> bool:
    rank, world = dist.get_rank(), dist.get_world_size()
    generator = np.random.default_rng(0)
    images, labels = generator.standard_normal((4, 3, 64, 96)), generator.integers(0, 19, (4, 64, 96))
    together = gradients(images[rank::world], labels[rank::world], mode)
    if rank != 0:
        return True
    with alone():
        expected = gradients(images, labels, mode)
    for name in together.keys() - expected.keys():  # what no process uses has a gradient of zeros under the wrapper
        assert not together.pop(name).any(), name
    return equal(mode, together, expected, LIMIT, least=1e-5)


if __name__ == "__main__":
    sys.exit(main(compare, ["train, --sync_bn", "eval"], train.main, sys.argv[1:]))
