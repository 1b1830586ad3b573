"""Every option of this folder: the reference recipe's names and defaults, grouped.

Reference: `references/classification/train.py` of pytorch/vision (NOTES 2.1). Each option may be written with
dashes, as there, or with underscores. `parse_options([])` gives the reference's defaults, with two exceptions: the
model and the device (NOTES 2.2).
"""

import argparse
from pathlib import Path

from shared.checked_json import read_as
from shared.running.options import (
    Group,
    PaperOptions,
    count,
    not_negative,
    positive_float,
    positive_int,
    probability,
    read_state,
    whole_number,
)

FOLDER = Path(__file__).resolve().parent

#: options that shape the network
NETWORK_OPTIONS = ("model", "num_classes", "width_mult", "reduced_tail", "dilated", "dropout")
#: what scripts take from a checkpoint: the network, and the images that it is evaluated on
REMEMBERED_OPTIONS = (*NETWORK_OPTIONS, "val_resize_size", "val_crop_size", "interpolation")

_side = whole_number(1, 4096)  # of an image

MODELS = ("mobilenet_v3_small", "mobilenet_v3_large")


def _model_name(text: str) -> str:
    name = text if text.startswith("mobilenet") else f"mobilenet_v3_{text}"
    if name not in MODELS:
        raise argparse.ArgumentTypeError(f"unknown model {text!r} (choose {' or '.join(MODELS)})")
    return name


def _width(text: str) -> float:
    value = positive_float(text)
    if value > 16:
        raise argparse.ArgumentTypeError(f"{text} is above 16")
    return value


def add_network_options(parser: argparse.ArgumentParser) -> None:
    """The options that shape the network (NOTES 4.5 to 4.7)."""
    add = Group(parser, "network").add
    text = f"{' or '.join(MODELS)}, or just small or large"
    add("--model", type=_model_name, default=MODELS[0], metavar="NAME", help=text)
    add("--num_classes", type=whole_number(1, 100_000), default=1000, metavar="N", help="number of classes")
    add("--width_mult", type=_width, default=1.0, metavar="M", help="multiplier of every channel count")
    add("--reduced_tail", action="store_true", help="halve the widths of the last blocks")
    add("--dilated", action="store_true", help="dilate the last three blocks: output stride 16")
    add("--dropout", type=probability, default=0.2, metavar="P", help="dropout before the last Linear")


def _add_reading_options(parser: argparse.ArgumentParser) -> None:
    add = Group(parser, "reading images").add
    add("--data_path", metavar="DIR", help="folder that holds train/ and val/, one folder a class")
    add("-b", "--batch_size", type=positive_int, default=32, metavar="N", help="images per process and step")
    add("-j", "--workers", "--num_workers", type=count, default=16, metavar="N", help="loader processes (0: none)")


def _add_preprocessing_options(parser: argparse.ArgumentParser) -> None:
    add = Group(parser, "preprocessing").add
    add("--interpolation", default="bilinear", choices=["nearest", "bilinear", "bicubic"], help="of resizing")
    add("--val_resize_size", type=_side, default=256, metavar="PX", help="shorter side in evaluation")
    add("--val_crop_size", type=_side, default=224, metavar="PX", help="centre crop in evaluation")


def _add_augmentation_options(parser: argparse.ArgumentParser) -> None:
    add = Group(parser, "augmentation").add
    add("--train_crop_size", type=_side, default=224, metavar="PX", help="random crop in training")
    add("--auto_augment", choices=["imagenet", "cifar10", "svhn", "ra", "ta_wide", "augmix"], help="policy")
    add("--ra_magnitude", type=whole_number(0, 30), default=9, metavar="M", help="level of --auto_augment ra")
    add("--augmix_severity", type=whole_number(1, 10), default=3, metavar="S", help="of --auto_augment augmix")
    add("--random_erase", type=probability, default=0.0, metavar="P", help="probability of erasing a box")
    add("--mixup_alpha", type=not_negative, default=0.0, metavar="A", help="mixup; 0 turns it off")
    add("--cutmix_alpha", type=not_negative, default=0.0, metavar="A", help="cutmix; 0 turns it off")
    add("--ra_sampler", action="store_true", help="repeated augmentation: several views of an image per epoch")
    add("--ra_reps", type=positive_int, default=3, metavar="N", help="views per image of --ra_sampler")


