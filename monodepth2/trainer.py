"""The training loop: one class, read top to bottom. Resumes to the same bits after any interruption.

What a step computes depends only on the weights, the optimiser's state and (seed, step): the order of items comes from
(seed, epoch), an item's augmentation from (seed, epoch, index), the noise that breaks ties from (seed, step). So a
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
from shared.norms import use_synchronised_batch_norm
from shared.weights import as_numpy, atomic_write_text, load_checkpoint, save_checkpoint

from convert import load_official, load_resnet
from datasets import EpochBatchSampler, build_dataset, build_loader, training_keys
from losses import build_criterion
from metrics import MONITOR, monitor_errors
from models import build_model
from optimizers import build_optimizer, build_scheduler
from options import FOLDER, sources
from pictures import log_images

#: what may differ between a training and its continuation
_FREE_ON_RESUME = {
    "data_path",
    "split_dir",
    "num_workers",
    "output_dir",
    "log_dir",
    "model_name",
    "resume",
    "weights",
    "weights_init",
    "models_to_load",
    "max_steps",
    "checkpoint_steps",
    "log_frequency",
    "save_frequency",
    "device",
}
#: torchvision's and Paddle's names of their ImageNet files, newest first
_IMAGENET_FILES = {
    "pretrained": {
        18: ("resnet18-f37072fd.pth", "resnet18-5c106cde.pth"),
        34: ("resnet34-b627a593.pth", "resnet34-333f7ec4.pth"),
        50: ("resnet50-0676ba61.pth", "resnet50-19c8e357.pth"),
        101: ("resnet101-63fe2227.pth", "resnet101-5d3b4d8f.pth"),
        152: ("resnet152-394f9c45.pth", "resnet152-b121ed2d.pth"),
    },
    "paddle_pretrained": {layers: (f"resnet{layers}.pdparams",) for layers in (18, 34, 50, 101, 152)},
}


class Diverged(RuntimeError):
    """The loss is no longer a finite number."""


class Interrupted(Exception):
    """A signal asked the training to stop; a checkpoint was saved. `args[0]` is the signal's number."""


def imagenet_weights(weights_init: str, num_layers: int) -> Path | None:
    """The file that --weights_init names; None for scratch. InputError when it is not there."""
    if weights_init == "scratch":
        return None
    names = _IMAGENET_FILES.get(weights_init, {}).get(num_layers)
    if names is None:
        if not Path(weights_init).is_file():
            raise InputError(
                f"--weights_init {weights_init}: no such file; give pretrained, paddle_pretrained, scratch or a file"
            )
        return Path(weights_init)
    for name in names:
        if (FOLDER / "pretrained" / name).is_file():
            return FOLDER / "pretrained" / name
    whose = "torchvision's" if weights_init == "pretrained" else "Paddle's"
    raise InputError(
        f"{FOLDER / 'pretrained' / names[0]}: no such file; put {whose} ImageNet weights of ResNet-{num_layers} there, "
        "or give --weights_init scratch or a file"
    )


