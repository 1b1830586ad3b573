"""Every option of this folder: the reference's names and defaults, grouped.

Reference: SuperMHP/GUPNet (NOTES 1.4, 1.5), whose configuration keys are the options here. Each option may be
written with dashes or with underscores. `parse_options([])` gives the reference's defaults; only the places of files
differ, which start at this folder, and the seed, which the reference never sets.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from shared.running.options import (
    Group,
    boolean,
    count,
    grouped_parser,
    not_negative,
    parse_with_defaults,
    positive_float,
    positive_int,
    probability,
    remembered_state,
    require_files,
)

from constants import CLASSES, INPUT_SIZE

FOLDER = Path(__file__).resolve().parent

#: options that shape the network's input or the meaning of its output: what a checkpoint remembers
NETWORK_OPTIONS = ("input_size", "writelist")

SPLITS = ("train", "val", "trainval", "test")


def input_side(text: str) -> int:
    """A width or height of the network's input: five halvings must come out even."""
    value = positive_int(text)
    if value % 32 or value < 64:
        raise argparse.ArgumentTypeError(f"{text} is not a multiple of 32 from 64 on")
    return value


def add_network_options(parser: argparse.ArgumentParser) -> None:
    """The options that shape the network's input. The tensors of the network are the same whatever they are."""
    group = Group(parser, "network")
    text = "width and height of the input, multiples of 32 from 64 on"
    group.add("--input_size", type=input_side, nargs=2, default=list(INPUT_SIZE), metavar=("W", "H"), help=text)


def _add_reading_options(parser: argparse.ArgumentParser) -> None:
    group = Group(parser, "reading")
    text = "KITTI's object set: the folder with ImageSets/ and training/, or the one that holds it as KITTI/"
    group.add("--data_path", "--root_dir", default=None, metavar="DIR", help=text)
    text = "split to train on; trainval for a submission to KITTI's server"
    group.add("--split", choices=["train", "trainval"], default="train", help=text)
    group.add("--eval_split", choices=SPLITS, default="val", help="split to evaluate on")
    text = "accepted labels; Car alone for the paper's figures on val"
    default = ["Car", "Pedestrian", "Cyclist"]
    group.add("--writelist", nargs="+", choices=CLASSES, default=default, metavar="CLASS", help=text)
    text = "paint Van and Truck into the heatmap of Car"
    group.add("--class_merging", type=boolean, nargs="?", const=True, default=False, metavar="BOOL", help=text)
    text = "accept DontCare; without effect, as its objects have no position"
    group.add("--use_dontcare", type=boolean, nargs="?", const=True, default=False, metavar="BOOL", help=text)
    text = "peaks of the heatmap at the projected 3D centre (false: at the 2D box's centre)"
    group.add("--use_3d_center", type=boolean, default=True, metavar="BOOL", help=text)
    text = "images of a step, over all processes together"
    group.add("--batch_size", type=positive_int, default=32, metavar="N", help=text)
    group.add("--num_workers", type=count, default=2, metavar="N", help="loader processes (0: none)")


def _add_augmentation_options(parser: argparse.ArgumentParser) -> None:
    group = Group(parser, "augmentation")
    group.add("--random_flip", type=probability, default=0.5, metavar="P", help="probability of a mirrored image")
    group.add("--random_crop", type=probability, default=0.5, metavar="P", help="probability of a crop")
    group.add("--scale", type=probability, default=0.4, metavar="S", help="spread and bound of the crop's size")
    group.add("--shift", type=not_negative, default=0.1, metavar="S", help="spread of its centre; bound: twice that")


def _add_optimisation_options(parser: argparse.ArgumentParser) -> None:
    group = Group(parser, "optimisation")
    text = "sgd has momentum 0.9"
    group.add("--optimizer", choices=["adam", "sgd"], default="adam", help=text)
    group.add("--lr", type=positive_float, default=0.00125, metavar="LR", help="learning rate")
    text = "L2 decay of all parameters but biases"
    group.add("--weight_decay", type=not_negative, default=0.00001, metavar="D", help=text)
    text = "5 epochs along a cosine from 1e-5"
    group.add("--warmup", type=boolean, default=True, metavar="BOOL", help=text)
    group.add("--decay_rate", type=positive_float, default=0.1, metavar="F", help="factor of a drop of the rate")
    text = "epochs of the drops, counted as --decay_start says"
    group.add("--decay_list", type=count, nargs="*", default=[90, 120], metavar="E", help=text)
    text = (
        "where the drops' epochs are counted from with a warm-up: its end, as the official run does (drops at 95 and "
        "125), or the first epoch, as the list reads (90 and 120)"
    )
    group.add("--decay_start", choices=["warmup_end", "first_epoch"], default="warmup_end", help=text)
    text = "epochs, and the horizon of hierarchical task learning"
    group.add("--max_epoch", "--epochs", type=positive_int, default=140, metavar="N", help=text)
    text = "batch norms take their statistics over all processes together"
    group.add("--sync_bn", action="store_true", help=text)


