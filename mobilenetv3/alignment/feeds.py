"""What both sides are fed, in numpy alone: networks, weights, pictures, labels. Neither framework is imported here."""

import argparse
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from shared import InputError
from shared.align.formula import formula_input, rng_for
from shared.stages import Context
from shared.weights import read_weights

from mini.draw import DEFAULT_ROOT
from options import MODELS, NETWORK_OPTIONS, parse_options

SEED = 2026
#: width_mult, reduced_tail and dilated (NOTES 4.5 to 4.7), in train mode on drawn weights
VARIANTS = {
    "width050": ["--width_mult", "0.5"],
    "width125": ["--width_mult", "1.25"],
    "width035_classes10": ["--width_mult", "0.35", "--num_classes", "10"],
    "reduced_tail": ["--reduced_tail"],
    "dilated": ["--dilated"],
    "reduced_dilated": ["--reduced_tail", "--dilated"],
}
NOISE_SHAPE = (2, 3, 224, 224)
VARIANT_SHAPE = (4, 3, 96, 96)
BATCH_SHAPE = (4, 3, 64, 64)
BATCH_CANDIDATES = 16
FORWARD_PICTURES = 4
DATA_SAMPLES = 6  # per preset and epoch
CLASSES_AT_LEAST = 2  # labels of the batch: any network has these
OPTIMISER_STEPS = 10
#: ten optimiser steps of each; the second drops the learning rate, which tells torch's RMSprop from Paddle's
OPTIMISERS = {
    "rmsprop": ["--opt", "rmsprop", "--lr", "0.0001", "--weight_decay", "1e-5"],
    "rmsprop_drops": ["--opt", "rmsprop", "--lr", "0.0001", "--weight_decay", "1e-5", "--lr_step_size", "2"],
    "sgd": ["--opt", "sgd", "--lr", "0.001"],
}
EMA_DECAY = 0.9

#: name, split, options: the samples of stage 2
DATA_CASES = (
    ("eval", "val", []),
    ("eval232", "val", ["--val_resize_size", "232"]),
    ("train", "train", []),
    ("train_augmented", "train", ["--auto_augment", "imagenet", "--random_erase", "0.2", "--seed", "7"]),
    ("train_erased", "train", ["--auto_augment", "imagenet", "--random_erase", "1.0", "--train_crop_size", "96"]),
)

#: the training of stage 7: a narrow network, small pictures, four classes, so that it takes seconds
TRAIN_CLASSES = 4
# AdamW and a small rate: in float32, torch's trainings that start a rounding error (1e-6) apart then end within 9 % of
# each other in the last epoch's loss and 2 points of top-1. With SGD at 0.05 they end up to 40 % and 9 points apart.
TRAIN_ARGV = (
    f"--model mobilenet_v3_small --width_mult 0.35 --num_classes {TRAIN_CLASSES} --dropout 0 --opt adamw --lr 0.001 "
    "--weight_decay 1e-5 --batch_size 16 --val_resize_size 60 --val_crop_size 48 --epochs 5 "
    "--lr_scheduler cosineannealinglr"
).split()
TRAIN_PICTURES, VAL_PICTURES = 800, 400


def recipe(argv: list[str]) -> argparse.Namespace:
    """The options of one of `OPTIMISERS`; its moving average is updated after every step."""
    return parse_options([*argv, "--model_ema_steps", "1"])


def network_options(context: Context, model: str, argv: list[str] = ()) -> argparse.Namespace:
    """The options of one network, without dropout (its draws cannot agree between frameworks)."""
    given = {name: getattr(context.options, name) for name in NETWORK_OPTIONS if name not in ("model", "dropout")}
    return parse_options(["--model", model, *argv, "--dropout", "0"], defaults=given)


def models(context: Context) -> list[str]:
    """The sizes to align: --model, or what the names in --weights say, or both."""
    if context.options.model:
        return [context.options.model]
    if not context.options.weights:
        return list(MODELS)
    stages = {int(name.split(".")[1]) for name in read_weights(context.options.weights).tensors if "features." in name}
    for model, last in zip(MODELS, (12, 16), strict=True):
        if stages and max(stages) == last:
            return [model]
    raise InputError(f"{context.options.weights}: neither MobileNetV3-small nor -large; say which with --model")


def weights_file(context: Context, model: str, variant: str = "") -> Path:
    """The official-format torch file that both sides load: --weights, or what `prepare` drew."""
    if context.options.weights:
        return Path(context.options.weights)
    return context.output_dir / "weights" / f"{model}{variant and '_' + variant}.pth"


