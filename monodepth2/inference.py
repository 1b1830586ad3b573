"""Networks as their weights remember them, and the disparities and motions they predict for a data set.

A predictor takes pictures float [N, 3, H, W] in [0, 1] and answers the raw disparity of scale 0, [N, 1, H, W]: the
network in Paddle, or an exported graph in Paddle Inference.
"""

import argparse
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import paddle
from tqdm import tqdm

from shared import InputError
from shared.running.options import require_files

from convert import load_official, stored_options
from metrics import batch_post_process_disparity
from models import Monodepth2, build_model, disp_to_depth, transformation_from_parameters
from options import parse_options

Predictor = Callable[[np.ndarray], np.ndarray]
NO_WEIGHTS = (
    "--weights is missing: give a folder of official .pth files, a .pdparams (convert.py makes one) or a checkpoint "
    "folder (train.py makes them)"
)


def parse_for_weights(
    argv: Sequence[str] | None, parser: argparse.ArgumentParser, own_size: bool = True
) -> argparse.Namespace:
    """`parse_options`, the network as --weights, where given, remember it.

    What the command line says wins, but for height and width: a depth network's are its weights' own (NOTES 7.1),
    and a line says so where others were asked for. `own_size` False lets the command line's win, as pose evaluation
    does (NOTES 7.8). InputError for weights that are not there or not understood.
    """
    first = parse_options(argv, parser)
    if not first.weights:
        return first
    require_files(first, ["weights"], "check the path")
    stored = stored_options(first.weights)
    options = parse_options(argv, parser, stored)
    if own_size and "height" in stored:
        size, asked = (stored["width"], stored["height"]), (options.width, options.height)
        if asked != size:
            print(f"-> the weights are for {size[0]}x{size[1]}: going on with that, not with {asked[0]}x{asked[1]}")
        options.width, options.height = size
    return options


def load_network(options: argparse.Namespace) -> Monodepth2:
    """The network of --weights, filled and in eval mode. InputError without weights, or for those that do not fit.

    Its shape is the weights' own, whatever `options` say.
    """
    if not options.weights:
        raise InputError(NO_WEIGHTS)
    model = build_model(argparse.Namespace(**vars(options) | stored_options(options.weights)))
    load_official(model, options.weights)
    model.eval()
    return model


def dygraph_predictor(model: Monodepth2) -> Predictor:
    """The network as it is, without gradients."""

    def predict(images: np.ndarray) -> np.ndarray:
        with paddle.no_grad():
            return model.predict_disparity(paddle.to_tensor(images))["disp", 0].numpy()

    return predict


def build_predictor(model: Monodepth2, options: argparse.Namespace, engine: str) -> Predictor:
    """The predictor of this engine, "dygraph" or "inference". InputError for a network without scale 0."""
    if 0 not in options.scales:
        raise InputError(f"--weights {options.weights}: trained without scale 0, so it predicts no full disparity")
    if engine == "dygraph":
        return dygraph_predictor(model)
    from export import exported_predictor

    return exported_predictor(model, options)


def predict_disparities(
    predict: Predictor, batches: Iterable[np.ndarray], options: argparse.Namespace, total: int | None = None
) -> np.ndarray:
    """Scaled disparities [N, H, W] of all pictures in `batches` of [n, 3, H, W], in order (NOTES 7.1).

    Of the pictures' dtype, or with options.post_process float64. `total` is the number of batches, for the bar.
    """

    def scaled(images: np.ndarray) -> np.ndarray:
        return disp_to_depth(predict(images), options.min_depth, options.max_depth)[0][:, 0]

    disparities = []
    for images in tqdm(batches, desc="predict", unit="batch", total=total, leave=False, disable=None):
        if options.post_process:
            # one batch of both, as the reference: exact, for nothing in the network looks across pictures
            both = scaled(np.concatenate([images, images[..., ::-1]]))
            plain, mirrored = np.split(both, 2)
            disparities.append(batch_post_process_disparity(plain, mirrored[..., ::-1]))
        else:
            disparities.append(scaled(images))
    return np.concatenate(disparities)


def predict_motions(model: Monodepth2, batches: Iterable[np.ndarray], total: int | None = None) -> np.ndarray:
    """Camera motions [N, 4, 4] from each pair's first picture to its second; batches [n, 6, H, W] (NOTES 7.8)."""
    motions = []
    for pairs in tqdm(batches, desc="predict", unit="batch", total=total, leave=False, disable=None):
        with paddle.no_grad():
            axisangle, translation = model.predict_pose(paddle.to_tensor(pairs))
            motions.append(transformation_from_parameters(axisangle[:, 0], translation[:, 0]).numpy())
    return np.concatenate(motions)


def output_folder(options: argparse.Namespace, beside: str | None) -> Path:
    """--eval_out_dir, or the folder of `beside`: of the weights or of the disparities that are scored."""
    if options.eval_out_dir:
        return Path(options.eval_out_dir)
    path = Path(beside)
    return path if path.is_dir() else path.parent
