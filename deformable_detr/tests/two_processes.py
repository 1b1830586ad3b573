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

from shared.tests.two_processes import alone, equal, gradients_of, main, network_in_float64

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import train
from losses import build_criterion
from models import build_model
from optimizers import average_gradients
from options import parse_options

LIMIT = 1e-9
OPTIONS = """--backbone resnet18 --hidden_dim 32 --dim_feedforward 48 --nheads 4 --enc_layers 1 --dec_layers 2
    --num_queries 20 --num_classes 9 --dropout 0""".split()
BOXES = (1, 0, 7, 4)  # of the four images; the first two are the first process's


def gradients(words: str, own: slice) -> dict[str, np.ndarray]:
    """Of the images `own` of four drawn ones, the last two of which are padded."""
    options, generator = parse_options([*OPTIONS, *words.split()]), np.random.default_rng(0)
    images, mask = generator.standard_normal((4, 3, 64, 96)), np.zeros((4, 64, 96), bool)
    mask[2:, 50:], mask[3:, :, 70:] = True, True
    images[np.broadcast_to(mask[:, None], images.shape)] = 0
    drawn = [(generator.integers(0, 9, count), generator.uniform(0.2, 0.4, (count, 4))) for count in BOXES]
    targets = [{"labels": paddle.to_tensor(labels), "boxes": paddle.to_tensor(boxes)} for labels, boxes in drawn]
    network = network_in_float64(build_model, options)
    outputs = network(paddle.to_tensor(images[own]), paddle.to_tensor(mask[own]))
    build_criterion(options)(outputs, targets[own])["loss"].backward()
    average_gradients(network)
    return gradients_of(network)


def compare(words: str) -> bool:
    """The one process has all images in one batch; its gradient of sum / boxes is the mean over the processes of
    sum / mean boxes."""
    rank, world = dist.get_rank(), dist.get_world_size()
    together = gradients(words, slice(rank * 4 // world, (rank + 1) * 4 // world))
    with alone():
        return rank != 0 or equal(words or "base", together, gradients(words, slice(None)), LIMIT, least=1e-3)


if __name__ == "__main__":
    sys.exit(main(compare, ["", "--with_box_refine --two_stage --no_aux_loss"], train.main, sys.argv[1:]))
