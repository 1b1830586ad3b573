"""mIoU of given weights on Cityscapes.

    python evaluate.py --weights output/best --data_path data/mini
    python evaluate.py --weights model_maxmIOU75.pth --data_path CITYSCAPES --scale 0.75 --engine inference
    python evaluate.py --weights W --data_path CITYSCAPES --multi_scale 0.75 1 1.25 --flip --crop_eval 1024

Each scale of --scale is a figure of its own (0.5 is the paper's Seg50, 0.75 its Seg75); --multi_scale sums its scales
into one figure. The network's options come from the checkpoint if it is one.
"""

import argparse
import json
import math
from collections.abc import Sequence

import paddle
import paddle.distributed as dist
from tqdm import tqdm

from shared import InputError, run
from shared.running.options import positive_float, positive_int
from shared.weights import atomic_write_text

from convert import load_official
from datasets import CLASS_NAMES, CityScapes, EpochBatchSampler, EvalTransform, build_loader
from inference import Protocol, Segment
from metrics import ConfusionMatrix
from models import build_model
from options import build_parser, parse_options_for_weights

SCALES = (0.5, 0.75)


def dygraph_segment(model: paddle.nn.Layer) -> Segment:
    """images [N, 3, H, W] -> logits [N, K, H, W] by the network as it is, in eval mode and without gradients."""

    def segment(images: paddle.Tensor) -> paddle.Tensor:
        model.eval()
        with paddle.no_grad():
            return model.segment(images)

    return segment


def inference_segment(model: paddle.nn.Layer, options: argparse.Namespace) -> Segment:
    """The same through Paddle Inference, exported into a temporary folder first."""
    from export import exported_predictor

    engine = exported_predictor(model, options)
    return lambda images: paddle.to_tensor(engine(images.numpy()))


def evaluate_protocols(
    segment: Segment, dataset: CityScapes, options: argparse.Namespace, protocols: Sequence[Protocol]
) -> list[ConfusionMatrix]:
    """The confusion matrix over `dataset` by each protocol, all processes' shares together.

    Pictures are read one at a time and may differ in size. InputError, with the picture's path, for labels that are no
    class of the network.
    """
    matrices = [ConfusionMatrix(options.num_classes) for _ in protocols]
    rank, world = dist.get_rank(), dist.get_world_size()
    sampler = EpochBatchSampler(len(dataset), 1, shuffle=False, rank=rank, world=world)
    own = len(range(rank, len(dataset), world))  # the sampler fills the ranks up to the same count: count none twice
    loader = build_loader(dataset, sampler, options.n_workers_val)
    bar = tqdm(loader, desc="evaluate", unit="picture", leave=False, disable=None if rank == 0 else True)
    for number, (images, labels) in enumerate(bar):
        if number == own:
            break
        labels = labels.numpy()
        try:
            for protocol, matrix in zip(protocols, matrices, strict=True):
                matrix.update(protocol.predict(segment, images, labels.shape[1:]), labels)
        except InputError as error:
            raise InputError(f"{dataset.image_path(rank + number * world)}: {error}") from error
    if world > 1:
        for matrix in matrices:
            total = paddle.to_tensor(matrix.matrix)
            dist.all_reduce(total)
            matrix.matrix = total.numpy()
    return matrices


def class_names(num_classes: int) -> list[str]:
    """Cityscapes' names of its 19 classes, numbers for any other count."""
    return list(CLASS_NAMES) if num_classes == len(CLASS_NAMES) else [f"class {k}" for k in range(num_classes)]


def figures(matrix: ConfusionMatrix, names: Sequence[str]) -> dict:
    """What metrics.json holds of one matrix: shares from 0 to 1, None where there is none (NaN)."""

    def number(value: float) -> float | None:
        return None if math.isnan(value) else float(value)

    return {
        "miou": number(matrix.miou()),
        "miou_present": number(matrix.miou_present()),
        "pixel_accuracy": number(matrix.pixel_accuracy()),
        "iou": {name: number(value) for name, value in zip(names, matrix.iou(), strict=True)},
    }


def main(argv: Sequence[str] | None = None) -> None:
    parser = build_parser(__doc__, ("run", "network", "reading"))
    group = parser.add_argument_group("evaluation")
    text = f"one figure for each of these scales (default {' '.join(map(str, SCALES))}; none beside --multi_scale)"
    group.add_argument("--scale", nargs="+", type=positive_float, default=None, metavar="S", help=text)
    text = "one figure for the sum over these scales"
    group.add_argument("--multi_scale", "--multi-scale", nargs="+", type=positive_float, metavar="S", help=text)
    group.add_argument("--flip", action="store_true", help="add the mirrored pictures' softmax")
    text = "in overlapping windows of SIZE x SIZE of the scaled picture, as the reference's sliding window"
    group.add_argument("--crop_eval", "--crop-eval", type=positive_int, metavar="SIZE", help=text)
    group.add_argument("--split", default="val", help="which pictures")
    group.add_argument("--engine", default="dygraph", choices=["dygraph", "inference"], help="what computes")
    group.add_argument("--output", default=None, metavar="JSON", help="also write the metrics to this file")
    options = parse_options_for_weights(argv, parser)
    single = options.scale or (() if options.multi_scale else SCALES)
    protocols = [Protocol((scale,), options.flip, options.crop_eval) for scale in dict.fromkeys(single)]
    if options.multi_scale:
        protocols.append(Protocol(tuple(options.multi_scale), options.flip, options.crop_eval))

    paddle.set_device(options.device)
    dataset = CityScapes(options.data_path, options.split, EvalTransform())  # whole pictures, of train too
    model = build_model(options)
    load_official(model, options.weights)
    segment = dygraph_segment(model) if options.engine == "dygraph" else inference_segment(model, options)
    matrices = evaluate_protocols(segment, dataset, options, protocols)

    names = class_names(options.num_classes)
    metrics = {}
    for protocol, matrix in zip(protocols, matrices, strict=True):
        metrics[protocol.name] = figures(matrix, names)
        print(f"{protocol.name}\n{matrix.table(names)}\n")
    for protocol, matrix in zip(protocols, matrices, strict=True):
        present = sum(value is not None for value in metrics[protocol.name]["iou"].values())
        print(
            f"{protocol.name}: mIoU {100 * matrix.miou_present():.2f} % over {present} of {len(names)} classes, "
            f"pixel accuracy {100 * matrix.pixel_accuracy():.2f} %  ({len(dataset)} pictures, {options.engine})"
        )
    if options.output:
        atomic_write_text(options.output, json.dumps(metrics | {"images": len(dataset)}, indent=1) + "\n")


if __name__ == "__main__":
    run(main)
