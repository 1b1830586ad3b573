"""What both sides read, made before either runs: drawn weights in the official format, and the batches of stage 6.

Drawn weights must act like trained ones: values that explode or vanish prove nothing. So the norms' statistics are
measured, residual branches are damped and queries spread, as in the golden figures (NOTES 9.2).
"""

import argparse
import copy
import functools
import json
from pathlib import Path

import numpy as np
import torch
from torch import nn

from shared.align.formula import formula_tensor
from shared.files import atomic_write_text
from shared.stages import Context
from shared.weights import as_numpy, read_torch, write_torch

from . import feeds
from .recording import Side, batch_of
from reference import losses, network
from reference.backbone import FrozenBatchNorm2d

CALIBRATION_IMAGES = 6
FACTORS = {
    "query_embed.weight": 16.0,
    "level_embed": 16.0,
    "reference_points.weight": 2.0,
    "sampling_offsets.weight": 0.2,
    "layers.2.weight": 2.0,
    "bn3.weight": 0.25,
    "output_proj.weight": 0.5,
    "linear2.weight": 0.5,
    "out_proj.weight": 0.5,
}
#: as a fresh network has them: sampling points in eight directions, rare objects
KEPT = ("sampling_offsets.bias", "class_embed.")
ROUNDING = 1e-7
#: smallest distance of neighbouring scores of chosen proposals, above float32's noise
SCORE_GAP = 2e-5
_drawn = functools.lru_cache(maxsize=None)(formula_tensor)


def draw_weights(context: Context, side: Side, options: argparse.Namespace, name: str) -> None:
    """Write the official-format weights of one network."""
    model = network.build_reference(options)
    names: dict[int, str] = {}
    with torch.no_grad():
        for tensor_name, tensor in model.state_dict(keep_vars=True).items():
            first = names.setdefault(id(tensor), tensor_name)  # shared heads are drawn once
            kept = any(part in tensor_name for part in KEPT) and tensor_name.endswith("bias")
            if first != tensor_name or kept:
                continue
            drawn = _drawn(tensor_name, tuple(tensor.shape), feeds.SEED)
            factor = next((value for ending, value in FACTORS.items() if tensor_name.endswith(ending)), 1.0)
            # tokens without a proposal then have one constant score, and a low one
            factor = 0.0 if tensor_name.endswith("enc_output.bias") else factor
            tensor.copy_(torch.from_numpy(np.asarray(drawn * np.array(factor, drawn.dtype))))
    ids, read = side.open_split(feeds.reading(context, options), "val")
    items = [read(0, index) for index in feeds.chosen(len(ids), CALIBRATION_IMAGES)]
    measure_statistics(model, batch_of(side, items, context.dtype)[0])
    tensors = {key: as_numpy(value) for key, value in model.state_dict().items()}
    write_torch(feeds.weights_file(context, name), tensors)


def measure_statistics(model: nn.Module, images: torch.Tensor) -> None:
    """Set the statistics of every norm of the backbone to those of its inputs for these images."""

    def measure(norm, inputs):
        norm.running_mean.copy_(inputs[0].mean((0, 2, 3)))
        norm.running_var.copy_(inputs[0].var((0, 2, 3), correction=0))

    norms = [m for m in model.backbone.modules() if isinstance(m, FrozenBatchNorm2d | nn.BatchNorm2d)]
    hooks = [norm.register_forward_pre_hook(measure) for norm in norms]
    with torch.no_grad():
        model.eval().backbone[0](images)
    for hook in hooks:
        hook.remove()


def load(model: nn.Module, context: Context, file: Path) -> nn.Module:
    """`model` with the weights of a file, in the context's dtype."""
    state = read_torch(file).tensors
    model.load_state_dict({key: torch.from_numpy(np.array(array)) for key, array in state.items()})
    return model.to(getattr(torch, context.dtype))


def choose_batch(context: Context, side: Side, name: str, options: argparse.Namespace) -> None:
    """Write down the candidate batch whose gradients move least when all weights move by float32's rounding.

    The loss has kinks: ReLUs, cells of the sampling, the assignment. Where a value lies within rounding of one, float32
    and float64 rightly differ; as in every gradient check, the point is chosen where the function is smooth.
    """
    model = load(network.build_reference(options), context, feeds.weights_file(context, name)).train()
    moved = copy.deepcopy(model)
    criterion = losses.build_criterion(options)
    torch.manual_seed(feeds.SEED)
    with torch.no_grad():
        for parameter in moved.parameters():
            parameter.mul_(1 + ROUNDING * torch.randn_like(parameter))

    def gradients(model: nn.Module, images, mask, targets) -> tuple[dict, dict]:
        model.zero_grad()
        parts = model.parts(images, mask)
        criterion(parts["outputs"], targets)["loss"].backward()
        return {key: p.grad.clone() for key, p in model.named_parameters() if p.grad is not None}, parts

    ids, read = side.open_split(feeds.reading(context, options), "val")
    candidates, worst = feeds.candidates(len(ids)), []
    for indices in candidates:
        batch = batch_of(side, [read(0, index) for index in indices], context.dtype)
        (here, parts), (there, _) = (gradients(either, *batch) for either in (model, moved))
        unsafe = options.two_stage and _smallest_gap(parts, options.num_queries) < SCORE_GAP
        moves = max(float((here[k] - there[k]).norm() / here[k].norm().clamp_min(1e-9)) for k in here)
        worst.append(moves + unsafe)
    choice = candidates[int(np.argmin(worst))]
    atomic_write_text(feeds.choice_file(context, name), json.dumps(choice) + "\n")


def _smallest_gap(parts: dict, queries: int) -> float:
    """Distance of the scores of chosen proposals from their neighbours'; 0 where an invalid one is chosen."""
    if bool(parts["invalid"].gather(1, parts["topk_index"]).any()):
        return 0.0
    best = parts["enc_logits"][..., 0].detach().topk(queries + 1, dim=1).values
    return float((best[:, :-1] - best[:, 1:]).min())
