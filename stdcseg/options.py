"""Every option of this folder, in groups: names, defaults and constants of the reference's train.py (NOTES 2).

Each option may be written with dashes or with underscores. `parse_options([])` gives the reference's defaults with one
exception: its default backbone, CatNetSmall, does not exist (NOTES 2.3); here it is STDCNet813.
"""

import argparse
from pathlib import Path

from shared.running.options import (
    Group,
    PaperOptions,
    boolean,
    count,
    not_negative,
    open_share,
    positive_float,
    positive_int,
    whole_number,
)

FOLDER = Path(__file__).resolve().parent

BACKBONES = ("STDCNet813", "STDCNet1446")
#: the 12 scales of the reference's training script, 0.125 to 1.5 (NOTES 2.1)
SCALES = tuple(step / 8 for step in range(1, 13))
#: options that define the network: what evaluate, demo, export and convert take from a checkpoint
NETWORK_OPTIONS = ("backbone", "num_classes", "base", "use_conv_last", *(f"use_boundary_{s}" for s in (2, 4, 8, 16)))


def add_network_options(parser: argparse.ArgumentParser) -> None:
    """The options that define the network (NOTES 2, 4)."""
    add = Group(parser, "network").add
    add("--backbone", choices=BACKBONES, default="STDCNet813", help="STDCNet813 is STDC1, STDCNet1446 is STDC2")
    add("--num_classes", type=whole_number(1, 10_000), default=19, metavar="N", help="classes of the segmentation")
    add("--base", type=whole_number(1, 1024), default=64, metavar="C", help="width of the backbone; 64 in the paper")
    help_text = "1x1 convolution on the 1/32 feature"
    add("--use_conv_last", type=boolean, default=False, metavar="BOOL", help=help_text)
    for stride in (2, 4, 8, 16):
        help_text = f"detail head on the 1/{stride} feature" if stride < 16 else "does nothing, as in the reference"
        add(f"--use_boundary_{stride}", type=boolean, default=False, metavar="BOOL", help=help_text)


def _add_data_options(parser: argparse.ArgumentParser) -> None:
    add = Group(parser, "data").add
    add("--data_path", default=None, metavar="DIR", help="Cityscapes: folder with leftImg8bit/ and gtFine/")
    add("--mode", default="train", metavar="SPLIT", help="split to train on: train, or trainval if you made one")
    help_text = "images per process and step"
    add("--n_img_per_gpu", "--batch_size", type=positive_int, default=16, metavar="N", help=help_text)
    help_text = "loader processes of training (0: none)"
    add("--n_workers_train", "--num_workers", type=count, default=8, metavar="N", help=help_text)
    add("--n_workers_val", type=count, default=0, metavar="N", help="loader processes of evaluation (0: none)")


def _add_augmentation_options(parser: argparse.ArgumentParser) -> None:
    add, side = Group(parser, "augmentation").add, whole_number(1, 16_384)
    help_text = "random crop in training"
    add("--crop_size", type=side, nargs=2, default=[1024, 512], metavar=("W", "H"), help=help_text)
    help_text = "strength of the random brightness, contrast and saturation"
    add("--colour_jitter", type=not_negative, default=0.5, metavar="V", help=help_text)
    help_text = "factors of the random scale, all equally likely"
    add("--scales", type=positive_float, nargs="+", default=list(SCALES), metavar="S", help=help_text)


def _add_optimisation_options(parser: argparse.ArgumentParser) -> None:
    add = Group(parser, "optimisation").add
    add("--max_iter", type=positive_int, default=40000, metavar="N", help="iterations; 60000 in the published runs")
    help_text = "base learning rate; the fusion module and the heads have 10 times it"
    add("--lr", type=positive_float, default=1e-2, metavar="LR", help=help_text)
    add("--momentum", type=not_negative, default=0.9, metavar="M")
    add("--weight_decay", type=not_negative, default=5e-4, metavar="W", help="of convolutions; norms have none")
    add(
        "--lr_scheduler",
        choices=["warmup_poly", "Warmup_PolyDecay"],
        default="warmup_poly",
        help="warmup_poly: the reference's, exponential warm-up; Warmup_PolyDecay: the earlier Paddle port's, linear",
    )
    add("--warmup_steps", type=count, default=1000, metavar="N", help="iterations of the warm-up")
    add("--warmup_start_lr", type=positive_float, default=1e-5, metavar="LR", help="first rate of the warm-up")
    add("--power", type=positive_float, default=0.9, metavar="P", help="of the polynomial decay")
    add("--train_backbone_norms", action="store_true", help="also train the backbone's norms (not in the reference)")


