"""The graphs that leave dygraph, and their engines.

Paddle Inference runs the whole network in the mode "test". ONNX holds its dense part (NOTES 8.11).
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import paddle
from paddle.static import InputSpec

from shared.deploying.export import Engine, inference_engine, save_graph

import constants
from models import GUPNet

DENSE_OUTPUTS = ("features", *constants.DENSE_OUTPUTS)
OUTPUTS = (*constants.DENSE_OUTPUTS, *constants.ROI_OUTPUTS)


class DensePart(paddle.nn.Layer):
    """Images [N, 3, H, W] -> DENSE_OUTPUTS, [N, channels, H / 4, W / 4] each."""

    def __init__(self, model: GUPNet):
        super().__init__()
        self.network = model

    def forward(self, images):
        features, dense = self.network.dense(images)
        return [features, *dense.values()]


class WholeNetwork(DensePart):
    """Images, coord_ranges and calibs -> OUTPUTS of the mode "test"."""

    def forward(self, images, coord_ranges, calibs):
        outputs = self.network(images, coord_ranges, calibs, mode="test")
        return [outputs[name] for name in OUTPUTS]


def save_inference(model: GUPNet, input_size: Sequence[int], prefix: Path) -> Path:
    """Write PREFIX.json and PREFIX.pdiparams of the whole network, for any batch at `input_size` (W, H)."""
    return _save(WholeNetwork(model), input_size, prefix, coord_ranges=[2, 2], calibs=[3, 4])


def save_dense(model: GUPNet, input_size: Sequence[int], prefix: Path) -> Path:
    """The same of the dense part."""
    return _save(DensePart(model), input_size, prefix)


def _save(layer: DensePart, input_size: Sequence[int], prefix: Path, **inputs: list[int]) -> Path:
    """Trace `layer` in eval mode; its network is left as it was. Returns `prefix`."""
    width, height = input_size
    training = layer.network.training
    layer.eval()
    shapes = {"images": [3, height, width], **inputs}
    save_graph(layer, [InputSpec([None, *shape], "float32", name=name) for name, shape in shapes.items()], prefix)
    if training:
        layer.network.train()
    return prefix


def exported_engine(model: GUPNet, options: argparse.Namespace) -> Engine:
    """Paddle Inference's engine of the whole network, by way of a temporary folder: arrays in, {output: array} out."""
    with tempfile.TemporaryDirectory() as folder:
        prefix = save_inference(model, options.input_size, Path(folder) / "inference")
        return inference_engine(prefix, options.device, OUTPUTS)


def exported_network(model: GUPNet, options: argparse.Namespace):
    """`exported_engine` called as an `engine.Network`: Paddle tensors in and out."""
    run = exported_engine(model, options)

    def network(*inputs: paddle.Tensor) -> dict[str, paddle.Tensor]:
        return {name: paddle.to_tensor(value) for name, value in run(*(tensor.numpy() for tensor in inputs)).items()}

    return network


def simulated_inputs(count: int, input_size: Sequence[int]) -> dict[str, np.ndarray]:
    """Random images [N, 3, H, W], and coord_ranges and calibs as KITTI's; always the same ones. For comparing graphs
    and for timing."""
    width, height = input_size
    calib = np.array([[721.5, 0, 609.6, 44.9], [0, 721.5, 172.9, 0.2], [0, 0, 1, 0.003]], np.float32)
    return {
        "images": np.random.default_rng(0).standard_normal((count, 3, height, width), np.float32),
        "coord_ranges": np.tile(np.array([[0, 0], [1242, 375]], np.float32), (count, 1, 1)),
        "calibs": np.tile(calib, (count, 1, 1)),
    }
