"""What training computes: passes over batches, the weights of the losses, updates. Files and signals are trainer.py's.

The reference's order (NOTES 5.11, 6): one pass over the training set in training mode without learning, whose mean
losses hierarchical task learning starts from; then the epochs, each with the weights that the means of the one before
give.
"""

import argparse
import math

import paddle
import paddle.distributed as dist

from shared.norms import use_synchronised_batch_norm

from datasets import Batch
from losses import TERMS, Counts, HierarchicalTaskLearning, build_criterion
from models import BrokenBoxes, GUPNet
from optimizers import EpochSchedule, build_optimizer


class Diverged(RuntimeError):
    """A loss is no longer a finite number."""


class Learner:
    """A network with its losses, its optimiser and its schedules.

    A batch's normalisers, the number of positives and of objects, are those of all processes together, and so are the
    losses that come back: several processes compute what one would, given `sync_bn`. A term of which a batch has no
    object counts as 0, in the total and in the means; the reference's NaN would end the training there.
    """

    def __init__(self, model: GUPNet, options: argparse.Namespace):
        self.options, self.model, self.world = options, model, dist.get_world_size()
        if options.sync_bn:
            use_synchronised_batch_norm(model)
        for layer in model.idle_layers():  # no gradient is computed or sent to other processes
            for parameter in layer.parameters():
                parameter.stop_gradient = True
        self.criterion = build_criterion(options)
        self.scheduler = EpochSchedule(options)
        self.optimizer = build_optimizer(model, options, self.scheduler)
        self.scaler = paddle.amp.GradScaler(enable=options.amp and options.device == "gpu")
        self.tasks = HierarchicalTaskLearning(options.max_epoch)
        self.weights: dict[str, float] = {}
        self.sums = dict.fromkeys(TERMS, 0.0)  # of the unweighted losses of this pass
        self.batches = 0  # of this pass
        if self.world > 1:
            for tensor in model.state_dict().values():
                dist.broadcast(tensor, 0)

    def begin_epoch(self, epoch: int) -> None:
        """Set the weights of the losses, by the means of the pass before, and the learning rate."""
        self.weights = self.tasks.compute_weight(self.means(), epoch)
        self.sums, self.batches = dict.fromkeys(TERMS, 0.0), 0
        self.scheduler.step(epoch)

    def means(self) -> dict[str, float]:
        """The mean losses of the pass so far, unweighted."""
        return {name: value / self.batches for name, value in self.sums.items()}

    def look(self, batch: Batch) -> dict[str, float]:
        """Losses of a batch of the first pass: norms' statistics move, nothing else does."""
        self.model.train()
        with paddle.no_grad():
            terms = self._losses(batch, {})
        return self._add_up(terms)

    def learn(self, batch: Batch) -> dict[str, float]:
        """One update. Returns the losses, unweighted, and `loss`, their weighted sum; Diverged if one is not finite."""
        self.model.train()
        terms = self._losses(batch, self.weights)
        values = self._add_up(terms)
        self.scaler.scale(terms["loss"]).backward()
        if self.world > 1:
            self._sum_gradients()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        # not set to 0: a parameter that the next batch does not reach must look the same after a resume
        self.optimizer.clear_grad(set_to_zero=False)
        return values

    @paddle.no_grad()
    def _sum_gradients(self) -> None:
        """Give every process the sum of all gradients; what no process reached stays without one.

        Not `paddle.DataParallel`: it sends gradients while the backward pass runs, where they cross with the sums of
        synchronised norms, and a process whose batch has no object does not reach the regions' heads.
        """
        parameters = [parameter for parameter in self.model.parameters() if not parameter.stop_gradient]
        dtype = self.model.mean_size.dtype
        reached = paddle.to_tensor([parameter.grad is not None for parameter in parameters]).astype("int32")
        dist.all_reduce(reached, op=dist.ReduceOp.MAX)
        parameters = [parameter for parameter, yes in zip(parameters, reached.tolist(), strict=True) if yes]
        gradients = [p.grad if p.grad is not None else paddle.zeros(p.shape, dtype) for p in parameters]
        total = paddle.concat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(total)
        for parameter, part in zip(parameters, total.split([p.size for p in parameters]), strict=True):
            parameter.grad = part.reshape(parameter.shape)

    def _losses(self, batch: Batch, weights: dict) -> dict:
        options = self.options
        dtype = "float16" if options.device == "gpu" else "bfloat16"
        try:
            with paddle.amp.auto_cast(enable=options.amp, dtype=dtype):
                outputs = self.model(batch.images, batch.coord_ranges, batch.calibs, batch.targets, mode="train")
        except BrokenBoxes as error:
            raise Diverged("the boxes of offset2d_loss and size2d_loss") from error
        if options.amp:
            outputs = {name: value.astype("float32") for name, value in outputs.items() if name != "train_tag"}
        counts = self.criterion.counts(batch.targets)
        if self.world > 1:
            counts = paddle.stack(list(counts))
            dist.all_reduce(counts)
            counts = Counts(counts[0], counts[1])
        return self.criterion(outputs, batch.targets, weights, counts)

    def _add_up(self, terms: dict) -> dict[str, float]:
        values = paddle.stack([terms[name].detach() for name in (*TERMS, "loss")])
        if self.world > 1:
            dist.all_reduce(values)
        values = dict(zip((*TERMS, "loss"), values.tolist(), strict=True))
        bad = [name for name, value in values.items() if not math.isfinite(value)]
        if bad:
            weights = [f"{name} weighs {value}" for name, value in self.weights.items() if not math.isfinite(value)]
            raise Diverged(", ".join(bad) + (f" ({', '.join(weights)})" if weights else ""))
        for name in TERMS:
            self.sums[name] += values[name]
        self.batches += 1
        return values

    def state_dict(self) -> dict:
        """Everything but tensors that a training needs to go on, as JSON can hold it."""
        return {
            "tasks": self.tasks.state_dict(),
            "weights": self.weights,
            "sums": self.sums,
            "batches": self.batches,
            "scaler": {name: float(value) for name, value in self.scaler.state_dict().items()},
        }

    def set_state_dict(self, state: dict, epoch: int) -> None:
        """Go on from what `state_dict` gave, in `epoch` (-1: the pass before the first)."""
        self.tasks.set_state_dict(state["tasks"])
        self.weights, self.sums, self.batches = state["weights"], state["sums"], state["batches"]
        if state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
        self.scheduler.step(max(epoch, 0))
