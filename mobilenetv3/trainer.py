"""The training loop: one class, read top to bottom. Resumes to the same bits after any interruption.

What a step computes depends only on the weights, the optimiser's state and (seed, epoch, step): the order of samples
comes from (seed, epoch), a sample's augmentation from (seed, epoch, index), mixing from (seed, epoch, step) and dropout
from (seed, step, rank). So a checkpoint needs no generator's state, and nothing depends on the loader's workers.
"""

import argparse
import time
from dataclasses import dataclass, field
from pathlib import Path

import paddle
import paddle.distributed as dist
from tqdm import tqdm

from shared import InputError
from shared.norms import use_synchronised_batch_norm
from shared.running.launch import StopRequest
from shared.running.log import RunLog, batch_line
from shared.running.sampling import EpochBatchSampler
from shared.running.state import TrainingState

from convert import load_official
from datasets import build_dataset, build_loader
from datasets.sampling import RASampler
from ema import ExponentialMovingAverage, adjusted_decay
from engine import Position, build_training, evaluate, train_step
from metrics import MetricLogger, SmoothedValue, accuracy
from models import build_model

#: what may differ between a training and its continuation
FREE_ON_RESUME = {
    *("data_path", "output_dir", "resume", "weights", "device", "workers"),
    *("epochs", "max_steps", "checkpoint_steps", "print_freq", "eval_freq", "test_only"),
}


@dataclass
class Progress:
    """How far a training is: what a checkpoint holds beside weights and moments."""

    epoch: int = 0
    step_in_epoch: int = 0
    step: int = 0
    seconds: float = 0.0  # of all steps so far
    best: float = -1.0  # top-1 on val/
    ema_count: int = 0
    history: list[dict[str, int | float | None]] = field(default_factory=list)


