"""The graph that leaves dygraph, and the engines that run it."""

import argparse
import copy
import tempfile
from pathlib import Path

import numpy as np
import paddle
from paddle.nn import functional as F
from paddle.static import InputSpec

from shared.deploying.export import Engine, exported_engines, save_graph

from engine import Predictor, dygraph_predictor, require_scale_0
from models import Monodepth2


def _framed(x, near: int):
    """x [N, C, h, w] -> [N, C, h + 2, w + 2]: at each border a copy of the line `near` steps from it.

    0 repeats the border, 1 mirrors at it. From slices, because Paddle Inference's own operator is slow (NOTES 8.11).
    """
    height, width = x.shape[2:]
    x = paddle.concat([x[:, :, near : near + 1], x, x[:, :, height - 1 - near : height - near]], axis=2)
    return paddle.concat([x[..., near : near + 1], x, x[..., width - 1 - near : width - near]], axis=3)


def _doubling(weight: np.ndarray) -> np.ndarray:
    """The kernel of a 3x3 convolution [O, C, 3, 3] of a doubled image, as a transposed one [C, O, 4, 4] of stride 2.

    Nearest doubling is a transposed convolution with 2x2 ones; this is the composition of both.
    """
    flipped = np.pad(weight.swapaxes(0, 1)[..., ::-1, ::-1], ((0, 0), (0, 0), (1, 1), (1, 1)))
    rows = flipped[..., 1:, :] + flipped[..., :-1, :]
    return rows[..., 1:] + rows[..., :-1]


def _convolution(kind: type, weight, bias=None, **settings) -> paddle.nn.Layer:
    """A layer of `kind` with these values."""
    assign = paddle.nn.initializer.Assign
    first, second, *kernel = weight.shape
    inputs, outputs = (first, second) if kind is paddle.nn.Conv2DTranspose else (second, first)
    bias = False if bias is None else assign(bias)
    return kind(inputs, outputs, kernel, weight_attr=assign(weight), bias_attr=bias, **settings)


class _Level(paddle.nn.Layer):
    """forward(x, skip or None) -> the output of one level of `models.DepthDecoder`.

    The second convolution, on [doubled x, skip], is the sum of a convolution of each. The one of x, whose border would
    be mirrored after doubling, is a transposed convolution of x itself with its border repeated: mirroring a doubled
    image is doubling an image whose border is repeated. That saves 20 of 36 multiplications and the doubling.
    """

    def __init__(self, before: paddle.nn.Layer, after: paddle.nn.Layer):
        super().__init__()
        self.before = copy.deepcopy(before.conv.conv)
        weight, bias = after.conv.conv.weight.numpy(), after.conv.conv.bias.numpy()
        channels = self.before.weight.shape[0]
        kernel, has_skip = _doubling(weight[:, :channels]), weight.shape[1] > channels
        settings = {"stride": 2, "padding": 3}  # 3: 2 of them are the frame, doubled
        self.doubled = _convolution(paddle.nn.Conv2DTranspose, kernel, None if has_skip else bias, **settings)
        self.skipped = _convolution(paddle.nn.Conv2D, weight[:, channels:], bias) if has_skip else None

    def forward(self, x, skip):
        x = F.elu(self.before(_framed(x, 1)))
        x = self.doubled(_framed(x, 0))
        return F.elu(x if skip is None else x + self.skipped(_framed(skip, 1)))


class _Deployed(paddle.nn.Layer):
    """images -> disparity of scale 0, in operators that Paddle Inference runs, and runs fast (NOTES 8.11)."""

    def __init__(self, model: Monodepth2):
        super().__init__()
        require_scale_0(model)
        self.encoder, blocks = copy.deepcopy(model.encoder), model.depth.decoder
        self.levels = paddle.nn.LayerList([_Level(blocks[2 * index], blocks[2 * index + 1]) for index in range(5)])
        self.head = copy.deepcopy(blocks[10 + model.depth.scales.index(0)].conv)
        self.eval()

    def forward(self, images):
        x, *skips = reversed(self.encoder(images))
        skips.append(None)
        for index, level in enumerate(self.levels):
            x = level(x, skips[index])
        return F.sigmoid(self.head(_framed(x, 1)))


def export_graph(model: Monodepth2, folder: Path) -> Path:
    """Write `folder`/inference.json and inference.pdiparams, for any batch. Returns their common prefix.

    The image size is that of the weights. `model` does not change. InputError for a network without scale 0.
    """
    size = [int(model.height), int(model.width)]
    spec = [InputSpec([None, 3, *size], "float32", name="images")]
    return save_graph(_Deployed(model), spec, folder / "inference")


def exported_predictor(model: Monodepth2, engine: str, device: str = "cpu") -> Engine:
    """The exported graph in an engine, "inference" or "onnx", by a temporary folder."""
    with tempfile.TemporaryDirectory() as folder:
        (predictor,) = exported_engines(export_graph(model, Path(folder)), [engine], device).values()
    return predictor


def build_predictor(model: Monodepth2, options: argparse.Namespace) -> Predictor:
    """The predictor of --engine. InputError for a network without scale 0."""
    if options.engine == "dygraph":
        return dygraph_predictor(model)
    return exported_predictor(model, options.engine, options.device)
