"""Static graphs of the network for Paddle Inference, and ONNX.

    python export.py --weights output/mini/best --output_dir output/export --format inference onnx

inference.json and inference.pdiparams are the whole network in the mode "test": images [N, 3, H, W], coord_ranges
[N, 2, 2] and calibs [N, 3, 4] in, deploy.OUTPUTS out, in that order. model.onnx is its dense part: images in,
deploy.DENSE_OUTPUTS out; paddle2onnx cannot translate the rest. Any batch; H and W are those of the weights, or of
--input_size. network.json holds the network's options.

Each is run on the same random images and compared with the network; a difference above 1e-3 of an output's largest
value ends with exit status 1, and nothing is written.
"""

from shared import run, set_up

set_up()

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import paddle

from shared.deploying.export import add_format_option, deliver, inference_engine, onnx_engine, translate_to_onnx
from shared.running.launch import use_device

from constants import MAX_OBJECTS
from convert import load_network
from deploy import DENSE_OUTPUTS, OUTPUTS, save_dense, save_inference, simulated_inputs
from models import GUPNet, find_peaks
from options import FOLDER, NETWORK_OPTIONS, build_parser, parse_options_for_weights

LIMIT = 1e-3  # largest difference of an exported network's output, relative to its largest value where that is above 1
CHECKED = 2  # images that the graphs are compared on


@paddle.no_grad()
def dygraph_outputs(model: GUPNet, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """All outputs of the graphs, by the network itself."""
    images, coord_ranges, calibs = (paddle.to_tensor(inputs[name]) for name in ("images", "coord_ranges", "calibs"))
    features, _ = model.dense(images)
    outputs = model(images, coord_ranges, calibs, mode="test")
    return {name: value.numpy() for name, value in (outputs | {"features": features}).items()}


def _peaks(outputs: Mapping[str, np.ndarray]) -> np.ndarray:
    """int64 [N, K]: a number for the cell and class of each peak."""
    peaks = find_peaks(paddle.to_tensor(outputs["heatmap"]), MAX_OBJECTS)
    return (peaks.cells * outputs["heatmap"].shape[1] + peaks.classes).numpy()


def largest_difference(outputs: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> float:
    """Of all outputs, relative to an output's largest value where that is above 1.

    Rows of peaks are matched by cell and class, as peaks of nearly the same score may swap; Inf where more than one in
    ten is at another cell. NaN where a value is.
    """
    rows = [name for name in outputs if name not in DENSE_OUTPUTS]
    pairs = [(outputs[name], expected[name]) for name in outputs if name in DENSE_OUTPUTS]
    if rows:
        for image, (ours, theirs) in enumerate(zip(_peaks(outputs), _peaks(expected), strict=True)):
            _, first, second = np.intersect1d(ours, theirs, return_indices=True)
            if len(first) < 0.9 * len(ours):
                return float("inf")
            first, second = first + image * MAX_OBJECTS, second + image * MAX_OBJECTS
            pairs += [(outputs[name][first], expected[name][second]) for name in rows]
    return float(np.max([np.abs(a - b).max() / max(np.abs(b).max(), 1) for a, b in pairs]))  # NaN if any is


def main(argv: Sequence[str] | None = None) -> int:
    parser = build_parser(__doc__, ("run", "output", "network"))
    add_format_option(parser)
    parser.set_defaults(output_dir=str(FOLDER / "output" / "export"))
    options = parse_options_for_weights(argv, parser)
    use_device(options.device)
    model = load_network(options)
    inputs = simulated_inputs(CHECKED, options.input_size)
    expected, differences = dygraph_outputs(model, inputs), {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if "inference" in options.format:
            prefix = save_inference(model, options.input_size, folder / "inference")
            outputs = inference_engine(prefix, options.device, OUTPUTS)(*inputs.values())
            differences["Paddle Inference, whole network"] = largest_difference(outputs, expected), LIMIT
        if "onnx" in options.format:
            prefix = save_dense(model, options.input_size, folder / "dense")
            translate_to_onnx(prefix, folder / "model.onnx")
            outputs = onnx_engine(folder / "model.onnx", DENSE_OUTPUTS)(inputs["images"])
            differences["ONNX Runtime, dense part"] = largest_difference(outputs, expected), LIMIT
        network = {name: getattr(options, name) for name in NETWORK_OPTIONS}
        return deliver(folder, Path(options.output_dir), options.format, differences, network)


if __name__ == "__main__":
    run(main)
