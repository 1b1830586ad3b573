"""Static graph of the network for Paddle Inference, and ONNX.

    python export.py --weights output/train/best --output_dir output/export --format inference onnx

Writes inference.json and inference.pdiparams, model.onnx, and network.json (the network's options): pictures float32
[N, 3, H, W], normalised, zeros where padded, and their mask bool [N, H, W], True where padded, in; pred_logits
[N, Q, classes] and pred_boxes [N, Q, 4] out, for any N, H and W. Each is run on a random padded batch and compared with
the network; a difference above its limit ends with exit status 1 and nothing written.

Paddle Inference runs the compiled operator, several times faster than Paddle's own ones: `import ops;
ops.implementation()` makes it known before the graph is loaded. ONNX knows no such operator, so its graph holds grid
samplings instead, which need no library. Frozen batch norms are folded into their convolutions.
"""

import argparse
import copy
import math
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import paddle
from paddle import nn
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

import ops
from inference import load_network, parse_for_weights
from models import DeformableDETR
from models.backbone import FrozenBatchNorm2D
from options import FOLDER, NETWORK_OPTIONS, build_parser

OUTPUTS = ("pred_logits", "pred_boxes")
LIMITS = (1e-3, 1e-4)  # largest difference of a logit and of a box
NORM_EPSILON = 1e-5  # of the network's group norms
OPSET = 16  # the first that has GridSample


def _fold_norms(layer: nn.Layer) -> None:
    """Put every frozen norm of a ResNet (`conv1` and `bn1`, or 0 and 1 of a shortcut) into its convolution.

    The network folds them anew in each forward; with oneDNN, Paddle Inference 3.3 gets such a convolution wrong.
    """
    for name, norm in list(layer.named_children()):
        if not isinstance(norm, FrozenBatchNorm2D):
            _fold_norms(norm)
            continue
        convolution = getattr(layer, "0" if name == "1" else name.replace("bn", "conv"))
        weight, bias = norm.fold_into(convolution.weight)
        convolution.weight.set_value(weight)
        convolution.bias = convolution.create_parameter([weight.shape[0]], is_bias=True)
        convolution.bias.set_value(bias)
        layer.add_sublayer(name, nn.Identity())


class _Deployed(nn.Layer):
    """What is deployed of a network: a copy with folded norms, and the last layer's output alone."""

    def __init__(self, model: DeformableDETR):
        super().__init__()
        self.network = copy.deepcopy(model)
        self.network.aux_loss = False
        _fold_norms(self.network.backbone[0].body)
        self.eval()

    def forward(self, images, mask):
        outputs = self.network(images, mask)
        return outputs["pred_logits"], outputs["pred_boxes"]


def export_inference(model: DeformableDETR, folder: Path) -> Path:
    """Write `folder`/inference.json and inference.pdiparams. Returns the common prefix. `model` stays as it is."""
    batch = [
        InputSpec([None, 3, None, None], "float32", name="images"),
        InputSpec([None, None, None], "bool", name="mask"),
    ]
    ops.implementation()  # which may compile it, and says so
    return save_graph(_Deployed(model), batch, folder / "inference")


def _masked_fill(x, mask, value):
    return paddle.where(mask, paddle.full([], value, x.dtype), x)


def _flip(x, axis):
    return x.index_select(paddle.arange(x.shape[axis] - 1, -1, -1), axis)


def _power(exponent, base):
    return (exponent * math.log(base)).exp()


@contextmanager
def _in_operators_of_onnx() -> Iterator[None]:
    """The graph made inside is of operators that paddle2onnx 2.1 knows; it ends the process at one that it does not."""
    value = paddle.pir.Value
    others = {"masked_fill": _masked_fill, "flip": _flip, "__rpow__": _power}
    before = {name: getattr(value, name) for name in others}
    try:
        for name, other in others.items():
            setattr(value, name, other)
        with ops.temporarily("paddle"):
            yield
    finally:
        for name, own in before.items():
            setattr(value, name, own)


def export_onnx(model: DeformableDETR, target: Path) -> None:
    """Write the network as ONNX. InputError when paddle2onnx is not installed."""
    with tempfile.TemporaryDirectory() as folder:
        with _in_operators_of_onnx():
            prefix = export_inference(model, Path(folder))
        translate_to_onnx(prefix, target, OPSET)
    _mend_group_norms(target)


def _mend_group_norms(path: Path) -> None:
    """Set the epsilon of the norms in a graph: paddle2onnx 2.1 writes whatever lies in memory for a group norm's."""
    import onnx

    graph = onnx.load(str(path))
    for node in graph.graph.node:
        if node.op_type == "InstanceNormalization":  # what it makes of a group norm
            for attribute in node.attribute:
                if attribute.name == "epsilon":
                    attribute.f = NORM_EPSILON
    onnx.save(graph, str(path))


def exported_predictor(model: DeformableDETR, options: argparse.Namespace) -> Engine:
    """Export to a temporary folder and return the engine; the folder is gone when it returns.

    images float32 [N, 3, H, W] and mask bool [N, H, W] in; `pred_logits` and `pred_boxes` out.
    """
    with tempfile.TemporaryDirectory() as folder:
        return inference_engine(export_inference(model, Path(folder)), options.device, OUTPUTS)


def sample_batch(height: int = 160, width: int = 192) -> tuple[np.ndarray, np.ndarray]:
    """Two random pictures, the second smaller and padded."""
    rng = np.random.default_rng(0)
    images, mask = rng.normal(size=(2, 3, height, width)).astype(np.float32), np.zeros((2, height, width), bool)
    mask[1, height * 3 // 4 :] = mask[1, :, width * 2 // 3 :] = True
    images[1, :, mask[1]] = 0
    return images, mask


def _differences(engine: Engine, model: DeformableDETR) -> dict[str, float]:
    images, mask = sample_batch()
    with paddle.no_grad():
        expected = model(paddle.to_tensor(images), paddle.to_tensor(mask))
    return {key: float(np.abs(array - expected[key].numpy()).max()) for key, array in engine(images, mask).items()}


def main(argv: Sequence[str] | None = None) -> int:
    parser = build_parser(__doc__, ("run", "output", "network", "sizes"))
    parser.set_defaults(output_dir=str(FOLDER / "output" / "export"))
    add_format_option(parser)
    options = parse_for_weights(argv, parser)
    paddle.set_device(options.device)
    model, target = load_network(options), Path(options.output_dir)
    differences = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder, engines = Path(temporary), {}
        if "inference" in options.format:
            engines["Paddle Inference"] = inference_engine(export_inference(model, folder), options.device, OUTPUTS)
        if "onnx" in options.format:
            export_onnx(model, folder / "model.onnx")
            engines["ONNX Runtime"] = onnx_engine(folder / "model.onnx", OUTPUTS)
        for name, engine in engines.items():
            found = _differences(engine, model)
            differences |= {f"{name}, {key}": (found[key], limit) for key, limit in zip(OUTPUTS, LIMITS, strict=True)}
        network = {name: getattr(options, name) for name in NETWORK_OPTIONS}
        return deliver(folder, target, options.format, differences, network)


if __name__ == "__main__":
    run(main)
