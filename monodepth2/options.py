"""Every option of this folder: the reference's names and defaults, grouped.

Reference: nianticlabs/monodepth2 (NOTES 1.1), with the options that the earlier Paddle port added (NOTES 1.4). Each
option may be written with dashes or with underscores. `parse_options([])` gives the reference's defaults, except for
default paths, which start at this folder.
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
    whole_number,
)

FOLDER = Path(__file__).resolve().parent

#: options that shape the network or the meaning of its output: what a checkpoint remembers, and what convert.py needs
NETWORK_OPTIONS = tuple(
    "num_layers height width scales frame_ids use_stereo pose_model_type pose_model_input predictive_mask min_depth "
    "max_depth".split()
)

WEIGHTS_HINT = "give a folder of official .pth files, a .pdparams (of convert.py) or a checkpoint folder (of train.py)"
LAYERS = (18, 34, 50, 101, 152)
LARGEST_SIDE = 8192
SUBMODELS = ("encoder", "depth", "pose_encoder", "pose", "predictive_mask")


def image_side(text: str | int) -> int:
    """A height or width of the network's input: divisible by 2 five times, with two pixels left to mirror.

    Raises argparse.ArgumentTypeError for another.
    """
    value = int(text)
    if value % 32 or not 64 <= value <= LARGEST_SIDE:
        raise argparse.ArgumentTypeError(f"{value} is not a multiple of 32 from 64 to {LARGEST_SIDE}")
    return value


def add_network_options(parser: argparse.ArgumentParser) -> None:
    """The options that shape the network (NOTES 1, 3)."""
    group = Group(parser, "network")
    group.add("--num_layers", type=int, choices=LAYERS, default=18, help="depth of the ResNets")
    group.add("--height", type=image_side, default=192, metavar="H", help="input height, a multiple of 32 from 64 on")
    group.add("--width", type=image_side, default=640, metavar="W", help="input width, a multiple of 32 from 64 on")
    text = "scales predicted and used in the loss, 0 to 3"
    group.add("--scales", type=int, nargs="+", choices=range(4), default=[0, 1, 2, 3], metavar="S", help=text)
    text = "frames of an item, as offsets; the first must be 0"
    group.add("--frame_ids", type=whole_number(-99, 99), nargs="+", default=[0, -1, 1], metavar="F", help=text)
    group.add("--use_stereo", action="store_true", help="add the other camera's image to the source frames")
    text = "a ResNet of its own, the depth network's encoder, or the small PoseCNN"
    kinds = ["separate_resnet", "shared", "posecnn"]
    group.add("--pose_model_type", choices=kinds, default="separate_resnet", help=text)
    text = "frames that the pose network sees at once"
    group.add("--pose_model_input", choices=["pairs", "all"], default="pairs", help=text)
    text = "predict a mask as Zhou et al. do; needs --disable_automasking"
    group.add("--predictive_mask", action="store_true", help=text)
    group.add("--min_depth", type=positive_float, default=0.1, metavar="D", help="depth where the disparity is 1")
    group.add("--max_depth", type=positive_float, default=100.0, metavar="D", help="depth where the disparity is 0")


def _add_reading_options(parser: argparse.ArgumentParser) -> None:
    group = Group(parser, "reading")
    group.add("--data_path", default=None, metavar="DIR", help="KITTI: folder with the dates, or with sequences/")
    group.add("--split", default="eigen_zhou", help="split to train on: eigen_zhou, eigen_full, odom, benchmark, mini")
    text = "folder of the splits' folders of text files"
    group.add("--split_dir", default=str(FOLDER / "splits"), metavar="DIR", help=text)
    group.add("--dataset", choices=["kitti", "kitti_odom", "kitti_depth"], default="kitti", help="layout of the data")
    group.add("--png", action="store_true", help="read .png instead of .jpg")
    group.add("--num_workers", type=count, default=12, metavar="N", help="loader processes (0: none)")


def _add_augmentation_options(parser: argparse.ArgumentParser) -> None:
    group = Group(parser, "augmentation")
    text = "filter of the images; the earlier Paddle port's published figures were made with nearest"
    group.add("--resize", choices=["lanczos", "nearest"], default="lanczos", help=text)
    text = "one draw of the colour jitter for all images of an item, or one for each, as in the earlier port"
    group.add("--jitter", choices=["per_item", "per_image"], default="per_item", help=text)


def _add_optimisation_options(parser: argparse.ArgumentParser) -> None:
    group = Group(parser, "optimisation")
    group.add("--batch_size", type=positive_int, default=12, metavar="N", help="items per process and step")
    group.add("--learning_rate", "--lr", type=positive_float, default=1e-4, metavar="LR", help="of Adam")
    group.add("--num_epochs", "--epochs", type=positive_int, default=20, metavar="N")
    text = "epochs between drops of the rate to a tenth"
    group.add("--scheduler_step_size", type=positive_int, default=15, metavar="N", help=text)
    text = (
        "when the schedule counts an epoch: at its end (15 epochs before the drop, as the paper trained), or at its "
        "start (14, as in the reference since torch 1.1 and in the earlier port)"
    )
    group.add("--scheduler_step_at", choices=["end", "start"], default="end", help=text)
    group.add("--sync_bn", action="store_true", help="batch norm statistics over all processes together")
    group.add("--freeze_bn", action="store_true", help="batch norms keep their stored statistics in training")


def add_loss_options(parser: argparse.ArgumentParser) -> None:
    """The options that shape the losses (NOTES 5)."""
    group = Group(parser, "losses")
    group.add("--disparity_smoothness", type=not_negative, default=1e-3, metavar="W", help="weight of the smoothness")
    group.add("--v1_multiscale", action="store_true", help="losses at each scale's own resolution")
    group.add("--avg_reprojection", action="store_true", help="mean over the sources instead of their minimum")
    group.add("--disable_automasking", action="store_true", help="no comparison with the unwarped sources")
    group.add("--no_ssim", action="store_true", help="absolute difference alone")
    text = "of the warp: true as the reference was trained (torch up to 1.2), false as in today's torch"
    group.add("--align_corners", type=boolean, default=True, metavar="BOOL", help=text)


def _add_run_options(parser: argparse.ArgumentParser) -> None:
    group = Group(parser, "run")
    text = "folder of official .pth files, .pdparams, or checkpoint folder"
    group.add("--weights", "--load_weights_folder", default=None, metavar="W", help=text)
    group.add("--device", default="cpu", choices=["cpu", "gpu"], help="where to compute")
    group.add("--no_cuda", dest="device", action="store_const", const="cpu", help="the same as --device cpu")


def _add_output_options(parser: argparse.ArgumentParser) -> None:
    group = Group(parser, "output")
    group.add("--output_dir", default=None, metavar="DIR", help="where results go; default: LOG_DIR/MODEL_NAME")
    group.add("--log_dir", default=str(FOLDER / "output"), metavar="DIR", help="folder of the runs' folders")
    group.add("--model_name", default="mdp", metavar="NAME", help="the run's folder")


def _add_training_options(parser: argparse.ArgumentParser) -> None:
    group = Group(parser, "training")
    text = (
        "first weights of the ResNets: pretrained (torchvision's, in pretrained/), paddle_pretrained (Paddle's, there "
        "too), scratch, or a file of either"
    )
    group.add("--weights_init", default="pretrained", metavar="INIT", help=text)
    text = "sub-networks taken from --weights"
    default = ["encoder", "depth", "pose_encoder", "pose"]
    group.add("--models_to_load", nargs="+", choices=SUBMODELS, default=default, metavar="PART", help=text)
    group.add("--resume", default=None, metavar="CHECKPOINT", help="continue a training, e.g. from OUTPUT_DIR/latest")
    group.add("--max_steps", type=positive_int, default=None, metavar="N", help="stop after N steps in all")
    group.add("--log_frequency", type=positive_int, default=250, metavar="N", help="batches between log lines")
    group.add("--save_frequency", type=positive_int, default=1, metavar="N", help="epochs between saves of the weights")
    text = "also save a checkpoint every N steps; 0: only after epochs"
    group.add("--checkpoint_steps", type=count, default=0, metavar="N", help=text)
    group.add("--seed", type=count, default=0, metavar="S", help="of weights, order, augmentation and noise")
    group.add("--amp", action="store_true", help="mixed precision (float16 on a GPU, bfloat16 on a CPU)")


def _add_evaluation_options(parser: argparse.ArgumentParser) -> None:
    group = Group(parser, "evaluation")
    group.add("--eval_stereo", action="store_true", help="scale by the baseline (5.4), no median scaling")
    text = "median scaling; default: as the weights were trained"
    group.add("--eval_mono", action="store_true", help=text)
    group.add("--disable_median_scaling", action="store_true", help="keep the scale of the prediction")
    text = "multiplies predicted depth"
    group.add("--pred_depth_scale_factor", type=positive_float, default=1.0, metavar="F", help=text)
    text = ".npy of disparities (N, h, w) to score instead of running a network"
    group.add("--ext_disp_to_eval", default=None, metavar="FILE", help=text)
    text = "eigen, eigen_benchmark, benchmark, odom_9, odom_10, mini"
    group.add("--eval_split", default="eigen", metavar="SPLIT", help=text)
    text = "ground truth; default: SPLIT_DIR/EVAL_SPLIT/gt_depths.npz, or read from the data set where that is missing"
    group.add("--gt_path", default=None, metavar="FILE", help=text)
    group.add("--save_pred_disps", action="store_true", help="write disps_SPLIT_split.npy")
    group.add("--no_eval", action="store_true", help="stop after predicting")
    text = "re-index external disparities of the 697 Eigen images to the 652 of the benchmark"
    group.add("--eval_eigen_to_benchmark", action="store_true", help=text)
    text = "where saved disparities and benchmark images go; default: beside the weights"
    group.add("--eval_out_dir", default=None, metavar="DIR", help=text)
    group.add("--post_process", action="store_true", help="blend with the disparity of the mirrored image")


_GROUPS = {
    "run": _add_run_options,
    "output": _add_output_options,
    "network": add_network_options,
    "reading": _add_reading_options,
    "augmentation": _add_augmentation_options,
    "optimisation": _add_optimisation_options,
    "losses": add_loss_options,
    "training": _add_training_options,
    "evaluation": _add_evaluation_options,
}


def _check(options: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Ends in `parser.error` for values that do not fit each other."""
    if options.frame_ids[0] != 0 or len(set(options.frame_ids)) != len(options.frame_ids):
        parser.error("argument --frame_ids: the first must be 0, and none may be repeated")
    if len(set(options.scales)) != len(options.scales):
        parser.error("argument --scales: none may be repeated")
    trains = any(action.dest == "no_ssim" for action in parser._actions)
    if trains and len(options.frame_ids) == 1 and not options.use_stereo:
        parser.error("argument --frame_ids: 0 alone gives no source frame; add others or --use_stereo")
    if options.min_depth >= options.max_depth:
        parser.error("argument --min_depth: must be below --max_depth")
    if trains and options.predictive_mask and not options.disable_automasking:
        parser.error("argument --predictive_mask: needs --disable_automasking")


OPTIONS = PaperOptions("Monodepth2 in PaddlePaddle", _GROUPS, NETWORK_OPTIONS, WEIGHTS_HINT, check=_check)
build_parser = OPTIONS.build_parser
parse_options = OPTIONS.parse_options
remembered_options = OPTIONS.remembered_options


def sources(options: argparse.Namespace) -> list:
    """The source frames, in the reference's order: the integers after 0, then "s" for the other camera."""
    return [*options.frame_ids[1:], *(["s"] if options.use_stereo else [])]


def output_folder(options: argparse.Namespace, beside: str) -> Path:
    """--eval_out_dir, or else the folder of the file or folder `beside`."""
    if options.eval_out_dir:
        return Path(options.eval_out_dir)
    path = Path(beside)
    return path if path.is_dir() else path.parent
