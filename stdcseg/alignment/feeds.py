"""Inputs of both sides, in numpy alone: networks, weights, images, labels. Neither framework is imported here."""

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from shared import InputError
from shared.align.formula import formula_input, rng_for
from shared.stages import Context

from options import BACKBONES, NETWORK_OPTIONS, parse_options

SEED = 2026
CLASSES = 19
IGNORE = 255
DETAILS = [word for stride in (2, 4, 8) for word in (f"--use_boundary_{stride}", "true")]
#: network options (NOTES 2.4), in train mode on drawn weights
VARIANTS = {
    "no_details": [],
    "detail2": ["--use_boundary_2", "true"],
    "details4_8": ["--use_boundary_4", "true", "--use_boundary_8", "true"],
    "conv_last": ["--use_conv_last", "true", "--use_boundary_8", "true"],
}
NOISE_SHAPE = (1, 3, 100, 180)  # odd sizes on the way down
CLASSIFIER_SHAPE = (2, 3, 96, 96)
VARIANT_SHAPE = (4, 3, 64, 96)
BATCH_SHAPE = (4, 3, 32, 64)  # few values: the fewer there are, the farther they stay from the kinks of the ReLUs
BATCH_PIXELS = 4 * 32 * 64
BATCH_CANDIDATES = 24
OPTIMISER_STEPS = 10
#: ten optimiser steps of each recipe; short schedules, so that they pass through warm-up and decay
OPTIMISERS = {
    "warmup_poly": "--lr 0.001 --warmup_steps 3 --max_iter 20 --use_boundary_8 true",
    "Warmup_PolyDecay": "--lr 0.001 --warmup_steps 3 --max_iter 20 --lr_scheduler Warmup_PolyDecay",
    "backbone_norms": "--lr 0.001 --warmup_steps 3 --max_iter 20 --use_boundary_8 true --train_backbone_norms",
}

#: name, split, options: the samples of stage 2
DATA_CASES = (
    ("eval", "val", ""),
    ("train", "train", "--crop_size 256 128"),
    ("train_reference_crop", "train", ""),
    ("train_seed7", "train", "--crop_size 192 96 --scales 0.125 0.5 1 1.5 --colour_jitter 1.2 --seed 7"),
)

#: the training of stage 7: a narrow backbone and small crops, so that it takes seconds
TRAIN_ARGV = (
    "--base 16 --use_boundary_8 true --n_img_per_gpu 4 --crop_size 128 64 --scales 0.25 0.375 --max_iter 160 "
    "--warmup_steps 40 --warmup_start_lr 1e-4 --lr 0.004 --seed 1"
).split()
TRAIN_IMAGES, VAL_IMAGES, VAL_SIZE = 64, 24, (64, 128)
FIRST_LOSSES = 6  # later rounding has grown: a start 1e-8 away, torch differs from itself by 1e-3 at step 11


def network_options(context: Context, backbone: str, argv: Sequence[str] = ()) -> argparse.Namespace:
    """The options of one network: those of the command line, changed by `argv`."""
    given = {name: getattr(context.options, name) for name in NETWORK_OPTIONS if name != "backbone"}
    return parse_options(["--backbone", backbone, *argv], defaults=given)


def backbones(context: Context) -> list[str]:
    """The backbones to align: --backbone, or what the names in --weights say, or both."""
    if context.options.backbone:
        return [context.options.backbone]
    if not context.options.weights:
        return list(BACKBONES)
    blocks = {int(name.split("features.")[1].split(".")[0]) for name in _names_in_weights(context)}
    for backbone, last in zip(BACKBONES, (7, 13), strict=True):
        if max(blocks, default=-1) == last:
            return [backbone]
    raise InputError(f"{context.options.weights}: neither STDC1 nor STDC2; give --backbone")


def forms(context: Context) -> list[str]:
    """Segmentation network and classifier; with --weights the one of the two that the file holds."""
    if not context.options.weights:
        return ["segmentation", "classifier"]
    return ["classifier" if any(n.startswith("features.") for n in _names_in_weights(context)) else "segmentation"]


def _names_in_weights(context: Context) -> list[str]:
    from shared.weights import read_weights

    return [name for name in read_weights(context.options.weights).tensors if "features." in name]


