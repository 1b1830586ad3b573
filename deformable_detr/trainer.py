"""The training loop: one class, read top to bottom. Resumes to the same bits after any interruption.

What a step computes depends only on the weights, the optimiser's state and (seed, step): the order of pictures comes
from (seed, epoch), a picture's augmentation from (seed, epoch, index), dropout from (seed, step, process). So a
checkpoint needs no generator's state, and nothing depends on the loader's workers.
"""

import argparse
import json
import math
import signal
import time
from pathlib import Path

import numpy as np
import paddle
import paddle.distributed as dist
from paddle.utils import unique_name
from tqdm import tqdm
from visualdl import LogWriter

from shared import InputError
from shared.weights import as_numpy, atomic_write_text, load_checkpoint, save_checkpoint

from convert import load_backbone, load_official
from datasets import EpochBatchSampler, build_dataset, build_loader
from evaluate import evaluate_network
from inference import dygraph_predictor
from losses import NotFinite, build_criterion
from metrics import NUMBERS, CocoMetrics
from models import build_model
from optimizers import average_gradients, build_optimizer, build_scheduler, clip_gradients, first_not_finite
from options import FOLDER
from pictures import log_pictures

#: what may differ between a training and its continuation
_FREE_ON_RESUME = {
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
_IMAGENET_FILES = {
    "resnet18": ("resnet18-5c106cde.pth", "resnet18-f37072fd.pth"),
    "resnet34": ("resnet34-333f7ec4.pth", "resnet34-b627a593.pth"),
    "resnet50": ("resnet50-19c8e357.pth", "resnet50-0676ba61.pth"),
    "resnet101": ("resnet101-5d3b4d8f.pth", "resnet101-63fe2227.pth"),
    "resnet152": ("resnet152-b121ed2d.pth", "resnet152-394f9c45.pth"),
}


class Diverged(RuntimeError):
    """A tensor is no longer made of finite numbers."""


class Interrupted(Exception):
    """A signal asked the training to stop; a checkpoint was saved. `args[0]` is the signal's number."""


def imagenet_weights(pretrain_path: str, backbone: str) -> Path | None:
    """The file that --pretrain_path names; None for scratch. InputError when it is not there."""
    if pretrain_path == "scratch":
        return None
    if pretrain_path != "pretrained":
        if not Path(pretrain_path).is_file():
            raise InputError(f"--pretrain_path {pretrain_path}: no such file; give pretrained, scratch or a file")
        return Path(pretrain_path)
    for name in _IMAGENET_FILES[backbone]:
        if (FOLDER / "pretrained" / name).is_file():
            return FOLDER / "pretrained" / name
    raise InputError(
        f"{FOLDER / 'pretrained' / _IMAGENET_FILES[backbone][0]}: no such file; put torchvision's ImageNet weights of "
        f"{backbone} there, or give --pretrain_path scratch or a file"
    )


class Trainer:
    """Trains the network of `options` on `options.data_path` and writes to `options.output_dir`.

    Raises InputError for bad input, Diverged when an output, a loss or a gradient is not finite, Interrupted after
    SIGINT or SIGTERM.
    """

    def __init__(self, options: argparse.Namespace):
        self.options = options
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        self.output_dir = Path(options.output_dir)
        paddle.seed(options.seed)

        self.train_set, self.val_set = (build_dataset(options, part) for part in ("train", "val"))
        self.sampler = EpochBatchSampler(
            len(self.train_set),
            options.batch_size,
            shuffle=True,
            seed=options.seed,
            rank=self.rank,
            world=self.world,
            drop_last=True,
        )
        self.loader = build_loader(self.train_set, self.sampler, options.num_workers)

        # names of parameters count up per process; the guard lets them start from zero whatever ran before
        with unique_name.guard():
            self.model = build_model(options)
            self.criterion = build_criterion(options)
            self.scheduler = build_scheduler(options)
            self.optimizer = build_optimizer(self.model, options, self.scheduler)
        self.scaler = paddle.amp.GradScaler(enable=options.amp and options.device == "gpu")

        self.step, self.epoch, self.seconds = 0, 0, 0.0
        self.best = -math.inf
        self.history: list[dict] = []
        self.sums: dict[str, float] = {}  # of the epoch's steps: every term, the rate and the norm
        self.writer = None
        self._signal = 0
        self._load_first_weights()
        if options.resume:
            self._resume(options.resume)

    def _load_first_weights(self) -> None:
        options = self.options
        if options.resume:
            return
        if options.weights:
            load_official(self.model, options.weights)
            return
        file = imagenet_weights(options.pretrain_path, options.backbone)
        if file:
            load_backbone(self.model, file)

    # ------------------------------------------------------------------ the loop

    def train(self) -> dict:
        """Train to the last epoch (or step), validating and saving after each; returns the last figures."""
        options, each = self.options, self.sampler.steps_per_epoch
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._note_signal)
        if self.rank == 0:
            text = json.dumps(vars(options), indent=2)
            atomic_write_text(self.output_dir / "options.json", text + "\n")  # says so where it cannot write
            self.writer = LogWriter(str(self.output_dir / "visualdl"))
        total = each * options.epochs
        last, figures = min(total, options.max_steps or total), {}
        hidden = None if self.rank == 0 else True
        with tqdm(total=last, initial=self.step, desc="train", unit="step", leave=False, disable=hidden) as bar:
            while self.step < last:
                self.epoch, first = divmod(self.step, each)
                self.loader.set_epoch(self.epoch, start_step=first)
                began = time.perf_counter()
                for batch in self.loader:
                    terms = self._train_step(batch)
                    spent = time.perf_counter() - began
                    self.seconds += spent
                    bar.update()
                    if self.step % options.log_frequency == 0 or self.step == last:
                        self._log_step(terms, spent, total)
                    epoch_over = self.step % each == 0
                    if epoch_over:
                        self.scheduler.step()
                        figures = self._end_epoch(final=self.step == last)
                    elif self.step == last or self._is_checkpoint_step():
                        self._save("latest")
                    if self._stop_requested():
                        if not epoch_over:
                            self._save("latest")
                        raise Interrupted(self._signal)
                    if self.step == last:
                        break
                    began = time.perf_counter()
        if self.writer:
            self.writer.close()
        return figures

    def _is_checkpoint_step(self) -> bool:
        return bool(self.options.checkpoint_steps) and self.step % self.options.checkpoint_steps == 0

    def _train_step(self, batch: tuple) -> dict[str, float]:
        """One update; every term of the loss, and the norm of all gradients before the clip."""
        images, mask, targets = batch
        self.model.train()
        paddle.seed(((self.options.seed * 1_000_003 + self.step) * self.world + self.rank) % 2**31)  # for dropout
        try:
            terms = self._losses(images, mask, targets)
        except NotFinite as error:
            raise self._diverged(error.name) from error
        figures = {name: float(value) for name, value in terms.items()}
        for name, value in figures.items():
            if not math.isfinite(value):
                raise self._diverged(name)
        self.scaler.scale(terms["loss"]).backward()
        average_gradients(self.model)
        self.scaler.unscale_(self.optimizer)
        figures["grad_norm"] = clip_gradients(self.model, self.options.clip_max_norm)
        if not math.isfinite(figures["grad_norm"]) and not self.scaler.is_enable():
            raise self._diverged(f"the gradient of {first_not_finite(self.model)}")
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.clear_grad()
        self.step += 1
        for name, value in (figures | {"lr": self.optimizer.get_lr()}).items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        return figures

    def _losses(self, images, mask, targets) -> dict:
        amp_dtype = "float16" if self.options.device == "gpu" else "bfloat16"
        with paddle.amp.auto_cast(enable=self.options.amp, dtype=amp_dtype):
            outputs = self.model(images, mask)
        return self.criterion(_in_float32(outputs) if self.options.amp else outputs, targets)

    def _diverged(self, name: str) -> Diverged:
        return Diverged(
            f"{name} is not finite at step {self.step}: the training has diverged; look at the boxes of the "
            f"annotations, lower --lr (now {self.optimizer.get_lr():g}), and --resume from the last checkpoint"
        )

    # ------------------------------------------------------------------ what it says

    def _log_step(self, terms: dict[str, float], spent: float, total: int) -> None:
        """The line of every log_frequency steps, and the scalars of this one."""
        options = self.options
        terms = self._mean_over_processes(terms)
        left = (total / self.step - 1) * self.seconds
        place = (self.step - 1) % self.sampler.steps_per_epoch
        speed = options.batch_size * self.world / spent
        self._log(
            f"epoch {self.epoch:>3} | batch {place:>6} | examples/s: {speed:5.1f} | "
            f"lr: {self.optimizer.get_lr():.3e} | loss: {terms['loss']:.4f} | "
            f"class_error: {terms['class_error']:5.1f} | grad_norm: {terms['grad_norm']:.2f} | "
            f"time elapsed: {_clock(self.seconds)} | time left: {_clock(left)}"
        )
        self.history.append({"step": self.step, "loss": terms["loss"]})
        if self.writer:
            for name, value in (terms | {"lr": self.optimizer.get_lr()}).items():
                self.writer.add_scalar(f"train/{name}", value, self.step)

    def validate(self) -> tuple[CocoMetrics, dict[str, float]]:
        """COCO's figures of the validation split, and the mean of every loss term over its batches."""
        self.model.eval()
        sums: dict[str, float] = {}
        counted = 0

        def add_losses(outputs: dict, targets: list[dict]) -> None:
            nonlocal counted
            counted += 1
            for name, value in self.criterion(outputs, targets).items():
                sums[name] = sums.get(name, 0.0) + float(value)

        try:
            metrics = evaluate_network(dygraph_predictor(self.model), self.val_set, self.options, add_losses)
        except NotFinite as error:
            raise self._diverged(f"{error.name} of a validation batch") from error
        return metrics, self._mean_over_processes({name: value / counted for name, value in sums.items()})

    def _end_epoch(self, final: bool) -> dict:
        """After an epoch: validate if it is its turn, write the log's lines, and save."""
        count = self.sampler.steps_per_epoch
        train = self._mean_over_processes({name: value / count for name, value in self.sums.items()})
        self.sums = {}
        line = {f"train_{name}": value for name, value in self._as_reference(train).items()}
        figures: dict = {}
        if final or (self.epoch + 1) % self.options.eval_frequency == 0:
            metrics, losses = self.validate()
            figures = metrics.numbers | {"loss": losses["loss"]}
            line |= {f"test_{name}": value for name, value in self._as_reference(losses).items()}
            line["test_coco_eval_bbox"] = [metrics.numbers[name] for name in NUMBERS]
            said = " | ".join(f"{name}: {metrics.numbers[name]:.4f}" for name in NUMBERS[:6])
            self._log(f"validation after epoch {self.epoch:>3} | loss: {losses['loss']:.4f} | {said}")
            self.history.append({"step": self.step, "epoch": self.epoch} | {f"val_{k}": v for k, v in figures.items()})
            self._show_validation(figures)
        line |= {"epoch": self.epoch, "n_parameters": self._trainable()}
        if self.rank == 0:
            with (self.output_dir / "log.txt").open("a", encoding="utf-8") as log:
                log.write(json.dumps(line) + "\n")
        if figures and figures["AP"] > self.best:
            self.best = figures["AP"]
            self._save("best")
        self._save("latest")
        return figures

    def _as_reference(self, means: dict[str, float]) -> dict[str, float]:
        """The means under the names of the reference's log: weighted terms, and all terms as `_unscaled`."""
        outside = {name: means[name] for name in ("lr", "class_error", "grad_norm", "loss") if name in means}
        terms = {name: value for name, value in means.items() if name not in ("lr", "grad_norm", "loss")}
        weighted = {name: self.criterion.weight_of(name) * value for name, value in terms.items()}
        weighted = {name: value for name, value in weighted.items() if self.criterion.weight_of(name)}
        return outside | weighted | {f"{name}_unscaled": value for name, value in terms.items()}

    def _trainable(self) -> int:
        return sum(parameter.size for parameter in self.model.parameters() if not parameter.stop_gradient)

    def _show_validation(self, figures: dict[str, float]) -> None:
        if not self.writer:
            return
        for name, value in figures.items():
            self.writer.add_scalar(f"val/{name}", value, self.step)
        sampler = EpochBatchSampler(len(self.val_set), self.options.batch_size, shuffle=False)
        images, mask, targets = next(iter(build_loader(self.val_set, sampler, 0)))
        with paddle.no_grad():
            log_pictures(self.writer, images, self.model(images, mask), targets, self.step)

    def _mean_over_processes(self, figures: dict) -> dict:
        if self.world == 1:
            return figures
        values = paddle.to_tensor(list(figures.values()), "float64")
        dist.all_reduce(values)
        return dict(zip(figures, (values / self.world).tolist(), strict=True))

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

    def _accumulators(self) -> dict[str, paddle.Tensor]:
        """The optimiser's tensors, named by parameter and kind."""
        names = {parameter.name: name for name, parameter in self.model.named_parameters()}
        return {
            f"{names[parameter]}|{kind}": tensor
            for kind, tensors in self.optimizer._accumulators.items()
            for parameter, tensor in tensors.items()
        }

    def _save(self, label: str) -> None:
        """Write the checkpoint `output_dir/label`, all of it or nothing."""
        # of the steps since the epoch began, every process's means are in the next epoch's line
        sums = self._mean_over_processes(self.sums)
        if self.rank != 0:
            return
        arrays = {
            "model.pdparams": {name: as_numpy(value) for name, value in self.model.state_dict().items()},
            "optimizer.pdopt": {name: as_numpy(value) for name, value in self._accumulators().items()},
        }
        state = {
            "step": self.step,
            "best": self.best if math.isfinite(self.best) else None,
            "sums": sums,
            "history": self.history,
            "seconds": self.seconds,
            "world": self.world,
            "items": len(self.train_set),
            "scaler": {name: np.asarray(value).tolist() for name, value in self.scaler.state_dict().items()},
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
        if (state["world"], state["items"]) != (self.world, len(self.train_set)):
            raise InputError(
                f"{path}: was trained on {state['items']} pictures by {state['world']} processes; resume on as many "
                f"(here {len(self.train_set)} pictures, {self.world} processes)"
            )
        load_official(self.model, checkpoint.path / "model.pdparams")
        self._restore_optimizer(checkpoint.arrays["optimizer.pdopt"].tensors, path)
        self.step, self.history, self.seconds = state["step"], state["history"], state["seconds"]
        self.best = -math.inf if state["best"] is None else state["best"]
        self.sums = state["sums"]
        if state["scaler"]:
            self.scaler.load_state_dict(state["scaler"] | {"scale": np.array(state["scaler"]["scale"], np.float32)})
        for _ in range(self.step // self.sampler.steps_per_epoch):
            self.scheduler.step()

    def _restore_optimizer(self, moments: dict[str, np.ndarray], path: str) -> None:
        """Fill the optimiser's accumulators, which it makes at the first step of each parameter that has a gradient."""
        had = {name.split("|")[0] for name in moments}
        for group in self.optimizer._param_groups:
            named = {parameter.name for parameter in group["params"]}
            parameters = [p for name, p in self.model.named_parameters() if name in had and p.name in named]
            self.optimizer._create_accumulators(paddle.static.default_main_program().global_block(), parameters)
        accumulators = self._accumulators()
        if set(accumulators) != set(moments):
            raise InputError(f"{path}: holds the state of another optimiser or network; it cannot be continued")
        for name, tensor in accumulators.items():
            if list(moments[name].shape) != tensor.shape:
                raise InputError(f"{path}: optimizer.pdopt: {name} has shape {moments[name].shape}")
            paddle.assign(paddle.to_tensor(moments[name]), tensor)

    def _log(self, line: str) -> None:
        """One line to the terminal and to output_dir/train.log."""
        if self.rank != 0:
            return
        tqdm.write(line)
        self.output_dir.mkdir(parents=True, exist_ok=True)
        with (self.output_dir / "train.log").open("a", encoding="utf-8") as log:
            log.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}\n")


def _in_float32(outputs):
    """Outputs of mixed precision as the losses take them."""
    if isinstance(outputs, dict):
        return {name: _in_float32(value) for name, value in outputs.items()}
    if isinstance(outputs, list):
        return [_in_float32(value) for value in outputs]
    return outputs.astype("float32")


def _clock(seconds: float) -> str:
    """01h02m05s."""
    whole = int(seconds)
    return f"{whole // 3600:02d}h{whole // 60 % 60:02d}m{whole % 60:02d}s"