class Trainer:
    """Trains the networks of `options` on `options.data_path` and writes to `options.output_dir`.

    Raises InputError for bad input, Diverged when the loss is not finite, Interrupted after SIGINT or SIGTERM.
    """

    def __init__(self, options: argparse.Namespace):
        self.options = options
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        self.output_dir = Path(options.output_dir)
        paddle.seed(options.seed)

        keys = training_keys(options)
        self.train_set, self.val_set = (build_dataset(options, part, keys) for part in ("train", "val"))
        self.sampler = self._sampler(len(self.train_set), shuffle=True)
        self.loader = build_loader(self.train_set, self.sampler, options.num_workers)
        val_sampler = self._sampler(len(self.val_set), shuffle=False)
        self.val_loader = build_loader(self.val_set, val_sampler, options.num_workers)

        # names of parameters count up per process; the guard lets them start from zero whatever ran before
        with unique_name.guard():
            self.model = build_model(options)
            if options.sync_bn:
                use_synchronised_batch_norm(self.model)
            self.criterion = build_criterion(options)
            self.scheduler = build_scheduler(options)
            self.optimizer = build_optimizer(self.model, options, self.scheduler)
        for layer in self.model.idle_layers():  # no gradient is computed or sent to other processes
            for parameter in layer.parameters():
                parameter.stop_gradient = True
        self.scaler = paddle.amp.GradScaler(enable=options.amp and options.device == "gpu")

        self.step, self.epoch, self.seconds = 0, 0, 0.0
        self.best = math.inf
        self.history: list[dict] = []
        self.writer = None
        self._signal = 0
        self._losses: list[float] = []  # of the steps since the last log line
        self._load_first_weights()
        if options.resume:
            self._resume(options.resume)
        self.parallel = paddle.DataParallel(self.model) if self.world > 1 else self.model

    def _sampler(self, length: int, shuffle: bool) -> EpochBatchSampler:
        return EpochBatchSampler(
            length,
            self.options.batch_size,
            shuffle=shuffle,
            seed=self.options.seed,
            rank=self.rank,
            world=self.world,
            drop_last=True,
        )

    def _load_first_weights(self) -> None:
        options = self.options
        if options.resume:
            return
        present = [name for name, _ in self.model.named_children()]
        parts = [part for part in options.models_to_load if part in present]
        if options.weights:
            load_official(self.model, options.weights, parts)
        encoders = [name for name in ("encoder", "pose_encoder") if name in present]
        if options.weights:
            encoders = [name for name in encoders if name not in parts]
        file = imagenet_weights(options.weights_init, options.num_layers) if encoders else None
        for name in encoders if file else ():
            load_resnet(getattr(self.model, name), file)

    # ------------------------------------------------------------------ the loop

    def train(self) -> dict:
        """Train to the last epoch (or step), validating and saving after each; returns the last validation."""
        options, each = self.options, self.sampler.steps_per_epoch
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._note_signal)
        if self.rank == 0:
            text = json.dumps(vars(options) | {"frame_ids": [0, *sources(options)]}, indent=2)
            atomic_write_text(self.output_dir / "models" / "opt.json", text + "\n")  # says so where it cannot write
            self.writer = LogWriter(str(self.output_dir / "visualdl"))
        total = each * options.num_epochs
        last, figures = min(total, options.max_steps or total), {}
        hidden = None if self.rank == 0 else True
        with tqdm(total=last, initial=self.step, desc="train", unit="step", leave=False, disable=hidden) as bar:
            while self.step < last:
                self.epoch, first = divmod(self.step, each)
                self.loader.set_epoch(self.epoch, start_step=first)
                began = time.perf_counter()
                for batch in self.loader:
                    outputs, terms = self._train_step(batch)
                    spent = time.perf_counter() - began
                    self.seconds += spent
                    bar.update()
                    if self.step % options.log_frequency == 0 or self.step == last:
                        self._log_step(batch, outputs, terms, spent, total)
                    epoch_over = self.step % each == 0
                    if epoch_over:
                        self.scheduler.step()
                        figures = self.validate()
                        self._save_epoch()
                    elif self.step == last or self._is_checkpoint_step():
                        self._save("latest")
                    if self._stop_requested():
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

    def _train_step(self, batch: dict) -> tuple[dict, dict]:
        """One update; the networks' outputs with what the losses made of them, and the losses as numbers."""
        options = self.options
        self.parallel.train()
        outputs, details = self._process(self.parallel, batch, self._noise(batch, self.step))
        names = ("loss", *(f"loss/{scale}" for scale in options.scales))
        terms = {name: float(details[name]) for name in names}
        if not math.isfinite(terms["loss"]):
            raise Diverged(
                f"the loss is no number at step {self.step}: the training has diverged; lower --learning_rate (now "
                f"{self.optimizer.get_lr():g}), and --resume from the last checkpoint"
            )
        self.scaler.scale(details["loss"]).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.clear_grad()
        self.step += 1
        self._losses.append(terms["loss"])
        return outputs | details, terms

    def _process(self, model, batch: dict, noise) -> tuple[dict, dict]:
        amp_dtype = "float16" if self.options.device == "gpu" else "bfloat16"
        with paddle.amp.auto_cast(enable=self.options.amp, dtype=amp_dtype):
            outputs = model(batch)
        outputs = {name: value.astype("float32") for name, value in outputs.items()}
        return outputs, self.criterion.details(outputs, batch, noise)

    def _noise(self, batch: dict, step: int) -> list | None:
        """What breaks ties in this step: of each item of all processes the same, whichever process has it."""
        options = self.options
        if options.disable_automasking:
            return None
        channels = 1 if options.avg_reprojection else len(sources(options))
        paddle.seed((options.seed * 1_000_003 + step) % 2**31)
        noise = []
        for scale in options.scales:
            n, _, height, width = batch["color", 0, scale if options.v1_multiscale else 0].shape
            noise.append(paddle.randn([n * self.world, channels, height, width])[self.rank :: self.world])
        return noise

    # ------------------------------------------------------------------ what it says

    def _log_step(self, batch: dict, outputs: dict, terms: dict, spent: float, total: int) -> None:
        """The line of every log_frequency steps: the mean loss since the last one, and scalars and pictures."""
        options = self.options
        loss, self._losses = float(np.mean(self._losses)), []
        loss = self._mean_over_processes({"loss": loss})["loss"]
        left = (total / self.step - 1) * self.seconds
        place = (self.step - 1) % self.sampler.steps_per_epoch
        speed = options.batch_size * self.world / spent
        self._log(
            f"epoch {self.epoch:>3} | batch {place:>6} | examples/s: {speed:5.1f} | "
            f"lr: {self.optimizer.get_lr():.3e} | loss: {loss:.5f} | "
            f"time elapsed: {_clock(self.seconds)} | time left: {_clock(left)}"
        )
        self.history.append({"step": self.step, "loss": loss})
        if self.writer:
            scalars = terms | {"lr": self.optimizer.get_lr()} | self._monitor(batch, outputs)
            for name, value in scalars.items():
                self.writer.add_scalar(f"train/{name}", value, self.step)
            log_images(self.writer, "train", options, batch, outputs, self.step)

    def _monitor(self, batch: dict, outputs: dict) -> dict:
        """Depth errors of a batch that has ground truth (NOTES 5.8)."""
        if "depth_gt" not in batch or 0 not in self.options.scales:
            return {}
        return monitor_errors(outputs["depth", 0, 0].numpy(), batch["depth_gt"].numpy())

    def validate(self) -> dict:
        """Mean loss and depth errors over the whole validation split; keeps the weights of the lowest loss."""
        self.model.eval()
        sums: dict[str, float] = {}
        with paddle.no_grad():
            for index, batch in enumerate(self.val_loader):
                # the same noise at every validation
                outputs, details = self._process(self.model, batch, self._noise(batch, index))
                values = {"loss": float(details["loss"])} | self._monitor(batch, details)
                for name, value in values.items():
                    sums[name] = sums.get(name, 0.0) + value
        figures = {name: value / len(self.val_loader) for name, value in sums.items()}
        figures = self._mean_over_processes(figures)
        text = "".join(f" | {name}: {figures[name]:.4f}" for name in MONITOR if name in figures)
        self._log(f"validation after epoch {self.epoch:>3} | loss: {figures['loss']:.5f}{text}")
        if self.writer:
            for name, value in figures.items():
                self.writer.add_scalar(f"val/{name}", value, self.step)
            log_images(self.writer, "val", self.options, batch, outputs | details, self.step)
        self.history.append({"step": self.step, "epoch": self.epoch} | {f"val_{k}": v for k, v in figures.items()})
        return figures

    def _mean_over_processes(self, figures: dict) -> dict:
        if self.world == 1:
            return figures
        values = paddle.to_tensor(list(figures.values()), "float64")
        dist.all_reduce(values)
        return dict(zip(figures, (values / self.world).tolist(), strict=True))

    # ------------------------------------------------------------------ stopping and going on

    def _save_epoch(self) -> None:
        """After an epoch: the weights if they are the best so far, the reference's folders, and where to go on."""
        loss = self.history[-1]["val_loss"]
        best = loss < self.best
        self.best = min(loss, self.best)
        if best:
            self._save("best")
        if (self.epoch + 1) % self.options.save_frequency == 0:
            self._save(f"weights_{self.epoch}", self.output_dir / "models")
        self._save("latest")

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

    def _save(self, label: str, folder: Path | None = None) -> None:
        """Write the checkpoint `folder/label` (by default of output_dir), all of it or nothing."""
        if self.rank != 0:
            return
        arrays = {
            "model.pdparams": {name: as_numpy(value) for name, value in self.model.state_dict().items()},
            "optimizer.pdopt": {name: as_numpy(value) for name, value in self._accumulators().items()},
        }
        state = {
            "step": self.step,
            "best": self.best if math.isfinite(self.best) else None,
            "losses": self._losses,
            "history": self.history,
            "seconds": self.seconds,
            "world": self.world,
            "items": len(self.train_set),
            "scaler": {name: np.asarray(value).tolist() for name, value in self.scaler.state_dict().items()},
            "options": vars(self.options),
        }
        save_checkpoint(folder or self.output_dir, label, arrays, state)

    def _resume(self, path: str) -> None:
        """Continue the training whose checkpoint is `path`. InputError if it was another training."""
        checkpoint = load_checkpoint(path)
        state, then = checkpoint.state, checkpoint.state["options"]
        for name, now in vars(self.options).items():
            if name not in _FREE_ON_RESUME and not name.startswith("eval_") and then.get(name) != now:
                raise InputError(
                    f"{path}: was trained with --{name} {then.get(name)}, not {now}; resume with the same options"
                )
        if (state["world"], state["items"]) != (self.world, len(self.train_set)):
            raise InputError(
                f"{path}: was trained on {state['items']} items by {state['world']} processes; resume on as many "
                f"(here {len(self.train_set)} items, {self.world} processes)"
            )
        load_official(self.model, checkpoint.path / "model.pdparams")
        self._restore_optimizer(checkpoint.arrays["optimizer.pdopt"].tensors, path)
        self.step, self.history, self.seconds = state["step"], state["history"], state["seconds"]
        self.best = math.inf if state["best"] is None else state["best"]
        self._losses = state["losses"]
        if state["scaler"]:
            self.scaler.load_state_dict(state["scaler"] | {"scale": np.array(state["scaler"]["scale"], np.float32)})
        self.scheduler.step(self.step // self.sampler.steps_per_epoch)

    def _restore_optimizer(self, moments: dict[str, np.ndarray], path: str) -> None:
        """Fill the optimiser's accumulators, which it makes at the first step of each parameter that has a gradient."""
        had = {name.split("|")[0] for name in moments}
        parameters = [parameter for name, parameter in self.model.named_parameters() if name in had]
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


def _clock(seconds: float) -> str:
    """01h02m05s."""
    whole = int(seconds)
    return f"{whole // 3600:02d}h{whole // 60 % 60:02d}m{whole % 60:02d}s"
