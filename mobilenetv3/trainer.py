"""The training loop: one class, read top to bottom. Resumes to the same bits after any interruption.

What a step computes depends only on the weights, the optimiser's state and (seed, epoch, step): the order of samples
comes from (seed, epoch), a sample's augmentation from (seed, epoch, index), mixing from (seed, epoch, step) and dropout
from (seed, step, rank). So a checkpoint needs no generator's state, and nothing depends on the loader's workers.
"""

import argparse
import math
import signal
import time
import zlib
from pathlib import Path

import numpy as np
import paddle
import paddle.distributed as dist
from paddle.utils import unique_name
from tqdm import tqdm
from visualdl import LogWriter

from shared import InputError
from shared.norms import use_synchronised_batch_norm
from shared.weights import as_numpy, load_checkpoint, save_checkpoint

from convert import load_official
from datasets import EpochBatchSampler, build_dataset, build_loader, build_mixing
from ema import ExponentialMovingAverage, adjusted_decay
from evaluate import dygraph_predictor, evaluate
from losses import build_criterion
from metrics import MetricLogger, SmoothedValue, accuracy
from models import build_model
from optimizers import build_optimizer, build_scheduler, clip_gradients

#: what may differ between a training and its continuation
_FREE_ON_RESUME = {
    "data_path",
    "workers",
    "output_dir",
    "resume",
    "weights",
    "max_steps",
    "checkpoint_steps",
    "print_freq",
    "eval_freq",
    "test_only",
    "device",
    "epochs",
}


class Diverged(RuntimeError):
    """The loss is no longer a finite number."""


class Interrupted(Exception):
    """A signal asked the training to stop; a checkpoint was saved. `args[0]` is the signal's number."""


