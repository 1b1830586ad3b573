"""Every option of this folder: the reference's names and defaults, grouped.

Reference: fundamentalvision/Deformable-DETR at commit 11169a6. Left out are its options that do nothing there and those
of its masks (NOTES 1.5). Added are a smaller ResNet with trainable norms and the sizes of images, which make training
from scratch on small images possible. Each option may be written with dashes or with underscores. `parse_options([])`
gives the reference's defaults; only paths differ, which are relative to this folder.
"""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from shared import InputError
from shared.running.options import (
    Group,
    PaperOptions,
    count,
    finite,
    fraction,
    not_negative,
    positive_float,
    positive_int,
    whole_number,
)
from shared.weights import WeightFile, read_weights

FOLDER = Path(__file__).resolve().parent

#: options that shape the network and the images that it is evaluated on: a checkpoint remembers them
NETWORK_OPTIONS = (
    "backbone",
    "backbone_norm",
    "dilation",
    "position_embedding",
    "num_feature_levels",
    "enc_layers",
    "dec_layers",
    "dim_feedforward",
    "hidden_dim",
    "dropout",
    "nheads",
    "num_queries",
    "dec_n_points",
    "enc_n_points",
    "with_box_refine",
    "two_stage",
    "aux_loss",
    "num_classes",
    "val_size",
    "max_size",
)

#: options that the tensors of weights do not show, and the command line in an official checkpoint does
UNSHOWN_OPTIONS = ("dilation", "nheads", "enc_n_points", "dec_n_points", "num_queries", "dropout", "aux_loss")

BACKBONES = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
NO_WEIGHTS = "give an official .pth, a .pdparams (convert.py makes one) or a checkpoint folder (train.py makes them)"

# limits that keep a wrong number from taking the machine
_layers, _points, _width = whole_number(1, 100), whole_number(1, 64), whole_number(1, 16_384)
_side = whole_number(1, 16_384)  # of an image


def add_network_options(parser: argparse.ArgumentParser) -> None:
    """The options that shape the network (NOTES 3)."""
    group = Group(parser, "network")
    text = "the ResNet; 18 and 34 are not in the reference"
    group.add("--backbone", choices=BACKBONES, default="resnet50", help=text)
    text = (
        "frozen: constant norms, and only layer2 to layer4 are trained, as in the reference; batch: ordinary batch "
        "norms, and the whole ResNet is trained, for a start without ImageNet weights"
    )
    group.add("--backbone_norm", choices=["frozen", "batch"], default="frozen", help=text)
    group.add("--dilation", action="store_true", help="stride 16 instead of 32 in the last stage (DC5)")
    group.add("--position_embedding", choices=["sine", "learned"], default="sine", help="of the feature maps")
    text = "feature maps; 1: the last stage's; more: those of strides 8, 16, 32, then strided convolutions of the last"
    group.add("--num_feature_levels", type=whole_number(1, 10), default=4, metavar="L", help=text)
    group.add("--enc_layers", type=_layers, default=6, metavar="N", help="encoder layers")
    group.add("--dec_layers", type=_layers, default=6, metavar="N", help="decoder layers")
    group.add("--dim_feedforward", type=_width, default=1024, metavar="N", help="width inside the FFNs")
    group.add("--hidden_dim", type=_width, default=256, metavar="N", help="width of the tokens")
    group.add("--dropout", type=fraction, default=0.1, metavar="P", help="in the transformer")
    group.add("--nheads", type=_width, default=8, metavar="N", help="attention heads")
    text = "object queries; with --two_stage also the number of proposals"
    group.add("--num_queries", type=whole_number(1, 100_000), default=300, metavar="N", help=text)
    group.add("--dec_n_points", type=_points, default=4, metavar="N", help="points per head and level, decoder")
    group.add("--enc_n_points", type=_points, default=4, metavar="N", help="points per head and level, encoder")
    group.add("--with_box_refine", action="store_true", help="iterative bounding-box refinement")
    group.add("--two_stage", action="store_true", help="queries from the encoder's proposals; needs --with_box_refine")
    text = "no losses of the earlier decoder layers, and none of the encoder's proposals"
    group.add("--no_aux_loss", dest="aux_loss", action="store_false", help=text)
    text = "logits per query: the largest category id + 1 (COCO: 91)"
    group.add("--num_classes", type=whole_number(1, 100_000), default=91, metavar="N", help=text)


def add_size_options(parser: argparse.ArgumentParser) -> None:
    """The sizes of images outside training (NOTES 2.4)."""
    group = Group(parser, "image sizes")
    text = "short side in validation, evaluation and demo"
    group.add("--val_size", type=_side, default=800, metavar="N", help=text)
    group.add("--max_size", type=_side, default=1333, metavar="N", help="limit of the long side")


