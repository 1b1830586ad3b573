"""COCO's detection metrics of given weights, by pycocotools.

    python evaluate.py --weights output/train/latest --data_path data/mini
    python evaluate.py --weights r50_deformable_detr-checkpoint.pth --data_path COCO --engine inference
    python evaluate.py --results detections.json --data_path COCO

The network's options come from the weights where they hold them. The metrics depend a little on --batch_size, by the
network's design: padding enters its convolutions (NOTES 7.4). --results scores a COCO result file, without a network.
"""

from shared import InputError, run, set_up

set_up()

import json
from collections.abc import Sequence

from shared.files import atomic_write_text, write_json
from shared.running.launch import use_device

from datasets import build_dataset, read_annotations, split_paths
from deploy import ENGINES, build_network, load_network
from engine import evaluate
from metrics import evaluate_detections, read_results, to_results
from options import NO_WEIGHTS, build_parser, parse_options_for_weights


def main(argv: Sequence[str] | None = None) -> None:
    parser = build_parser(__doc__, ("run", "network", "sizes", "reading"))
    group = parser.add_argument_group("evaluation")
    group.add_argument("--split", default="val", choices=["train", "val"], help="which images")
    group.add_argument("--engine", default="dygraph", choices=ENGINES, help="engine that runs the network")
    text = "score this COCO result file instead of a network"
    group.add_argument("--results", default=None, metavar="JSON", help=text)
    group.add_argument("--output", default=None, metavar="JSON", help="also write the metrics to this file")
    text = "also write the detections to this file, in the format of COCO's server"
    group.add_argument("--save_results", "--save-results", default=None, metavar="JSON", help=text)
    given = parser.parse_args(argv)
    if bool(given.weights) == bool(given.results):
        both = "--weights and --results exclude each other; give one of them"
        raise InputError(both if given.weights else f"--weights is missing: {NO_WEIGHTS}, or --results")
    options = parse_options_for_weights(argv, parser, needed=False)
    use_device(options.device)
    if options.results:
        coco = read_annotations(split_paths(options.data_path, options.split)[1])
        metrics = evaluate_detections(coco, read_results(options.results, coco))
    else:
        dataset = build_dataset(options, options.split, augment=False)
        network = build_network(load_network(options), options.engine, options.device)
        metrics, _ = evaluate(network, dataset, options)
    print(metrics.table())
    print(f"{metrics.images} images, {len(metrics.rows)} detections, {options.results or options.engine}")
    if options.output:
        write_json(options.output, metrics.as_json())
    if options.save_results:
        atomic_write_text(options.save_results, json.dumps(to_results(metrics.rows)) + "\n")


if __name__ == "__main__":
    run(main)
