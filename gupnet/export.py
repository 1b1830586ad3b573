"""Static graphs of the network for Paddle Inference, and ONNX.

    python export.py --weights output/mini/best --output_dir output/export --format inference onnx

inference.json and inference.pdiparams are the whole network in the mode "test": pictures [N, 3, H, W], coord_ranges
[N, 2, 2] and calibs [N, 3, 4] in, the outputs of OUTPUTS out, in that order. model.onnx is its dense part: pictures in,
DENSE_OUTPUTS out; the rest has no ONNX form, for paddle2onnx 2.1 ends the process over it. Any batch; H and W are
those of the weights, or of --input_size. network.json holds the network's options.

Each is run on the same random pictures and compared with the network; a difference above 1e-3 of an output's largest
value ends with exit status 1, and nothing is written.
"""

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import paddle
from paddle.static import InputSpec

from shared import run
from shared.deploying.export import (
    Engine,
    add_format_option,
    deliver,
    inference_engine,
    onnx_engine,
    save_graph,
    translate_to_onnx,
)

from constants import MAX_OBJECTS
from inference import load_network, simulated_inputs
from models import GUPNet, find_peaks, gupnet
from options import FOLDER, NETWORK_OPTIONS, build_parser, parse_options_for_weights

DENSE_OUTPUTS = ("features", *gupnet.DENSE_OUTPUTS)
OUTPUTS = (*gupnet.DENSE_OUTPUTS, *gupnet.ROI_OUTPUTS)
LIMIT = 1e-3  # largest difference of an exported network's output, of its largest value where that is above 1
CHECKED = 2  # pictures that the graphs are compared on


class _Dense(paddle.nn.Layer):
    """The dense part: images [N, 3, H, W] -> DENSE_OUTPUTS, [N, channels, H / 4, W / 4] each."""

    def __init__(self, model: GUPNet):
        super().__init__()
        self.network = model

    def forward(self, images):
        features, dense = self.network.dense(images)
        return [features, *dense.values()]


class _Whole(_Dense):
    """The network in the mode "test": images, coord_ranges and calibs to OUTPUTS."""

    def forward(self, images, coord_ranges, calibs):
        outputs = self.network(images, coord_ranges, calibs, mode="test")
        return [outputs[name] for name in OUTPUTS]


def _save(layer: paddle.nn.Layer, spec: Sequence[tuple[str, list]], prefix: Path) -> Path:
    """Trace a layer in eval mode and write PREFIX.json and PREFIX.pdiparams."""
    training = layer.network.training
    layer.eval()
    save_graph(layer, [InputSpec([None, *shape], "float32", name=name) for name, shape in spec], prefix)
    if training:
        layer.network.train()
    return prefix


def export_dense(model: GUPNet, input_size: Sequence[int], prefix: Path) -> Path:
    """Write the dense part at `input_size` (W, H). Returns `prefix`; `model` stays as it is."""
    width, height = input_size
    return _save(_Dense(model), [("images", [3, height, width])], prefix)


def export_inference(model: GUPNet, input_size: Sequence[int], prefix: Path) -> Path:
    """Write the whole network at `input_size` (W, H). Returns `prefix`; `model` stays as it is."""
    width, height = input_size
    spec = [("images", [3, height, width]), ("coord_ranges", [2, 2]), ("calibs", [3, 4])]
    return _save(_Whole(model), spec, prefix)


def exported_engine(model: GUPNet, options: argparse.Namespace) -> Engine:
    """Export the whole network to a temporary folder and return its engine; the folder is gone when it returns."""
    with tempfile.TemporaryDirectory() as folder:
        prefix = export_inference(model, options.input_size, Path(folder) / "inference")
        return inference_engine(prefix, options.device, OUTPUTS)


# --------------------------------------------------------------------------------------------------------- comparing


def dygraph_outputs(model: GUPNet, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What the network itself says: all that the graphs give."""
    images, coord_ranges, calibs = (paddle.to_tensor(inputs[name]) for name in ("images", "coord_ranges", "calibs"))
    with paddle.no_grad():
        features, _ = model.dense(images)
        outputs = model(images, coord_ranges, calibs, mode="test")
    return {name: value.numpy() for name, value in (outputs | {"features": features}).items()}


def _peaks(outputs: Mapping[str, np.ndarray]) -> np.ndarray:
    """int64 [N, K]: a number for the cell and class of each peak."""
    peaks = find_peaks(paddle.to_tensor(outputs["heatmap"]), MAX_OBJECTS)
    return (peaks.cells * outputs["heatmap"].shape[1] + peaks.classes).numpy()


def largest_difference(found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> float:
    """Of all outputs, relative to an output's largest value where that is above 1.

    Rows of peaks are matched by cell and class, as peaks of nearly the same score may change places; infinite where
    more than one in ten is of another cell. NaN where a value is.
    """
    rows = [name for name in found if name not in DENSE_OUTPUTS]
    pairs = [(found[name], expected[name]) for name in found if name in DENSE_OUTPUTS]
    if rows:
        for ours, theirs, image in zip(_peaks(found), _peaks(expected), range(len(found["heatmap"])), strict=True):
            _, first, second = np.intersect1d(ours, theirs, return_indices=True)
            if len(first) < 0.9 * len(ours):
                return float("inf")
            first, second = first + image * MAX_OBJECTS, second + image * MAX_OBJECTS
            pairs += [(found[name][first], expected[name][second]) for name in rows]
    return float(np.max([np.abs(a - b).max() / max(np.abs(b).max(), 1) for a, b in pairs]))  # NaN if any of it is


def main(argv: Sequence[str] | None = None) -> int:
    parser = build_parser(__doc__, ("run", "output", "network"))
    add_format_option(parser)
    parser.set_defaults(output_dir=str(FOLDER / "output" / "export"))
    options = parse_options_for_weights(argv, parser)
    model = load_network(options)
    inputs = simulated_inputs(CHECKED, options.input_size)
    expected = dygraph_outputs(model, inputs)
    target, differences = Path(options.output_dir), {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if "inference" in options.format:
            prefix = export_inference(model, options.input_size, folder / "inference")
            found = inference_engine(prefix, options.device, OUTPUTS)(*inputs.values())
            differences["Paddle Inference, whole network"] = largest_difference(found, expected), LIMIT
        if "onnx" in options.format:
            prefix = export_dense(model, options.input_size, folder / "dense")
            translate_to_onnx(prefix, folder / "model.onnx")
            found = onnx_engine(folder / "model.onnx", DENSE_OUTPUTS)(inputs["images"])
            differences["ONNX Runtime, dense part"] = largest_difference(found, expected), LIMIT
        network = {name: getattr(options, name) for name in NETWORK_OPTIONS}
        return deliver(folder, target, options.format, differences, network)


if __name__ == "__main__":
    run(main)
