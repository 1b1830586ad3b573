"""Top-1 and top-5 accuracy of given weights on a folder of pictures.

    python evaluate.py --weights output/best --data_path data/mini
    python evaluate.py --weights mobilenet_v3_small-047dcff4.pth --data_path IMAGENET --engine inference

The network's options come from the checkpoint if it is one; folders of ImageNet synsets are labelled as in ImageNet.
"""

import argparse
import json
from collections.abc import Callable, Sequence

import numpy as np
import paddle
import paddle.distributed as dist
from tqdm import tqdm

from shared import run
from shared.weights import atomic_write_text

from convert import load_official
from datasets import EpochBatchSampler, ImageFolder, build_dataset, build_loader, classes_for, split_folder
from losses import build_criterion
from metrics import SmoothedValue, accuracy
from models import build_model
from options import build_parser, parse_options_for_weights

Predictor = Callable[[paddle.Tensor], np.ndarray]


def dygraph_predictor(model: paddle.nn.Layer) -> Predictor:
    """images [N, 3, H, W] -> logits float32 [N, K] by the network as it is, in eval mode."""

    def predict(images: paddle.Tensor) -> np.ndarray:
        model.eval()
        with paddle.no_grad():
            return model(images).numpy()

    return predict


def inference_predictor(model: paddle.nn.Layer, options: argparse.Namespace) -> Predictor:
    """The same through Paddle Inference, exported into a temporary folder first."""
    from export import exported_predictor

    engine = exported_predictor(model, options)
    return lambda images: engine(images.numpy())


def evaluate(predict: Predictor, dataset: ImageFolder, options: argparse.Namespace, criterion=None) -> dict:
    """{"acc1", "acc5" (percent), "loss", "images"} of `predict` over `dataset`, all processes' shares together.

    The loss is the mean over batches, each counting once, as the reference prints it (NOTES 7.2).
    """
    criterion = criterion or build_criterion(options)
    rank, world = dist.get_rank(), dist.get_world_size()
    sampler = EpochBatchSampler(len(dataset), options.batch_size, shuffle=False, rank=rank, world=world)
    own = len(range(rank, len(dataset), world))  # the sampler fills the ranks up to the same count: count none twice
    acc1, acc5, loss = SmoothedValue(), SmoothedValue(), SmoothedValue()
    loader = build_loader(dataset, sampler, options)
    bar = tqdm(loader, desc="evaluate", unit="batch", leave=False, disable=None if rank == 0 else True)
    for images, labels in bar:
        logits, targets = predict(images)[:own], labels.numpy()[:own]
        own -= len(targets)
        if not len(targets):
            continue
        top1, top5 = accuracy(logits, targets)
        acc1.update(top1, len(targets))
        acc5.update(top5, len(targets))
        loss.update(float(criterion(paddle.to_tensor(logits), paddle.to_tensor(targets))["loss"]))
    totals = np.array([acc1.total, acc5.total, acc1.count, loss.total, loss.count], np.float64)
    if world > 1:
        shared_totals = paddle.to_tensor(totals)
        dist.all_reduce(shared_totals)
        totals = shared_totals.numpy()
    images_seen, batches = totals[2], totals[4]
    return {
        "acc1": totals[0] / images_seen,
        "acc5": totals[1] / images_seen,
        "loss": totals[3] / batches,
        "images": int(images_seen),
    }


def main(argv: Sequence[str] | None = None) -> None:
    parser = build_parser(__doc__, ("run", "network", "reading", "preprocessing"))
    parser.add_argument("--engine", default="dygraph", choices=["dygraph", "inference"], help="what computes")
    parser.add_argument("--output", default=None, metavar="JSON", help="also write the metrics to this file")
    options, remembered = parse_options_for_weights(argv, parser)
    paddle.set_device(options.device)
    root = split_folder(options.data_path, "val")
    classes = classes_for(root, options.num_classes, remembered.get("classes"))
    dataset = build_dataset(options, "val", classes=classes)
    model = build_model(options)
    load_official(model, options.weights)
    predict = dygraph_predictor(model) if options.engine == "dygraph" else inference_predictor(model, options)
    metrics = evaluate(predict, dataset, options)
    print(
        f"loss: {metrics['loss']:.4f} | acc1: {metrics['acc1']:.3f} | acc5: {metrics['acc5']:.3f} | "
        f"{metrics['images']} pictures, {options.engine}"
    )
    if options.output:
        atomic_write_text(options.output, json.dumps(metrics, indent=1) + "\n")


if __name__ == "__main__":
    run(main)
