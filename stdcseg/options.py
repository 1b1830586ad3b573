"""Every option of this folder: the reference's names and defaults, grouped.

Reference: `train.py` of MichaelFan01/STDC-Seg (NOTES 2); its constants are options here, with
that constant as default. Each option may be written with dashes or with underscores. `parse_options([])` gives the
reference's defaults with one exception: its default backbone, CatNetSmall, does not exist; here it is STDCNet813.
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
    open_share,
    parse_for_weights,
    parse_with_defaults,
    positive_float,
    positive_int,
)
from shared.running.options import remembered_options as read_remembered

FOLDER = Path(__file__).resolve().parent

#: options that shape the network: what a checkpoint remembers, and what convert.py needs
NETWORK_OPTIONS = (
    "backbone",
    "num_classes",
    "base",
    "use_conv_last",
    "use_boundary_2",
    "use_boundary_4",
    "use_boundary_8",
    "use_boundary_16",
)

BACKBONES = ("STDCNet813", "STDCNet1446")
#: the 12 scales of the reference's training script, 0.125 to 1.5 (NOTES 2)
SCALES = tuple(step / 8 for step in range(1, 13))


def add_network_options(parser: argparse.ArgumentParser) -> None:
    """The options that shape the network (NOTES 2, 4)."""
    group = Group(parser, "network")
    group.add("--backbone", choices=BACKBONES, default="STDCNet813", help="STDCNet813 is STDC1, STDCNet1446 is STDC2")
    group.add("--num_classes", type=positive_int, default=19, metavar="N", help="classes of the segmentation")
    group.add("--base", type=positive_int, default=64, metavar="C", help="width of the backbone: 64 is the paper's")
    group.add(
        "--use_conv_last", type=boolean, default=False, metavar="BOOL", help="1x1 convolution on the 1/32 feature"
    )
    for stride in (2, 4, 8):
        text = f"detail head on the 1/{stride} feature"
        group.add(f"--use_boundary_{stride}", type=boolean, default=False, metavar="BOOL", help=text)
    text = "accepted for the reference's sake; does nothing, as there"
    group.add("--use_boundary_16", type=boolean, default=False, metavar="BOOL", help=text)


def _add_reading_options(parser: argparse.ArgumentParser) -> None:
    group = Group(parser, "reading pictures")
    group.add("--data_path", default=None, metavar="DIR", help="Cityscapes: folder with leftImg8bit/ and gtFine/")
    group.add("--mode", default="train", metavar="SPLIT", help="split to train on: train, or trainval if you made one")
    group.add(
        "--n_img_per_gpu",
        "--batch_size",
        type=positive_int,
        default=16,
        metavar="N",
        help="pictures per process and step",
    )
    group.add(
        "--n_workers_train",
        "--num_workers",
        type=count,
        default=8,
        metavar="N",
        help="loader processes of training (0: none)",
    )
    group.add("--n_workers_val", type=count, default=0, metavar="N", help="loader processes of evaluation (0: none)")


def _add_augmentation_options(parser: argparse.ArgumentParser) -> None:
    group = Group(parser, "augmentation")
    text = "random crop in training"
    group.add("--crop_size", type=positive_int, nargs=2, default=[1024, 512], metavar=("W", "H"), help=text)
    text = "strength of the random brightness, contrast and saturation"
    group.add("--colour_jitter", type=not_negative, default=0.5, metavar="V", help=text)
    text = "factors of the random scale, each as likely"
    group.add("--scales", type=positive_float, nargs="+", default=list(SCALES), metavar="S", help=text)


def _add_optimisation_options(parser: argparse.ArgumentParser) -> None:
    group = Group(parser, "optimisation")
    group.add("--max_iter", type=positive_int, default=40000, metavar="N", help="iterations; the published runs: 60000")
    group.add(
        "--lr", type=positive_float, default=1e-2, metavar="LR", help="base rate; heads and fusion get 10 times it"
    )
    group.add("--momentum", type=not_negative, default=0.9, metavar="M")
    group.add("--weight_decay", type=not_negative, default=5e-4, metavar="W", help="of convolutions; norms have none")
    group.add(
        "--lr_scheduler",
        choices=["warmup_poly", "Warmup_PolyDecay"],
        default="warmup_poly",
        help="warmup_poly: the reference's, exponential warm-up; Warmup_PolyDecay: the earlier Paddle port's, linear",
    )
    group.add("--warmup_steps", type=count, default=1000, metavar="N", help="iterations of the warm-up")
    group.add("--warmup_start_lr", type=positive_float, default=1e-5, metavar="LR", help="first rate of the warm-up")
    group.add("--power", type=positive_float, default=0.9, metavar="P", help="of the polynomial decay")
    group.add(
        "--train_backbone_norms", action="store_true", help="also train the backbone's norms (not in the reference)"
    )


def add_loss_options(parser: argparse.ArgumentParser) -> None:
    """The options that shape the losses (NOTES 5)."""
    group = Group(parser, "losses")
    text = "probability of the right class below which a pixel is hard"
    group.add("--ohem_thresh", type=open_share, default=0.7, metavar="P", help=text)
    text = "pixels that count at least; default: a sixteenth of a batch"
    group.add("--n_min", type=count, default=None, metavar="N", help=text)
    group.add(
        "--fuse_kernel",
        choices=["decayed", "fixed"],
        default="decayed",
        help="weights of the boundary maps: shrinking by weight decay as in the reference's runs, or as they begin",
    )


def _add_run_options(parser: argparse.ArgumentParser) -> None:
    group = Group(parser, "run")
    text = ".pdparams, checkpoint folder or official torch file of the whole network"
    group.add("--weights", "--ckpt", default=None, metavar="W", help=text)
    group.add("--device", default="cpu", choices=["cpu", "gpu"], help="where to compute")


def _add_output_options(parser: argparse.ArgumentParser) -> None:
    text = "where results go"
    group = Group(parser, "output")
    group.add("--output_dir", "--respath", default=str(FOLDER / "output"), metavar="DIR", help=text)


def _add_training_options(parser: argparse.ArgumentParser) -> None:
    group = Group(parser, "training")
    text = "backbone to start from: the official archive (STDCNet813M_73.91.tar) or a .pdparams of it"
    group.add("--pretrain_path", default=None, metavar="W", help=text)
    group.add("--resume", default=None, metavar="CHECKPOINT", help="continue a training, e.g. from OUTPUT_DIR/latest")
    group.add("--max_steps", type=positive_int, default=None, metavar="N", help="stop after N steps in all")
    group.add("--save_iter_sep", type=positive_int, default=1000, metavar="N", help="validate and save every N steps")
    text = "also save every N steps; 0: only with the validation"
    group.add("--checkpoint_steps", type=count, default=0, metavar="N", help=text)
    text = "validate at these scales; the best weights of each are kept"
    group.add("--val_scales", type=positive_float, nargs="+", default=[0.5, 0.75], metavar="S", help=text)
    group.add(
        "--msg_iter", "--log_frequency", type=positive_int, default=50, metavar="N", help="steps between log lines"
    )
    group.add("--seed", type=count, default=0, metavar="S", help="of weights, order and augmentation")
    group.add("--amp", action="store_true", help="mixed precision (float16 on a GPU, bfloat16 on a CPU)")
    text = "batch statistics of the backbone over all processes too; all other norms' always are"
    group.add("--sync_bn", action="store_true", help=text)


_GROUPS = {
    "run": _add_run_options,
    "output": _add_output_options,
    "network": add_network_options,
    "reading": _add_reading_options,
    "augmentation": _add_augmentation_options,
    "optimisation": _add_optimisation_options,
    "losses": add_loss_options,
    "training": _add_training_options,
}


def build_parser(description: str | None = None, groups: Sequence[str] = tuple(_GROUPS)) -> argparse.ArgumentParser:
    """A parser with these groups of options; each script adds its own few."""
    return grouped_parser(description or "STDC-Seg in PaddlePaddle", [_GROUPS[group] for group in groups])


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

    `weights` is a checkpoint folder or a file in one. InputError where its state cannot be read.
    """
    return read_remembered(weights, build_parser(), NETWORK_OPTIONS)


def parse_options_for_weights(
    argv: Sequence[str] | None, parser: argparse.ArgumentParser, required: bool = True
) -> argparse.Namespace:
    """Options, with the network options of the checkpoint in --resume or --weights as defaults.

    InputError if --weights, --resume or --pretrain_path names nothing that exists, or if --weights is `required` and
    not given.
    """
    kinds = "give .pdparams, a checkpoint folder or an official torch file (make train-stdcseg trains some)"
    return parse_for_weights(parse_options, argv, parser, remembered_options, kinds, required, ("pretrain_path",))
