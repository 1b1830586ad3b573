"""The Paddle side of the seven stages: this folder's own code."""

import argparse
from functools import partial

import numpy as np
import paddle

from shared.convert import plan
from shared.stages import Context

import metrics
from . import feeds, recording
from convert import STORED, load_official, read_official
from datasets import build_dataset, collate
from datasets.ground_truth import ground_truth
from engine import build_training, dygraph_predictor, evaluate, predict, train_step
from losses import build_criterion
from metrics import STEREO_SCALE, Scaling, compute_depth_errors, evaluate_image, monitor_errors
from models import build_model
from models.geometry import transformation_from_parameters


class PaddleSide:
    """What `recording` asks of a side."""

    no_grad = staticmethod(paddle.no_grad)
    build, criterion = staticmethod(build_model), staticmethod(build_criterion)
    motion = staticmethod(transformation_from_parameters)
    collate = staticmethod(collate)
    training = staticmethod(build_training)
    flip = staticmethod(metrics.batch_post_process_disparity)

    def tensor(self, array: np.ndarray, gradient: bool = False):
        return paddle.to_tensor(array, stop_gradient=not gradient)

    # ------------------------------------------------------------------ networks

    def load(self, context: Context, name: str, options: argparse.Namespace):
        model = build_model(options)
        load_official(model, feeds.weights_folder(context, name))
        model.to(dtype=context.dtype)
        return model

    def shapes(self, model) -> dict:
        """Of the official tensors."""
        return {name: shape for name, shape in plan(model).torch_shapes().items() if name not in STORED}

    def parameter_count(self, model) -> int:
        return sum(int(p.size) for p in model.parameters() if not p.stop_gradient)

    def bits(self, model, folder) -> dict:
        """The tensors of the folder after torch -> Paddle -> torch."""
        tensors, torch_only, report = plan(model).to_paddle(read_official(folder).tensors)
        report.raise_if_bad(folder)
        back, _ = plan(model).to_torch(tensors, torch_only)
        return {name: array for name, array in back.items() if name not in STORED}

    def gradients(self, model) -> dict:
        return plan(model).gradients_to_torch({n: p.grad for n, p in model.named_parameters() if p.grad is not None})

    # ------------------------------------------------------------------ data and metric

    def count(self, options: argparse.Namespace, part: str) -> int:
        return len(build_dataset(options, part))

    def item(self, options: argparse.Namespace, part: str, index: int, epoch: int = 0) -> dict:
        dataset = build_dataset(options, part)
        dataset.set_epoch(epoch)
        return dataset[index]

    def ground_truth(self, options: argparse.Namespace, count: int) -> list[np.ndarray]:
        return ground_truth(options.data_path, "mini", options.split_dir)[:count]

    def depth_errors(self, gt: np.ndarray, prediction: np.ndarray) -> list[float]:
        return list(compute_depth_errors(gt, prediction).values())

    def score(self, gt, disparity, split: str, factor: float, median: bool) -> tuple[list, float]:
        result = evaluate_image(gt, disparity, split, Scaling(factor, median))
        return list(result.errors.values()), result.ratio or 1.0

    def monitor(self, depth: np.ndarray, gt: np.ndarray) -> list[float]:
        return list(monitor_errors(depth, gt).values())

    # ------------------------------------------------------------------ training

    def train_step(self, training, batch: dict, options, step: int, noise: list) -> dict[str, float]:
        return train_step(training, batch, options, step, noise)[1]

    def rates(self, training, options: argparse.Namespace) -> list[float]:
        """The learning rate of each epoch."""
        rates = []
        for _ in range(options.num_epochs):
            rates.append(training.optimizer.get_lr())
            training.scheduler.step()
        return rates

    def abs_rel(self, model, batch: dict, gt: list[np.ndarray], options: argparse.Namespace) -> float:
        disparities = predict(dygraph_predictor(model), batch["color", 0, 0].numpy(), options)
        results = evaluate(disparities, gt, "eigen", Scaling(STEREO_SCALE, median=False))
        return float(np.mean([result.errors["abs_rel"] for result in results]))


SIDE = PaddleSide()
structure, data, forward = (partial(stage, SIDE) for stage in (recording.structure, recording.data, recording.forward))
metric, loss, backward = (partial(stage, SIDE) for stage in (recording.metric, recording.loss, recording.backward))


def train(context: Context) -> dict:
    options = feeds.data_options(context, feeds.TRAIN_ARGV)
    model = build_model(options)
    load_official(model, context.output_dir / "weights" / "train")
    model.to(dtype=context.dtype)
    return recording.train(SIDE, context, model, options)
