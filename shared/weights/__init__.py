"""Weight files of torch and of Paddle, read without running what they hold, written whole or not at all."""

from shared.files import atomic_write, atomic_write_text, one_line
from shared.weights.checkpoints import Checkpoint, load_checkpoint, save_checkpoint
from shared.weights.contents import WeightFile, as_numpy
from shared.weights.pdparams import read_pdparams, write_pdparams
from shared.weights.torch_files import (
    PADDLE_SUFFIXES,
    TORCH_SUFFIXES,
    describe,
    kind_of,
    read_torch,
    read_weights,
    write_torch,
)

__all__ = [
    "PADDLE_SUFFIXES",
    "TORCH_SUFFIXES",
    "Checkpoint",
    "WeightFile",
    "as_numpy",
    "atomic_write",
    "atomic_write_text",
    "describe",
    "kind_of",
    "load_checkpoint",
    "one_line",
    "read_pdparams",
    "read_torch",
    "read_weights",
    "save_checkpoint",
    "write_pdparams",
    "write_torch",
]