def _add_reading_options(parser: argparse.ArgumentParser) -> None:
    group = Group(parser, "reading images")
    text = "COCO's folder: train2017, val2017, annotations"
    group.add("--data_path", "--coco_path", default=None, metavar="DIR", help=text)
    group.add("--batch_size", type=positive_int, default=2, metavar="N", help="images per process and step")
    group.add("--num_workers", type=count, default=2, metavar="N", help="loader processes (0: none)")


def _add_augmentation_options(parser: argparse.ArgumentParser) -> None:
    group = Group(parser, "augmentation")
    scales = list(range(480, 801, 32))
    text = "short sides drawn from in training (480 512 ... 800)"
    group.add("--scales", type=_side, nargs="+", default=scales, metavar="N", help=text)
    text = "short sides before the crop (400 500 600)"
    group.add("--crop_sides", type=_side, nargs="+", default=[400, 500, 600], metavar="N", help=text)
    text = "smallest and largest side of the crop (384 600)"
    group.add("--crop_range", type=_side, nargs=2, default=[384, 600], metavar="N", help=text)


def _add_optimisation_options(parser: argparse.ArgumentParser) -> None:
    group = Group(parser, "optimisation")
    group.add("--lr", type=positive_float, default=2e-4, metavar="LR", help="learning rate")
    text = "name parts of the parameters with the backbone's learning rate"
    group.add("--lr_backbone_names", nargs="+", default=["backbone.0"], metavar="NAME", help=text)
    text = "the backbone's learning rate; 0 or less: the backbone is frozen"
    group.add("--lr_backbone", type=finite, default=2e-5, metavar="LR", help=text)
    text = "name parts of the parameters with a learning rate of their own"
    default = ["reference_points", "sampling_offsets"]
    group.add("--lr_linear_proj_names", nargs="+", default=default, metavar="NAME", help=text)
    group.add("--lr_linear_proj_mult", type=positive_float, default=0.1, metavar="F", help="that rate divided by --lr")
    group.add(
        "--weight_decay", type=not_negative, default=1e-4, metavar="W", help="decoupled weight decay of every parameter"
    )
    group.add("--epochs", type=positive_int, default=50, metavar="N")
    group.add(
        "--lr_drop",
        type=positive_int,
        default=40,
        metavar="N",
        help="epochs between drops of the learning rate to a tenth",
    )
    text = "largest L2 norm of all gradients together; 0 or less: no limit"
    group.add("--clip_max_norm", type=finite, default=0.1, metavar="X", help=text)
    group.add("--sgd", action="store_true", help="SGD with momentum 0.9 instead of AdamW")


def add_loss_options(parser: argparse.ArgumentParser) -> None:
    """The options that shape matching and losses (NOTES 5)."""
    group = Group(parser, "matching and losses")
    group.add("--set_cost_class", type=not_negative, default=2.0, metavar="W", help="the matcher's class cost")
    group.add("--set_cost_bbox", type=not_negative, default=5.0, metavar="W", help="the matcher's L1 cost")
    group.add("--set_cost_giou", type=not_negative, default=2.0, metavar="W", help="the matcher's GIoU cost")
    group.add("--cls_loss_coef", type=not_negative, default=2.0, metavar="W", help="weight of the focal loss")
    group.add("--bbox_loss_coef", type=not_negative, default=5.0, metavar="W", help="weight of the L1 loss")
    group.add("--giou_loss_coef", type=not_negative, default=2.0, metavar="W", help="weight of the GIoU loss")
    group.add("--focal_alpha", type=not_negative, default=0.25, metavar="A", help="alpha of the focal loss")


def _add_run_options(parser: argparse.ArgumentParser) -> None:
    group = Group(parser, "run")
    group.add("--weights", default=None, metavar="W", help="official .pth, .pdparams, or checkpoint folder")
    group.add("--device", default="cpu", choices=["cpu", "gpu"], help="where to compute")


def _add_output_options(parser: argparse.ArgumentParser) -> None:
    group = Group(parser, "output")
    default = str(FOLDER / "output" / "train")
    group.add("--output_dir", default=default, metavar="DIR", help="folder of the results")


def _add_training_options(parser: argparse.ArgumentParser) -> None:
    group = Group(parser, "training")
    group.add(
        "--pretrain_path",
        default="pretrained",
        metavar="INIT",
        help="the ResNet: pretrained (torchvision's ImageNet file, in pretrained/), scratch, or a file",
    )
    group.add("--resume", default=None, metavar="CHECKPOINT", help="resume a training, e.g. from OUTPUT_DIR/latest")
    group.add("--max_steps", type=positive_int, default=None, metavar="N", help="stop after N steps in all")
    group.add("--log_frequency", type=positive_int, default=10, metavar="N", help="steps between log lines")
    group.add("--eval_frequency", type=positive_int, default=1, metavar="N", help="epochs between validations")
    text = "also save a checkpoint every N steps; 0: only after epochs"
    group.add("--checkpoint_steps", type=count, default=0, metavar="N", help=text)
    group.add("--seed", type=count, default=42, metavar="S", help="seed of weights, order, augmentation and dropout")
    group.add("--amp", action="store_true", help="mixed precision (float16 on a GPU, bfloat16 on a CPU)")


