"""Two processes, each with its images of a batch, against one process with all of them; then trainings.

    python -m paddle.distributed.launch --nproc_per_node 2 deformable_detr/tests/two_processes.py DIR 1 2 TRAIN_OPTIONS

Gradients in float64 through the trainer's own parts: network, criterion (boxes counted over the processes, of which one
has none in one image and the other many) and average_gradients.
"""

import sys
from pathlib import Path

import numpy as np
import paddle
import paddle.distributed as dist

from shared.tests.two_processes import equal, main

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import train
from losses import build_criterion
from models import build_model
from optimizers import average_gradients
from options import parse_options

LIMIT = 1e-9
SIZE = (64, 96)
OPTIONS = """--backbone resnet18 --hidden_dim 32 --dim_feedforward 48 --nheads 4 --enc_layers 1 --dec_layers 2
    --num_queries 20 --num_classes 9 --dropout 0""".split()
BOXES = (1, 0, 7, 4)  # of the four images; the first two are the first process's


def drawn_batch(generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray, list[dict]]:
    """(images, mask, targets) of four images, the last two of them padded."""
    images = generator.standard_normal((4, 3, *SIZE))
    mask = np.zeros((4, *SIZE), bool)
    mask[2:, 50:], mask[3:, :, 70:] = True, True
    images[np.broadcast_to(mask[:, None], images.shape)] = 0
    targets = [
        {"labels": generator.integers(0, 9, count), "boxes": generator.uniform(0.2, 0.4, (count, 4))} for count in BOXES
    ]
    return images, mask, targets


def with_gradients(options, criterion, images, mask, targets) -> paddle.nn.Layer:
    """A network in float64, the same in every process, with its gradients on a batch."""
    paddle.seed(0)
    model = build_model(options)
    model.to(dtype="float64")
    model.train()
    targets = [{name: paddle.to_tensor(value) for name, value in target.items()} for target in targets]
    criterion(model(paddle.to_tensor(images), paddle.to_tensor(mask)), targets)["loss"].backward()
    return model


def gradients_in(model: paddle.nn.Layer) -> dict[str, np.ndarray]:
    return {name: p.grad.numpy() for name, p in model.named_parameters() if p.grad is not None}


def compare(words: str) -> bool:
    """The one process has all images in one batch; its gradient of sum / boxes is the mean over the processes of
    sum / mean boxes."""
    options = parse_options([*OPTIONS, *words.split()])
    rank, world = dist.get_rank(), dist.get_world_size()
    images, mask, targets = drawn_batch(np.random.default_rng(0))
    own = slice(rank * 4 // world, (rank + 1) * 4 // world)
    part = with_gradients(options, build_criterion(options), images[own], mask[own], targets[own])
    average_gradients(part)
    if rank != 0:
        return True
    criterion = build_criterion(options)
    criterion.num_boxes = lambda targets: float(sum(len(target["labels"]) for target in targets))  # no other process
    whole = with_gradients(options, criterion, images, mask, targets)
    return equal(words or "base", gradients_in(part), gradients_in(whole), LIMIT, least=1e-3)


if __name__ == "__main__":
    sys.exit(main(compare, ["", "--with_box_refine --two_stage --no_aux_loss"], train.main, sys.argv[1:]))
