"""Parameter groups, optimiser and learning-rate schedules (NOTES 6)."""

import argparse

import paddle
from paddle import nn
from paddle.optimizer import lr as schedules

from shared.norms import BatchNorm2D

from losses import Criterion
from models import BiSeNet
from models.layers import InPlaceABNSync

HEAD_FACTOR = 10.0  # learning rate of the fusion module and the heads, in base rates
EARLIER_PORT_END = 1e-5  # last rate of Warmup_PolyDecay


def parameter_groups(model: BiSeNet, criterion: Criterion, options: argparse.Namespace) -> list[dict]:
    """The reference's five groups, in its order: {"names", "params", "weight_decay", "learning_rate" (a factor)}.

    Convolutions and norms of the context path, convolutions and norms of the fusion module and the heads, and the fuse
    kernel (NOTES 6.2). The backbone's norms are in no group and keep their initial values (NOTES 6.3), unless
    --train_backbone_norms puts them among the norms of the context path.
    """
    groups = [([], options.weight_decay, 1.0), ([], 0.0, 1.0)]
    groups += [([], options.weight_decay, HEAD_FACTOR), ([], 0.0, HEAD_FACTOR)]
    for name, layer in model.named_sublayers():
        first = 0 if name.startswith("cp.") else 2
        if isinstance(layer, nn.Conv2D | nn.Linear):
            groups[first][0].append((f"{name}.weight", layer.weight))
        elif isinstance(layer, InPlaceABNSync) or (isinstance(layer, BatchNorm2D) and options.train_backbone_norms):
            groups[first + 1][0].extend([(f"{name}.weight", layer.weight), (f"{name}.bias", layer.bias)])
    groups.append(([("fuse_kernel", criterion.detail.fuse_kernel)], options.weight_decay, 1.0))
    return [
        {
            "names": [name for name, _ in members],
            "params": [parameter for _, parameter in members],
            "weight_decay": float(decay),
            "learning_rate": factor,
        }
        for members, decay, factor in groups
    ]


def build_optimizer(
    model: BiSeNet, criterion: Criterion, options: argparse.Namespace, learning_rate
) -> paddle.optimizer.Momentum:
    """SGD with momentum over the reference's groups; `learning_rate` is a float or a scheduler.

    Weight decay is added to the gradient, as in torch. Parameters without gradient (unused heads) do not change.
    """
    groups = parameter_groups(model, criterion, options)
    groups = [{key: value for key, value in group.items() if key != "names"} for group in groups]
    return paddle.optimizer.Momentum(learning_rate, options.momentum, parameters=groups)


class WarmupPoly(schedules.LRScheduler):
    """The reference's schedule by iteration: exponential warm-up, then a polynomial decay to 0 (NOTES 6.5).

    it <= warmup_steps: start (lr0 / start)^(it / warmup_steps);
    after that: lr0 (1 - (it - warmup_steps) / (max_iter - warmup_steps))^power.
    """

    def __init__(self, lr0: float, warmup_steps: int, warmup_start_lr: float, max_iter: int, power: float):
        self.lr0, self.warmup_steps, self.warmup_start_lr = lr0, warmup_steps, warmup_start_lr
        self.max_iter, self.power = max_iter, power
        super().__init__(learning_rate=lr0)

    def get_lr(self) -> float:
        iteration = self.last_epoch
        if self.warmup_steps and iteration <= self.warmup_steps:
            return self.warmup_start_lr * (self.lr0 / self.warmup_start_lr) ** (iteration / self.warmup_steps)
        left = 1 - (iteration - self.warmup_steps) / (self.max_iter - self.warmup_steps)
        return self.lr0 * max(left, 0.0) ** self.power


def warmup_poly_decay(
    lr0: float, warmup_steps: int, warmup_start_lr: float, max_iter: int, power: float
) -> schedules.LRScheduler:
    """The earlier Paddle port's Warmup_PolyDecay: linear warm-up, polynomial decay to 1e-5 (NOTES 6.6)."""
    steps = max_iter - warmup_steps
    decay = schedules.PolynomialDecay(lr0, decay_steps=steps, end_lr=EARLIER_PORT_END, power=power)
    return schedules.LinearWarmup(decay, warmup_steps, start_lr=warmup_start_lr, end_lr=lr0)


def build_scheduler(options: argparse.Namespace) -> schedules.LRScheduler:
    """The schedule of --lr_scheduler, the base rate; call `step()` after every iteration."""
    kind = {"warmup_poly": WarmupPoly, "Warmup_PolyDecay": warmup_poly_decay}[options.lr_scheduler]
    return kind(options.lr, options.warmup_steps, options.warmup_start_lr, options.max_iter, options.power)
