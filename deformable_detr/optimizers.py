"""Optimiser, its groups, the one clip over all of them, and the schedule (fact sheet section 6)."""

import argparse

import paddle
import paddle.distributed as dist
from paddle.optimizer import lr as schedules

from models import DeformableDETR

DROP = 0.1
EPSILON = 1e-6


def parameter_groups(model: DeformableDETR, options: argparse.Namespace) -> list[list[tuple]]:
    """(name, parameter) of the trainable parameters: the backbone's and the linear projections' apart from the rest.

    A parameter that stands under two names counts under the first.
    """
    rest, backbone, projections = [], [], []
    for name, parameter in model.named_parameters():
        if parameter.stop_gradient:
            continue
        if any(part in name for part in options.lr_backbone_names):
            backbone.append((name, parameter))
        elif any(part in name for part in options.lr_linear_proj_names):
            projections.append((name, parameter))
        else:
            rest.append((name, parameter))
    return [rest, backbone, projections]


def build_scheduler(options: argparse.Namespace) -> schedules.StepDecay:
    """lr * 0.1^(epochs // lr_drop); one `step()` after each epoch."""
    return schedules.StepDecay(options.lr, step_size=options.lr_drop, gamma=DROP)


def build_optimizer(
    model: DeformableDETR, options: argparse.Namespace, learning_rate
) -> paddle.optimizer.AdamW | paddle.optimizer.Momentum:
    """AdamW (or SGD with momentum) of the official groups; `learning_rate` is a float or a scheduler, of options.lr.

    Paddle's `learning_rate` of a group is a factor of that one, and its own clip would take each group alone: clip
    with `clip_gradients` before `step()`.
    """
    factors = (1.0, options.lr_backbone / options.lr, options.lr_linear_proj_mult)
    groups = [
        {"params": [parameter for _, parameter in group], "learning_rate": factor}
        for group, factor in zip(parameter_groups(model, options), factors, strict=True)
        if group
    ]
    if options.sgd:
        decay = paddle.regularizer.L2Decay(options.weight_decay)
        return paddle.optimizer.Momentum(learning_rate, 0.9, parameters=groups, weight_decay=decay)
    return paddle.optimizer.AdamW(
        learning_rate, beta1=0.9, beta2=0.999, epsilon=1e-8, parameters=groups, weight_decay=options.weight_decay
    )


@paddle.no_grad()
def average_gradients(model: DeformableDETR) -> None:
    """Each gradient becomes its mean over the processes, which have gradients of the same parameters.

    In place of paddle.DataParallel, which takes heads that are in the outputs without being in the loss (two stages
    without auxiliary losses) for used ones, and then leaves other gradients unsent.
    """
    world = dist.get_world_size()
    if world == 1:
        return
    for parameter in model.parameters():
        if parameter.grad is not None:
            dist.all_reduce(parameter.grad)
            parameter.grad.scale_(1 / world)


@paddle.no_grad()
def clip_gradients(model: DeformableDETR, limit: float) -> float:
    """Scale all gradients together to an L2 norm of at most `limit`; returns their norm before.

    The factor is min(1, limit / (norm + 1e-6)); no clipping with a limit of 0 or less. Where the norm is not finite the
    gradients stay as they are, so that one can see which of them is to blame.
    """
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    norm = paddle.add_n([gradient.square().sum() for gradient in gradients]).sqrt()
    if limit > 0 and bool(paddle.isfinite(norm)):
        factor = paddle.clip(limit / (norm + EPSILON), max=1.0)
        for gradient in gradients:
            gradient.scale_(factor)
    return float(norm)


def first_not_finite(model: DeformableDETR) -> str:
    """The name of the first parameter whose gradient holds infinities or values that are no numbers."""
    for name, parameter in model.named_parameters():
        if parameter.grad is not None and not bool(paddle.isfinite(parameter.grad).all()):
            return name
    return "the parameters together"
