"""The training loop: one class, read top to bottom. Resumes to the same bits after any interruption.

What a step computes depends only on the weights, the optimiser's state and (seed, step): the order of samples comes
from (seed, epoch), a sample's augmentation from (seed, epoch, index). So a checkpoint needs no generator's state, and
nothing depends on the number of loader processes.
"""

import argparse
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import paddle.distributed as dist

from shared import InputError
from shared.norms import use_synchronised_batch_norm
from shared.running.launch import StopRequest
from shared.running.log import RunLog, clock
from shared.running.sampling import EpochBatchSampler
from shared.running.state import TrainingState

from constants import CLASS_NAMES
from convert import load_official
from datasets import build_dataset, build_loader
from engine import build_training, dygraph_segment, evaluate, train_step
from losses import build_criterion
from metrics import Protocol
from models import build_model

#: options that may differ between a training and its continuation
FREE_ON_RESUME = set(
    "data_path n_workers_train n_workers_val output_dir resume weights pretrain_path max_steps checkpoint_steps "
    "msg_iter save_iter_sep val_scales device".split()
)


@dataclass
class Progress:
    """How far a training is; part of its checkpoints."""

    step: int = 0
    seconds: float = 0.0
    #: best mIoU of each validation scale
    best: dict[str, float] = field(default_factory=dict)
    #: terms, rate and seconds of the steps since the last log line
    losses: list[dict[str, float]] = field(default_factory=list)
    history: list[dict[str, Any]] = field(default_factory=list)


