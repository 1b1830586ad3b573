"""For tests: small networks of both sides, and numbers in the form of their layers."""

import numpy as np
import torch
from paddle import nn


def random_state(layer: torch.nn.Module, seed: int) -> dict:
    """Numbers in the form of a torch layer's state dict; variances positive, counters as a trained network has them."""
    rng = np.random.default_rng(seed)
    state = {}
    for name, tensor in layer.state_dict().items():
        if tensor.dtype == torch.int64:
            state[name] = np.array(rng.integers(1, 1000))
        else:
            state[name] = rng.standard_normal(tuple(tensor.shape)).astype(np.float32)
            if name.endswith("running_var"):
                state[name] = np.abs(state[name]) + np.float32(0.1)
    return state


def equal_bits(a: dict, b: dict) -> bool:
    form = [(name, array.dtype, array.shape) for name, array in a.items()]
    return form == [(name, array.dtype, array.shape) for name, array in b.items()] and all(
        a[name].tobytes() == b[name].tobytes() for name in a
    )


def normal(*shape) -> np.ndarray:
    return np.random.default_rng(7).standard_normal(shape).astype(np.float32)


def small_networks():
    theirs = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.BatchNorm1d(6), torch.nn.Linear(6, 6))
    return theirs, nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1D(6), nn.Linear(6, 6))
