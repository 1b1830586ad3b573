"""One training step, the validation of a training, the prediction and evaluation of a split.

The trainer, evaluate.py, evaluate_pose.py, demo.py, benchmark.py, the alignment and the tests all call these.
"""

import argparse
import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
import paddle
import paddle.distributed as dist
from tqdm import tqdm

from shared import InputError
from shared.running.launch import Diverged, build_scaler, in_float32, mixed_precision

from losses import Criterion, build_criterion
from metrics import ImageResult, Scaling, batch_post_process_disparity, evaluate_image, monitor_errors
from models import Monodepth2
from models.geometry import disp_to_depth, transformation_from_parameters
from optimizers import StepDecay, build_optimizer, build_scheduler
from options import sources

#: images float32 [n, 3, H, W] in [0, 1] -> the network's disparity of scale 0, [n, 1, H, W]
Predictor = Callable[[np.ndarray], np.ndarray]


# ------------------------------------------------------------------------------------ training


class Training(NamedTuple):
    """Everything that a training step changes. `model` is `network` or its paddle.DataParallel."""

    network: Monodepth2
    model: paddle.nn.Layer
    criterion: Criterion
    scheduler: StepDecay
    optimizer: paddle.optimizer.Adam
    scaler: paddle.amp.GradScaler


def build_training(network: Monodepth2, options: argparse.Namespace) -> Training:
    """Losses, schedule, optimiser and loss scaler for `network`; its unused classifiers are frozen.

    No gradient of the classifiers is computed or sent to other processes.
    """
    scheduler = build_scheduler(options)
    optimizer = build_optimizer(network, options, scheduler)
    for layer in network.idle_layers():
        for parameter in layer.parameters():
            parameter.stop_gradient = True
    return Training(network, network, build_criterion(options), scheduler, optimizer, build_scaler(options))


def train_step(
    training: Training, batch: dict, options: argparse.Namespace, step: int, noise: Sequence | None = None
) -> tuple[dict, dict[str, float]]:
    """One update, the `step`-th from 0. Returns (outputs of the networks and details of the losses, the loss terms).

    `noise` breaks ties between unwarped sources; by default that of `tie_breaking_noise`. Diverged, with nothing
    updated, if the loss is NaN or Inf.
    """
    network, model, criterion, _, optimizer, scaler = training
    network.train()  # not the wrapper's own train(), which would unfreeze the norms of --freeze_bn
    noise = tie_breaking_noise(batch, options, step) if noise is None else noise
    outputs, details = _forward(model, criterion, batch, options, noise)
    terms = {name: float(details[name]) for name in ("loss", *(f"loss/{scale}" for scale in options.scales))}
    if not math.isfinite(terms["loss"]):
        raise Diverged(
            f"the loss is NaN or Inf at step {step}: the training has diverged; lower --learning_rate (now "
            f"{optimizer.get_lr():g}), and --resume from the last checkpoint"
        )
    scaler.scale(details["loss"]).backward()
    scaler.step(optimizer)
    scaler.update()
    optimizer.clear_grad()
    return outputs | details, terms


def _forward(model, criterion: Criterion, batch: dict, options: argparse.Namespace, noise) -> tuple[dict, dict]:
    with mixed_precision(options):
        outputs = model(batch)
    outputs = in_float32(outputs) if options.amp else outputs
    return outputs, criterion.details(outputs, batch, noise)


def tie_breaking_noise(batch: dict, options: argparse.Namespace, step: int) -> list | None:
    """N(0, 1) for each scale, drawn from (seed, step); None where the losses need none (NOTES 5.4).

    Drawn for the items of all processes together, so an item has the same noise in whichever process it is.
    """
    if options.disable_automasking:
        return None
    rank, world = dist.get_rank(), dist.get_world_size()
    channels = 1 if options.avg_reprojection else len(sources(options))
    paddle.seed((options.seed * 1_000_003 + step) % 2**31)
    noise = []
    for scale in options.scales:
        n, _, height, width = batch["color", 0, scale if options.v1_multiscale else 0].shape
        noise.append(paddle.randn([n * world, channels, height, width])[rank::world])
    return noise


