"""The training loop: one class, read top to bottom. Resumes to the same bits after any interruption.

What a step computes depends only on the weights, the optimiser's state and (seed, step): the order of images comes
from (seed, epoch), an image's augmentation from (seed, epoch, index), dropout from (seed, step, process). So a
checkpoint needs no generator's state, and nothing depends on the loader's workers.
"""

import argparse
import json
import math
import time
from dataclasses import dataclass, field
from pathlib import Path

import paddle
import paddle.distributed as dist
from paddle.utils import unique_name

from shared.files import finite
from shared.running.launch import StopRequest, build_scaler
from shared.running.log import RunLog, batch_line
from shared.running.processes import mean_over_processes
from shared.running.sampling import EpochBatchSampler
from shared.running.state import TrainingState
from shared.weights.published import published_file

from convert import load_backbone, load_official
from datasets import build_dataset, build_loader
from engine import diverged, evaluate, predict, train_step
from losses import NotFinite, build_criterion
from metrics import NUMBERS
from models import build_model
from optimizers import build_optimizer, build_scheduler
from options import FOLDER
from pictures import log_pictures

#: options that may differ between a training and its continuation
FREE_ON_RESUME = {
    "data_path",
    "num_workers",
    "output_dir",
    "resume",
    "weights",
    "pretrain_path",
    "max_steps",
    "checkpoint_steps",
    "log_frequency",
    "device",
}
#: torchvision's names of its ImageNet files, the reference's first
IMAGENET_FILES = {
    "resnet18": ("resnet18-5c106cde.pth", "resnet18-f37072fd.pth"),
    "resnet34": ("resnet34-333f7ec4.pth", "resnet34-b627a593.pth"),
    "resnet50": ("resnet50-19c8e357.pth", "resnet50-0676ba61.pth"),
    "resnet101": ("resnet101-5d3b4d8f.pth", "resnet101-63fe2227.pth"),
    "resnet152": ("resnet152-b121ed2d.pth", "resnet152-394f9c45.pth"),
}


@dataclass
class Progress:
    """How far a training has come."""

    step: int = 0
    seconds: float = 0.0
    best: float | None = None  # the largest AP so far
    # of every term, the rate and the norm, in this epoch; None in a file: Inf, where scaled gradients overflowed
    sums: dict[str, float | None] = field(default_factory=dict)
    history: list[dict[str, int | float | None]] = field(default_factory=list)