def networks(context: Context) -> Iterator[tuple[str, str, argparse.Namespace]]:
    """(backbone, form, options) of every network to compare."""
    for backbone in backbones(context):
        for form in forms(context):
            yield backbone, form, network_options(context, backbone, DETAILS)


def weights_file(context: Context, backbone: str, form: str) -> Path:
    """The official-format torch file that both sides load: --weights, or what `prepare` drew."""
    if context.options.weights:
        return Path(context.options.weights)
    return context.output_dir / "weights" / f"{backbone}_{form}.pth"


def noise(name: str, shape: tuple, dtype: str) -> np.ndarray:
    """N(0, 1) in `dtype`, each image of a batch with a contrast and brightness of its own."""
    index = np.arange(shape[0], dtype=np.float32).reshape(-1, 1, 1, 1)
    images = formula_input(name, shape, SEED) * (0.5 + 0.4 * index) + 0.4 * (index - 1)
    return images.astype(np.float32).astype(dtype)


def labels(name: str, shape: tuple[int, int, int], ignored: float = 0.1, classes: int = CLASSES) -> np.ndarray:
    """int64 [N, H, W]: patches of random classes, a fraction of them ignored."""
    rng = rng_for("label/" + name, SEED)
    n, h, w = shape
    patches = rng.integers(0, classes, (n, -(-h // 8), -(-w // 8)))
    patches[rng.random(patches.shape) < ignored] = IGNORE
    return patches.repeat(8, 1).repeat(8, 2)[:, :h, :w].astype(np.int64)


def batch(context: Context, backbone: str) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels of the gradient check: the candidate that `prepare` chose."""
    choice = json.loads(choice_file(context, backbone).read_text())
    n, _, h, w = BATCH_SHAPE
    return noise(f"batch{choice}", BATCH_SHAPE, context.dtype), labels("batch", (n, h, w))


def measured_parts(step: int, dtype: str) -> tuple[str, ...]:
    """Which tensors' norms are compared after this step of the optimiser.

    The running statistics after the first step show the update rule. After ten steps they have amplified the rounding
    of float32 (1e-3 in STDC2's deepest norms), so there they are compared in float64 only.
    """
    statistics = ("running_mean", "running_var")
    if step == 0:
        return statistics
    if step == OPTIMISER_STEPS - 1:
        return ("weight", *statistics) if dtype == "float64" else ("weight",)
    return ()


def optimisers(context: Context, backbone: str) -> dict[str, list[str]]:
    """name -> options of the optimiser runs: all of them on the first backbone, the reference's on the other."""
    names = list(OPTIMISERS) if backbone == backbones(context)[0] else ["warmup_poly"]
    return {name: OPTIMISERS[name].split() for name in names}


def choice_file(context: Context, backbone: str) -> Path:
    return context.output_dir / "weights" / f"{backbone}_batch.json"


def data_options(context: Context, argv: Sequence[str] = ()) -> argparse.Namespace:
    """Reading options for --data_path, or for the mini data set that `prepare` makes."""
    from mini.draw import DEFAULT_ROOT

    return parse_options(["--data_path", context.options.data_path or str(DEFAULT_ROOT), *argv])


def chosen(count: int, most: int) -> list[int]:
    """At most `most` of `count` indices, evenly spaced."""
    return np.linspace(0, count - 1, min(count, most)).round().astype(int).tolist()


def logits(name: str, shape: tuple[int, int, int], scale: float, dtype: str) -> np.ndarray:
    """N(0, scale^2), [N, 19, H, W]."""
    n, h, w = shape
    return (scale * rng_for(f"logits/{name}", SEED).standard_normal((n, CLASSES, h, w))).astype(dtype)


def ohem_cases(dtype: str) -> dict[str, tuple]:
    """name -> (logits, labels, thresh, n_min), edge cases included."""
    shape = (2, 24, 40)
    target = labels("ohem", shape, 0.2)
    mild, wild = logits("mild", shape, 2, dtype), logits("wild", shape, 300, dtype)
    known = np.where(target == IGNORE, 0, target)
    right = np.moveaxis(np.eye(CLASSES)[known], -1, 1).astype(dtype)
    half = target.copy()
    half[1] = IGNORE
    nearly_all = np.where(np.arange(40) < 2, target, IGNORE)
    return {
        "hard": (mild, target, 0.7, 100),
        "loose": (mild, target, 0.3, 900),
        "far_apart": (wild, target, 0.7, 100),
        "few_hard": (mild + 14 * right, target, 0.7, 400),
        "no_hard_pixel": (mild + 60 * right, target, 0.7, 300),
        "one_picture_ignored": (mild, half, 0.7, 100),
        "few_valid": (mild + 12 * right, nearly_all, 0.7, 500),
        "all_ignored": (mild, np.full_like(target, IGNORE), 0.7, 100),
        "no_pixel_at_all": (mild + 60 * right, target, 0.7, 0),
    }


def detail_cases(dtype: str) -> dict[str, tuple]:
    """name -> (detail logits, labels, factor on the fuse kernel), edge cases included."""
    target = labels("detail", (2, 48, 80))
    odd = labels("odd", (1, 51, 83))

    def head(name: str, n: int, h: int, w: int, scale: float = 2) -> np.ndarray:
        return (scale * rng_for(f"head/{name}", SEED).standard_normal((n, 1, h, w))).astype(dtype)

    eighth = head("eighth", 2, 6, 10)
    return {
        "eighth": (eighth, target, 1.0),
        "half": (head("half", 2, 24, 40), target, 1.0),
        "full": (head("full", 2, 48, 80), target, 1.0),
        "odd": (head("odd", 1, 7, 11), odd, 1.0),
        "extreme": (head("eighth", 2, 6, 10, 60), target, 1.0),
        "all_ignored": (eighth, np.full_like(target, IGNORE), 1.0),
        "no_boundary": (eighth, np.zeros_like(target), 1.0),
        "decayed_to_0.3": (eighth, target, 0.3),
        "decayed_to_0.16": (eighth, target, 0.16),
        "decayed_to_0.1": (eighth, target, 0.1),
    }


def whole_loss(dtype: str) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Possible outputs of a network, and labels: for the total of all terms."""
    shape = (2, 32, 64)
    outputs = {name: logits(f"whole/{name}", shape, 2, dtype) for name in ("out", "out16", "out32")}
    for stride in (2, 4, 8):
        size = (2, 1, 32 // stride, 64 // stride)
        outputs[f"detail{stride}"] = formula_input(f"whole/detail{stride}", size, SEED).astype(dtype)
    return outputs, labels("whole", shape)


def label_maps() -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """(case, predictions, labels): all classes, classes that are absent from either or both, everything ignored."""
    rng = rng_for("metric", SEED)
    shape = (3, 40, 60)
    target = labels("metric", shape)
    predicted = np.where(
        rng.random(shape) < 0.6, np.where(target == IGNORE, 0, target), rng.integers(0, CLASSES, shape)
    )
    yield "all_present", predicted, target
    yield "absent_everywhere", np.where(predicted == 16, 13, predicted), np.where(target == 16, 13, target)
    yield "absent_from_labels", predicted, np.where(target == 16, 13, target)
    yield "absent_from_predictions", np.where(predicted == 16, 13, predicted), target
    yield "all_ignored", predicted, np.full_like(target, IGNORE)


#: scales, flip, window: how stage 4 turns images into label maps
PROTOCOLS = {
    "scale_0.5": ((0.5,), False, None),
    "scale_0.75": ((0.75,), False, None),
    "scale_1_flip": ((1.0,), True, None),
    "scales_0.5_1_1.25_flip": ((0.5, 1.0, 1.25), True, None),
    "scale_1_flip_crop_48": ((1.0,), True, 48),
    "scale_1.25_crop_64": ((1.25,), False, 64),
    "scale_0.75_crop_96": ((0.75,), False, 96),
}
METRIC_SHAPE = (1, 3, 72, 130)


def mixture(dtype: str) -> np.ndarray:
    """[19, 3]: a network whose logits of a pixel are this matrix times its colour."""
    return (3 * rng_for("mixture", SEED).standard_normal((CLASSES, 3))).astype(dtype)
