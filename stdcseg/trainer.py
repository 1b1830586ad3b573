"""The training loop: one class, read top to bottom. Resumes to the same bits after any interruption.

What a step computes depends only on the weights, the optimiser's state and (seed, step): the order of samples comes
from (seed, epoch), a sample's augmentation from (seed, epoch, index). So a checkpoint needs no generator's state, and
nothing depends on the loader's workers.
"""

import argparse
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
from shared.weights import as_numpy, load_checkpoint, save_checkpoint

from convert import load_official
from datasets import CLASS_NAMES, EpochBatchSampler, build_dataset, build_loader
from evaluate import dygraph_segment, evaluate_protocols, figures
from inference import Protocol
from losses import build_criterion
from models import build_model
from optimizers import build_optimizer, build_scheduler, parameter_groups

#: what may differ between a training and its continuation
_FREE_ON_RESUME = {
    "data_path",
    "n_workers_train",
    "n_workers_val",
    "output_dir",
    "resume",
    "weights",
    "pretrain_path",
    "max_steps",
    "checkpoint_steps",
    "msg_iter",
    "save_iter_sep",
    "val_scales",
    "device",
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
        self.val_set = build_dataset(options, "val")
        self._check_options()
        self.sampler = EpochBatchSampler(
            len(self.train_set),
            options.n_img_per_gpu,
            seed=options.seed,
            rank=self.rank,
            world=self.world,
            drop_last=True,
        )
        self.loader = build_loader(self.train_set, self.sampler, options.n_workers_train)

        # names of parameters count up per process; the guard lets them start from zero whatever ran before
        with unique_name.guard():
            self.model = build_model(options)
            if options.sync_bn:
                use_synchronised_batch_norm(self.model)
            self.criterion = build_criterion(options)
            self.scheduler = build_scheduler(options)
            self.optimizer = build_optimizer(self.model, self.criterion, options, self.scheduler)
        self._freeze_what_is_not_trained()
        self.scaler = paddle.amp.GradScaler(enable=options.amp and options.device == "gpu")

        self.step, self.seconds = 0, 0.0
        self.best = {str(scale): 0.0 for scale in options.val_scales}
        self.history: list[dict] = []
        self.writer = None
        self._signal = 0
        self._losses: list[dict] = []  # of the steps since the last log line
        if options.pretrain_path:
            load_official(self.model.cp.backbone, options.pretrain_path)
        if options.weights:
            load_official(self.model, options.weights)
        if options.resume:
            self._resume(options.resume)
        self.parallel = paddle.DataParallel(self.model) if self.world > 1 else self.model

    def _check_options(self) -> None:
        options, each = self.options, len(self.train_set) // self.world
        if each < options.n_img_per_gpu:
            raise InputError(
                f"{options.data_path}: {len(self.train_set)} pictures to train on, fewer than one batch of "
                f"{options.n_img_per_gpu} for each of {self.world} processes; lower --n_img_per_gpu"
            )
        if options.n_img_per_gpu * self.world == 1:
            raise InputError(
                "--n_img_per_gpu 1: behind the global averages a batch norm needs two pictures a step; raise it"
            )
        pixels = options.n_img_per_gpu * options.crop_size[0] * options.crop_size[1]
        if options.n_min is not None and options.n_min >= pixels:
            raise InputError(f"--n_min {options.n_min}: a batch has {pixels} pixels; give less, or leave it out")
        if options.num_classes < len(CLASS_NAMES):
            raise InputError(f"--num_classes {options.num_classes}: Cityscapes has {len(CLASS_NAMES)}; leave it out")

    def _freeze_what_is_not_trained(self) -> None:
        """What is in no group (the backbone's norms) or idle: no gradient is computed or sent to other processes."""
        groups = parameter_groups(self.model, self.criterion, self.options)
        trained = {id(parameter) for group in groups for parameter in group["params"]}
        idle = {id(parameter) for layer in self.model.idle_layers() for parameter in layer.parameters()}
        for parameter in self.model.parameters():
            if id(parameter) not in trained or id(parameter) in idle:
                parameter.stop_gradient = True

    # ------------------------------------------------------------------ the loop

    def train(self) -> dict:
        """Train to the last iteration (or step), validating and saving on the way; returns the last metrics."""
        options = self.options
        self.output_dir.mkdir(parents=True, exist_ok=True)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._note_signal)
        if self.rank == 0:
            self.writer = LogWriter(str(self.output_dir / "visualdl"))
        last = min(options.max_iter, options.max_steps or options.max_iter)
        metrics = {}
        hidden = None if self.rank == 0 else True
        with tqdm(total=last, initial=self.step, desc="train", unit="step", leave=False, disable=hidden) as bar:
            while self.step < last:
                epoch, first = divmod(self.step, self.sampler.steps_per_epoch)
                self.loader.set_epoch(epoch, start_step=first)
                began = time.perf_counter()
                for images, labels in self.loader:
                    values = self._train_step(images, labels)
                    spent = time.perf_counter() - began
                    self.seconds += spent
                    self._losses.append(values | {"seconds": spent})
                    bar.update()
                    over = self.step == last
                    if self.step % options.msg_iter == 0 or over:
                        self._log_losses()
                    if over or self.step % options.save_iter_sep == 0:
                        metrics = self.validate()
                        self._save("latest")
                    elif options.checkpoint_steps and self.step % options.checkpoint_steps == 0:
                        self._save("latest")
                    if self._stop_requested():
                        self._save("latest")
                        raise Interrupted(self._signal)
                    if over:
                        break
                    began = time.perf_counter()
        if self.writer:
            self.writer.close()
        return metrics

    def _train_step(self, images, labels) -> dict[str, float]:
        """One update on images float32 [N, 3, H, W] and labels int64 [N, H, W]; the terms of the loss, and the rate."""
        options = self.options
        rate = self.optimizer.get_lr()
        self.parallel.train()
        amp_dtype = "float16" if options.device == "gpu" else "bfloat16"
        with paddle.amp.auto_cast(enable=options.amp, dtype=amp_dtype):
            outputs = self.parallel(images)
        outputs = {name: value.astype("float32") for name, value in outputs.items()}
        terms = self.criterion(outputs, labels)
        values = {name: float(value) for name, value in terms.items()}
        if not math.isfinite(values["loss"]):
            terms = ", ".join(f"{name} {value:g}" for name, value in values.items())
            raise Diverged(
                f"the loss is no number at step {self.step} ({terms}): the training has diverged; lower --lr (now "
                f"{rate:g}) or lengthen --warmup_steps, and --resume from the last checkpoint"
            )
        self.scaler.scale(terms["loss"]).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.clear_grad()
        self.scheduler.step()
        self.step += 1
        values["lr"] = rate
        if self.writer:
            for name, value in values.items():
                self.writer.add_scalar(f"train/{name}", value, self.step)
        return values

    def _log_losses(self) -> None:
        """The line of every msg_iter steps: means since the last one."""
        names = [name for name in self._losses[0] if name not in ("lr", "seconds", "loss")]
        mean = {name: float(np.mean([losses[name] for losses in self._losses])) for name in (*names, "loss", "seconds")}
        left = self.seconds * (self.options.max_iter / self.step - 1)
        terms = " | ".join(f"{name}: {mean[name]:.4f}" for name in ("loss", *names))
        epoch, place = divmod(self.step - 1, self.sampler.steps_per_epoch)
        speed = self.options.n_img_per_gpu * self.world / mean["seconds"]
        rate = self._losses[-1]["lr"]
        self._log(
            f"epoch {epoch:>3} | batch {place:>6} | step {self.step:>6} | examples/s: {speed:5.1f} | lr: {rate:.3e} | "
            f"{terms} | time elapsed: {_clock(self.seconds)} | time left: {_clock(left)}"
        )
        self.history.append({"step": self.step, "train_loss": mean["loss"]})
        self._losses = []

    def validate(self) -> dict:
        """Figures on val at each of --val_scales; keeps the best weights of each scale."""
        options, names = self.options, [str(k) for k in range(self.options.num_classes)]
        protocols = [Protocol((scale,)) for scale in options.val_scales]
        matrices = evaluate_protocols(dygraph_segment(self.model), self.val_set, options, protocols)
        metrics = {}
        for place, (scale, matrix) in enumerate(zip(options.val_scales, matrices, strict=True)):
            found = figures(matrix, names)
            metrics[str(scale)] = found
            miou = found["miou_present"] or 0.0
            count = sum(value is not None for value in found["iou"].values())
            self._log(
                f"validation after step {self.step:>6} | scale: {scale:g} | mIoU: {100 * miou:.2f} | "
                f"classes: {count} | pixel_accuracy: {100 * matrix.pixel_accuracy():.2f}"
            )
            if self.writer:
                self.writer.add_scalar(f"val/mIoU{round(100 * scale)}", miou, self.step)
            if miou > self.best.get(str(scale), 0.0):
                self.best[str(scale)] = miou
                self._save("best" if place == 0 else f"best_mIOU{round(100 * scale)}")
        mious = {scale: found["miou_present"] for scale, found in metrics.items()}
        self.history.append({"step": self.step, "val_miou": mious})
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

    def _parameter_names(self) -> dict[str, str]:
        """Paddle's own name of each trained parameter -> its name in the network."""
        names = {parameter.name: name for name, parameter in self.model.named_parameters()}
        return names | {self.criterion.detail.fuse_kernel.name: "fuse_kernel"}

    def _accumulators(self) -> dict[str, paddle.Tensor]:
        """The optimiser's tensors, named by parameter and kind."""
        names = self._parameter_names()
        return {
            f"{names[parameter]}|{kind}": tensor
            for kind, tensors in self.optimizer._accumulators.items()
            for parameter, tensor in tensors.items()
        }

    def _save(self, label: str) -> None:
        """Write the checkpoint `output_dir/label`, all of it or nothing."""
        if self.rank != 0:
            return
        arrays = {
            "model.pdparams": {name: as_numpy(value) for name, value in self.model.state_dict().items()},
            "optimizer.pdopt": {name: as_numpy(value) for name, value in self._accumulators().items()},
            "criterion.pdparams": {"fuse_kernel": as_numpy(self.criterion.detail.fuse_kernel)},
        }
        state = {
            "step": self.step,
            "seconds": self.seconds,
            "best": self.best,
            "losses": self._losses,
            "history": self.history,
            "world": self.world,
            "pictures": len(self.train_set),
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
        if (state["world"], state["pictures"]) != (self.world, len(self.train_set)):
            raise InputError(
                f"{path}: was trained on {state['pictures']} pictures by {state['world']} processes; resume on as many "
                f"(here {len(self.train_set)} pictures, {self.world} processes)"
            )
        load_official(self.model, checkpoint.path / "model.pdparams")
        self._restore_optimizer(checkpoint.arrays["optimizer.pdopt"].tensors, path)
        kernel = checkpoint.arrays["criterion.pdparams"].tensors["fuse_kernel"]
        paddle.assign(paddle.to_tensor(kernel), self.criterion.detail.fuse_kernel)
        self.step, self.best, self.history = state["step"], state["best"], state["history"]
        self.seconds, self._losses = state["seconds"], state["losses"]
        if state["scaler"]:
            self.scaler.load_state_dict(state["scaler"] | {"scale": np.array(state["scaler"]["scale"], np.float32)})
        self.scheduler.step(self.step)

    def _restore_optimizer(self, moments: dict[str, np.ndarray], path: str) -> None:
        """Fill the optimiser's accumulators, which it makes at the first step of each parameter that has a gradient."""
        had = {name.split("|")[0] for name in moments}
        names = self._parameter_names()
        parameters = [p for group in self.optimizer._param_groups for p in group["params"] if names[p.name] in had]
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