def _add_decoding_options(parser: argparse.ArgumentParser) -> None:
    text = "lowest score of a result"
    Group(parser, "decoding").add("--threshold", type=probability, default=0.2, metavar="P", help=text)


def _add_run_options(parser: argparse.ArgumentParser) -> None:
    group = Group(parser, "run")
    text = ".pdparams, checkpoint folder or official .pth"
    group.add("--weights", default=None, metavar="W", help=text)
    group.add("--device", default="cpu", choices=["cpu", "gpu"], help="where to compute")


def _add_output_options(parser: argparse.ArgumentParser) -> None:
    group = Group(parser, "output")
    text = "where results go"
    group.add("--output_dir", "--log_dir", default=str(FOLDER / "output"), metavar="DIR", help=text)


def _add_training_options(parser: argparse.ArgumentParser) -> None:
    group = Group(parser, "training")
    text = "backbone to start from: ImageNet's dla34-ba72cf86.pth or a .pdparams of it"
    group.add("--pretrain_path", default=None, metavar="W", help=text)
    text = "continue a training, e.g. from OUTPUT_DIR/latest"
    group.add("--resume", "--resume_model", default=None, metavar="CHECKPOINT", help=text)
    group.add("--max_steps", type=positive_int, default=None, metavar="N", help="stop after N steps in all")
    group.add("--eval_frequency", type=positive_int, default=10, metavar="N", help="epochs between evaluations")
    group.add("--save_frequency", type=positive_int, default=10, metavar="N", help="epochs between kept checkpoints")
    group.add(
        "--disp_frequency",
        "--log_frequency",
        type=positive_int,
        default=5,
        metavar="N",
        help="batches between log lines",
    )
    text = "also save a checkpoint every N steps; 0: only after epochs"
    group.add("--checkpoint_steps", type=count, default=0, metavar="N", help=text)
    text = "of weights, order and augmentation"
    group.add("--seed", "--random_seed", type=count, default=444, metavar="S", help=text)
    group.add("--amp", action="store_true", help="mixed precision (float16 on a GPU, bfloat16 on a CPU)")


_GROUPS = {
    "run": _add_run_options,
    "output": _add_output_options,
    "network": add_network_options,
    "reading": _add_reading_options,
    "augmentation": _add_augmentation_options,
    "optimisation": _add_optimisation_options,
    "decoding": _add_decoding_options,
    "training": _add_training_options,
}


def build_parser(description: str | None = None, groups: Sequence[str] = tuple(_GROUPS)) -> argparse.ArgumentParser:
    """A parser with these groups of options; each script adds its own few."""
    return grouped_parser(description or "GUPNet in PaddlePaddle", [_GROUPS[group] for group in groups])


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
    """The network options {name: value} that a training checkpoint carries; {} for any other file.

    `weights` is a checkpoint folder or a file in one. InputError where its state cannot be understood.
    """
    return remembered_state(weights, NETWORK_OPTIONS).get("options", {})


def parse_options_for_weights(
    argv: Sequence[str] | None, parser: argparse.ArgumentParser, required: bool = True
) -> argparse.Namespace:
    """Options, with those of the checkpoint in --weights or --resume as default (its input size, its classes).

    InputError where --weights, --resume or --pretrain_path names nothing that is there, or where --weights is
    `required` and not given.
    """
    first = parse_options(argv, parser)
    kinds = "give .pdparams, a checkpoint folder or an official .pth (make train-gupnet trains some)"
    require_files(first, ("weights", "resume", "pretrain_path"), kinds, needed="weights" if required else None)
    return parse_options(argv, parser, remembered_options(first.resume or first.weights))
