"""Every option of this folder, grouped: the keys of the reference's config.yaml, with its defaults (NOTES 1.4, 1.5).

Each option may be written with dashes or with underscores. Only the paths differ from the reference's defaults, and the
seed, which the reference never sets.
"""

import argparse
from pathlib import Path

from shared.running.options import (
    Group,
    PaperOptions,
    boolean,
    count,
    not_negative,
    positive_float,
    positive_int,
    probability,
)

from constants import CLASSES, INPUT_SIZE

FOLDER = Path(__file__).resolve().parent

#: the options of a checkpoint that are the defaults where its weights are used
NETWORK_OPTIONS = ("input_size", "writelist")
LARGEST_SIDE = 8192

SPLITS = ("train", "val", "trainval", "test")


def input_side(text: str) -> int:
    """A width or height of the network's input, which is halved five times."""
    value = positive_int(text)
    if value % 32 or not 64 <= value <= LARGEST_SIDE:
        raise argparse.ArgumentTypeError(f"{text} is not a multiple of 32 from 64 to {LARGEST_SIDE}")
    return value


def add_network_options(parser: argparse.ArgumentParser) -> None:
    """The network's options. None changes its tensors."""
    group = Group(parser, "network")
    text = "width and height of the input, multiples of 32 from 64 on"
    group.add("--input_size", type=input_side, nargs=2, default=list(INPUT_SIZE), metavar=("W", "H"), help=text)


def _add_reading_options(parser: argparse.ArgumentParser) -> None:
    group = Group(parser, "reading")
    text = "KITTI's object set: the folder with ImageSets/ and training/, or its parent, if it is called KITTI/"
    group.add("--data_path", "--root_dir", metavar="DIR", help=text)
    text = "split to train on; trainval for a submission to KITTI's server"
    group.add("--split", choices=["train", "trainval"], default="train", help=text)
    group.add("--eval_split", choices=SPLITS, default="val", help="split to evaluate on")
    settings = {"nargs": "+", "choices": CLASSES, "default": ["Car", "Pedestrian", "Cyclist"], "metavar": "CLASS"}
    group.add("--writelist", **settings, help="types of labels to use; Car alone for the paper's figures on val")
    flag = {"type": boolean, "nargs": "?", "const": True, "default": False, "metavar": "BOOL"}
    group.add("--class_merging", **flag, help="paint Van and Truck into the heatmap of Car")
    group.add("--use_dontcare", **flag, help="use DontCare labels too; without effect, as they have no position")
    text = "heatmap peaks at the projected 3D centre (false: at the centre of the 2D box)"
    group.add("--use_3d_center", type=boolean, default=True, metavar="BOOL", help=text)
    group.add("--batch_size", type=positive_int, default=32, metavar="N", help="images per step, of all processes")
    group.add("--num_workers", type=count, default=2, metavar="N", help="loader processes (0: none)")


def _add_augmentation_options(parser: argparse.ArgumentParser) -> None:
    group = Group(parser, "augmentation")
    group.add("--random_flip", type=probability, default=0.5, metavar="P", help="probability of a mirrored image")
    group.add("--random_crop", type=probability, default=0.5, metavar="P", help="probability of a crop")
    text = "standard deviation and bound of the crop's size"
    group.add("--scale", type=probability, default=0.4, metavar="S", help=text)
    text = "standard deviation of its centre; the bound is twice that"
    group.add("--shift", type=not_negative, default=0.1, metavar="S", help=text)


def _add_optimisation_options(parser: argparse.ArgumentParser) -> None:
    group = Group(parser, "optimisation")
    group.add("--optimizer", choices=["adam", "sgd"], default="adam", help="sgd has momentum 0.9")
    group.add("--lr", type=positive_float, default=0.00125, metavar="LR", help="learning rate")
    group.add("--weight_decay", type=not_negative, default=1e-5, metavar="D", help="L2 decay, of all but biases")
    group.add("--warmup", type=boolean, default=True, metavar="BOOL", help="5 epochs along a cosine from 1e-5")
    group.add("--decay_rate", type=positive_float, default=0.1, metavar="F", help="learning rate factor of a drop")
    text = "epochs of the drops, counted from --decay_start"
    group.add("--decay_list", type=count, nargs="*", default=[90, 120], metavar="E", help=text)
    text = (
        "with a warm-up, count --decay_list from its end, as the reference does (drops at 95 and 125), or from the "
        "first epoch, as the list reads (90 and 120)"
    )
    group.add("--decay_start", choices=["warmup_end", "first_epoch"], default="warmup_end", help=text)
    text = "epochs; also the horizon of hierarchical task learning"
    group.add("--max_epoch", "--epochs", type=positive_int, default=140, metavar="N", help=text)
    group.add("--sync_bn", action="store_true", help="batch norm statistics over all processes")


def _add_decoding_options(parser: argparse.ArgumentParser) -> None:
    text = "lowest score of a detection"
    Group(parser, "decoding").add("--threshold", type=probability, default=0.2, metavar="P", help=text)


def _add_run_options(parser: argparse.ArgumentParser) -> None:
    group = Group(parser, "run")
    group.add("--weights", metavar="W", help="a .pdparams, a checkpoint folder or an official .pth")
    group.add("--device", default="cpu", choices=["cpu", "gpu"], help="where to compute")


def _add_output_options(parser: argparse.ArgumentParser) -> None:
    group = Group(parser, "output")
    text = "where results are written"
    group.add("--output_dir", "--log_dir", default=str(FOLDER / "output"), metavar="DIR", help=text)


def _add_training_options(parser: argparse.ArgumentParser) -> None:
    group = Group(parser, "training")
    group.add("--pretrain_path", metavar="W", help="ImageNet weights: dla34-ba72cf86.pth or a .pdparams of it")
    group.add("--resume", "--resume_model", metavar="CHECKPOINT", help="continue from this, e.g. OUTPUT_DIR/latest")
    group.add("--max_steps", type=positive_int, default=None, metavar="N", help="stop after step N")
    group.add("--eval_frequency", type=positive_int, default=10, metavar="N", help="epochs between evaluations")
    group.add("--save_frequency", type=positive_int, default=10, metavar="N", help="epochs between kept checkpoints")
    text = "batches between log lines"
    group.add("--disp_frequency", "--log_frequency", type=positive_int, default=5, metavar="N", help=text)
    text = "also save a checkpoint every N batches; 0: only after epochs"
    group.add("--checkpoint_steps", type=count, default=0, metavar="N", help=text)
    group.add("--seed", "--random_seed", type=count, default=444, metavar="S", help="of weights, order, augmentation")
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


_OPTIONS = PaperOptions(
    "GUPNet in PaddlePaddle",
    _GROUPS,
    NETWORK_OPTIONS,
    hint="give .pdparams, a checkpoint folder or an official .pth (make train-gupnet trains some)",
    files=("pretrain_path",),
)
build_parser = _OPTIONS.build_parser
parse_options = _OPTIONS.parse_options
parse_options_for_weights = _OPTIONS.parse_options_for_weights