@paddle.no_grad()
def validate(training: Training, loader: Iterable, options: argparse.Namespace) -> tuple[dict, dict, dict]:
    """Means over the batches of `loader`: {"loss", and with ground truth the monitor's errors}; of this process alone.

    Also the last batch and its outputs, for pictures.
    """
    training.network.eval()
    sums: dict[str, float] = {}
    for index, batch in enumerate(loader):
        noise = tie_breaking_noise(batch, options, index)  # the same at every validation
        outputs, details = _forward(training.network, training.criterion, batch, options, noise)
        for name, value in ({"loss": float(details["loss"])} | monitor(batch, details, options)).items():
            sums[name] = sums.get(name, 0.0) + value
    return {name: value / (index + 1) for name, value in sums.items()}, batch, outputs | details


def monitor(batch: dict, details: dict, options: argparse.Namespace) -> dict[str, float]:
    """Depth errors of a batch with ground truth (NOTES 5.8); {} for one without."""
    if "depth_gt" not in batch or 0 not in options.scales:
        return {}
    return monitor_errors(details["depth", 0, 0].numpy(), batch["depth_gt"].numpy())


# ------------------------------------------------------------------------------------ prediction and evaluation


def dygraph_predictor(model: Monodepth2) -> Predictor:
    """The network itself, in eval mode and without gradients. InputError for a network without scale 0."""
    require_scale_0(model)

    @paddle.no_grad()
    def predictor(images: np.ndarray) -> np.ndarray:
        model.eval()
        return model.predict_disparity(paddle.to_tensor(images))["disp", 0].numpy()

    return predictor


def require_scale_0(model: Monodepth2) -> None:
    """InputError for a network that predicts no disparity at full size."""
    if 0 not in model.depth.scales:
        raise InputError("--weights: trained without scale 0, so the network predicts no disparity at full size")


def predict(predictor: Predictor, images: np.ndarray, options: argparse.Namespace) -> np.ndarray:
    """Scaled disparities [n, H, W] of images [n, 3, H, W] (NOTES 7.1).

    Of the images' dtype, or with options.post_process float64.
    """

    def scaled(images: np.ndarray) -> np.ndarray:
        return disp_to_depth(predictor(images), options.min_depth, options.max_depth)[0][:, 0]

    if not options.post_process:
        return scaled(images)
    plain, mirrored = np.split(scaled(np.concatenate([images, images[..., ::-1]])), 2)
    return batch_post_process_disparity(plain, mirrored[..., ::-1])


def predict_split(predictor: Predictor, loader: Sequence, options: argparse.Namespace) -> np.ndarray:
    """Scaled disparities [N, H, W] of all items of `loader`, in order."""
    batches = tqdm(loader, desc="predict", unit="batch", leave=False, disable=None)
    return np.concatenate([predict(predictor, batch["color", 0, 0].numpy(), options) for batch in batches])


def evaluate(
    disparities: Iterable[np.ndarray], gt: Iterable[np.ndarray], split: str, scaling: Scaling
) -> list[ImageResult]:
    """The errors of each image's scaled disparity [h, w] against its ground truth in metres [h', w'] (NOTES 7.3)."""
    return [evaluate_image(*pair, split, scaling) for pair in zip(gt, disparities, strict=True)]


@paddle.no_grad()
def predict_motions(model: Monodepth2, loader: Sequence) -> np.ndarray:
    """Camera motions [N, 4, 4] from frame 0 to frame 1 of all items of `loader`, in order (NOTES 7.8)."""
    model.eval()
    motions = []
    for batch in tqdm(loader, desc="predict", unit="batch", leave=False, disable=None):
        axisangle, translation = model.predict_pose(paddle.concat([batch["color", f, 0] for f in (0, 1)], axis=1))
        motions.append(transformation_from_parameters(axisangle[:, 0], translation[:, 0]).numpy())
    return np.concatenate(motions)
