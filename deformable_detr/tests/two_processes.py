"""Two processes against one: gradients in float64, and a training that is stopped and resumed.

    python -m paddle.distributed.launch --nproc_per_node 2 deformable_detr/tests/two_processes.py TRAIN_OPTIONS

The gradients go through the trainer's own parts: network, criterion (boxes counted over the processes, of which one
has none in one picture and the other many) and average_gradients. Prints the largest relative difference over all
gradients; exit status 1 when one is above the limit. Then train.py, with its options, trains one step, and resumes for
another.
"""

import sys
from pathlib import Path

import numpy as np
import paddle
import paddle.distributed as dist

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import train

from losses import build_criterion
from models import build_model
from optimizers import average_gradients
from options import parse_options

LIMIT = 1e-9
FLOOR = 1e-12
SIZE = (64, 96)
OPTIONS = """--backbone resnet18 --hidden_dim 32 --dim_feedforward 48 --nheads 4 --enc_layers 1 --dec_layers 2
    --num_queries 20 --num_classes 9 --dropout 0""".split()
BOXES = (1, 0, 7, 4)  # of the four pictures; the first two are the first process's


def drawn_batch(generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray, list[dict]]:
    """(images, mask, targets) of four pictures, the last two of them padded."""
    images = generator.standard_normal((4, 3, *SIZE))
    mask = np.zeros((4, *SIZE), bool)
    mask[2:, 50:], mask[3:, :, 70:] = True, True
    images[np.broadcast_to(mask[:, None], images.shape)] = 0
    targets = [
        {"labels": generator.integers(0, 9, count), "boxes": generator.uniform(0.2, 0.4, (count, 4))} for count in BOXES
    ]
    return images, mask, targets


def gradients(model, criterion, images, mask, targets) -> dict[str, np.ndarray]:
    """This process's gradients of `model` on a batch; they stay in it."""
    targets = [{name: paddle.to_tensor(value) for name, value in target.items()} for target in targets]
    criterion(model(paddle.to_tensor(images), paddle.to_tensor(mask)), targets)["loss"].backward()
    return gradients_in(model)


def gradients_in(model) -> dict[str, np.ndarray]:
    return {name: p.grad.numpy() for name, p in model.named_parameters() if p.grad is not None}


def network_of(options):
    """A network as the trainer has it, in float64; the same in every process."""
    paddle.seed(0)
    model = build_model(options)
    model.to(dtype="float64")
    model.train()
    return model


def compare(words: list[str]) -> bool:
    """Whether the processes' gradients are those of one process; said by the first.

    The one process has all pictures in one batch; its gradient of sum / boxes is the mean over the processes of
    sum / mean boxes.
    """
    options = parse_options([*OPTIONS, *words])
    rank, world = dist.get_rank(), dist.get_world_size()
    images, mask, targets = drawn_batch(np.random.default_rng(0))
    share = slice(rank * 4 // world, (rank + 1) * 4 // world)
    part = network_of(options)
    gradients(part, build_criterion(options), images[share], mask[share], targets[share])
    average_gradients(part)
    together = gradients_in(part)
    if rank != 0:
        return True
    whole, criterion = network_of(options), build_criterion(options)
    criterion.num_boxes = lambda targets: float(sum(len(target["labels"]) for target in targets))  # no other process
    alone = gradients(whole, criterion, images, mask, targets)
    assert alone.keys() == together.keys()
    worst = max(
        np.linalg.norm(together[name] - alone[name]) / max(np.linalg.norm(alone[name]), FLOOR / LIMIT) for name in alone
    )
    verdict = "equal" if worst <= LIMIT else "DIFFERENT"
    print(
        f"{world} processes against one, {' '.join(words) or 'base'}: {len(alone)} gradients {verdict}, "
        f"largest relative difference {worst:.2e} (limit {LIMIT:.0e})"
    )
    return worst <= LIMIT


def main(argv: list[str]) -> int:
    dist.init_parallel_env()
    if not all([compare([]), compare(["--with_box_refine", "--two_stage", "--no_aux_loss"])]):
        return 1
    latest = Path(train.options_of(argv).output_dir) / "latest"
    for words in (["--max_steps", "1"], ["--max_steps", "2", "--resume", str(latest)]):
        if train.main([*argv, *words]) != 0:
            return 1
        dist.barrier()  # the first process has written its checkpoint
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