def networks(context: Context) -> Iterator[tuple[str, str, argparse.Namespace]]:
    """(model, variant, options) of every network to compare; variants only of drawn weights."""
    for model in models(context):
        yield model, "", network_options(context, model)
        if not context.options.weights:
            for variant, argv in VARIANTS.items():
                yield model, variant, network_options(context, model, argv)


def noise(name: str, shape: tuple, dtype: str) -> np.ndarray:
    """0.3 N(0, 1), as float32 values in `dtype`."""
    return (formula_input(name, shape, SEED) * np.float32(0.3)).astype(dtype)


def batch(context: Context, model: str) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels of the gradient check: the candidate that `prepare` chose."""
    choice = json.loads(choice_file(context, model).read_text())
    return noise(f"batch{choice}", BATCH_SHAPE, context.dtype), labels("batch", BATCH_SHAPE[0], CLASSES_AT_LEAST)


def choice_file(context: Context, model: str) -> Path:
    return context.output_dir / "weights" / f"{model}_batch.json"


def labels(name: str, count: int, classes: int) -> np.ndarray:
    """int64 [count], anywhere in the classes."""
    return rng_for("label/" + name, SEED).integers(0, classes, count)


def data_options(context: Context, *argv: str) -> argparse.Namespace:
    """Preprocessing options for --data_path, or for the mini data set that `prepare` makes."""
    root = context.options.data_path or str(DEFAULT_ROOT)
    return parse_options(["--data_path", root, *argv])


def listed(split: str, classes: list[str], samples: list[tuple[str, int]]) -> dict:
    """The record of a split's listing."""
    names = [f"{label} {'/'.join(str(path).split('/')[-2:])}" for path, label in samples]
    return {f"{split}/classes": classes, f"{split}/samples": names}


def data_cases(context: Context) -> Iterator[tuple[str, str, argparse.Namespace]]:
    """(name, split, options) of every preset whose samples are compared."""
    for name, split, argv in DATA_CASES:
        yield name, split, data_options(context, *argv)


def spread(labels: Sequence[int], most: int, classes: float = math.inf) -> list[int]:
    """At most `most` indices of the labels below `classes`, spread evenly."""
    indices = [index for index, label in enumerate(labels) if label < classes]
    ranks = np.linspace(0, len(indices) - 1, min(len(indices), most)).round().astype(int)
    return [indices[rank] for rank in ranks]


def logits(rows: int, classes: int, dtype: str) -> np.ndarray:
    """2 N(0, 1) in `dtype`."""
    return (2 * rng_for(f"logits/{rows}/{classes}", SEED).standard_normal((rows, classes))).astype(dtype)


def loss_cases(dtype: str) -> dict[str, tuple]:
    """name -> (logits, targets, label smoothing), edge cases included."""
    rows, classes = 17, 12
    values, target = logits(rows, classes, dtype), labels("loss", rows, classes)
    values[0] *= 500  # Paddle's own log_softmax fails on this row
    soft = rng_for("soft", SEED).dirichlet(np.ones(classes), rows).astype(dtype)
    half = np.where(np.arange(rows) % 2, target, -100)
    return {
        "plain": (values, target, 0.0),
        "smoothing": (values, target, 0.1),
        "soft": (values, soft, 0.0),
        "soft_smoothing": (values, soft, 0.1),
        "half_ignored": (values, half, 0.0),
        "half_ignored_smoothing": (values, half, 0.1),
        "all_ignored": (values, np.full(rows, -100), 0.0),
        "one_row": (values[:1], target[:1], 0.0),
        "equal_logits": (np.zeros_like(values), target, 0.1),
    }


def training_record(losses: list[float], curve: list[float]) -> dict:
    """What stage 7 compares: losses of the first steps and of all, top-1 after each epoch, and whether it learnt."""
    losses, curve = np.array(losses), np.array(curve)
    epoch = len(losses) // len(curve)
    learns = losses[-epoch:].mean() < 0.7 * losses[:epoch].mean() and curve[-2:].mean() > 1.5 * 100 / TRAIN_CLASSES
    return {
        "mini/first_losses": losses[:20],
        "mini/last_epoch_loss": losses[-epoch:].mean(),
        "mini/final_acc1": curve[-2:].mean(),
        "mini/learns": bool(learns),
        "curve/loss": losses,
        "curve/acc1": curve,
    }
