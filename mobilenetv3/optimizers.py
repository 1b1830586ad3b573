"""Optimisers and learning-rate schedules with torch's meaning (NOTES 6)."""

import argparse
from collections.abc import Iterable

import paddle
from paddle import nn
from paddle.optimizer import lr as schedules

from shared.norms import BatchNorm2D

RMSPROP_ALPHA = 0.9  # this and epsilon are fixed in the reference's script (NOTES 6.1)
RMSPROP_EPSILON = 0.0316


class RMSprop(paddle.optimizer.Optimizer):
    """torch's RMSprop, which no epsilon of Paddle's RMSProp reproduces (NOTES 6.3, 6.4).

    v = alpha v + (1 - alpha) g^2;  b = momentum b + g / (sqrt(v) + epsilon);  w = w - lr b

    epsilon stands outside the root, and the current learning rate multiplies the whole buffer b. `centered` takes the
    root of v - m^2, m being the moving mean of g. `weight_decay` (coefficient of L2) is added to g first, after
    clipping. Defaults are torch's.
    """

    def __init__(
        self,
        learning_rate=0.01,
        alpha: float = 0.99,
        epsilon: float = 1e-8,
        momentum: float = 0.0,
        centered: bool = False,
        parameters=None,
        weight_decay=None,
    ):
        super().__init__(learning_rate=learning_rate, parameters=parameters, weight_decay=weight_decay)
        self.alpha, self.epsilon, self.momentum, self.centered = alpha, epsilon, momentum, centered
        self.names = ["square_avg", *(["grad_avg"] if centered else []), *(["momentum_buffer"] if momentum else [])]

    def _create_accumulators(self, block, parameters):
        if isinstance(parameters, dict):
            parameters = parameters["params"]
        for parameter in parameters:
            for name in self.names:
                self._add_accumulator(name, parameter)

    def _update_param_group(self, parameters):
        return parameters["params"]

    def _append_optimize_op(self, block, param_and_grad):
        if isinstance(param_and_grad, dict):
            param_and_grad = self._update_param_group(param_and_grad)
        parameter, gradient = param_and_grad
        square = self._get_accumulator("square_avg", parameter)
        paddle.assign(self.alpha * square + (1 - self.alpha) * gradient * gradient, square)
        if self.centered:
            mean = self._get_accumulator("grad_avg", parameter)
            paddle.assign(self.alpha * mean + (1 - self.alpha) * gradient, mean)
            scale = paddle.sqrt(square - mean * mean) + self.epsilon
        else:
            scale = paddle.sqrt(square) + self.epsilon
        step = gradient / scale
        if self.momentum:
            buffer = self._get_accumulator("momentum_buffer", parameter)
            paddle.assign(self.momentum * buffer + step, buffer)
            step = buffer
        rate = self.get_lr() * parameter.optimize_attr["learning_rate"]
        paddle.assign(parameter - rate * step, parameter)


def set_weight_decay(model: nn.Layer, options: argparse.Namespace) -> list[dict]:
    """Parameter groups by weight decay: norm layers and other biases may have one of their own (NOTES 6.6)."""
    groups: dict[float, list] = {}
    for layer in model.sublayers(include_self=True):
        for name, parameter in layer.named_parameters(include_sublayers=False):
            if parameter.stop_gradient:
                continue  # batch-norm statistics, where a Paddle layer lists them as parameters
            decay = options.weight_decay
            if isinstance(layer, BatchNorm2D) and options.norm_weight_decay is not None:
                decay = options.norm_weight_decay
            elif name == "bias" and not isinstance(layer, BatchNorm2D) and options.bias_weight_decay is not None:
                decay = options.bias_weight_decay
            groups.setdefault(decay, []).append(parameter)
    return [{"params": parameters, "weight_decay": float(decay)} for decay, parameters in groups.items()]


def build_optimizer(model: nn.Layer, options: argparse.Namespace, learning_rate) -> paddle.optimizer.Optimizer:
    """The optimiser of `--opt` over all parameters of `model`; `learning_rate` is a float or a scheduler."""
    groups = set_weight_decay(model, options)
    if options.opt == "rmsprop":
        return RMSprop(learning_rate, RMSPROP_ALPHA, RMSPROP_EPSILON, options.momentum, parameters=groups)
    if options.opt == "adamw":
        return paddle.optimizer.AdamW(learning_rate, parameters=groups, weight_decay=options.weight_decay)
    return paddle.optimizer.Momentum(
        learning_rate, options.momentum, parameters=groups, use_nesterov=options.opt == "sgd_nesterov"
    )


def clip_gradients(parameters: Iterable, max_norm: float) -> None:
    """Scale all gradients together to a global L2 norm of at most `max_norm`, as torch does (NOTES 6.6)."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = paddle.sqrt(paddle.add_n([(g * g).sum() for g in gradients]))
    factor = paddle.clip(max_norm / (norm + 1e-6), max=1.0)
    for gradient in gradients:
        paddle.assign(gradient * factor, gradient)


class ConstantWarmup(schedules.LRScheduler):
    """`warmup_lr` for `warmup_steps` epochs, then the schedule `main` from its own beginning.

    Paddle's LinearWarmup refuses an end that equals its start.
    """

    def __init__(self, main: schedules.LRScheduler, warmup_steps: int, warmup_lr: float):
        self.main, self.warmup_steps, self.warmup_lr = main, warmup_steps, warmup_lr
        super().__init__(learning_rate=warmup_lr)

    def get_lr(self) -> float:
        if self.last_epoch < self.warmup_steps:
            return self.warmup_lr
        self.main.step(self.last_epoch - self.warmup_steps)
        return self.main()


def build_scheduler(options: argparse.Namespace) -> schedules.LRScheduler:
    """The learning rate of each epoch; call `step()` once at an epoch's end.

    During `lr_warmup_epochs` the rate is constant (lr * lr_warmup_decay) or grows linearly from there; afterwards the
    main schedule starts at its own beginning (NOTES 6.7).
    """
    warmup = options.lr_warmup_epochs
    if options.lr_scheduler == "steplr":
        main = schedules.StepDecay(options.lr, step_size=options.lr_step_size, gamma=options.lr_gamma)
    elif options.lr_scheduler == "exponentiallr":
        main = schedules.ExponentialDecay(options.lr, gamma=options.lr_gamma)
    else:
        main = schedules.CosineAnnealingDecay(options.lr, T_max=max(1, options.epochs - warmup), eta_min=options.lr_min)
    if not warmup:
        return main
    first = options.lr * options.lr_warmup_decay
    if options.lr_warmup_method == "constant":
        return ConstantWarmup(main, warmup, first)
    return schedules.LinearWarmup(main, warmup_steps=warmup, start_lr=first, end_lr=options.lr)
