"""The training loop, read top to bottom. It resumes to the same bits after any interruption.

A step depends only on the weights, the optimiser's state, the `Progress`, and (seed, pass, index) for the order and the
augmentation of frames; not on the loader's processes. Pass 0 is the one without updates (NOTES 5.11); epoch e is pass
e + 1.
"""

import argparse
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import paddle
import paddle.distributed as dist
from paddle.utils import unique_name

from shared import InputError
from shared.running.launch import Diverged, StopRequest
from shared.running.log import RunLog, batch_line
from shared.running.processes import largest
from shared.running.sampling import EpochBatchSampler
from shared.running.state import TrainingState

from convert import load_backbone, load_official
from datasets import Batch, build_dataset, build_loader
from engine import build_training, evaluate, in_test_mode, measure_losses, train_step
from losses import STAT_EPOCHS, TERMS, HierarchicalTaskLearning
from models import build_model
from plot_htl import Pass, draw_weights

#: options that a continuation may change
FREE_ON_RESUME = frozenset(
    "data_path eval_split num_workers output_dir resume weights pretrain_path max_steps eval_frequency save_frequency "
    "disp_frequency checkpoint_steps threshold device".split()
)


@dataclass
class Progress:
    """How far a training is; part of its checkpoints."""

    step: int = 0  # updates
    batches: int = 0  # of all passes, the one without updates included
    seconds: float = 0.0
    best: float = -1.0
    tasks: HierarchicalTaskLearning = field(default_factory=HierarchicalTaskLearning)
    weights: dict[str, float] = field(default_factory=dict)  # of the losses, in this epoch
    sums: dict[str, float] = field(default_factory=lambda: dict.fromkeys(TERMS, 0.0))  # of this pass's losses
    recent: list[dict[str, float]] = field(default_factory=list)  # losses since the last log line
    history: list[Pass] = field(default_factory=list)

    def require_terms(self, path: str) -> None:
        """InputError where losses or weights of a restored progress lack a term, or are too many."""
        known = [self.sums, *self.tasks.past_losses, *self.recent, *(entry.losses for entry in self.history)]
        known += [weights for weights in (self.weights, self.tasks.init_diff) if weights]
        known += [entry.weights for entry in self.history if entry.weights]
        complete = all(losses.keys() >= {*TERMS} for losses in known) and all("loss" in last for last in self.recent)
        if not complete or len(self.tasks.past_losses) > STAT_EPOCHS:
            raise InputError(f"{path}: its losses are not those of this training; resume from another")


