"""Static graph for Paddle Inference, and ONNX.

    python export.py --weights output/mini/best --output_dir output/export --format inference onnx

Writes inference.json and inference.pdiparams, model.onnx, and network.json (the network's options): pictures
[N, 3, H, W] in, logits [N, classes, H, W] out. Each is run once on the same random picture and compared with the
network; a difference above 1e-4 ends with exit status 1.
"""

import argparse
import copy
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import paddle
from paddle.static import InputSpec

from shared import run
from shared.deploying.export import (
    Engine,
    add_format_option,
    deliver,
    exported_engines,
    inference_engine,
    save_graph,
)

from convert import load_official
from models import BiSeNet, build_model, fold_norms
from options import NETWORK_OPTIONS, build_parser, parse_options_for_weights

LIMIT = 1e-4  # largest difference of an exported network's logits, of their largest where that is above 1
CHECKED = (1, 3, 256, 512)  # shape of the picture that the graphs are compared on


class _Deployed(paddle.nn.Layer):
    """What is deployed of a network: its main output, from plain batch norms."""

    def __init__(self, model: BiSeNet):
        super().__init__()
        self.network = copy.deepcopy(model)
        fold_norms(self.network)
        self.eval()

    def forward(self, images):
        return self.network.segment(images)


def export_inference(model: BiSeNet, folder: Path) -> Path:
    """Write `folder`/inference.json and inference.pdiparams; any batch, any picture size. Returns the common prefix.

    `model` stays as it is.
    """
    spec = [InputSpec([None, 3, None, None], "float32", name="images")]
    return save_graph(_Deployed(model), spec, folder / "inference")


def exported_predictor(model: BiSeNet, options: argparse.Namespace) -> Engine:
    """Export to a temporary folder and return the engine; the folder is gone when it returns."""
    with tempfile.TemporaryDirectory() as folder:
        return inference_engine(export_inference(model, Path(folder)), options.device)


def main(argv: Sequence[str] | None = None) -> int:
    parser = build_parser(__doc__, ("run", "output", "network"))
    add_format_option(parser)
    options = parse_options_for_weights(argv, parser)
    model = build_model(options)
    load_official(model, options.weights)
    model.eval()
    target = Path(options.output_dir)
    images = np.random.default_rng(0).standard_normal(CHECKED).astype(np.float32)
    with paddle.no_grad():
        expected = model(paddle.to_tensor(images))["out"].numpy()
    scale = max(1.0, float(np.abs(expected).max()))  # float32 rounds in proportion to the logits

    differences = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        engines = exported_engines(export_inference(model, folder), options.format, options.device)
        for name, engine in engines.items():
            differences[name] = float(np.abs(engine(images) - expected).max() / scale), LIMIT
        network = {name: getattr(options, name) for name in NETWORK_OPTIONS}
        return deliver(folder, target, options.format, differences, network)


if __name__ == "__main__":
    run(main)