_GROUPS = {
    "run": _add_run_options,
    "output": _add_output_options,
    "network": add_network_options,
    "sizes": add_size_options,
    "reading": _add_reading_options,
    "augmentation": _add_augmentation_options,
    "optimisation": _add_optimisation_options,
    "losses": add_loss_options,
    "training": _add_training_options,
}


def _check(options: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Ends in `parser.error` for values that do not fit each other."""
    if options.hidden_dim % options.nheads:
        parser.error(f"argument --hidden_dim: {options.hidden_dim} is no multiple of --nheads {options.nheads}")
    if options.hidden_dim % 32:
        parser.error(f"argument --hidden_dim: {options.hidden_dim} is no multiple of 32, the groups of its norms")
    if options.two_stage and not options.with_box_refine:
        parser.error("argument --two_stage: needs --with_box_refine")
    if options.backbone in ("resnet18", "resnet34") and options.dilation:
        parser.error(f"argument --dilation: {options.backbone} has no dilated form; take resnet50 or deeper")
    if options.crop_range[0] > options.crop_range[1]:
        parser.error("argument --crop_range: the smallest side comes first")


_OPTIONS = PaperOptions("Deformable DETR in PaddlePaddle", _GROUPS, NETWORK_OPTIONS, NO_WEIGHTS, check=_check)
build_parser = _OPTIONS.build_parser
parse_options = _OPTIONS.parse_options


def parse_options_for_weights(
    argv: Sequence[str] | None, parser: argparse.ArgumentParser, needed: bool = True
) -> argparse.Namespace:
    """`parse_options`, with the network's options of --resume, else of --weights, as defaults (`stored_options`)."""
    return _OPTIONS.parse_options_for_weights(argv, parser, needed, stored_options)


def stored_options(path: str | Path | None) -> dict:
    """The network's options that weights hold, {} without `path`.

    All NETWORK_OPTIONS from a checkpoint of train.py; from other files what their tensors and an official command line
    show. InputError where they cannot be read or are not a Deformable DETR.
    """
    if path is None:
        return {}
    return _OPTIONS.remembered_options(str(path)) or describe(read_weights(path))


def describe(file: WeightFile) -> dict:
    """The network's options that the tensors of `file` and an official command line in it show."""
    tensors = file.tensors

    def count(pattern: str) -> int:
        return len({match[1] for match in map(re.compile(pattern).match, tensors) if match})

    def size(name: str, axis: int) -> int:
        array = tensors.get(name)
        if array is None or array.ndim <= axis:
            raise InputError(f"{file.path}: has no {name} of a Deformable DETR; give weights of one")
        return array.shape[axis]

    width = size("transformer.level_embed", 1)
    deep = "backbone.0.body.layer3.0.conv3.weight" in tensors
    layers = {(2, False): 18, (6, False): 34, (6, True): 50, (23, True): 101, (36, True): 152}
    resnet = layers.get((count(r"backbone\.0\.body\.layer3\.(\d+)\."), deep))
    if resnet is None:
        raise InputError(f"{file.path}: has no ResNet of 18, 34, 50, 101 or 152 layers; give Deformable DETR weights")
    sides = {size("class_embed.0.weight", axis) for axis in (0, 1)}
    norm = "backbone.0.body.bn1."
    trained_norms = norm + "_mean" in tensors or norm + "num_batches_tracked" in tensors
    options = {
        "backbone": f"resnet{resnet}",
        "backbone_norm": "batch" if trained_norms else "frozen",
        "position_embedding": "learned" if "backbone.1.row_embed.weight" in tensors else "sine",
        "num_feature_levels": size("transformer.level_embed", 0),
        "hidden_dim": width,
        "enc_layers": count(r"transformer\.encoder\.layers\.(\d+)\."),
        "dec_layers": count(r"transformer\.decoder\.layers\.(\d+)\."),
        "num_classes": max(sides - {width}, default=width),
        "with_box_refine": any(name.startswith("transformer.decoder.bbox_embed.") for name in tensors),
        "two_stage": "transformer.enc_output.weight" in tensors,
    }
    if not options["two_stage"]:
        options["num_queries"] = size("query_embed.weight", 0)
    if "transformer.encoder.layers.0.linear1.bias" in tensors:
        options["dim_feedforward"] = size("transformer.encoder.layers.0.linear1.bias", 0)
    args = file.meta.get("args")
    if isinstance(args, dict):
        defaults = vars(parse_options([]))
        options |= {name: args[name] for name in UNSHOWN_OPTIONS if type(args.get(name)) is type(defaults[name])}
    return options
