"""Static graph for Paddle Inference, and ONNX.

    python export.py --weights output/mini/best --output_dir output/export --format inference onnx

Writes inference.json and inference.pdiparams, model.onnx, and network.json (the network's options): images
[N, 3, H, W] in, logits [N, classes, H, W] out. Both run once on the same random image and are compared with the
network; a difference above 1e-4 ends with exit status 1.
"""

from shared import run, set_up

set_up()

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import paddle

from shared.deploying.export import add_format_option, deliver, differences_of, exported_engines
from shared.running.launch import use_device

from convert import load_official
from deploy import export_graph
from models import build_model
from options import NETWORK_OPTIONS, build_parser, parse_options_for_weights

LIMIT = 1e-4  # largest difference of the logits, relative to the largest of them if that is above 1
CHECKED = (1, 3, 256, 512)  # shape of the image that the graphs are compared on


def main(argv: Sequence[str] | None = None) -> int:
    parser = build_parser(__doc__, ("run", "output", "network"))
    add_format_option(parser)
    options = parse_options_for_weights(argv, parser)
    use_device(options.device)
    model = build_model(options)
    load_official(model, options.weights)
    model.eval()
    images = np.random.default_rng(0).standard_normal(CHECKED).astype(np.float32)
    with paddle.no_grad():
        expected = model(paddle.to_tensor(images))["out"].numpy()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        engines = exported_engines(export_graph(model, folder), options.format, options.device)
        differences = differences_of(engines, images, expected, LIMIT)
        network = {name: getattr(options, name) for name in NETWORK_OPTIONS}
        return deliver(folder, Path(options.output_dir), options.format, differences, network)


if __name__ == "__main__":
    run(main)
