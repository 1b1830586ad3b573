"""The graph that leaves dygraph, and the engines that run it."""

import argparse
import copy
import tempfile
from pathlib import Path

import paddle
from paddle.static import InputSpec

from shared.deploying.export import exported_engines, save_graph

from metrics import Segment
from models import BiSeNet, fold_norms


class Deployed(paddle.nn.Layer):
    """The deployed part of a network: its main output, from plain batch norms (NOTES 4.12)."""

    def __init__(self, model: BiSeNet):
        super().__init__()
        self.network = copy.deepcopy(model)
        fold_norms(self.network)
        self.eval()

    def forward(self, images):
        return self.network.segment(images)


def export_graph(model: BiSeNet, folder: Path) -> Path:
    """Write `folder`/inference.json and inference.pdiparams, for any batch and image size. Returns their common prefix.

    `model` does not change.
    """
    spec = [InputSpec([None, 3, None, None], "float32", name="images")]
    return save_graph(Deployed(model), spec, folder / "inference")


def exported_segment(model: BiSeNet, options: argparse.Namespace) -> Segment:
    """images [N, 3, H, W] -> logits [N, K, H, W] through the exported graph in --engine, by a temporary folder."""
    with tempfile.TemporaryDirectory() as folder:
        (engine,) = exported_engines(export_graph(model, Path(folder)), [options.engine], options.device).values()
    return lambda images: paddle.to_tensor(engine(images.numpy()))
