"""Networks as their weights remember them, and what they detect in batches of pictures.

A predictor takes a batch, images float32 [N, 3, H, W] and mask bool [N, H, W], and answers `pred_logits` and
`pred_boxes`: the network in Paddle, or an exported graph in Paddle Inference.
"""

import argparse
from collections.abc import Callable, Sequence

import paddle

from shared import InputError
from shared.running.options import require_files

from convert import load_official, stored_options
from models import DeformableDETR, build_model
from options import parse_options

Predictor = Callable[[paddle.Tensor, paddle.Tensor], dict[str, paddle.Tensor]]
NO_WEIGHTS = (
    "--weights is missing: give an official .pth, a .pdparams (convert.py makes one) or a checkpoint folder (train.py "
    "makes them)"
)


def parse_for_weights(
    argv: Sequence[str] | None, parser: argparse.ArgumentParser, required: bool = True
) -> argparse.Namespace:
    """`parse_options`, with what --weights say of their network, and of picture sizes if they are a checkpoint.

    What the command line says wins. InputError for weights that are not there, not understood, or `required` and not
    given.
    """
    first = parse_options(argv, parser)
    if not first.weights:
        if required:
            raise InputError(NO_WEIGHTS)
        return first
    require_files(first, ["weights"], "check the path")
    return parse_options(argv, parser, stored_options(first.weights))


def load_network(options: argparse.Namespace) -> DeformableDETR:
    """The network of --weights, filled and in eval mode. InputError for weights that do not fit."""
    model = build_model(options)
    load_official(model, options.weights)
    model.eval()
    return model


def dygraph_predictor(model: paddle.nn.Layer) -> Predictor:
    """The network as it is, without gradients."""

    def predict(images: paddle.Tensor, mask: paddle.Tensor) -> dict:
        with paddle.no_grad():
            return model(images, mask)

    return predict


def build_predictor(model: paddle.nn.Layer, options: argparse.Namespace, engine: str) -> Predictor:
    """The predictor of this engine, "dygraph" or "inference"."""
    if engine == "dygraph":
        return dygraph_predictor(model)
    from export import exported_predictor

    run = exported_predictor(model, options)

    def predict(images: paddle.Tensor, mask: paddle.Tensor) -> dict:
        return {key: paddle.to_tensor(value) for key, value in run(images.numpy(), mask.numpy()).items()}

    return predict
