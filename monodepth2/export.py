"""Static graph of the depth network for Paddle Inference, and ONNX.

    python export.py --weights output/mini/best --output_dir output/export --format inference onnx

Writes inference.json and inference.pdiparams, model.onnx, and network.json (the network's options): images
[N, 3, H, W] in [0, 1] in, disparity of scale 0 [N, 1, H, W] in (0, 1) out, any batch, at the height and width of the
weights. Each is run once on the same random image and compared with the network; a difference above 1e-4 ends with
exit status 1.
"""

from shared import run, set_up

set_up()

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from shared.deploying.export import add_format_option, deliver, exported_engines
from shared.running.launch import use_device

from convert import load_network, parse_options_for_weights
from deploy import export_graph
from engine import dygraph_predictor
from options import FOLDER, NETWORK_OPTIONS, build_parser

LIMIT = 1e-4  # largest difference of an exported network's disparity


def main(argv: Sequence[str] | None = None) -> int:
    parser = build_parser(__doc__, ("run", "output", "network"))
    add_format_option(parser)
    options = parse_options_for_weights(argv, parser, own_size=True)
    use_device(options.device)
    model = load_network(options)
    images = np.random.default_rng(0).random((1, 3, int(model.height), int(model.width)), np.float32)
    expected = dygraph_predictor(model)(images)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        engines = exported_engines(export_graph(model, folder), options.format, options.device)
        differences = {
            name: (float(np.abs(engine(images) - expected).max()), LIMIT) for name, engine in engines.items()
        }
        network = {name: getattr(options, name) for name in NETWORK_OPTIONS}
        target = Path(options.output_dir or FOLDER / "output" / "export")
        return deliver(folder, target, options.format, differences, network)


if __name__ == "__main__":
    run(main)
