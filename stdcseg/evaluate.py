"""mIoU of given weights on Cityscapes.

    python evaluate.py --weights output/best --data_path data/mini
    python evaluate.py --weights model_maxmIOU75.pth --data_path CITYSCAPES --scale 0.75 --engine inference
    python evaluate.py --weights W --data_path CITYSCAPES --multi_scale 0.75 1 1.25 --flip --crop_eval 1024

Each scale of --scale gives its own figure (0.5 is the paper's Seg50, 0.75 its Seg75); --multi_scale sums its scales
into one figure. The network's options come from the checkpoint if --weights is one.
"""

from shared import run, set_up

set_up()

from collections.abc import Sequence

from shared.files import write_json
from shared.running.launch import use_device
from shared.running.options import Group, positive_float, positive_int

from constants import class_names
from convert import load_official
from datasets import CityScapes, EvalTransform
from deploy import exported_segment
from engine import dygraph_segment, evaluate
from metrics import Protocol
from models import build_model
from options import build_parser, parse_options_for_weights

SCALES = (0.5, 0.75)


def main(argv: Sequence[str] | None = None) -> None:
    parser = build_parser(__doc__, ("run", "network", "data"))
    add = Group(parser, "evaluation").add
    help_text = f"one figure for each of these scales (default {' '.join(map(str, SCALES))}; none with --multi_scale)"
    add("--scale", nargs="+", type=positive_float, default=None, metavar="S", help=help_text)
    help_text = "one figure for the sum over these scales"
    add("--multi_scale", nargs="+", type=positive_float, metavar="S", help=help_text)
    add("--flip", action="store_true", help="add the softmax of the mirrored images")
    help_text = "in overlapping windows of SIZE x SIZE of the scaled image, as the reference's sliding window"
    add("--crop_eval", type=positive_int, metavar="SIZE", help=help_text)
    add("--split", default="val", help="which images")
    add("--engine", default="dygraph", choices=["dygraph", "inference", "onnx"], help="what computes")
    add("--output", default=None, metavar="JSON", help="also write the metrics to this file")
    options = parse_options_for_weights(argv, parser)
    single = options.scale or (() if options.multi_scale else SCALES)
    protocols = [Protocol((scale,), options.flip, options.crop_eval) for scale in dict.fromkeys(single)]
    if options.multi_scale:
        protocols.append(Protocol(tuple(options.multi_scale), options.flip, options.crop_eval))

    use_device(options.device)
    dataset = CityScapes(options.data_path, options.split, EvalTransform())  # whole images, those of train too
    model = build_model(options)
    load_official(model, options.weights)
    segment = dygraph_segment(model) if options.engine == "dygraph" else exported_segment(model, options)
    matrices = evaluate(segment, dataset, options, protocols)

    names = class_names(options.num_classes)
    for protocol, matrix in zip(protocols, matrices, strict=True):
        print(f"{protocol.name}\n{matrix.table(names)}\n")
    for protocol, matrix in zip(protocols, matrices, strict=True):
        print(
            f"{protocol.name}: mIoU {100 * matrix.miou_present():.2f} % over {matrix.present()} of {len(names)} "
            f"classes, pixel accuracy {100 * matrix.pixel_accuracy():.2f} %  ({len(dataset)} images, {options.engine})"
        )
    if options.output:
        metrics = {protocol.name: matrix.figures(names) for protocol, matrix in zip(protocols, matrices, strict=True)}
        write_json(options.output, metrics | {"images": len(dataset)})


if __name__ == "__main__":
    run(main)
