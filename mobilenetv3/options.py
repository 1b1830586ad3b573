"""Every option of this folder: the reference recipe's names and defaults, grouped.

Reference: `references/classification/train.py` of pytorch/vision (fact sheet section 2.1). Each option may be written
with dashes, as there, or with underscores. `parse_options([])` gives the reference's defaults, with two exceptions that
the sheet explains: the model (the reference defaults to a ResNet) and the device (its default is a GPU).
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from shared import HelpFormatter, InputError

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


def _positive_int(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive whole number")
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is negative")
    return value


def _probability(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return value


def _positive_float(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


class _Group:
    """An argparse group whose options answer to both spellings, `--data-path` and `--data_path`."""

    def __init__(self, parser: argparse.ArgumentParser, title: str):
        self._group = parser.add_argument_group(title)

    def add(self, *names: str, **settings) -> None:
        spellings = []
        for name in names:
            spellings.append(name)
            dashed = "--" + name[2:].replace("_", "-")
            if name.startswith("--") and dashed != name:
                spellings.append(dashed)
        self._group.add_argument(*spellings, **settings)


def add_network_options(parser: argparse.ArgumentParser) -> None:
    """The options that shape the network (fact sheet 4.6)."""
    group = _Group(parser, "network")
    group.add(
        "--model",
        type=_model_name,
        default="mobilenet_v3_small",
        metavar="NAME",
        help="mobilenet_v3_small or mobilenet_v3_large (or just small, large)",
    )
    group.add("--num_classes", type=_positive_int, default=1000, metavar="N", help="number of classes")
    group.add("--width_mult", type=_positive_float, default=1.0, metavar="M", help="multiplier of every width")
    group.add("--reduced_tail", action="store_true", help="halve the widths of the last blocks")
    group.add("--dilated", action="store_true", help="dilate the last three blocks: output stride 16")
    group.add("--dropout", type=_probability, default=0.2, metavar="P", help="dropout before the last Linear")


def _add_reading_options(parser: argparse.ArgumentParser) -> None:
    group = _Group(parser, "reading pictures")
    group.add("--data_path", default=None, metavar="DIR", help="folder that holds train/ and val/, one folder a class")
    group.add("-b", "--batch_size", type=_positive_int, default=32, metavar="N", help="pictures per process and step")
    group.add("-j", "--workers", type=_count, default=16, metavar="N", help="loader processes (0: none)")


def _add_preprocessing_options(parser: argparse.ArgumentParser) -> None:
    group = _Group(parser, "preprocessing")
    group.add("--interpolation", default="bilinear", choices=["nearest", "bilinear", "bicubic"], help="of every resize")
    group.add("--val_resize_size", type=_positive_int, default=256, metavar="PX", help="shorter side in evaluation")
    group.add("--val_crop_size", type=_positive_int, default=224, metavar="PX", help="centre crop in evaluation")


def _add_augmentation_options(parser: argparse.ArgumentParser) -> None:
    group = _Group(parser, "augmentation")
    group.add("--train_crop_size", type=_positive_int, default=224, metavar="PX", help="random crop in training")
    group.add(
        "--auto_augment",
        default=None,
        choices=["imagenet", "cifar10", "svhn", "ra", "ta_wide", "augmix"],
        help="augmentation policy",
    )
    group.add("--ra_magnitude", type=_count, default=9, metavar="M", help="magnitude of --auto_augment ra")
    group.add("--augmix_severity", type=_positive_int, default=3, metavar="S", help="of --auto_augment augmix")
    group.add("--random_erase", type=_probability, default=0.0, metavar="P", help="probability of erasing a box")
    group.add("--mixup_alpha", type=float, default=0.0, metavar="A", help="mixup; 0 is off")
    group.add("--cutmix_alpha", type=float, default=0.0, metavar="A", help="cutmix; 0 is off")
    group.add("--ra_sampler", action="store_true", help="repeated augmentation: each picture several times an epoch")
    group.add("--ra_reps", type=_positive_int, default=3, metavar="N", help="repeats of --ra_sampler")


def _add_optimisation_options(parser: argparse.ArgumentParser) -> None:
    group = _Group(parser, "optimisation")
    group.add("--epochs", type=_positive_int, default=90, metavar="N")
    group.add("--opt", default="sgd", choices=["sgd", "sgd_nesterov", "rmsprop", "adamw"], help="optimiser")
    group.add("--lr", type=_positive_float, default=0.1, metavar="LR", help="base learning rate")
    group.add("--momentum", type=float, default=0.9, metavar="M")
    group.add("--weight_decay", "--wd", type=float, default=1e-4, metavar="W", dest="weight_decay")
    group.add(
        "--norm_weight_decay", type=float, default=None, metavar="W", help="decay of norm layers (their own group)"
    )
    group.add("--bias_weight_decay", type=float, default=None, metavar="W", help="decay of biases (their own group)")
    group.add("--label_smoothing", type=_probability, default=0.0, metavar="E")
    group.add("--lr_scheduler", default="steplr", choices=["steplr", "cosineannealinglr", "exponentiallr"])
    group.add("--lr_step_size", type=_positive_int, default=30, metavar="N", help="epochs between drops of steplr")
    group.add("--lr_gamma", type=_positive_float, default=0.1, metavar="G", help="factor of steplr and exponentiallr")
    group.add("--lr_min", type=float, default=0.0, metavar="LR", help="last learning rate of cosineannealinglr")
    group.add("--lr_warmup_epochs", type=_count, default=0, metavar="N")
    group.add("--lr_warmup_method", default="constant", choices=["constant", "linear"])
    group.add("--lr_warmup_decay", type=_positive_float, default=0.01, metavar="F", help="first factor of the warm-up")
    group.add(
        "--clip_grad_norm", type=_positive_float, default=None, metavar="N", help="global L2 norm of the gradients"
    )
    group.add("--model_ema", action="store_true", help="keep and evaluate a moving average of the weights")
    group.add("--model_ema_steps", type=_positive_int, default=32, metavar="N", help="steps between updates of it")
    group.add(
        "--model_ema_decay", type=_probability, default=0.99998, metavar="D", help="before the sheet's adjustment"
    )


def _add_run_options(parser: argparse.ArgumentParser) -> None:
    group = _Group(parser, "run")
    group.add("--weights", default=None, metavar="W", help=".pdparams, checkpoint folder or official torch file")
    group.add("--device", default="cpu", choices=["cpu", "gpu"], help="where to compute")


def _add_output_options(parser: argparse.ArgumentParser) -> None:
    _Group(parser, "output").add("--output_dir", default=str(FOLDER / "output"), metavar="DIR", help="where results go")


def _add_training_options(parser: argparse.ArgumentParser) -> None:
    group = _Group(parser, "training")
    group.add("--resume", default=None, metavar="CHECKPOINT", help="continue a training, e.g. from OUTPUT_DIR/latest")
    group.add("--max_steps", type=_positive_int, default=None, metavar="N", help="stop after N steps in all")
    group.add("--checkpoint_steps", type=_count, default=0, metavar="N", help="also save every N steps; 0: every epoch")
    group.add("--eval_freq", type=_positive_int, default=1, metavar="N", help="epochs between evaluations on val/")
    group.add("--print_freq", type=_positive_int, default=10, metavar="N", help="steps between log lines")
    group.add("--seed", type=_count, default=0, metavar="S", help="of weights, order, augmentation and dropout")
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
    parser = argparse.ArgumentParser(
        description=description or "MobileNetV3 in PaddlePaddle",
        formatter_class=HelpFormatter,
        usage="%(prog)s [options]",
        allow_abbrev=False,
    )
    for group in groups:
        _GROUPS[group](parser)
    return parser


def parse_options(
    argv: Sequence[str] | None = None,
    parser: argparse.ArgumentParser | None = None,
    defaults: Mapping | None = None,
) -> argparse.Namespace:
    """Parse `argv` (the command line when None). Options that `parser` lacks have the reference's defaults.

    `defaults` takes the place of the reference's defaults (the options a checkpoint was trained with, say); what stands
    in `argv` wins over both. Wrong values end the process with exit status 2, as argparse does.
    """
    everything = build_parser()
    parser = parser or everything
    if defaults:
        parser.set_defaults(**defaults)
        everything.set_defaults(**defaults)
    return argparse.Namespace(**vars(everything.parse_args([])) | vars(parser.parse_args(argv)))


def remembered_options(weights: str | None) -> dict:
    """What a training checkpoint says of its network: {"options": {...}, "classes": [...]}; {} for any other file.

    `weights` is a checkpoint folder or a file in one.
    """
    if not weights:
        return {}
    path = Path(weights)
    state_file = (path if path.is_dir() else path.parent) / "state.json"
    if not state_file.is_file():
        return {}
    try:
        state = json.loads(state_file.read_text(encoding="utf-8"))
        names = (*NETWORK_OPTIONS, *PREPROCESSING_OPTIONS)
        return {"options": {name: state["options"][name] for name in names}, "classes": list(state["classes"])}
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{state_file}: not a checkpoint's state ({type(error).__name__}); train again") from error


def parse_options_for_weights(
    argv: Sequence[str] | None, parser: argparse.ArgumentParser, required: bool = True
) -> tuple[argparse.Namespace, dict]:
    """Options, with the network and preprocessing of the checkpoint in --weights or --resume as defaults.

    Also returns what `remembered_options` found. InputError where either names nothing that is there, or where
    --weights is `required` and not given.
    """
    first = parse_options(argv, parser)
    kinds = "give .pdparams, a checkpoint folder or an official torch file (make train-mobilenetv3 trains some)"
    if required and not first.weights:
        raise InputError(f"--weights is missing: {kinds}")
    for name in ("weights", "resume"):
        path = getattr(first, name)
        if path and not Path(path).exists():
            raise InputError(f"--{name} {path}: no such file or folder; {kinds}")
    remembered = remembered_options(first.weights or first.resume)
    return parse_options(argv, parser, remembered.get("options")), remembered
