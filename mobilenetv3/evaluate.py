"""Top-1 and top-5 accuracy of given weights on a folder of images.

    python evaluate.py --weights output/best --data_path data/mini
    python evaluate.py --weights mobilenet_v3_small-047dcff4.pth --data_path IMAGENET --engine inference

The network's options come from the checkpoint if it is one; folders of ImageNet synsets are labelled as in ImageNet.
"""

from shared import run, set_up

set_up()

from collections.abc import Sequence

from shared.files import write_json
from shared.running.launch import use_device

from convert import load_official
from datasets import build_dataset, classes_for, split_folder
from deploy import ENGINES, build_network
from engine import evaluate
from models import build_model
from options import build_parser, parse_options_for_weights, remembered_classes


def main(argv: Sequence[str] | None = None) -> None:
    parser = build_parser(__doc__, ("run", "network", "reading", "preprocessing"))
    parser.add_argument("--engine", default="dygraph", choices=["dygraph", *ENGINES], help="what computes")
    parser.add_argument("--output", default=None, metavar="JSON", help="also write the metrics to this file")
    options = parse_options_for_weights(argv, parser)
    use_device(options.device)
    root = split_folder(options.data_path, "val")
    classes = classes_for(root, options.num_classes, remembered_classes(options.weights))
    dataset = build_dataset(options, "val", classes)
    model = build_model(options)
    load_official(model, options.weights)
    metrics = evaluate(build_network(model, options.engine, options.device), dataset, options)
    print(
        f"loss: {metrics['loss']:.4f} | acc1: {metrics['acc1']:.3f} | acc5: {metrics['acc5']:.3f} | "
        f"{metrics['images']} images, {options.engine}"
    )
    if options.output:
        write_json(options.output, metrics)


if __name__ == "__main__":
    run(main)