class Trainer:
    """Trains the network of `options` on `options.data_path` and writes to `options.output_dir`.

    Raises InputError for bad input, Diverged when an output, a loss or a gradient is NaN or Inf, Interrupted after
    SIGINT or SIGTERM.
    """

    def __init__(self, options: argparse.Namespace):
        self.options, self.output_dir = options, Path(options.output_dir)
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        paddle.seed(options.seed)

        self.train_set, self.val_set = (build_dataset(options, split) for split in ("train", "val"))
        shares = {"rank": self.rank, "world": self.world, "contiguous": True}
        self.sampler = EpochBatchSampler(
            len(self.train_set), options.batch_size, seed=options.seed, drop_last=True, **shares
        )
        self.loader = build_loader(self.train_set, self.sampler, options.num_workers)

        # names of parameters count up per process; the guard lets them start from zero whatever ran before
        with unique_name.guard():
            self.model = build_model(options)
            self.criterion = build_criterion(options)
            self.scheduler = build_scheduler(options)
            self.optimizer = build_optimizer(self.model, options, self.scheduler)
        self.scaler, self.progress = build_scaler(options), Progress()
        self.state = TrainingState(
            options,
            self.model,
            self.optimizer,
            self.scaler,
            self.progress,
            identity={"samples": len(self.train_set)},
            free=FREE_ON_RESUME,
        )
        self.log = RunLog(self.output_dir, self.rank)
        self._load_first_weights()

    @property
    def step(self) -> int:
        """Updates so far."""
        return self.progress.step

    def _load_first_weights(self) -> None:
        options, steps = self.options, self.sampler.steps_per_epoch
        if options.resume:
            self.state.restore(options.resume, limits={"step": steps * options.epochs})
            sums = self.progress.sums
            self.progress.sums = {name: math.inf if value is None else value for name, value in sums.items()}
            for _ in range(self.step // steps):
                self.scheduler.step()
            return
        if options.weights:
            load_official(self.model, options.weights)
            return
        names = {"pretrained": IMAGENET_FILES[options.backbone]}
        folder, whose = FOLDER / "pretrained", f"torchvision's {options.backbone}"
        file = published_file("pretrain_path", options.pretrain_path, names, folder, whose)
        if file:
            load_backbone(self.model, file)

    # ------------------------------------------------------------------ the loop

    def train(self) -> dict:
        """Train to the last epoch (or step), validating and saving after each epoch; returns the last metrics."""
        options, progress, steps = self.options, self.progress, self.sampler.steps_per_epoch
        total = steps * options.epochs
        last, every, metrics = min(total, options.max_steps or total), options.checkpoint_steps, {}
        with self.log, StopRequest() as stop, self.log.bar(last, progress.step) as bar:
            self.log.options(options)
            while progress.step < last:
                epoch, first = divmod(progress.step, steps)
                self.loader.set_epoch(epoch, start_step=first)
                began = time.perf_counter()
                for batch in self.loader:
                    terms = self._train_step(batch)
                    spent = time.perf_counter() - began
                    progress.seconds += spent
                    bar.update()
                    if progress.step % options.log_frequency == 0 or progress.step == last:
                        self._log_step(epoch, terms, spent)
                    epoch_over = progress.step % steps == 0
                    if epoch_over:
                        self.scheduler.step()
                        metrics = self._end_epoch(epoch, final=progress.step == last)
                    elif progress.step == last or (every and progress.step % every == 0):
                        self._save("latest")
                    stop.check(lambda: self._save("latest"))
                    if progress.step == last:
                        break
                    began = time.perf_counter()
        return metrics

    def _train_step(self, batch: tuple) -> dict[str, float]:
        """`train_step`, and its terms added to the epoch's sums."""
        training = self.model, self.criterion, self.optimizer, self.scaler
        terms = train_step(*training, batch, self.options, self.progress.step)
        self.progress.step += 1
        for name, value in (terms | {"lr": self.optimizer.get_lr()}).items():
            self.progress.sums[name] = self.progress.sums.get(name, 0.0) + value
        return terms

    def _save(self, label: str) -> None:
        # the sums go on from their mean over the processes, which one of them can save for all
        self.progress.sums = mean_over_processes(self.progress.sums)
        self.state.save(self.output_dir, label)

    # ------------------------------------------------------------------ logs and validation

    def _log_step(self, epoch: int, terms: dict[str, float], spent: float) -> None:
        """The line of every log_frequency steps, and the scalars of this one."""
        progress, steps, lr = self.progress, self.sampler.steps_per_epoch, self.optimizer.get_lr()
        terms = mean_over_processes(terms)
        left = (steps * self.options.epochs / progress.step - 1) * progress.seconds
        speed = self.options.batch_size * self.world / spent
        loss, class_error, grad_norm = (terms[name] for name in ("loss", "class_error", "grad_norm"))
        text = f"loss: {loss:.4f} | class_error: {class_error:5.1f} | grad_norm: {grad_norm:.2f}"
        self.log.line(batch_line(epoch, (progress.step - 1) % steps, speed, lr, text, progress.seconds, left))
        progress.history.append({"step": progress.step, "loss": loss})
        self.log.scalars("train", terms | {"lr": lr}, progress.step)

    def _end_epoch(self, epoch: int, final: bool) -> dict:
        """After an epoch: validate if it is its turn, write the logs' lines, and save."""
        progress = self.progress
        means = {name: value / self.sampler.steps_per_epoch for name, value in progress.sums.items()}
        line = {f"train_{name}": value for name, value in self._as_reference(mean_over_processes(means)).items()}
        progress.sums = {}
        metrics: dict[str, float] = {}
        if final or (epoch + 1) % self.options.eval_frequency == 0:
            numbers, losses = self.validate()
            metrics = numbers | {"loss": losses["loss"]}
            line |= {f"test_{name}": value for name, value in self._as_reference(losses).items()}
            line["test_coco_eval_bbox"] = [numbers[name] for name in NUMBERS]
            text = " | ".join(f"{name}: {numbers[name]:.4f}" for name in NUMBERS[:6])
            self.log.line(f"validation after epoch {epoch:>3} | loss: {losses['loss']:.4f} | {text}")
            named = {f"val_{name}": value for name, value in metrics.items()}
            progress.history.append({"step": progress.step, "epoch": epoch} | named)
            self._show_validation(metrics)
        trainable = sum(parameter.size for parameter in self.model.parameters() if not parameter.stop_gradient)
        line |= {"epoch": epoch, "n_parameters": trainable}
        self.log.append("log.txt", json.dumps(finite(line)) + "\n")
        if metrics and (progress.best is None or metrics["AP"] > progress.best):
            progress.best = metrics["AP"]
            self._save("best")
        self._save("latest")
        return metrics

    def validate(self) -> tuple[dict[str, float], dict[str, float]]:
        """(COCO's twelve numbers, mean losses) of the current weights on the validation set."""
        try:
            metrics, losses = evaluate(self.model, self.val_set, self.options, self.criterion)
        except NotFinite as error:
            raise diverged(f"{error.name} of a validation batch", self.progress.step, self.optimizer) from error
        return metrics.numbers, losses

    def _as_reference(self, means: dict[str, float]) -> dict[str, float]:
        """The means under the names of the reference's log (NOTES 6.4)."""
        plain = {name: means[name] for name in ("lr", "class_error", "grad_norm", "loss") if name in means}
        terms = {name: value for name, value in means.items() if name not in ("lr", "grad_norm", "loss")}
        weighted = {name: self.criterion.weight_of(name) * value for name, value in terms.items()}
        weighted = {name: value for name, value in weighted.items() if self.criterion.weight_of(name)}
        return plain | weighted | {f"{name}_unscaled": value for name, value in terms.items()}

    def _show_validation(self, metrics: dict[str, float]) -> None:
        self.log.scalars("val", metrics, self.progress.step)
        if self.log.writer:
            sampler = EpochBatchSampler(len(self.val_set), self.options.batch_size, shuffle=False)
            images, mask, targets = next(iter(build_loader(self.val_set, sampler, 0)))
            log_pictures(self.log.writer, images, predict(self.model, images, mask), targets, self.progress.step)
