"""The network outside dygraph: its static graph and the engines that run it."""

import tempfile
from pathlib import Path

import paddle
from paddle.static import InputSpec

from shared.deploying.export import exported_engines, save_graph

from engine import Network

ENGINES = {"inference": "Paddle Inference", "onnx": "ONNX Runtime"}


def export_graph(model: paddle.nn.Layer, folder: Path) -> Path:
    """Write `folder`/inference.json and inference.pdiparams; any batch, any image size. Returns the common prefix."""
    model.eval()
    prefix = save_graph(model, [InputSpec([None, 3, None, None], "float32", name="images")], folder / "inference")
    model.forward = model.forward.rollback()  # tracing replaced it in place
    return prefix


def build_network(model: paddle.nn.Layer, engine: str, device: str = "cpu") -> Network:
    """`model` itself for "dygraph", or its exported graph in the engine "inference" or "onnx" (CPU)."""
    if engine == "dygraph":
        return model
    with tempfile.TemporaryDirectory() as folder:  # the engines hold all that they need of it
        return exported_engines(export_graph(model, Path(folder)), [engine], device)[ENGINES[engine]]