def _add_optimisation_options(parser: argparse.ArgumentParser) -> None:
    add = Group(parser, "optimisation").add
    add("--epochs", type=positive_int, default=90, metavar="N", help="epochs of the training")
    add("--opt", default="sgd", choices=["sgd", "sgd_nesterov", "rmsprop", "adamw"], help="optimiser")
    add("--lr", type=positive_float, default=0.1, metavar="LR", help="base learning rate")
    add("--momentum", type=float, default=0.9, metavar="M", help="of sgd and rmsprop")
    add("--weight_decay", "--wd", type=float, default=1e-4, metavar="W", help="L2 of every parameter")
    add("--norm_weight_decay", type=float, metavar="W", help="decay of norm layers instead")
    add("--bias_weight_decay", type=float, metavar="W", help="decay of other biases instead")
    add("--label_smoothing", type=probability, default=0.0, metavar="E", help="share of the uniform target")
    add("--lr_scheduler", default="steplr", choices=["steplr", "cosineannealinglr", "exponentiallr"], help="per epoch")
    add("--lr_step_size", type=positive_int, default=30, metavar="N", help="epochs between drops of steplr")
    add("--lr_gamma", type=positive_float, default=0.1, metavar="G", help="factor of steplr and exponentiallr")
    add("--lr_min", type=float, default=0.0, metavar="LR", help="last learning rate of cosineannealinglr")
    add("--lr_warmup_epochs", type=count, default=0, metavar="N", help="epochs of warm-up")
    add("--lr_warmup_method", default="constant", choices=["constant", "linear"], help="rate of the warm-up")
    add("--lr_warmup_decay", type=positive_float, default=0.01, metavar="F", help="first factor of the warm-up")
    add("--clip_grad_norm", type=positive_float, metavar="N", help="global L2 norm of the gradients")
    add("--model_ema", action="store_true", help="keep and evaluate a moving average of the weights")
    add("--model_ema_steps", type=positive_int, default=32, metavar="N", help="steps between updates of it")
    add("--model_ema_decay", type=probability, default=0.99998, metavar="D", help="adjusted to batch and epochs")


def _add_run_options(parser: argparse.ArgumentParser) -> None:
    add = Group(parser, "run").add
    add("--weights", metavar="W", help=".pdparams, checkpoint folder or official torch file")
    add("--device", default="cpu", choices=["cpu", "gpu"], help="where to compute")


def _add_output_options(parser: argparse.ArgumentParser) -> None:
    Group(parser, "output").add("--output_dir", default=str(FOLDER / "output"), metavar="DIR", help="where results go")


def _add_training_options(parser: argparse.ArgumentParser) -> None:
    add = Group(parser, "training").add
    add("--resume", metavar="CHECKPOINT", help="continue a training, e.g. from OUTPUT_DIR/latest")
    add("--max_steps", type=positive_int, metavar="N", help="stop after N steps in all")
    add("--checkpoint_steps", type=count, default=0, metavar="N", help="also save every N steps; 0: every epoch")
    add("--eval_freq", "--eval_frequency", type=positive_int, default=1, metavar="N", help="epochs per evaluation")
    add("--print_freq", "--log_frequency", type=positive_int, default=10, metavar="N", help="steps between log lines")
    add("--seed", type=count, default=0, metavar="S", help="of weights, order, augmentation and dropout")
    add("--amp", action="store_true", help="mixed precision (float16 on a GPU, bfloat16 on a CPU)")
    add("--sync_bn", action="store_true", help="batch statistics over all processes")
    add("--use_deterministic_algorithms", action="store_true", help="GPU: deterministic cuDNN kernels")
    add("--test_only", action="store_true", help="evaluate --weights or --resume and stop")


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


_OPTIONS = PaperOptions(
    "MobileNetV3 in PaddlePaddle",
    _GROUPS,
    REMEMBERED_OPTIONS,
    hint="give .pdparams, a checkpoint folder or an official torch file (make train-mobilenetv3 trains some)",
)
build_parser = _OPTIONS.build_parser
parse_options = _OPTIONS.parse_options
remembered_options = _OPTIONS.remembered_options
parse_options_for_weights = _OPTIONS.parse_options_for_weights


def remembered_classes(weights: str | None) -> list[str] | None:
    """The class names in the training checkpoint behind `weights`, a folder or a file in one; None for another file.

    InputError where the state of the checkpoint cannot be read or holds none.
    """
    file, state = read_state(weights)
    return None if file is None else read_as(list[str], state.get("classes"), file, "classes")
