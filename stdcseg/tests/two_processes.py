"""Gradients of two processes, each with its half of a batch, against one process's with the joined batch.

    python -m paddle.distributed.launch --nproc_per_node 2 stdcseg/tests/two_processes.py

float64, through the trainer's own parts: the network, --sync_bn, paddle.DataParallel. The hard pixels are chosen by
each process from its own half, so the two agree with one where every pixel is hard; the threshold sees to that here.
Prints the largest relative difference over all gradients and statistics; exit status 1 when one is above the limit.
"""

import sys
from pathlib import Path

import numpy as np
import paddle
import paddle.distributed as dist

from shared.norms import use_synchronised_batch_norm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from losses import build_criterion
from models import build_model
from options import parse_options

LIMIT = 1e-7  # Paddle's batch-norm operator keeps epsilon and momentum as float32
FLOOR = 1e-12
ALL_HARD = 0.99999


def gradients(model, network, images, labels) -> dict[str, np.ndarray]:
    """Gradients of `network` through `model` (itself, or its parallel wrapper)."""
    criterion = build_criterion(parse_options(["--ohem_thresh", str(ALL_HARD)]))
    terms = criterion(model(paddle.to_tensor(images)), paddle.to_tensor(labels))
    terms["loss"].backward()
    return {name: p.grad.numpy() for name, p in network.named_parameters() if p.grad is not None}


def main() -> int:
    dist.init_parallel_env()
    rank, world = dist.get_rank(), dist.get_world_size()
    options = parse_options(["--base", "16", "--use_boundary_8", "true", "--use_boundary_4", "true"])
    generator = np.random.default_rng(0)
    images, labels = generator.standard_normal((4, 3, 64, 96)), generator.integers(0, 19, (4, 64, 96))
    status = 0
    for mode in ("train, --sync_bn", "eval"):
        networks = []
        for _ in range(2):
            paddle.seed(0)
            networks.append(build_model(options))
            networks[-1].to(dtype="float64")
            networks[-1].train() if mode.startswith("train") else networks[-1].eval()
        whole, part = networks
        use_synchronised_batch_norm(part)
        for layer in whole.sublayers():  # one process of the two computes the joined batch alone
            if hasattr(layer, "synchronise"):
                layer.synchronise = False
        wrapped = paddle.DataParallel(part, find_unused_parameters=True)
        together = gradients(wrapped, part, images[rank::world], labels[rank::world])
        alone = gradients(whole, whole, images, labels)
        for record, network in ((together, part), (alone, whole)):
            record |= {n: t.numpy() for n, t in network.state_dict().items() if n.endswith(("_mean", "_variance"))}
        assert alone.keys() <= together.keys()  # what no process uses has a gradient of zeros under the wrapper
        assert not any(together[name].any() for name in together.keys() - alone.keys())
        worst = max(
            np.linalg.norm(together[name] - alone[name]) / max(np.linalg.norm(alone[name]), FLOOR / LIMIT)
            for name in alone
        )
        if rank == 0:
            verdict = "equal" if worst <= LIMIT else "DIFFERENT"
            print(
                f"{world} processes against one, {mode}: {len(alone)} gradients and statistics {verdict}, "
                f"largest relative difference {worst:.2e} (limit {LIMIT:.0e})"
            )
        status |= worst > LIMIT
    return int(status)


if __name__ == "__main__":
    sys.exit(main())