def _add_loss_options(parser: argparse.ArgumentParser) -> None:
    add = Group(parser, "losses").add
    help_text = "a pixel is hard if the probability of its class is below this"
    add("--ohem_thresh", type=open_share, default=0.7, metavar="P", help=help_text)
    help_text = "smallest number of pixels in the loss; default: a sixteenth of a batch"
    add("--n_min", type=count, default=None, metavar="N", help=help_text)
    help_text = "weights of the boundary maps: shrinking by weight decay as in the reference, or constant"
    add("--fuse_kernel", choices=["decayed", "fixed"], default="decayed", help=help_text)


def _add_run_options(parser: argparse.ArgumentParser) -> None:
    add = Group(parser, "run").add
    help_text = ".pdparams, checkpoint folder or official torch file of the whole network"
    add("--weights", "--ckpt", default=None, metavar="W", help=help_text)
    add("--device", default="cpu", choices=["cpu", "gpu"], help="where to compute")


def _add_output_options(parser: argparse.ArgumentParser) -> None:
    add = Group(parser, "output").add
    add("--output_dir", "--respath", default=str(FOLDER / "output"), metavar="DIR", help="where results go")


def _add_training_options(parser: argparse.ArgumentParser) -> None:
    add = Group(parser, "training").add
    help_text = "backbone to start from: the official archive (STDCNet813M_73.91.tar) or a .pdparams of it"
    add("--pretrain_path", default=None, metavar="W", help=help_text)
    add("--resume", default=None, metavar="CHECKPOINT", help="continue a training, e.g. from OUTPUT_DIR/latest")
    add("--max_steps", type=positive_int, default=None, metavar="N", help="stop after N steps in all")
    add("--save_iter_sep", type=positive_int, default=1000, metavar="N", help="validate and save every N steps")
    help_text = "also save every N steps; 0: only after a validation"
    add("--checkpoint_steps", type=count, default=0, metavar="N", help=help_text)
    help_text = "validate at these scales; the best weights of each are kept"
    add("--val_scales", type=positive_float, nargs="+", default=[0.5, 0.75], metavar="S", help=help_text)
    add("--msg_iter", "--log_frequency", type=positive_int, default=50, metavar="N", help="steps between log lines")
    add("--seed", type=whole_number(0, 2**32 - 1), default=0, metavar="S", help="of weights, order and augmentation")
    add("--amp", action="store_true", help="mixed precision (float16 on a GPU, bfloat16 on a CPU)")
    help_text = "batch statistics of the backbone over all processes, as those of all other norms always are"
    add("--sync_bn", action="store_true", help=help_text)


_GROUPS = {
    "run": _add_run_options,
    "output": _add_output_options,
    "network": add_network_options,
    "data": _add_data_options,
    "augmentation": _add_augmentation_options,
    "optimisation": _add_optimisation_options,
    "losses": _add_loss_options,
    "training": _add_training_options,
}


_OPTIONS = PaperOptions(
    "STDC-Seg in PaddlePaddle",
    _GROUPS,
    NETWORK_OPTIONS,
    hint="give .pdparams, a checkpoint folder or an official torch file (make train-stdcseg trains some)",
    files=("pretrain_path",),
)
build_parser = _OPTIONS.build_parser
parse_options = _OPTIONS.parse_options
network_options_of = _OPTIONS.remembered_options
parse_options_for_weights = _OPTIONS.parse_options_for_weights