class Trainer:
    """Trains the network of `options` on `options.data_path` and writes to `options.output_dir`.

    Raises InputError for bad input, Diverged when the loss is not finite, Interrupted after SIGINT or SIGTERM.
    """

    def __init__(self, options: argparse.Namespace):
        self.options = options
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        self.output_dir = Path(options.output_dir)
        paddle.seed(options.seed)

        self.train_set = build_dataset(options, "train")
        self.val_set = build_dataset(options, "val", classes=self.train_set.classes)
        if len(self.train_set.classes) != options.num_classes:
            raise InputError(
                f"{options.data_path}: {len(self.train_set.classes)} class folders but --num_classes "
                f"{options.num_classes}: give --num_classes {len(self.train_set.classes)}"
            )
        self.sampler = EpochBatchSampler(
            len(self.train_set),
            options.batch_size,
            seed=options.seed,
            rank=self.rank,
            world=self.world,
            repeats=options.ra_reps if options.ra_sampler else None,
        )
        self.loader = build_loader(self.train_set, self.sampler, options)
        self.mixing = build_mixing(options, options.num_classes)

        # names of parameters count up per process; the guard lets them start from zero whatever ran before
        with unique_name.guard():
            self.model = build_model(options)
            if options.sync_bn:
                use_synchronised_batch_norm(self.model)
            self.scheduler = build_scheduler(options)
            self.optimizer = build_optimizer(self.model, options, self.scheduler)
        self.criterion = build_criterion(options)
        self.average = None
        if options.model_ema:
            decay = adjusted_decay(
                options.model_ema_decay, self.world, options.batch_size, options.model_ema_steps, options.epochs
            )
            self.average = ExponentialMovingAverage(build_model(options), decay)
        self.scaler = paddle.amp.GradScaler(enable=options.amp and options.device == "gpu")

        self.epoch = self.step_in_epoch = self.step = 0
        self.seconds = 0.0  # of all steps so far
        self.best = -1.0
        self.history: list[dict] = []
        self.writer = None
        self._signal = 0
        if options.weights:
            load_official(self.model, options.weights)
        if options.resume:
            self._resume(options.resume)
        self.parallel = paddle.DataParallel(self.model) if self.world > 1 else self.model

    # ------------------------------------------------------------------ the loop

    def train(self) -> dict:
        """Train to the last epoch (or step), evaluating and saving after each; returns the last metrics."""
        options = self.options
        self.output_dir.mkdir(parents=True, exist_ok=True)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._note_signal)
        if self.rank == 0:
            self.writer = LogWriter(str(self.output_dir / "visualdl"))
        metrics = {}
        total = options.epochs * self.sampler.steps_per_epoch
        last, hidden = min(total, options.max_steps or total), None if self.rank == 0 else True
        with tqdm(total=last, initial=self.step, desc="train", unit="step", leave=False, disable=hidden) as bar:
            while self.epoch < options.epochs and not self._reached_last_step():
                self._train_epoch(bar)
                if self.step_in_epoch == self.sampler.steps_per_epoch:
                    self.epoch, self.step_in_epoch = self.epoch + 1, 0
                    self.scheduler.step()
                over = self.epoch == options.epochs or self._reached_last_step()
                if over or self.epoch % options.eval_freq == 0:
                    metrics = self.evaluate()
                    if metrics["acc1"] > self.best:
                        self.best = metrics["acc1"]
                        self._save("best")
                self._save("latest")
        if self.writer:
            self.writer.close()
        return metrics

    def _train_epoch(self, bar: tqdm) -> None:
        options = self.options
        self.loader.set_epoch(self.epoch, start_step=self.step_in_epoch)
        meters = MetricLogger(**{"examples/s": SmoothedValue(10, "{median:5.1f}")}, lr=SmoothedValue(1, "{value:.3e}"))
        steps = self.sampler.steps_per_epoch
        began = time.perf_counter()
        for images, labels in self.loader:
            loss, outputs, targets = self._train_step(images, labels)
            self.step_in_epoch += 1
            self.step += 1
            bar.update()
            acc1, acc5 = accuracy(outputs, targets)
            spent = time.perf_counter() - began
            self.seconds += spent
            began += spent
            speed = len(targets) * self.world / spent
            meters.update(**{"examples/s": speed}, lr=self.optimizer.get_lr(), loss=loss)
            meters.update(len(targets), acc1=acc1, acc5=acc5)
            if self.writer:
                self.writer.add_scalar("train/loss", loss, self.step)
                self.writer.add_scalar("train/lr", self.optimizer.get_lr(), self.step)
            if self.step_in_epoch % options.print_freq == 0 or self.step_in_epoch == steps:
                left = self.seconds * (steps * options.epochs / self.step - 1)
                self._log(
                    f"epoch {self.epoch:>3} | batch {self.step_in_epoch - 1:>6} | {meters.line(' | ')} | "
                    f"time elapsed: {_clock(self.seconds)} | time left: {_clock(left)}"
                )
            if self._stop_requested():
                self._save("latest")
                raise Interrupted(self._signal)
            if self._reached_last_step():
                break
            if options.checkpoint_steps and self.step % options.checkpoint_steps == 0 and self.step_in_epoch < steps:
                self._save("latest")
        # a training that was interrupted after the last step of an epoch resumes with none left
        loss = meters["loss"].global_avg if "loss" in meters else None
        self.history.append({"epoch": self.epoch, "step": self.step, "train_loss": loss})

    def _train_step(self, images, labels) -> tuple[float, np.ndarray, np.ndarray]:
        """One update. Returns the loss, the logits [N, K] and the targets ([N], or [N, K] when mixed)."""
        options = self.options
        if self.mixing:
            mixed = self.mixing(images.numpy(), labels.numpy(), self.epoch, self.step_in_epoch)
            images, labels = (paddle.to_tensor(array) for array in mixed)
        paddle.seed(zlib.crc32(f"{options.seed}/{self.step}/{self.rank}".encode()))
        self.parallel.train()
        amp_dtype = "float16" if options.device == "gpu" else "bfloat16"
        with paddle.amp.auto_cast(enable=options.amp, dtype=amp_dtype):
            outputs = self.parallel(images)
        outputs = outputs.astype("float32")
        loss = self.criterion(outputs, labels)["loss"]
        value = float(loss)
        if not math.isfinite(value):
            raise Diverged(
                f"loss is {value} at epoch {self.epoch}, step {self.step}: the training has diverged; lower --lr "
                f"(now {self.optimizer.get_lr():g}) or use --clip_grad_norm, and --resume from the last checkpoint"
            )
        self.scaler.scale(loss).backward()
        if options.clip_grad_norm:
            self.scaler.unscale_(self.optimizer)
            clip_gradients(self.model.parameters(), options.clip_grad_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.clear_grad()
        if self.average and self.step_in_epoch % options.model_ema_steps == 0:
            self.average.update(self.model)
            if self.epoch < options.lr_warmup_epochs:
                self.average.restart()
        return value, outputs.numpy(), labels.numpy()

    def evaluate(self) -> dict:
        """Metrics of the current weights (and of their moving average) on val/."""
        metrics = evaluate(dygraph_predictor(self.model), self.val_set, self.options, self.criterion)
        shown = {name: metrics[name] for name in ("acc1", "acc5")}
        if self.average and self.average.count:
            averaged = evaluate(dygraph_predictor(self.average.average), self.val_set, self.options, self.criterion)
            shown |= {f"ema_{name}": averaged[name] for name in ("acc1", "acc5")}
            metrics |= {f"ema_{name}": averaged[name] for name in ("acc1", "acc5", "loss")}
        text = " | ".join(f"{name}: {value:.3f}" for name, value in shown.items())
        when = f"after epoch {self.history[-1]['epoch']:>3}" if self.history else "before the training"
        self._log(f"validation {when} | loss: {metrics['loss']:.4f} | {text}")
        if self.history:
            self.history[-1] |= {f"val_{name}": metrics[name] for name in ("acc1", "acc5", "loss")}
        if self.writer:
            for name, value in metrics.items():
                self.writer.add_scalar(f"val/{name}", value, self.step)
        return metrics

    # ------------------------------------------------------------------ stopping and going on

    def _note_signal(self, number, frame) -> None:
        self._signal = number

    def _stop_requested(self) -> bool:
        """Whether any process was asked to stop: all must leave after the same step."""
        if self.world == 1:
            return bool(self._signal)
        flag = paddle.to_tensor([self._signal], "int32")
        dist.all_reduce(flag, op=dist.ReduceOp.MAX)
        self._signal = int(flag.item())
        return bool(self._signal)

    def _reached_last_step(self) -> bool:
        return self.options.max_steps is not None and self.step >= self.options.max_steps

    def _accumulator_names(self) -> dict[str, str]:
        """Paddle's name of each of the optimiser's tensors -> the parameter's name in the network and the tensor's."""
        structured = {parameter.name: name for name, parameter in self.model.named_parameters()}
        names = {}
        for kind, tensors in self.optimizer._accumulators.items():
            for parameter, tensor in tensors.items():
                names[tensor.name] = f"{structured[parameter]}|{kind}"
        return names

    def _save(self, label: str) -> None:
        """Write the checkpoint `output_dir/label`, all of it or nothing."""
        if self.rank != 0:
            return
        names = self._accumulator_names()
        moments = {names[key]: as_numpy(value) for key, value in self.optimizer.state_dict().items() if key in names}
        arrays = {
            "model.pdparams": {name: as_numpy(value) for name, value in self.model.state_dict().items()},
            "optimizer.pdopt": moments,
        }
        if self.average:
            arrays["ema.pdparams"] = {n: as_numpy(v) for n, v in self.average.average.state_dict().items()}
        state = {
            "step": self.step,
            "epoch": self.epoch,
            "step_in_epoch": self.step_in_epoch,
            "seconds": self.seconds,
            "best": self.best,
            "ema_count": self.average.count if self.average else 0,
            "scaler": {name: np.asarray(value).tolist() for name, value in self.scaler.state_dict().items()},
            "history": self.history,
            "world": self.world,
            "classes": self.train_set.classes,
            "options": vars(self.options),
        }
        save_checkpoint(self.output_dir, label, arrays, state)

    def _resume(self, path: str) -> None:
        """Continue the training whose checkpoint is `path`. InputError if it was another training."""
        checkpoint = load_checkpoint(path)
        state, then = checkpoint.state, checkpoint.state["options"]
        for name, now in vars(self.options).items():
            if name not in _FREE_ON_RESUME and then.get(name) != now:
                raise InputError(
                    f"{path}: was trained with --{name} {then.get(name)}, not {now}; resume with the same options"
                )
        if state["classes"] != self.train_set.classes or state["world"] != self.world:
            raise InputError(
                f"{path}: was trained on {len(state['classes'])} classes by {state['world']} processes; resume on the "
                f"same classes (here {len(self.train_set.classes)}) and processes (here {self.world})"
            )
        load_official(self.model, checkpoint.path / "model.pdparams")
        self._restore_optimizer(checkpoint.arrays["optimizer.pdopt"].tensors, path)
        if self.average:
            load_official(self.average.average, checkpoint.path / "ema.pdparams")
            self.average.count = state["ema_count"]
        self.epoch, self.step_in_epoch, self.step = state["epoch"], state["step_in_epoch"], state["step"]
        self.seconds, self.best, self.history = state["seconds"], state["best"], state["history"]
        scaler = state["scaler"]
        if scaler:
            self.scaler.load_state_dict(scaler | {"scale": np.array(scaler["scale"], np.float32)})
        for _ in range(self.epoch):  # the schedule is a function of the epoch alone
            self.scheduler.step()

    def _restore_optimizer(self, moments: dict[str, np.ndarray], path: str) -> None:
        """Fill the optimiser's accumulators, which it would make at its first step."""
        parameters = [p for group in self.optimizer._param_groups for p in group["params"]]
        self.optimizer._create_accumulators(paddle.static.default_main_program().global_block(), parameters)
        names = self._accumulator_names()
        if set(names.values()) != set(moments):
            raise InputError(f"{path}: holds the state of another optimiser; resume with the same --opt")
        for tensors in self.optimizer._accumulators.values():
            for tensor in tensors.values():
                value = moments[names[tensor.name]]
                if list(value.shape) != tensor.shape:
                    raise InputError(f"{path}: optimizer.pdopt: {names[tensor.name]} has shape {value.shape}")
                paddle.assign(paddle.to_tensor(value), tensor)

    def _log(self, line: str) -> None:
        """One line to the terminal and to output_dir/train.log."""
        if self.rank != 0:
            return
        tqdm.write(line)
        self.output_dir.mkdir(parents=True, exist_ok=True)
        with (self.output_dir / "train.log").open("a", encoding="utf-8") as log:
            log.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}\n")


def _clock(seconds: float) -> str:
    """01h02m05s."""
    whole = int(seconds)
    return f"{whole // 3600:02d}h{whole // 60 % 60:02d}m{whole % 60:02d}s"
