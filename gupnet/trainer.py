"""The training loop: one class, read top to bottom. Resumes to the same bits after any interruption.

What a step computes depends only on the weights, the optimiser's state, what the `Learner` remembers, and on (seed,
pass, index) for the order and the augmentation of frames. So a checkpoint needs no generator's state, and nothing
depends on the loader's workers. Pass 0 is the one without learning; epoch e of the training is pass e + 1.
"""

import argparse
import json
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
from shared.weights import Checkpoint, as_numpy, atomic_write_text, load_checkpoint, save_checkpoint

from convert import load_backbone, load_official
from datasets import EpochBatchSampler, build_dataset, build_loader
from decoding import detect, write_results
from learner import Diverged, Learner
from losses import TERMS
from metrics import evaluate_folders
from models import build_model
from plot_htl import draw_weights

#: what may differ between a training and its continuation
_FREE_ON_RESUME = {
    "data_path",
    "eval_split",
    "num_workers",
    "output_dir",
    "resume",
    "weights",
    "pretrain_path",
    "max_steps",
    "eval_frequency",
    "save_frequency",
    "disp_frequency",
    "checkpoint_steps",
    "threshold",
    "device",
}


class Interrupted(Exception):
    """A signal asked the training to stop; a checkpoint was saved. `args[0]` is the signal's number."""


