"""Optimiser of three groups, the one clip over all gradients, and the schedule (NOTES 6)."""

import argparse

import paddle
from paddle.optimizer import lr as schedules

from shared.running.processes import sum_gradients

from models import DeformableDETR

DROP = 0.1
EPSILON = 1e-6


def parameter_groups(model: DeformableDETR, options: argparse.Namespace) -> list[list[tuple]]:
    """(name, parameter) of the trainable parameters in three lists: the rest, the backbone, the linear projections.

    A parameter with two names counts under the first.
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
    """AdamW (or SGD with momentum) of the official groups; `learning_rate` is options.lr or its scheduler.

    Clip with `clip_gradients` before `step()`: Paddle's own clip takes each group alone (NOTES 8.1).
    """
    factors = (1.0, options.lr_backbone / options.lr, options.lr_linear_proj_mult)  # of learning_rate (NOTES 8.2)
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


def average_gradients(model: DeformableDETR) -> None:
    """Each gradient becomes its mean over the processes.

    In place of paddle.DataParallel, which mistakes unused heads for used ones (NOTES 8.9).
    """
    sum_gradients(model.parameters(), mean=True)


@paddle.no_grad()
def clip_gradients(model: DeformableDETR, limit: float) -> float:
    """Scale all gradients together to an L2 norm of at most `limit`; returns their norm before.

    The factor is min(1, limit / (norm + 1e-6)); a limit of 0 or less means no clip. Where the norm is not finite the
    gradients stay as they are, so that `first_not_finite` can name the parameter.
    """
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    norm = paddle.add_n([gradient.square().sum() for gradient in gradients]).sqrt()
    if limit > 0 and bool(paddle.isfinite(norm)):
        factor = paddle.clip(limit / (norm + EPSILON), max=1.0)
        for gradient in gradients:
            gradient.scale_(factor)
    return float(norm)


def first_not_finite(model: DeformableDETR) -> str:
    """The name of the first parameter whose gradient holds NaN or Inf."""
    for name, parameter in model.named_parameters():
        if parameter.grad is not None and not bool(paddle.isfinite(parameter.grad).all()):
            return name
    return "the parameters together"
