"""Static graph for Paddle Inference, and ONNX.

    python export.py --weights output/best --output_dir output/export --format inference onnx

Writes inference.json and inference.pdiparams, model.onnx, and network.json (classes and image sizes). Each is run once
on the same random images and compared with the network; a difference above 1e-4 ends with exit status 1.
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
from engine import predict
from models import build_model
from options import REMEMBERED_OPTIONS, build_parser, parse_options_for_weights, remembered_classes

LIMIT = 1e-4  # largest difference of an exported network's logits, relative to their largest where that is above 1


def main(argv: Sequence[str] | None = None) -> int:
    parser = build_parser(__doc__, ("run", "output", "network", "preprocessing"))
    add_format_option(parser)
    options = parse_options_for_weights(argv, parser)
    use_device(options.device)
    model = build_model(options)
    load_official(model, options.weights)
    size = options.val_crop_size
    images = np.random.default_rng(0).standard_normal((2, 3, size, size)).astype(np.float32)
    expected = predict(model, paddle.to_tensor(images))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        engines = exported_engines(export_graph(model, folder), options.format, options.device)
        differences = differences_of(engines, images, expected, LIMIT)
        network = {name: getattr(options, name) for name in REMEMBERED_OPTIONS}
        network["classes"] = remembered_classes(options.weights)
        return deliver(folder, Path(options.output_dir), options.format, differences, network)


if __name__ == "__main__":
    run(main)
