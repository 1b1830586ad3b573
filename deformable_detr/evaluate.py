"""COCO's detection figures of given weights, by pycocotools.

    python evaluate.py --weights output/train/latest --data_path data/mini
    python evaluate.py --weights r50_deformable_detr-checkpoint.pth --data_path COCO --engine inference
    python evaluate.py --results detections.json --data_path COCO

The network's options come from the checkpoint if it is one. The figures depend a little on --batch_size, by the
network's design: padding enters its convolutions (NOTES 7.4). --results scores a COCO result file, without
a network.
"""

import argparse
import json
from collections.abc import Callable, Sequence

import numpy as np
import paddle
import paddle.distributed as dist
from tqdm import tqdm

from shared import InputError, run
from shared.files import atomic_write_text

from datasets import CocoDetection, EpochBatchSampler, build_dataset, build_loader, read_annotations, split_paths
from inference import NO_WEIGHTS, Predictor, build_predictor, load_network, parse_for_weights
from metrics import CocoMetrics, detection_rows, evaluate_detections, merge, read_results, to_results
from models import PostProcess
from options import build_parser, parse_options


def gather(array: np.ndarray) -> list[np.ndarray]:
    """Every process's `array` [n, ...], of its own n, in the order of the ranks."""
    if dist.get_world_size() == 1:
        return [array]
    counts: list[paddle.Tensor] = []
    dist.all_gather(counts, paddle.to_tensor([len(array)]))
    lengths = [count.item() for count in counts]
    padded = np.zeros((max(lengths), *array.shape[1:]), array.dtype)
    padded[: len(array)] = array
    arrays: list[paddle.Tensor] = []
    dist.all_gather(arrays, paddle.to_tensor(padded))
    return [part.numpy()[:length] for part, length in zip(arrays, lengths, strict=True)]


def find_all(
    predict: Predictor,
    dataset: CocoDetection,
    options: argparse.Namespace,
    on_batch: Callable[[dict, list[dict]], None] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """(image ids int64 [m], detections as rows [n, 7]) of the whole data set, all processes' shares together.

    Each process looks at its share in batches of --batch_size. `on_batch(outputs, targets)` sees every batch of this
    process, for losses.
    """
    rank, world = dist.get_rank(), dist.get_world_size()
    sampler = EpochBatchSampler(len(dataset), options.batch_size, shuffle=False, rank=rank, world=world)
    loader = build_loader(dataset, sampler, options.num_workers)
    ids, rows = [], [np.empty((0, 7))]
    bar = tqdm(loader, desc="evaluate", unit="batch", leave=False, disable=None if rank == 0 else True)
    for images, mask, targets in bar:
        outputs = predict(images, mask)
        if on_batch:
            on_batch(outputs, targets)
        sizes = np.stack([target["orig_size"].numpy() for target in targets])
        for target, found in zip(targets, PostProcess()(outputs, sizes), strict=True):
            ids.append(target["image_id"].item())
            rows.append(detection_rows(ids[-1], found["scores"], found["labels"], found["boxes"]))
    parts = zip(gather(np.array(ids, np.int64)), gather(np.concatenate(rows)), strict=True)
    return merge(list(parts))


def evaluate_network(
    predict: Predictor,
    dataset: CocoDetection,
    options: argparse.Namespace,
    on_batch: Callable[[dict, list[dict]], None] | None = None,
) -> CocoMetrics:
    """The figures of a network on a data set (see `find_all`), the same in every process."""
    ids, rows = find_all(predict, dataset, options, on_batch)
    return evaluate_detections(dataset.coco, rows, ids)


def main(argv: Sequence[str] | None = None) -> None:
    parser = build_parser(__doc__, ("run", "network", "sizes", "reading"))
    group = parser.add_argument_group("evaluation")
    group.add_argument("--split", default="val", choices=["train", "val"], help="which pictures")
    group.add_argument("--engine", default="dygraph", choices=["dygraph", "inference"], help="what computes")
    text = "score this COCO result file instead of a network"
    group.add_argument("--results", default=None, metavar="JSON", help=text)
    group.add_argument("--output", default=None, metavar="JSON", help="also write the metrics to this file")
    text = "also write the detections to this file, as COCO's server takes them"
    group.add_argument("--save_results", "--save-results", default=None, metavar="JSON", help=text)
    given = parse_options(argv, parser)
    if bool(given.weights) == bool(given.results):
        both = "--weights and --results exclude each other; give one of them"
        raise InputError(both if given.weights else f"{NO_WEIGHTS}, or --results")
    options = parse_for_weights(argv, parser, required=False)

    if options.results:
        coco = read_annotations(split_paths(options.data_path, options.split)[1])
        rows, ids = read_results(options.results, coco), sorted(coco.imgs)
    else:
        paddle.set_device(options.device)
        dataset = build_dataset(options, options.split, augment=False)
        predict = build_predictor(load_network(options), options, options.engine)
        ids, rows = find_all(predict, dataset, options)
        coco = dataset.coco
    metrics = evaluate_detections(coco, rows, ids)
    print(metrics.table())
    print(f"{metrics.images} pictures, {metrics.detections} detections, {options.results or options.engine}")
    if options.output:
        atomic_write_text(options.output, json.dumps(metrics.as_json(), indent=1) + "\n")
    if options.save_results:
        atomic_write_text(options.save_results, json.dumps(to_results(rows)) + "\n")


if __name__ == "__main__":
    run(main)