class Trainer:
    """Trains the network of `options` on `options.data_path` and writes to `options.output_dir`.

    Raises InputError for bad input, Diverged when a loss is not finite, Interrupted after SIGINT or SIGTERM.
    """

    def __init__(self, options: argparse.Namespace):
        self.options = options
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        self.output_dir = Path(options.output_dir)
        if options.batch_size % self.world:
            raise InputError(
                f"--batch_size {options.batch_size} does not divide among {self.world} processes; give a multiple"
            )
        if options.eval_split == "test":
            raise InputError("--eval_split test: has no labels to evaluate with; train with val, train or trainval")
        paddle.seed(options.seed)

        share = options.batch_size // self.world
        self.train_set, self.val_set = (
            build_dataset(options, options.split),
            build_dataset(options, options.eval_split, False),
        )
        self.sampler = EpochBatchSampler(len(self.train_set), share, True, options.seed, self.rank, self.world)
        self.loader = build_loader(self.train_set, self.sampler, options.num_workers)
        val_sampler = EpochBatchSampler(len(self.val_set), options.batch_size, shuffle=False)
        self.val_loader = build_loader(self.val_set, val_sampler, options.num_workers)
        self.each = self.sampler.steps_per_epoch  # batches of a pass

        # names of parameters count up per process; the guard lets them start from zero whatever ran before
        with unique_name.guard():
            self.model = build_model(options)
            self.learner = Learner(self.model, options)

        self.batches, self.seconds = 0, 0.0  # of all passes, the one without learning included
        self.best = -1.0
        self.history: list[dict] = []  # one for each pass
        self.writer = None
        self._signal = 0
        self._recent: list[dict] = []  # losses of the batches since the last log line
        if options.resume:
            self._resume(options.resume)
        elif options.weights:
            load_official(self.model, options.weights)
        elif options.pretrain_path:
            load_backbone(self.model, options.pretrain_path)

    @property
    def step(self) -> int:
        """Updates so far."""
        return max(self.batches - self.each, 0)

    @property
    def epoch(self) -> int:
        """The epoch of the next batch; -1 for the pass without learning."""
        return self.batches // self.each - 1

    # ------------------------------------------------------------------ the loop

    def train(self) -> dict:
        """Train to the last epoch (or step), evaluating and saving on the way; returns the last evaluation."""
        options = self.options
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._note_signal)
        if self.rank == 0:
            text = json.dumps(vars(options), indent=2)
            atomic_write_text(self.output_dir / "options.json", text + "\n")  # says so where it cannot write
            self.writer = LogWriter(str(self.output_dir / "visualdl"))
        last = self.each * (options.max_epoch + 1)
        if options.max_steps:
            last = min(last, self.each + options.max_steps)
        figures, hidden = {}, None if self.rank == 0 else True
        with tqdm(total=last, initial=self.batches, desc="train", unit="batch", leave=False, disable=hidden) as bar:
            while self.batches < last:
                number, first = divmod(self.batches, self.each)
                if first == 0:
                    self._begin(self.epoch)
                self.loader.set_epoch(number, start_step=first)
                began = time.perf_counter()
                for batch in self.loader:
                    self._one(batch)
                    self.seconds += time.perf_counter() - began
                    bar.update()
                    place = self.batches - number * self.each
                    if place % options.disp_frequency == 0 or place == self.each:
                        self._log_batch(number - 1, place)
                    if place == self.each:
                        figures = self._end(number - 1) or figures
                    elif self.batches == last or self._is_checkpoint_step():
                        self._save("latest")
                    if self._stop_requested():
                        self._save("latest")
                        raise Interrupted(self._signal)
                    if self.batches == last:
                        break
                    began = time.perf_counter()
        if self.writer:
            self.writer.close()
            draw_weights(self.history, self.output_dir / "htl_weights.png")
        return figures

    def _is_checkpoint_step(self) -> bool:
        return bool(self.options.checkpoint_steps) and self.batches % self.options.checkpoint_steps == 0

    def _begin(self, epoch: int) -> None:
        if epoch < 0:
            self._log(f"epoch {epoch:>3} | losses before the training")
            return
        self.learner.begin_epoch(epoch)
        rate = self.learner.optimizer.get_lr()
        weights = ", ".join(f"{_short(name)}: {self.learner.weights[name]:.4f}" for name in TERMS)
        self._log(f"epoch {epoch:>3} | weights: {weights}")
        if self.writer:
            self.writer.add_scalar("train/lr", rate, self.step)
            for name, value in self.learner.weights.items():
                self.writer.add_scalar(f"weight/{name}", value, self.step)

    def _one(self, batch) -> None:
        """One batch, of the pass without learning or of the training."""
        learning = self.epoch >= 0
        try:
            values = self.learner.learn(batch) if learning else self.learner.look(batch)
        except Diverged as error:
            where = f"at step {self.step}" if learning else f"at batch {self.batches} of the pass before the training"
            raise Diverged(
                f"not a finite number {where}: {error}; the training has diverged: lower --lr (now "
                f"{self.learner.optimizer.get_lr():g}), and --resume from the last checkpoint"
            ) from error
        self.batches += 1
        self._recent.append(values)

    def _end(self, epoch: int) -> dict:
        """After a pass: evaluate and keep weights when it is time to, and save where to go on. Returns the metrics."""
        options, done, figures = self.options, epoch + 1, {}
        losses = self.learner.means()
        self.history.append({"epoch": epoch, "losses": losses, "weights": dict(self.learner.weights)})
        if self.writer:
            for name, value in losses.items():
                self.writer.add_scalar(f"epoch/{name}", value, self.step)
        finished = done == options.max_epoch
        if done and (done % options.eval_frequency == 0 or finished):
            figures, best = self.evaluate(done)
            if self._in_any(best):
                self._save("best")
        if done and (done % options.save_frequency == 0 or finished):
            self._save(f"checkpoint_epoch_{done}")
        self._save("latest")
        return figures

    # ------------------------------------------------------------------ what it says

    def _log_batch(self, epoch: int, place: int) -> None:
        """The line of every disp_frequency batches: mean losses since the last one."""
        recent, self._recent = self._recent, []
        means = {name: float(np.mean([values[name] for values in recent])) for name in (*TERMS, "loss")}
        names = (*(["loss"] if epoch >= 0 else []), *TERMS)
        text = " | ".join(f"{name}: {means[name]:.4f}" for name in names)
        speed = self.options.batch_size * self.batches / self.seconds
        left = self.seconds / self.batches * (self.each * (self.options.max_epoch + 1) - self.batches)
        self._log(
            f"epoch {epoch:>3} | batch {place - 1:>6} | examples/s: {speed:5.1f} | "
            f"lr: {self.learner.optimizer.get_lr():.3e} | {text} | "
            f"time elapsed: {_clock(self.seconds)} | time left: {_clock(left)}"
        )
        if self.writer and epoch >= 0:
            for name, value in means.items():
                self.writer.add_scalar(f"train/{name}", value, self.step)

    def evaluate(self, done: int) -> tuple[dict, bool]:
        """Score the results on the evaluation split, which go to output_dir/data. (metrics, whether they are the best).

        Best is the highest mean over --writelist of 3D AP40 at KITTI's overlaps, moderate; of equals, the latest.
        """
        self.model.eval()
        # in every process: those that only waited for the first would take it for dead after a while
        results = detect(
            lambda *inputs: self.model(*inputs, mode="val"), self.val_loader, self.options.threshold, "evaluate"
        )
        self.model.train()
        if self.rank != 0:
            return {}, False
        write_results(self.output_dir / "data", results)
        metrics = evaluate_folders(self.val_set.folder / "label_2", self.output_dir / "data")
        moderate = {
            (name, metric): metrics.get(name, {}).get(metric, {}).get("AP40", [0.0] * 3)[1] or 0.0
            for name in self.options.writelist
            for metric in ("2d", "bev", "3d")
        }
        text = " | ".join(f"{name}_{metric}: {value:.2f}" for (name, metric), value in moderate.items())
        self._log(f"validation after epoch {done - 1:>3} | AP40, moderate | {text}")
        if self.writer:
            for (name, metric), value in moderate.items():
                self.writer.add_scalar(f"val/{name}_{metric}", value, self.step)
        mean = float(np.mean([moderate[name, "3d"] for name in self.options.writelist]))
        self.history[-1]["metrics"] = metrics
        best, self.best = mean >= self.best, max(mean, self.best)
        return metrics, best

    def _log(self, line: str) -> None:
        """One line to the terminal and to output_dir/train.log."""
        if self.rank != 0:
            return
        tqdm.write(line)
        self.output_dir.mkdir(parents=True, exist_ok=True)
        with (self.output_dir / "train.log").open("a", encoding="utf-8") as log:
            log.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}\n")

    # ------------------------------------------------------------------ stopping and going on

    def _note_signal(self, number, frame) -> None:
        self._signal = number

    def _stop_requested(self) -> bool:
        """Whether any process was asked to stop: all must leave after the same batch."""
        self._signal = self._in_any(self._signal)
        return bool(self._signal)

    def _in_any(self, number: int) -> int:
        """The largest of the processes' numbers. They wait for each other here, which on a CPU must not be for long."""
        if self.world == 1:
            return int(number)
        largest = paddle.to_tensor([int(number)], "int32")
        dist.all_reduce(largest, op=dist.ReduceOp.MAX)
        return int(largest.item())

    def _accumulators(self) -> dict[str, paddle.Tensor]:
        """The optimiser's tensors by parameter and kind, sorted: after a resume it has them in another order."""
        names = {parameter.name: name for name, parameter in self.model.named_parameters()}
        found = {
            f"{names[parameter]}|{kind}": tensor
            for kind, tensors in self.learner.optimizer._accumulators.items()
            for parameter, tensor in tensors.items()
        }
        return dict(sorted(found.items()))

    def _save(self, label: str) -> None:
        """Write the checkpoint `output_dir/label`, all of it or nothing; the others wait for the first process."""
        if self.rank == 0:
            self._write(label)
        self._in_any(0)

    def _write(self, label: str) -> None:
        arrays = {
            "model.pdparams": {name: as_numpy(value) for name, value in self.model.state_dict().items()},
            "optimizer.pdopt": {name: as_numpy(value) for name, value in self._accumulators().items()},
        }
        state = {
            "step": self.step,
            "batches": self.batches,
            "learner": self.learner.state_dict(),
            "best": self.best,
            "recent": self._recent,
            "history": self.history,
            "seconds": self.seconds,
            "world": self.world,
            "frames": len(self.train_set),
            "options": vars(self.options),
        }
        save_checkpoint(self.output_dir, label, arrays, state)

    def _resume(self, path: str) -> None:
        """Continue the training whose checkpoint is `path`. InputError if it was another training."""
        try:
            self._restore(load_checkpoint(path), path)
        except (KeyError, TypeError, AttributeError) as error:
            reason = f"its state.json is not that of a training ({type(error).__name__}: {error})"
            raise InputError(f"{path}: {reason}; resume from another") from error

    def _restore(self, checkpoint: Checkpoint, path: str) -> None:
        state, then = checkpoint.state, checkpoint.state["options"]
        for name, now in vars(self.options).items():
            if name not in _FREE_ON_RESUME and then.get(name) != now:
                raise InputError(
                    f"{path}: was trained with --{name} {_words(then.get(name))}, not {_words(now)}; resume with the "
                    "same options"
                )
        if (state["world"], state["frames"]) != (self.world, len(self.train_set)):
            raise InputError(
                f"{path}: was trained on {state['frames']} frames by {state['world']} processes; resume on as many "
                f"(here {len(self.train_set)} frames, {self.world} processes)"
            )
        load_official(self.model, checkpoint.path / "model.pdparams")
        self._restore_optimizer(checkpoint.arrays["optimizer.pdopt"].tensors, path)
        self.batches, self.seconds = state["batches"], state["seconds"]
        self.best, self.history, self._recent = state["best"], state["history"], state["recent"]
        self.learner.set_state_dict(state["learner"], self.epoch)

    def _restore_optimizer(self, moments: dict[str, np.ndarray], path: str) -> None:
        """Fill the optimiser's accumulators, which it makes at the first step of each parameter that has a gradient."""
        had = {name.split("|")[0] for name in moments}
        parameters = [parameter for name, parameter in self.model.named_parameters() if name in had]
        block = paddle.static.default_main_program().global_block()
        self.learner.optimizer._create_accumulators(block, parameters)
        accumulators = self._accumulators()
        if set(accumulators) != set(moments):
            raise InputError(f"{path}: holds the state of another optimiser or network; it cannot be continued")
        for name, tensor in accumulators.items():
            if list(moments[name].shape) != tensor.shape:
                raise InputError(f"{path}: optimizer.pdopt: {name} has shape {moments[name].shape}")
            paddle.assign(paddle.to_tensor(moments[name]), tensor)


def _short(term: str) -> str:
    return term.removesuffix("_loss")


def _words(value) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _clock(seconds: float) -> str:
    """01h02m05s."""
    whole = int(seconds)
    return f"{whole // 3600:02d}h{whole // 60 % 60:02d}m{whole % 60:02d}s"
