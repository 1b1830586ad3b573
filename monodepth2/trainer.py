"""The training loop: one class, read top to bottom. Resumes to the same bits after any interruption.

What a step computes depends only on the weights, the optimiser's state and (seed, step): the order of items comes from
(seed, epoch), an item's augmentation from (seed, epoch, index), the noise that breaks ties from (seed, step). So a
checkpoint needs no generator's state, and nothing depends on the number of loader processes.
"""

import argparse
import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import paddle.distributed as dist

from shared.norms import use_synchronised_batch_norm
from shared.running.launch import StopRequest
from shared.running.log import RunLog, batch_line
from shared.running.processes import mean_over_processes
from shared.running.sampling import EpochBatchSampler
from shared.running.state import TrainingState

from convert import imagenet_weights, load_official, load_resnet
from datasets import build_dataset, build_loader, training_keys
from engine import build_training, monitor, train_step, validate
from metrics import MONITOR
from models import build_model
from options import sources
from pictures import log_images

#: options that may differ between a training and its continuation
FREE_ON_RESUME = set(
    "data_path split_dir num_workers output_dir log_dir model_name resume weights weights_init models_to_load "
    "max_steps checkpoint_steps log_frequency save_frequency device".split()
)


@dataclass
class Progress:
    """How far a training is; part of its checkpoints."""

    step: int = 0
    seconds: float = 0.0
    #: lowest validation loss
    best: float | None = None
    #: losses of the steps since the last log line
    losses: list[float] = field(default_factory=list)
    history: list[dict[str, Any]] = field(default_factory=list)