class Trainer:
    """Trains the network of `options` on `options.data_path` and writes to `options.output_dir`.

    Raises InputError for bad input, Diverged when the loss is NaN or Inf, Interrupted after SIGINT or SIGTERM.
    """

    def __init__(self, options: argparse.Namespace):
        self.options = options
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        self.output_dir = Path(options.output_dir)
        self.log = RunLog(self.output_dir, self.rank)
        self.progress = Progress()
        paddle.seed(options.seed)

        self.train_set = build_dataset(options, "train")
        self.val_set = build_dataset(options, "val", classes=self.train_set.classes)
        classes, images = len(self.train_set.classes), len(self.train_set)
        if classes != options.num_classes:
            raise InputError(
                f"{options.data_path}: {classes} class folders but --num_classes {options.num_classes}: "
                f"give --num_classes {classes}"
            )
        settings = {"seed": options.seed, "rank": self.rank, "world": self.world}
        if options.ra_sampler:
            sampler = RASampler(images, options.batch_size, options.ra_reps, **settings)
        else:
            sampler = EpochBatchSampler(images, options.batch_size, **settings)
        self.loader = build_loader(self.train_set, sampler, options.workers)
        self.steps_per_epoch = sampler.steps_per_epoch

        model = build_model(options)
        if options.sync_bn:
            use_synchronised_batch_norm(model)
        average = None
        if options.model_ema:
            batch, steps, epochs = options.batch_size, options.model_ema_steps, options.epochs
            decay = adjusted_decay(options.model_ema_decay, self.world, batch, steps, epochs)
            average = ExponentialMovingAverage(build_model(options), decay)
        self.training = build_training(options, model, average)
        self.state = TrainingState(
            options,
            model,
            self.training.optimizer,
            self.training.scaler,
            self.progress,
            identity={"classes": self.train_set.classes, "samples": images},
            free=FREE_ON_RESUME,
            networks={"ema": average.average} if average else None,
        )
        if options.resume:
            self._resume(options.resume)
        elif options.weights:
            load_official(model, options.weights)
        if self.world > 1:
            self.training = self.training._replace(model=paddle.DataParallel(model))

    @property
    def step(self) -> int:
        """Steps so far."""
        return self.progress.step

    # ------------------------------------------------------------------ the loop

    def train(self) -> None:
        """Train to the last epoch (or step), evaluating and saving after each; with --test_only, evaluate and stop."""
        options, progress = self.options, self.progress
        if options.test_only:
            self.evaluate()
            return
        total = options.epochs * self.steps_per_epoch
        last = min(total, options.max_steps or total)
        with self.log, StopRequest() as stop, self.log.bar(last, progress.step) as bar:
            while progress.epoch < options.epochs and not self._reached_last_step():
                self._train_epoch(stop, bar)
                if progress.step_in_epoch == self.steps_per_epoch:
                    progress.epoch, progress.step_in_epoch = progress.epoch + 1, 0
                    self.training.scheduler.step()
                over = progress.epoch == options.epochs or self._reached_last_step()
                if over or progress.epoch % options.eval_freq == 0:
                    metrics = self.evaluate()
                    if metrics["acc1"] > progress.best:
                        progress.best = metrics["acc1"]
                        self._save("best")
                self._save("latest")

    def _train_epoch(self, stop: StopRequest, bar: tqdm) -> None:
        options, progress, optimizer = self.options, self.progress, self.training.optimizer
        self.loader.set_epoch(progress.epoch, start_step=progress.step_in_epoch)
        speed, meters = SmoothedValue(10), MetricLogger()
        began = time.perf_counter()
        for images, labels in self.loader:
            at = Position(progress.epoch, progress.step_in_epoch, progress.step)
            loss, outputs, targets = train_step(self.training, images, labels, options, at)
            progress.step_in_epoch += 1
            progress.step += 1
            bar.update()
            acc1, acc5 = accuracy(outputs.numpy(), targets.numpy())
            spent = time.perf_counter() - began
            progress.seconds += spent
            began += spent
            speed.update(len(targets) * self.world / spent)
            meters.update(loss=loss)
            meters.update(len(targets), acc1=acc1, acc5=acc5)
            self.log.scalars("train", {"loss": loss, "lr": optimizer.get_lr()}, progress.step)
            epoch_ends = progress.step_in_epoch == self.steps_per_epoch
            if progress.step_in_epoch % options.print_freq == 0 or epoch_ends:
                left = progress.seconds * (self.steps_per_epoch * options.epochs / progress.step - 1)
                terms, lr = meters.line(" | "), optimizer.get_lr()
                line = batch_line(at.epoch, at.step_in_epoch, speed.median, lr, terms, progress.seconds, left)
                self.log.line(line)
            stop.check(lambda: self._save("latest"))
            if self._reached_last_step():
                break
            if options.checkpoint_steps and progress.step % options.checkpoint_steps == 0 and not epoch_ends:
                self._save("latest")
        # a training that was interrupted after the last step of an epoch resumes with none left
        loss = meters.meters["loss"].global_avg if meters.meters else None
        progress.history.append({"epoch": progress.epoch, "step": progress.step, "train_loss": loss})

    def evaluate(self) -> dict[str, float]:
        """Metrics of the current weights, and of their moving average as ema_..., on val/."""
        metrics = evaluate(self.state.model, self.val_set, self.options)
        shown = ["acc1", "acc5"]
        average, history = self.training.average, self.progress.history
        if average and average.count:
            averaged = evaluate(average.average, self.val_set, self.options)
            metrics |= {f"ema_{name}": averaged[name] for name in ("acc1", "acc5", "loss")}
            shown += ["ema_acc1", "ema_acc5"]
        text = " | ".join(f"{name}: {metrics[name]:.3f}" for name in shown)
        epoch = history[-1].get("epoch") if history else None
        when = "before the training" if epoch is None else f"after epoch {epoch:>3}"
        self.log.line(f"validation {when} | loss: {metrics['loss']:.4f} | {text}")
        if history:
            history[-1] |= {f"val_{name}": metrics[name] for name in ("acc1", "acc5", "loss")}
        self.log.scalars("val", metrics, self.progress.step)
        return metrics

    # ------------------------------------------------------------------ saving and resuming

    def _reached_last_step(self) -> bool:
        return self.options.max_steps is not None and self.progress.step >= self.options.max_steps

    def _save(self, label: str) -> None:
        if self.training.average:
            self.progress.ema_count = self.training.average.count
        self.state.save(self.output_dir, label)

    def _resume(self, path: str) -> None:
        epochs, steps = self.options.epochs, self.steps_per_epoch
        total = epochs * steps
        limits = {"epoch": epochs, "step_in_epoch": steps, "step": total, "ema_count": total}
        self.state.restore(path, limits)
        if self.training.average:
            self.training.average.count = self.progress.ema_count
        for _ in range(self.progress.epoch):  # the schedule is a function of the epoch alone
            self.training.scheduler.step()
