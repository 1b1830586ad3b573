"""Every option of this folder: the reference recipe's names and defaults, grouped.

Reference: `references/classification/train.py` of pytorch/vision (NOTES 2.1). Each option may be written with
dashes, as there, or with underscores. `parse_options([])` gives the reference's defaults, with two exceptions: the
model and the device (NOTES 2.2).
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from shared.running.options import (
    Group,
    count,
    grouped_parser,
    parse_with_defaults,
    positive_float,
    positive_int,
    probability,
    remembered_state,
    require_files,
)

FOLDER = Path(__file__).resolve().parent

#: options that shape the network: what a checkpoint remembers, and what convert.py needs
NETWORK_OPTIONS = ("model", "num_classes", "width_mult", "reduced_tail", "dilated", "dropout")
#: options that shape the pictures a network of a checkpoint expects
PREPROCESSING_OPTIONS = ("val_resize_size", "val_crop_size", "interpolation")

_MODELS = {
    "small": "mobilenet_v3_small",
    "large": "mobilenet_v3_large",
    "mobilenet_v3_small": "mobilenet_v3_small",
    "mobilenet_v3_large": "mobilenet_v3_large",
}


def _model_name(text: str) -> str:
    if text not in _MODELS:
        raise argparse.ArgumentTypeError(f"unknown model {text!r} (choose mobilenet_v3_small or mobilenet_v3_large)")
    return _MODELS[text]


def add_network_options(parser: argparse.ArgumentParser) -> None:
    """The options that shape the network (NOTES 4.5 to 4.7)."""
    group = Group(parser, "network")
    group.add(
        "--model",
        type=_model_name,
        default="mobilenet_v3_small",
        metavar="NAME",
        help="mobilenet_v3_small or mobilenet_v3_large (or just small, large)",
    )
    group.add("--num_classes", type=positive_int, default=1000, metavar="N", help="number of classes")
    group.add("--width_mult", type=positive_float, default=1.0, metavar="M", help="multiplier of every width")
    group.add("--reduced_tail", action="store_true", help="halve the widths of the last blocks")
    group.add("--dilated", action="store_true", help="dilate the last three blocks: output stride 16")
    group.add("--dropout", type=probability, default=0.2, metavar="P", help="dropout before the last Linear")


def _add_reading_options(parser: argparse.ArgumentParser) -> None:
    group = Group(parser, "reading pictures")
    group.add("--data_path", default=None, metavar="DIR", help="folder that holds train/ and val/, one folder a class")
    group.add("-b", "--batch_size", type=positive_int, default=32, metavar="N", help="pictures per process and step")
    group.add(
        "-j", "--workers", "--num_workers", type=count, default=16, metavar="N", help="loader processes (0: none)"
    )


def _add_preprocessing_options(parser: argparse.ArgumentParser) -> None:
    group = Group(parser, "preprocessing")
    group.add("--interpolation", default="bilinear", choices=["nearest", "bilinear", "bicubic"], help="of every resize")
    group.add("--val_resize_size", type=positive_int, default=256, metavar="PX", help="shorter side in evaluation")
    group.add("--val_crop_size", type=positive_int, default=224, metavar="PX", help="centre crop in evaluation")


def _add_augmentation_options(parser: argparse.ArgumentParser) -> None:
    group = Group(parser, "augmentation")
    group.add("--train_crop_size", type=positive_int, default=224, metavar="PX", help="random crop in training")
    group.add(
        "--auto_augment",
        default=None,
        choices=["imagenet", "cifar10", "svhn", "ra", "ta_wide", "augmix"],
        help="augmentation policy",
    )
    group.add("--ra_magnitude", type=count, default=9, metavar="M", help="magnitude of --auto_augment ra")
    group.add("--augmix_severity", type=positive_int, default=3, metavar="S", help="of --auto_augment augmix")
    group.add("--random_erase", type=probability, default=0.0, metavar="P", help="probability of erasing a box")
    group.add("--mixup_alpha", type=float, default=0.0, metavar="A", help="mixup; 0 is off")
    group.add("--cutmix_alpha", type=float, default=0.0, metavar="A", help="cutmix; 0 is off")
    group.add("--ra_sampler", action="store_true", help="repeated augmentation: each picture several times an epoch")
    group.add("--ra_reps", type=positive_int, default=3, metavar="N", help="repeats of --ra_sampler")


def _add_optimisation_options(parser: argparse.ArgumentParser) -> None:
    group = Group(parser, "optimisation")
    group.add("--epochs", type=positive_int, default=90, metavar="N")
    group.add("--opt", default="sgd", choices=["sgd", "sgd_nesterov", "rmsprop", "adamw"], help="optimiser")
    group.add("--lr", type=positive_float, default=0.1, metavar="LR", help="base learning rate")
    group.add("--momentum", type=float, default=0.9, metavar="M")
    group.add("--weight_decay", "--wd", type=float, default=1e-4, metavar="W", dest="weight_decay")
    group.add(
        "--norm_weight_decay", type=float, default=None, metavar="W", help="decay of norm layers (their own group)"
    )
    group.add("--bias_weight_decay", type=float, default=None, metavar="W", help="decay of biases (their own group)")
    group.add("--label_smoothing", type=probability, default=0.0, metavar="E")
    group.add("--lr_scheduler", default="steplr", choices=["steplr", "cosineannealinglr", "exponentiallr"])
    group.add("--lr_step_size", type=positive_int, default=30, metavar="N", help="epochs between drops of steplr")
    group.add("--lr_gamma", type=positive_float, default=0.1, metavar="G", help="factor of steplr and exponentiallr")
    group.add("--lr_min", type=float, default=0.0, metavar="LR", help="last learning rate of cosineannealinglr")
    group.add("--lr_warmup_epochs", type=count, default=0, metavar="N")
    group.add("--lr_warmup_method", default="constant", choices=["constant", "linear"])
    group.add("--lr_warmup_decay", type=positive_float, default=0.01, metavar="F", help="first factor of the warm-up")
    group.add(
        "--clip_grad_norm", type=positive_float, default=None, metavar="N", help="global L2 norm of the gradients"
    )
    group.add("--model_ema", action="store_true", help="keep and evaluate a moving average of the weights")
    group.add("--model_ema_steps", type=positive_int, default=32, metavar="N", help="steps between updates of it")
    group.add("--model_ema_decay", type=probability, default=0.99998, metavar="D", help="adjusted to batch and epochs")


def _add_run_options(parser: argparse.ArgumentParser) -> None:
    group = Group(parser, "run")
    group.add("--weights", default=None, metavar="W", help=".pdparams, checkpoint folder or official torch file")
    group.add("--device", default="cpu", choices=["cpu", "gpu"], help="where to compute")


def _add_output_options(parser: argparse.ArgumentParser) -> None:
    Group(parser, "output").add("--output_dir", default=str(FOLDER / "output"), metavar="DIR", help="where results go")


def _add_training_options(parser: argparse.ArgumentParser) -> None:
    group = Group(parser, "training")
    group.add("--resume", default=None, metavar="CHECKPOINT", help="continue a training, e.g. from OUTPUT_DIR/latest")
    group.add("--max_steps", type=positive_int, default=None, metavar="N", help="stop after N steps in all")
    group.add("--checkpoint_steps", type=count, default=0, metavar="N", help="also save every N steps; 0: every epoch")
    group.add(
        "--eval_freq",
        "--eval_frequency",
        type=positive_int,
        default=1,
        metavar="N",
        help="epochs between evaluations on val/",
    )
    group.add(
        "--print_freq", "--log_frequency", type=positive_int, default=10, metavar="N", help="steps between log lines"
    )
    group.add("--seed", type=count, default=0, metavar="S", help="of weights, order, augmentation and dropout")
    group.add("--amp", action="store_true", help="mixed precision (float16 on a GPU, bfloat16 on a CPU)")
    group.add("--sync_bn", action="store_true", help="batch statistics over all processes")
    group.add("--use_deterministic_algorithms", action="store_true", help="GPU: deterministic cuDNN kernels")
    group.add("--test_only", action="store_true", help="evaluate --weights or --resume and stop")


_GROUPS = {
    "run": _add_run_options,
    "output": _add_output_options,
    "network": add_network_options,
    "reading": _add_reading_options,
    "preprocessing": _add_preprocessing_options,
    "augmentation": _add_augmentation_options,
    "optimisation": _add_optimisation_options,
    "training": _add_training_options,
}


def build_parser(description: str | None = None, groups: Sequence[str] = tuple(_GROUPS)) -> argparse.ArgumentParser:
    """A parser with these groups of options; each script adds its own few."""
    return grouped_parser(description or "MobileNetV3 in PaddlePaddle", [_GROUPS[group] for group in groups])


def parse_options(
    argv: Sequence[str] | None = None,
    parser: argparse.ArgumentParser | None = None,
    defaults: Mapping | None = None,
) -> argparse.Namespace:
    """Parse `argv` (the command line when None). Options that `parser` lacks have the reference's defaults.

    `defaults` takes the place of the reference's defaults (the options a checkpoint was trained with, say); what stands
    in `argv` wins over both. Wrong values end the process with exit status 2, as argparse does.
    """
    return parse_with_defaults(build_parser(), argv, parser, defaults)


def remembered_options(weights: str | None) -> dict:
    """What a training checkpoint says of its network: {"options": {...}, "classes": [...]}; {} for any other file.

    `weights` is a checkpoint folder or a file in one.
    """
    return remembered_state(weights, (*NETWORK_OPTIONS, *PREPROCESSING_OPTIONS), "classes")


def parse_options_for_weights(
    argv: Sequence[str] | None, parser: argparse.ArgumentParser, required: bool = True
) -> tuple[argparse.Namespace, dict]:
    """Options, with the network and preprocessing of the checkpoint in --weights or --resume as defaults.

    Also returns what `remembered_options` found. InputError where either names nothing that is there, or where
    --weights is `required` and not given.
    """
    first = parse_options(argv, parser)
    kinds = "give .pdparams, a checkpoint folder or an official torch file (make train-mobilenetv3 trains some)"
    require_files(first, ("weights", "resume"), kinds, needed="weights" if required else None)
    remembered = remembered_options(first.weights or first.resume)
    return parse_options(argv, parser, remembered.get("options")), remembered
