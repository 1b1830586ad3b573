"""KITTI's average precisions of result files, or of given weights on a split.

    python evaluate.py --label_dir KITTI/training/label_2 --result_dir DETECTIONS --output metrics.json
    python evaluate.py --weights W --data_path KITTI --engine inference --output metrics.json

The first form scores the files NNNNNN.txt of any detector, in DETECTIONS or in DETECTIONS/data; frames without such a
file do not count, an empty file is a frame without detections. The second writes the network's files to
OUTPUT_DIR/data, in place of those of an earlier run, and scores them.

metrics.json is {class: {"2d", "aos", "bev", "3d": {"AP11" and "AP40": [easy, moderate, hard] in %}}}. What KITTI's
program gives no figure for is left out: a class without results, "aos" where an alpha is -10. null is 0 / 0.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from shared import InputError, run
from shared.weights import atomic_write_text

from metrics import DIFFICULTIES, LOOSE, STRICT, average_precisions, precision_curves, read_folders
from options import FOLDER, build_parser, parse_options, parse_options_for_weights

# Paddle is imported by `predict` only: scoring files does not need it, and it takes seconds to come up.

OVERLAPS = {"strict": STRICT, "loose": LOOSE}


def build_own_parser() -> argparse.ArgumentParser:
    """The options of both forms."""
    parser = build_parser(__doc__, ("run", "output", "network", "reading", "decoding"))
    parser.set_defaults(output_dir=str(FOLDER / "output" / "evaluation"))
    group = parser.add_argument_group("evaluation")
    add = group.add_argument
    add("--label_dir", "--label-dir", metavar="DIR", help="score result files: the folder of the labels, label_2")
    add("--result_dir", "--result-dir", metavar="DIR", help="score result files: their folder")
    text = "what a match must exceed: strict, KITTI's; loose, in bird's-eye view and 3D Car 0.5 and others 0.25"
    add("--overlap", choices=list(OVERLAPS), default="strict", help=text)
    add("--engine", default="dygraph", choices=["dygraph", "inference"], help="what computes")
    add("--output", default=None, metavar="JSON", help="also write the metrics to this file")
    return parser


def predict(options: argparse.Namespace) -> Path:
    """Write the result files of the network of options.weights to options.output_dir. Returns the labels' folder."""
    import paddle

    from datasets import find_root
    from inference import build_predictor, load_network, predict_split

    paddle.set_device(options.device)
    root = find_root(options.data_path)
    predictor = build_predictor(load_network(options), options, options.engine)
    count = predict_split(predictor, options, Path(options.output_dir) / "data")
    print(f"-> {count} results of split {options.eval_split} ({options.engine}) in {Path(options.output_dir) / 'data'}")
    return root / "training" / "label_2"


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
    files = options.label_dir, options.result_dir
    if any(files):
        if not all(files):
            raise InputError("--label_dir and --result_dir belong together; give both")
        if options.weights:
            raise InputError("--weights makes its own result files; leave out it, or --label_dir and --result_dir")
        label_dir, result_dir = files
    else:
        if not options.weights:
            raise InputError("--weights W --data_path D is missing, or --label_dir GT --result_dir DETECTIONS")
        options = parse_options_for_weights(argv, parser)
        if options.eval_split == "test" and options.output:
            raise InputError("--output: the split test has no labels to score with; leave it out")
        label_dir, result_dir = predict(options), options.output_dir
        if options.eval_split == "test":
            print("-> the split test has no labels: nothing is scored")
            return
    labels, results, frames = read_folders(label_dir, result_dir)
    print(f"-> {frames} frames, {len(labels)} labels, {len(results)} results, overlaps: {options.overlap}")
    for what, objects in (("labels", labels), ("results", results)):
        if objects.unknown:
            print(f"note: {what} hold types that KITTI does not have, scored as other classes: {objects.unknown[0]!r}")
    overlaps = OVERLAPS[options.overlap]
    metrics = average_precisions(precision_curves(labels, results, overlaps))
    print(metrics_table(metrics, overlaps) if metrics else "no class has a figure: there are no results to score")
    if options.output:
        atomic_write_text(options.output, json.dumps(metrics, indent=1) + "\n")


if __name__ == "__main__":
    run(main)
