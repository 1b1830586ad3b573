"""KITTI's average precisions of result files, or of given weights on a split.

    python evaluate.py --label_dir KITTI/training/label_2 --result_dir DETECTIONS --output metrics.json
    python evaluate.py --weights W --data_path KITTI --engine inference --output metrics.json

The first form scores the files NNNNNN.txt of any detector, in DETECTIONS or in DETECTIONS/data; frames without such a
file do not count, an empty file is a frame without detections. The second writes the network's files to
OUTPUT_DIR/data, in place of those of an earlier run, and scores them.

metrics.json is {class: {"2d", "aos", "bev", "3d": {"AP11" and "AP40": [easy, moderate, hard] in %}}}. What KITTI's
program gives no figure for is left out: a class without results, "aos" where an alpha is -10. null stands for 0 / 0.
"""

from shared import InputError, run, set_up

set_up()

import argparse
from collections.abc import Sequence
from pathlib import Path

from shared.files import write_json
from shared.running.options import Group

from metrics.average_precision import DIFFICULTIES, LOOSE, STRICT, average_precisions, precision_curves
from metrics.results import read_folders
from options import FOLDER, build_parser, parse_options, parse_options_for_weights

# Paddle is imported by `predict` only: scoring files does not need it, and its import takes seconds.

OVERLAPS = {"strict": STRICT, "loose": LOOSE}


def build_own_parser() -> argparse.ArgumentParser:
    """The options of both forms."""
    parser = build_parser(__doc__, ("run", "output", "network", "reading", "decoding"))
    parser.set_defaults(output_dir=str(FOLDER / "output" / "evaluation"))
    group = Group(parser, "evaluation")
    group.add("--label_dir", metavar="DIR", help="score result files: the folder of the labels, label_2")
    group.add("--result_dir", metavar="DIR", help="score result files: their folder")
    text = "overlap that a match must exceed: strict, KITTI's; loose, in bird's-eye view and 3D Car 0.5 and others 0.25"
    group.add("--overlap", choices=list(OVERLAPS), default="strict", help=text)
    group.add("--engine", default="dygraph", choices=["dygraph", "inference"], help="what runs the network")
    group.add("--output", default=None, metavar="JSON", help="also write the metrics to this file")
    return parser


def predict(options: argparse.Namespace) -> Path:
    """Write the result files of --weights on --eval_split to OUTPUT_DIR/data. Returns the folder of the labels."""
    from shared.running.launch import use_device
    from shared.running.sampling import EpochBatchSampler

    from convert import load_network
    from datasets import build_dataset, build_loader
    from deploy import exported_network
    from engine import in_test_mode, predict_split

    use_device(options.device)
    dataset = build_dataset(options, options.eval_split, augment=False)
    sampler = EpochBatchSampler(len(dataset), options.batch_size, shuffle=False)
    model = load_network(options)
    network = in_test_mode(model) if options.engine == "dygraph" else exported_network(model, options)
    folder = Path(options.output_dir) / "data"
    count = predict_split(network, build_loader(dataset, sampler, options.num_workers), options.threshold, folder)
    print(f"-> {count} results of split {options.eval_split} ({options.engine}) in {folder}")
    return dataset.folder / "label_2"


def metrics_table(metrics: dict, overlaps: dict) -> str:
    """The figures of metrics.json as a table, with what a match must exceed."""
    lines = [f"{'':28}{'AP11':^30}{'AP40':^30}".rstrip(), f"{'class':12}{'metric':8}{'overlap':>8}"]
    lines[1] += "".join(f"{name:>10}" for name in DIFFICULTIES * 2)
    for name, by_metric in metrics.items():
        for metric, figures in by_metric.items():
            limit = overlaps[name]["2d" if metric == "aos" else metric]
            cells = [f"{'-' if value is None else format(value, '.2f'):>10}" for value in sum(figures.values(), [])]
            lines.append(f"{name:12}{metric:8}{limit:>8.2f}{''.join(cells)}")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    parser = build_own_parser()
    options = parse_options(argv, parser)
    label_dir, result_dir = options.label_dir, options.result_dir
    if label_dir or result_dir:
        if not (label_dir and result_dir):
            raise InputError("--label_dir and --result_dir belong together; give both")
        if options.weights:
            raise InputError("--weights: makes result files of its own; drop it, or --label_dir and --result_dir")
    else:
        if not options.weights:
            raise InputError("--weights W --data_path D is missing, or --label_dir GT --result_dir DETECTIONS")
        options = parse_options_for_weights(argv, parser)
        if options.eval_split == "test" and options.output:
            raise InputError("--output: the split test has no labels to score with; drop it")
        label_dir, result_dir = predict(options), options.output_dir
        if options.eval_split == "test":
            print("-> the split test has no labels: nothing is scored")
            return
    labels, results, frames = read_folders(label_dir, result_dir)
    print(f"-> {frames} frames, {len(labels)} labels, {len(results)} results, overlaps: {options.overlap}")
    for what, objects in (("labels", labels), ("results", results)):
        if objects.unknown:
            print(f"note: {what} have types that KITTI does not have, scored as other classes: {objects.unknown[0]!r}")
    overlaps = OVERLAPS[options.overlap]
    metrics = average_precisions(precision_curves(labels, results, overlaps))
    print(metrics_table(metrics, overlaps) if metrics else "no class has a figure: there are no results to score")
    if options.output:
        write_json(options.output, metrics)


if __name__ == "__main__":
    run(main)
