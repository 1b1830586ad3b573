"""Static graph of the depth network for Paddle Inference, and ONNX.

    python export.py --weights output/mini/best --output_dir output/export --format inference onnx

Writes inference.json and inference.pdiparams, model.onnx, and network.json (the network's options): pictures
[N, 3, H, W] in [0, 1] in, disparity of scale 0 [N, 1, H, W] in (0, 1) out, any batch, at the height and width of the
weights. Each is run once on the same random picture and compared with the network; a difference above 1e-4 ends with
exit status 1.
"""

import argparse
import copy
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import paddle
from paddle.nn import functional as F
from paddle.static import InputSpec

from shared import InputError, run
from shared.deploying.export import (
    Engine,
    add_format_option,
    deliver,
    exported_engines,
    inference_engine,
    save_graph,
)

from inference import load_network, parse_for_weights
from models import Monodepth2
from options import FOLDER, NETWORK_OPTIONS, build_parser

LIMIT = 1e-4  # largest difference of an exported network's disparity


def _framed(x, near: int):
    """x [N, C, h, w] -> [N, C, h + 2, w + 2]: at each border a copy of the line `near` steps from it.

    0 repeats the border, 1 mirrors at it. From slices: Paddle Inference's operator for it is slow.
    """
    height, width = x.shape[2:]
    x = paddle.concat([x[:, :, near : near + 1], x, x[:, :, height - 1 - near : height - near]], axis=2)
    return paddle.concat([x[..., near : near + 1], x, x[..., width - 1 - near : width - near]], axis=3)


def _doubling(weight: np.ndarray) -> np.ndarray:
    """The kernel of a 3x3 convolution [O, C, 3, 3] on a doubled picture, as a transposed one [C, O, 4, 4] of stride 2.

    Doubling by nearest is transposed too, with 2x2 ones; this is the two, one after the other.
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
    """forward(x, skip or None) -> the same as a level of `models.DepthDecoder`, the picture doubled, for inference.

    The second convolution, on [doubled x, skip], is the sum of one on each. The one on x, which would be framed after
    doubling, is a transposed one of x itself, framed before: mirroring a doubled picture is doubling a picture whose
    border is repeated. That saves 20 of 36 multiplications there, and all of the doubling.
    """

    def __init__(self, before: paddle.nn.Layer, after: paddle.nn.Layer):
        super().__init__()
        self.before = copy.deepcopy(before.conv.conv)
        weight, bias = after.conv.conv.weight.numpy(), after.conv.conv.bias.numpy()
        channels = self.before.weight.shape[0]
        kernel, skipping = _doubling(weight[:, :channels]), weight.shape[1] > channels
        settings = {"stride": 2, "padding": 3}  # 3: of which 2 are the frame, doubled
        self.doubled = _convolution(paddle.nn.Conv2DTranspose, kernel, None if skipping else bias, **settings)
        self.skipped = _convolution(paddle.nn.Conv2D, weight[:, channels:], bias) if skipping else None

    def forward(self, x, skip):
        x = F.elu(self.before(_framed(x, 1)))
        x = self.doubled(_framed(x, 0))
        return F.elu(x if skip is None else x + self.skipped(_framed(skip, 1)))


class _Deployed(paddle.nn.Layer):
    """What is deployed of a network: picture to disparity, in operators that Paddle Inference runs, and fast.

    Of the decoder's own operators, the doubling (nearest_interp) ends with NotImplementedError in Paddle Inference 3.3
    with oneDNN, and the mirroring (pad3d) took 100 of 270 ms at 640x192 on one core.
    """

    def __init__(self, model: Monodepth2):
        super().__init__()
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


def export_inference(model: Monodepth2, folder: Path) -> Path:
    """Write `folder`/inference.json and inference.pdiparams. Returns the common prefix.

    The size is the one that `model` says. `model` stays as it is.
    """
    size = [int(model.height), int(model.width)]
    spec = [InputSpec([None, 3, *size], "float32", name="images")]
    return save_graph(_Deployed(model), spec, folder / "inference")


def exported_predictor(model: Monodepth2, options: argparse.Namespace) -> Engine:
    """Export to a temporary folder and return the engine; the folder is gone when it returns."""
    with tempfile.TemporaryDirectory() as folder:
        return inference_engine(export_inference(model, Path(folder)), options.device)


def main(argv: Sequence[str] | None = None) -> int:
    parser = build_parser(__doc__, ("run", "output", "network"))
    add_format_option(parser)
    options = parse_for_weights(argv, parser)
    model = load_network(options)
    if 0 not in model.depth.scales:
        raise InputError(f"--weights {options.weights}: trained without scale 0, so it predicts no full disparity")
    target = Path(options.output_dir or FOLDER / "output" / "export")
    images = np.random.default_rng(0).random((1, 3, int(model.height), int(model.width)), np.float32)
    with paddle.no_grad():
        expected = model.predict_disparity(paddle.to_tensor(images))["disp", 0].numpy()
    differences = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        engines = exported_engines(export_inference(model, folder), options.format, options.device)
        for name, engine in engines.items():
            differences[name] = float(np.abs(engine(images) - expected).max()), LIMIT
        network = {name: getattr(options, name) for name in NETWORK_OPTIONS}
        return deliver(folder, target, options.format, differences, network)


if __name__ == "__main__":
    run(main)