class Trainer:
    """Trains the network of `options` on `options.data_path` and writes to `options.output_dir`.

    Raises InputError for bad input, Diverged if the loss is not finite, Interrupted after SIGINT or SIGTERM.
    """

    def __init__(self, options: argparse.Namespace):
        self.options = options
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        self.output_dir = Path(options.output_dir)
        paddle.seed(options.seed)

        self.train_set = build_dataset(options, "train")
        self.val_set = build_dataset(options, "val")
        check_options(options, len(self.train_set), self.world)
        self.sampler = EpochBatchSampler(
            len(self.train_set),
            options.n_img_per_gpu,
            seed=options.seed,
            rank=self.rank,
            world=self.world,
            drop_last=True,
            batch_option="--n_img_per_gpu",
        )
        self.loader = build_loader(self.train_set, self.sampler, options.n_workers_train)

        self.model = build_model(options)
        if options.sync_bn:
            use_synchronised_batch_norm(self.model)
        if options.pretrain_path and not options.resume:
            load_official(self.model.cp.backbone, options.pretrain_path)
        if options.weights and not options.resume:
            load_official(self.model, options.weights)
        criterion = build_criterion(options)
        self.training = build_training(self.model, criterion, options)

        self.progress = Progress()
        self.state = TrainingState(
            options,
            self.model,
            self.training.optimizer,
            self.training.scaler,
            self.progress,
            identity={"samples": len(self.train_set)},
            free=FREE_ON_RESUME,
            tensors={"fuse_kernel": criterion.detail.fuse_kernel},
        )
        if options.resume:
            self.state.restore(options.resume, {"step": options.max_iter})
            self.training.scheduler.step(self.progress.step)
        if self.world > 1:
            self.training = self.training._replace(model=paddle.DataParallel(self.model))
        self.log = RunLog(self.output_dir, self.rank)

    @property
    def step(self) -> int:
        """Updates so far."""
        return self.progress.step

    # ------------------------------------------------------------------ the loop

    def train(self) -> None:
        """Train to the last iteration (or step), validating and saving on the way."""
        options, progress = self.options, self.progress
        last = min(options.max_iter, options.max_steps or options.max_iter)
        with StopRequest() as stop, self.log, self.log.bar(last, progress.step) as bar:
            while progress.step < last:
                epoch, first = divmod(progress.step, self.sampler.steps_per_epoch)
                self.loader.set_epoch(epoch, start_step=first)
                began = time.perf_counter()
                for images, labels in self.loader:
                    values = train_step(self.training, images, labels, options)
                    self._count(values, time.perf_counter() - began)
                    bar.update()
                    over = progress.step == last
                    if progress.step % options.msg_iter == 0 or over:
                        self._log_losses()
                    if over or progress.step % options.save_iter_sep == 0:
                        self.validate()
                        self._save()
                    elif options.checkpoint_steps and progress.step % options.checkpoint_steps == 0:
                        self._save()
                    stop.check(self._save)
                    if over:
                        break
                    began = time.perf_counter()

    def _save(self) -> None:
        self.state.save(self.output_dir, "latest")

    def _count(self, values: dict[str, float], seconds: float) -> None:
        """Add one step's values and duration to the progress and to VisualDL."""
        self.progress.step += 1
        self.progress.seconds += seconds
        self.progress.losses.append(values | {"seconds": seconds})
        self.log.scalars("train", values, self.progress.step)

    def _log_losses(self) -> None:
        """The line of every msg_iter steps: means since the last one."""
        progress, losses = self.progress, self.progress.losses
        names = ["loss", *(name for name in losses[-1] if name not in ("lr", "seconds", "loss")), "seconds"]
        # what a resumed state file holds of earlier steps may lack terms
        mean = {name: float(np.mean([values[name] for values in losses if name in values])) for name in names}
        epoch, batch = divmod(progress.step - 1, self.sampler.steps_per_epoch)
        speed = self.options.n_img_per_gpu * self.world / mean.pop("seconds")
        left = progress.seconds * (self.options.max_iter / progress.step - 1)
        terms = " | ".join(f"{name}: {value:.4f}" for name, value in mean.items())
        self.log.line(
            f"epoch {epoch:>3} | batch {batch:>6} | step {progress.step:>6} | examples/s: {speed:5.1f} | "
            f"lr: {losses[-1]['lr']:.3e} | {terms} | "
            f"time elapsed: {clock(progress.seconds)} | time left: {clock(left)}"
        )
        progress.history.append({"step": progress.step, "train_loss": mean["loss"]})
        losses.clear()

    def validate(self) -> None:
        """mIoU on val at each of --val_scales; keeps the best weights of each scale."""
        options, progress = self.options, self.progress
        protocols = [Protocol((scale,)) for scale in options.val_scales]
        matrices = evaluate(dygraph_segment(self.model), self.val_set, options, protocols)
        for index, (scale, matrix) in enumerate(zip(options.val_scales, matrices, strict=True)):
            miou = float(np.nan_to_num(matrix.miou_present()))
            self.log.line(
                f"validation after step {progress.step:>6} | scale: {scale:g} | mIoU: {100 * miou:.2f} | "
                f"classes: {matrix.present()} | pixel_accuracy: {100 * matrix.pixel_accuracy():.2f}"
            )
            self.log.scalars("val", {f"mIoU{round(100 * scale)}": miou}, progress.step)
            if miou > progress.best.get(str(scale), 0.0):
                progress.best[str(scale)] = miou
                self.state.save(self.output_dir, "best" if index == 0 else f"best_mIOU{round(100 * scale)}")
        scales = map(str, options.val_scales)
        mious = {scale: matrix.miou_present() for scale, matrix in zip(scales, matrices, strict=True)}
        progress.history.append({"step": progress.step, "val_miou": mious})


def check_options(options: argparse.Namespace, samples: int, world: int) -> None:
    """InputError for batches that cannot be trained on, and for fewer classes than the labels have."""
    if samples // world < options.n_img_per_gpu:
        raise InputError(
            f"{options.data_path}: {samples} images to train on, fewer than one batch of {options.n_img_per_gpu} for "
            f"each of {world} processes; lower --n_img_per_gpu"
        )
    if options.n_img_per_gpu * world == 1:
        raise InputError("--n_img_per_gpu 1: a batch norm behind a global average needs two images a step; raise it")
    pixels = options.n_img_per_gpu * options.crop_size[0] * options.crop_size[1]
    if options.n_min is not None and options.n_min >= pixels:
        raise InputError(f"--n_min {options.n_min}: a batch has {pixels} pixels; give less, or omit it")
    if options.num_classes < len(CLASS_NAMES):
        raise InputError(f"--num_classes {options.num_classes}: Cityscapes has {len(CLASS_NAMES)}; omit it")