class Trainer:
    """Trains the networks of `options` on `options.data_path` and writes to `options.output_dir`.

    Raises InputError for bad input, Diverged if the loss is not finite, Interrupted after SIGINT or SIGTERM.
    """

    def __init__(self, options: argparse.Namespace):
        self.options = options
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        self.output_dir = Path(options.output_dir)
        paddle.seed(options.seed)

        keys = training_keys(options)
        train_set, val_set = (build_dataset(options, part, keys) for part in ("train", "val"))
        self.sampler = self._sampler(len(train_set), shuffle=True)
        self.loader = build_loader(train_set, self.sampler, options.num_workers)
        self.val_loader = build_loader(val_set, self._sampler(len(val_set), shuffle=False), options.num_workers)
        self.total = self.sampler.steps_per_epoch * options.num_epochs

        self.model = build_model(options)
        if options.sync_bn:
            use_synchronised_batch_norm(self.model)
        if not options.resume:
            self._load_first_weights()
        self.training = build_training(self.model, options)

        self.progress = Progress()
        self.state = TrainingState(
            options,
            self.model,
            self.training.optimizer,
            self.training.scaler,
            self.progress,
            identity={"samples": len(train_set)},
            free=FREE_ON_RESUME | {name for name in vars(options) if name.startswith("eval_")},
        )
        if options.resume:
            self.state.restore(options.resume, {"step": self.total})
            self.training.scheduler.step(self.progress.step // self.sampler.steps_per_epoch)
        if self.world > 1:
            self.training = self.training._replace(model=paddle.DataParallel(self.model))
        self.log = RunLog(self.output_dir, self.rank)

    @property
    def step(self) -> int:
        """Updates so far."""
        return self.progress.step

    @property
    def epoch(self) -> int:
        """The epoch of the last update."""
        return (self.step - 1) // self.sampler.steps_per_epoch

    def _sampler(self, length: int, shuffle: bool) -> EpochBatchSampler:
        batch_size, seed = self.options.batch_size, self.options.seed
        return EpochBatchSampler(length, batch_size, shuffle, seed, self.rank, self.world, drop_last=True)

    def _load_first_weights(self) -> None:
        """--weights for the sub-networks of --models_to_load; --weights_init for the other ResNets."""
        options = self.options
        present = [name for name, _ in self.model.named_children()]
        parts = [part for part in options.models_to_load if part in present] if options.weights else []
        if parts:
            load_official(self.model, options.weights, parts)
        encoders = [name for name in ("encoder", "pose_encoder") if name in present and name not in parts]
        file = imagenet_weights(options) if encoders else None
        for name in encoders if file else ():
            load_resnet(getattr(self.model, name), file)

    # ------------------------------------------------------------------------------------ the loop

    def train(self) -> None:
        """Train to the last epoch (or step), validating and saving after each."""
        options, progress = self.options, self.progress
        last = min(self.total, options.max_steps or self.total)
        self.log.options(vars(options) | {"frame_ids": [0, *sources(options)]}, "models/opt.json")
        with StopRequest() as stop, self.log, self.log.bar(last, progress.step) as bar:
            while progress.step < last:
                epoch, first = divmod(progress.step, self.sampler.steps_per_epoch)
                self.loader.set_epoch(epoch, start_step=first)
                began = time.perf_counter()
                for batch in self.loader:
                    outputs, terms = train_step(self.training, batch, options, progress.step)
                    spent = time.perf_counter() - began
                    progress.step += 1
                    progress.seconds += spent
                    # of all processes, which resume with those that the first has saved
                    progress.losses.append(mean_over_processes({"loss": terms["loss"]})["loss"])
                    bar.update()
                    over = progress.step == last
                    if progress.step % options.log_frequency == 0 or over:
                        self._log_step(batch, outputs, terms, spent)
                    if progress.step % self.sampler.steps_per_epoch == 0:
                        self.training.scheduler.step()
                        self._save_epoch(self.validate())
                    elif over or (options.checkpoint_steps and progress.step % options.checkpoint_steps == 0):
                        self._save()
                    stop.check(self._save)
                    if over:
                        break
                    began = time.perf_counter()

    def _log_step(self, batch: dict, outputs: dict, terms: dict[str, float], spent: float) -> None:
        """The line of every log_frequency steps: the mean loss since the last one; and scalars and images."""
        progress = self.progress
        loss = float(np.mean(progress.losses))
        progress.losses.clear()
        rate = self.training.optimizer.get_lr()
        batch_index = (progress.step - 1) % self.sampler.steps_per_epoch
        speed = self.options.batch_size * self.world / spent
        left = (self.total / progress.step - 1) * progress.seconds
        self.log.line(batch_line(self.epoch, batch_index, speed, rate, f"loss: {loss:.5f}", progress.seconds, left))
        progress.history.append({"step": progress.step, "loss": loss})
        if self.log.writer:
            scalars = terms | {"lr": rate} | monitor(batch, outputs, self.options)
            self.log.scalars("train", scalars, progress.step)
            log_images(self.log.writer, "train", self.options, batch, outputs, progress.step)

    def validate(self) -> dict[str, float]:
        """Mean loss and depth errors over the validation split."""
        figures, batch, outputs = validate(self.training, self.val_loader, self.options)
        figures = mean_over_processes(figures)
        errors = "".join(f" | {name}: {figures[name]:.4f}" for name in MONITOR if name in figures)
        self.log.line(f"validation after epoch {self.epoch:>3} | loss: {figures['loss']:.5f}{errors}")
        self.log.scalars("val", figures, self.step)
        if self.log.writer:
            log_images(self.log.writer, "val", self.options, batch, outputs, self.step)
        entry = {"step": self.step, "epoch": self.epoch}
        self.progress.history.append(entry | {f"val_{name}": value for name, value in figures.items()})
        return figures

    def _save_epoch(self, figures: dict[str, float]) -> None:
        """The weights if they are the best so far, the reference's folders, and the checkpoint to resume from."""
        progress = self.progress
        if figures["loss"] < (math.inf if progress.best is None else progress.best):
            progress.best = figures["loss"]
            self.state.save(self.output_dir, "best")
        if (self.epoch + 1) % self.options.save_frequency == 0:
            self.state.save(self.output_dir / "models", f"weights_{self.epoch}")
        self._save()

    def _save(self) -> None:
        self.state.save(self.output_dir, "latest")
