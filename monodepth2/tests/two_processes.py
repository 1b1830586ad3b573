"""Two processes against one: gradients in float64, and a training that is stopped and resumed.

    python -m paddle.distributed.launch --nproc_per_node 2 monodepth2/tests/two_processes.py TRAIN_OPTIONS

The gradients go through the trainer's own parts: the networks, --sync_bn or --freeze_bn, paddle.DataParallel.
Prints the largest relative difference over all gradients and statistics; exit status 1 when one is above the limit.
Then train.py, with its options, trains one step, and resumes for another.
"""

import sys
from pathlib import Path

import numpy as np
import paddle
import paddle.distributed as dist

from shared.norms import use_synchronised_batch_norm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import train

from losses import build_criterion
from models import build_model
from options import parse_options

LIMIT = 1e-7  # Paddle's batch-norm and pooling operators keep some constants as float32
FLOOR = 1e-12
SIZE = (64, 64)
OPTIONS = "--pose_model_type posecnn --frame_ids 0 1 --use_stereo --scales 0 2 --height 64 --width 64".split()


def drawn_batch(options, generator: np.random.Generator, count: int) -> tuple[dict, list]:
    """(batch, noise) of `count` items, float64 arrays."""
    camera = np.array(
        [[0.58 * SIZE[1], 0, SIZE[1] / 2, 0], [0, 1.92 * SIZE[0], SIZE[0] / 2, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    )
    batch = {("K", 0): np.tile(camera, (count, 1, 1)), ("inv_K", 0): np.tile(np.linalg.inv(camera), (count, 1, 1))}
    batch["stereo_T"] = np.tile(np.eye(4), (count, 1, 1))
    batch["stereo_T"][:, 0, 3] = generator.choice([-0.1, 0.1], count)
    for frame in (0, 1, "s"):
        picture = generator.random((count, 3, *SIZE))
        batch["color", frame, 0] = batch["color_aug", frame, 0] = picture
    batch["color", 0, 2] = batch["color", 0, 0][:, :, ::4, ::4]
    return batch, [generator.standard_normal((count, 2, *SIZE)) for _ in options.scales]


def gradients(model, network, options, batch: dict, noise: list) -> dict[str, np.ndarray]:
    """Gradients and statistics of `network` through `model`: itself, or its parallel wrapper."""
    batch = {name: paddle.to_tensor(value) for name, value in batch.items()}
    build_criterion(options)(model(batch), batch, [paddle.to_tensor(drawn) for drawn in noise])["loss"].backward()
    found = {name: p.grad.numpy() for name, p in network.named_parameters() if p.grad is not None}
    return found | {n: t.numpy() for n, t in network.state_dict().items() if n.endswith(("_mean", "_variance"))}


def network_of(options):
    """A network as the trainer has it, in float64; the same in every process."""
    paddle.seed(0)
    model = build_model(options)
    model.to(dtype="float64")
    model.train()
    for layer in model.idle_layers():
        for parameter in layer.parameters():
            parameter.stop_gradient = True
    return model


def compare(mode: str) -> bool:
    """Whether the processes' gradients under --sync_bn or --freeze_bn are those of one process; said by the first."""
    options = parse_options([*OPTIONS, mode])
    rank, world = dist.get_rank(), dist.get_world_size()
    batch, noise = drawn_batch(options, np.random.default_rng(0), world)
    part = network_of(options)
    if options.sync_bn:
        use_synchronised_batch_norm(part)
    own = {name: value[rank::world] for name, value in batch.items()}
    together = gradients(paddle.DataParallel(part), part, options, own, [drawn[rank::world] for drawn in noise])
    if rank != 0:
        return True
    whole = network_of(options)
    alone = gradients(whole, whole, options, batch, noise)
    assert alone.keys() == together.keys()
    worst = max(
        np.linalg.norm(together[name] - alone[name]) / max(np.linalg.norm(alone[name]), FLOOR / LIMIT) for name in alone
    )
    verdict = "equal" if worst <= LIMIT else "DIFFERENT"
    print(
        f"{world} processes against one, {mode}: {len(alone)} gradients and statistics {verdict}, "
        f"largest relative difference {worst:.2e} (limit {LIMIT:.0e})"
    )
    return worst <= LIMIT


def main(argv: list[str]) -> int:
    dist.init_parallel_env()
    if not all([compare("--sync_bn"), compare("--freeze_bn")]):
        return 1
    latest = Path(train.options_of(argv).output_dir) / "latest"
    for words in (["--max_steps", "1"], ["--max_steps", "2", "--resume", str(latest)]):
        if train.main([*argv, *words]) != 0:
            return 1
        dist.barrier()  # the first process has written its checkpoint
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