class Trainer:
    """Trains the network of `options` on `options.data_path` and writes to `options.output_dir`.

    Raises InputError for bad input, Diverged when a loss is NaN or Inf, Interrupted after SIGINT or SIGTERM.
    """

    def __init__(self, options: argparse.Namespace):
        self.options, self.output_dir = options, Path(options.output_dir)
        self.rank, world = dist.get_rank(), dist.get_world_size()
        if options.batch_size % world:
            raise InputError(f"--batch_size {options.batch_size}: not a multiple of {world}, the number of processes")
        if options.eval_split == "test":
            raise InputError("--eval_split test: has no labels to evaluate with; train with val, train or trainval")
        paddle.seed(options.seed)

        train_set, val_set = build_dataset(options, options.split), build_dataset(options, options.eval_split, False)
        own = options.batch_size // world
        sampler = EpochBatchSampler(len(train_set), own, True, options.seed, self.rank, world)
        self.loader = build_loader(train_set, sampler, options.num_workers)
        val_sampler = EpochBatchSampler(len(val_set), options.batch_size, shuffle=False)
        self.val_loader = build_loader(val_set, val_sampler, options.num_workers)
        self.per_pass = sampler.steps_per_epoch  # batches

        # Paddle numbers parameters per process; the guard lets the numbers start from 0 whatever ran before
        with unique_name.guard():
            self.training = build_training(build_model(options), options)
        self.model, self.progress = self.training.model, Progress()
        parts = self.model, self.training.optimizer, self.training.scaler, self.progress
        self.state = TrainingState(options, *parts, identity={"samples": len(train_set)}, free=FREE_ON_RESUME)
        self.log = RunLog(self.output_dir, self.rank)
        if options.resume:
            self._resume(options.resume)
        elif options.weights:
            load_official(self.model, options.weights)
        elif options.pretrain_path:
            load_backbone(self.model, options.pretrain_path)

    def _resume(self, path: str) -> None:
        last = self.per_pass * (self.options.max_epoch + 1)
        self.state.restore(path, limits={"batches": last, "step": last})
        self.progress.require_terms(path)
        self.progress.step = max(self.progress.batches - self.per_pass, 0)
        self.training.schedule.step(max(self.progress.batches // self.per_pass - 1, 0))

    @property
    def step(self) -> int:
        """Updates so far."""
        return self.progress.step

    def train(self) -> dict:
        """Train to the last epoch, or step; returns the metrics of the last evaluation."""
        options, progress = self.options, self.progress
        last = self.per_pass * (options.max_epoch + 1)
        if options.max_steps:
            last = min(last, self.per_pass + options.max_steps)
        metrics = {}
        with self.log as log, StopRequest() as stop, log.bar(last, progress.batches, "batch") as bar:
            log.options(options)
            while progress.batches < last:
                number, first = divmod(progress.batches, self.per_pass)
                epoch = number - 1
                if first == 0:
                    self._begin_pass(epoch)
                self.loader.set_epoch(number, start_step=first)
                began = time.perf_counter()
                for batch in self.loader:
                    self._train_batch(epoch, batch)
                    progress.seconds += time.perf_counter() - began
                    bar.update()
                    done = progress.batches - number * self.per_pass
                    if done % options.disp_frequency == 0 or done == self.per_pass:
                        self._log_batch(epoch, done)
                    every = options.checkpoint_steps
                    if done == self.per_pass:
                        metrics = self._end_pass(epoch) or metrics
                    elif progress.batches == last or (every and progress.batches % every == 0):
                        self._save("latest")
                    stop.check(lambda: self._save("latest"))
                    if progress.batches == last:
                        break
                    began = time.perf_counter()
        if self.rank == 0:
            draw_weights(progress.history, self.output_dir / "htl_weights.png")
        return metrics

    def _begin_pass(self, epoch: int) -> None:
        """Set the weights of the losses, by the means of the pass before, and the learning rate."""
        progress, schedule = self.progress, self.training.schedule
        if epoch < 0:
            self.log.line(f"epoch {epoch:>3} | losses before the training")
            return
        progress.weights = progress.tasks.compute_weight(self._means(), epoch, self.options.max_epoch)
        progress.sums = dict.fromkeys(TERMS, 0.0)
        schedule.step(epoch)
        weights = ", ".join(f"{name.removesuffix('_loss')}: {progress.weights[name]:.4f}" for name in TERMS)
        self.log.line(f"epoch {epoch:>3} | weights: {weights}")
        self.log.scalars("train", {"lr": schedule()}, self.step)
        self.log.scalars("weight", progress.weights, self.step)

    def _train_batch(self, epoch: int, batch: Batch) -> None:
        """One batch, of the pass without updates or of an epoch."""
        progress = self.progress
        try:
            if epoch < 0:
                losses = measure_losses(self.training, batch)
            else:
                losses = train_step(self.training, batch, progress.weights)
        except Diverged as error:
            where = f"at step {self.step}" if epoch >= 0 else f"at batch {progress.batches} of the pass before epoch 0"
            remedy = f"lower --lr (now {self.training.schedule():g}), and --resume from the last checkpoint"
            raise Diverged(f"NaN or Inf {where}: {error}; the training has diverged: {remedy}") from error
        progress.batches += 1
        progress.step += epoch >= 0
        progress.recent.append(losses)
        for name in TERMS:
            progress.sums[name] += losses[name]

    def _means(self) -> dict[str, float]:
        """The mean losses of a whole pass, unweighted."""
        return {name: total / self.per_pass for name, total in self.progress.sums.items()}

    def _end_pass(self, epoch: int) -> dict:
        """Evaluate and keep weights when it is time to, and save where to continue. Returns the metrics."""
        options, done, metrics = self.options, epoch + 1, {}
        self.progress.history.append(Pass(epoch, self._means(), dict(self.progress.weights)))
        self.log.scalars("epoch", self._means(), self.step)
        finished = done == options.max_epoch
        if done and (done % options.eval_frequency == 0 or finished):
            metrics = self._evaluate(epoch)
        if done and (done % options.save_frequency == 0 or finished):
            self._save(f"checkpoint_epoch_{done}")
        self._save("latest")
        return metrics

    def _evaluate(self, epoch: int) -> dict:
        """Evaluate on the evaluation split, with result files in output_dir/data; the best weights are kept.

        Best is the highest mean over --writelist of 3D AP40 at KITTI's overlaps, moderate; of equals, the latest.
        """
        options, progress = self.options, self.progress
        self.model.eval()
        # in every process: those that only waited for the first would time out
        metrics = evaluate(in_test_mode(self.model), self.val_loader, options.threshold, self.output_dir / "data")
        self.model.train()
        best = False
        if self.rank == 0:
            moderate = {
                f"{name}_{metric}": metrics.get(name, {}).get(metric, {}).get("AP40", [0.0] * 3)[1] or 0.0
                for name in options.writelist
                for metric in ("2d", "bev", "3d")
            }
            text = " | ".join(f"{name}: {value:.2f}" for name, value in moderate.items())
            self.log.line(f"validation after epoch {epoch:>3} | AP40, moderate | {text}")
            self.log.scalars("val", moderate, self.step)
            progress.history[-1].metrics = metrics
            mean = float(np.mean([moderate[f"{name}_3d"] for name in options.writelist]))
            best, progress.best = mean >= progress.best, max(mean, progress.best)
        if largest(best):
            self._save("best")
        return metrics

    def _log_batch(self, epoch: int, done: int) -> None:
        """The line of every disp_frequency batches: mean losses since the last one."""
        progress = self.progress
        recent, progress.recent = progress.recent, []
        means = {name: float(np.mean([losses[name] for losses in recent])) for name in ("loss", *TERMS)}
        if epoch < 0:
            means.pop("loss")  # without weights, which come with epoch 0
        text = " | ".join(f"{name}: {value:.4f}" for name, value in means.items())
        speed = self.options.batch_size * progress.batches / progress.seconds
        left = progress.seconds / progress.batches * (self.per_pass * (self.options.max_epoch + 1) - progress.batches)
        rate = self.training.schedule()
        self.log.line(batch_line(epoch, done - 1, speed, rate, text, progress.seconds, left))
        if epoch >= 0:
            self.log.scalars("train", means, self.step)

    def _save(self, label: str) -> None:
        self.state.save(self.output_dir, label)
