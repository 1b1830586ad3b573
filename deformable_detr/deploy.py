"""The network outside dygraph: its static graph, ONNX, and the engines that run them.

Graphs take images float32 [N, 3, H, W], normalised, zeros where padded, and their mask bool [N, H, W], True where
padded, and return `pred_logits` [N, Q, classes] and `pred_boxes` [N, Q, 4], for any N, H and W. Frozen batch norms are
folded into their convolutions.
"""

import argparse
import copy
import math
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import paddle
from paddle import nn
from paddle.static import InputSpec

from shared.deploying.export import Engine, inference_engine, onnx_engine, save_graph, translate_to_onnx

import ops
from convert import load_official
from engine import Network
from models import DeformableDETR, build_model
from models.backbone import FrozenBatchNorm2D

ENGINES = ("dygraph", "inference", "onnx")
OUTPUTS = ("pred_logits", "pred_boxes")
NORM_EPSILON = 1e-5  # of the network's group norms
OPSET = 16  # the first that has GridSample


def load_network(options: argparse.Namespace) -> DeformableDETR:
    """The network of --weights, filled and in eval mode. InputError for weights that do not fit."""
    model = build_model(options)
    load_official(model, options.weights)
    model.eval()
    return model


def build_network(model: DeformableDETR, engine: str, device: str) -> Network:
    """`model` itself for "dygraph", or its exported graph in the engine "inference" or "onnx" (on a CPU)."""
    if engine == "dygraph":
        return model
    with tempfile.TemporaryDirectory() as folder:  # the engines keep nothing there
        return exported_engine(model, Path(folder), engine, device)


def exported_engine(model: DeformableDETR, folder: Path, kind: str, device: str) -> Engine:
    """Export `model` to `folder` as "inference" or "onnx" and return the engine: arrays in, {name: array} out."""
    if kind == "inference":
        return inference_engine(export_inference(model, folder), device, OUTPUTS)
    export_onnx(model, folder / "model.onnx")
    return onnx_engine(folder / "model.onnx", OUTPUTS)


def export_inference(model: DeformableDETR, folder: Path) -> Path:
    """Write `folder`/inference.json and inference.pdiparams. Returns the common prefix. `model` stays as it is."""
    batch = [
        InputSpec([None, 3, None, None], "float32", name="images"),
        InputSpec([None, None, None], "bool", name="mask"),
    ]
    ops.implementation()  # it may compile the operator, and says so
    return save_graph(_Deployed(model), batch, folder / "inference")


class _Deployed(nn.Layer):
    """The part of a network that is deployed: a copy with folded norms, and the last layer's outputs alone."""

    def __init__(self, model: DeformableDETR):
        super().__init__()
        self.network = copy.deepcopy(model)
        self.network.aux_loss = False
        _fold_norms(self.network.backbone[0].body)
        self.eval()

    def forward(self, images, mask):
        outputs = self.network(images, mask)
        return outputs["pred_logits"], outputs["pred_boxes"]


def _fold_norms(layer: nn.Layer) -> None:
    """Put every frozen norm of a ResNet (`bn1` after `conv1`, or 1 after 0 of a shortcut) into its convolution.

    The network folds them in each forward; in a graph Paddle Inference gets that wrong (NOTES 8.10).
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


# ------------------------------------------------------------------------------------ ONNX


def export_onnx(model: DeformableDETR, target: Path) -> None:
    """Write the network as ONNX. InputError when paddle2onnx is not installed."""
    with tempfile.TemporaryDirectory() as folder:
        with _in_operators_of_onnx():
            prefix = export_inference(model, Path(folder))
        translate_to_onnx(prefix, target, OPSET)
    _correct_group_norms(target)


def _masked_fill(x, mask, value):
    return paddle.where(mask, paddle.full([], value, x.dtype), x)


def _flip(x, axis):
    return x.index_select(paddle.arange(x.shape[axis] - 1, -1, -1), axis)


def _power(exponent, base):
    return (exponent * math.log(base)).exp()


@contextmanager
def _in_operators_of_onnx() -> Iterator[None]:
    """Graphs made inside use operators that paddle2onnx 2.1 knows; at an unknown one it would end the process."""
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


def _correct_group_norms(path: Path) -> None:
    """Set the epsilon of the group norms in an ONNX file, which paddle2onnx writes wrong (NOTES 8.10)."""
    import onnx

    graph = onnx.load(str(path))
    for node in graph.graph.node:
        if node.op_type == "InstanceNormalization":  # paddle2onnx's form of a group norm
            for attribute in node.attribute:
                if attribute.name == "epsilon":
                    attribute.f = NORM_EPSILON
    onnx.save(graph, str(path))
