"""From weights to KITTI result files: the network over the frames of a split.

A predictor takes images float32 [B, 3, H, W], coord_ranges [B, 2, 2] and calibs [B, 3, 4] of the data set and returns
detections float32 [B, 50, 36] (`decoding.extract_dets_from_outputs`), by the network in Paddle or by an exported graph
in Paddle Inference.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import paddle
from tqdm import tqdm

from convert import load_official
from datasets import EpochBatchSampler, build_dataset, build_loader
from decoding import decode_detections, extract_dets_from_outputs, write_results
from models import GUPNet, build_model

Predictor = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def load_network(options: argparse.Namespace) -> GUPNet:
    """The network of --weights, filled and in eval mode. InputError for weights that do not fit."""
    model = build_model(options)
    load_official(model, options.weights)
    model.eval()
    return model


def dygraph_predictor(model: GUPNet) -> Predictor:
    """The network as it is, without gradients; norms by their running statistics only if it is in eval mode."""

    @paddle.no_grad()
    def predict(images: np.ndarray, coord_ranges: np.ndarray, calibs: np.ndarray) -> np.ndarray:
        outputs = model(*map(paddle.to_tensor, (images, coord_ranges, calibs)), mode="test")
        return extract_dets_from_outputs(outputs).numpy()

    return predict


def build_predictor(model: GUPNet, options: argparse.Namespace, engine: str) -> Predictor:
    """The predictor of this engine, "dygraph" or "inference"."""
    if engine == "dygraph":
        return dygraph_predictor(model)
    from export import exported_engine

    run = exported_engine(model, options)

    @paddle.no_grad()
    def predict(images: np.ndarray, coord_ranges: np.ndarray, calibs: np.ndarray) -> np.ndarray:
        outputs = run(images, coord_ranges, calibs)
        return extract_dets_from_outputs({name: paddle.to_tensor(value) for name, value in outputs.items()}).numpy()

    return predict


def predict_split(predict: Predictor, options: argparse.Namespace, folder: str | Path) -> int:
    """Write `folder`/NNNNNN.txt of every frame of options.eval_split, and remove those of other frames.

    Reads from `options` what `build_dataset` does, and batch_size, num_workers, eval_split and threshold. Returns the
    number of results. InputError for a data set that cannot be read and a folder that cannot be written.
    """
    dataset = build_dataset(options, options.eval_split, augment=False)
    loader = build_loader(
        dataset, EpochBatchSampler(len(dataset), options.batch_size, shuffle=False), options.num_workers
    )
    results = {}
    for batch in tqdm(loader, desc="predict", unit="batch", total=len(loader), leave=False, disable=None):
        calibs = batch.calibs.numpy()
        detections = predict(batch.images.numpy(), batch.coord_ranges.numpy(), calibs)
        results |= decode_detections(detections, batch.info, calibs, options.threshold)
    write_results(folder, results)
    return sum(map(len, results.values()))


def simulated_inputs(count: int, input_size: Sequence[int]) -> dict[str, np.ndarray]:
    """What the network takes, drawn from a fixed seed, as KITTI's frames are: images, coord_ranges and calibs.

    `input_size` is (W, H). For comparing and timing, where what is in the pictures does not matter.
    """
    width, height = input_size
    calib = np.array([[721.5, 0, 609.6, 44.9], [0, 721.5, 172.9, 0.2], [0, 0, 1, 0.003]], np.float32)
    return {
        "images": np.random.default_rng(0).standard_normal((count, 3, height, width), np.float32),
        "coord_ranges": np.tile(np.array([[0, 0], [1242, 375]], np.float32), (count, 1, 1)),
        "calibs": np.tile(calib, (count, 1, 1)),
    }
