"""The stages, written once for both sides: what a `Side` of either framework records."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from shared.stages import Context

from . import feeds
from constants import TERMS
from options import parse_options

STAGES = ("structure", "data", "forward", "metric", "loss", "backward", "train")


class Side(ABC):
    """One framework in one dtype. A subclass has, beside the stages structure and metric:

    open_split(options, split): its frame numbers, and (epoch, index) -> (image, P2, coord_range, targets, info)
    load(name): a network with the weights of that name, in training mode
    state(model), fill(model, state): {official name: array} of all tensors, out and in
    run(model, inputs): the outputs, and under "regions" the features of the RoIs; in training mode for the mode "train"
    parts(model, images): the levels of the backbone, and the neck's features
    peaks(heatmap, count): score, cell and class of the best peaks of logits
    losses(outputs, targets, weights): the terms, and the gradients of the outputs
    gradients(model, inputs): the terms, and the gradients of the parameters
    task_learning(max_epoch, dtype): (losses, epoch) -> the weights of the terms
    groups(options), rates(options): (names, decay) of the optimiser's groups; the learning rate of every epoch
    training(model, options): with set_epoch(epoch), and step(inputs, weights) -> the losses: an update, or without
    weights none

    Arrays go in and come out.
    """

    def __init__(self, context: Context):
        self.context, self.dtype = context, context.dtype

    @abstractmethod
    def structure(self) -> dict: ...

    @abstractmethod
    def metric(self) -> dict: ...

    def data(self) -> dict:
        record = {}
        for name, split, argv in feeds.DATA_CASES:
            numbers, read = self.open_split(feeds.data_options(self.context, argv.split()), split)
            record[f"{name}/numbers"] = np.array(numbers)
            for epoch in (0, 1) if split == "train" else (0,):
                for index in feeds.chosen(len(numbers), 3):
                    image, calib, coord_range, targets, info = read(epoch, index)
                    sample = {"image": image, "calib": calib, "coord_range": coord_range}
                    record[f"{name}/epoch{epoch}/{index}"] = sample | targets | info
        return record

    def forward(self) -> dict:
        record, model = {}, self.load()
        initial = self.state(model)

        def run(name: str, inputs: dict) -> None:
            record[name] = self.run(model, inputs)
            if inputs.get("mode", "train") != "train":
                score, cell, kind = self.peaks(record[name]["heatmap"], inputs["K"])
                record[name] |= {"peak_score": score, "peak_cell": cell, "peak_class": kind}

        choices = feeds.choices(self.context)
        for name, case in feeds.FORWARD.items():
            biases = {tensor: np.array(values, self.dtype) for tensor, values in case.biases.items()}
            self.fill(model, initial | biases)
            inputs = feeds.inputs(name, case, choices.get(name, 0), self.dtype)
            run(name, inputs)
            if name in feeds.WATCHED:
                record[name] |= {key: value for key, value in self.state(model).items() if "running" in key}
                self.fill(model, initial)
                levels, features = self.parts(model, inputs["images"])
                record[name] |= {f"level{i}": level for i, level in enumerate(levels)} | {"features": features}
        for size, count in feeds.FRAMES.items():
            self.fill(model, initial)
            numbers, read = self.open_split(feeds.data_options(self.context, ["--input_size", *map(str, size)]), "val")
            samples = [read(0, index) for index in feeds.chosen(len(numbers), count)]
            run(f"frames{size[0]}", feeds.frames(samples, self.dtype))
        return record

    def loss(self) -> dict:
        record = {}
        for name, outputs, targets, weights in feeds.loss_cases(self.dtype):
            record[name], gradients = self.losses(outputs, targets, weights)
            if name != "no_object":
                record[f"{name}/gradient"] = gradients
        for name, max_epoch, epochs in feeds.task_losses():
            compute_weight = self.task_learning(max_epoch, self.dtype)
            weights = [compute_weight(losses, epoch) for epoch, losses in enumerate(epochs)]
            record[f"tasks/{name}"] = _by_terms(weights)
        return record

    def backward(self) -> dict:
        inputs = feeds.inputs("backward", feeds.BACKWARD, feeds.choices(self.context)["backward"], self.dtype)
        terms, gradients = self.gradients(self.load(), inputs)
        record = {"terms": terms, "gradient": gradients}
        for number, (names, decay) in enumerate(self.groups(parse_options([]))):
            record[f"groups/{number}"] = {"names": sorted(names), "weight_decay": float(decay)}
        for name, argv in feeds.SCHEDULES.items():
            record[f"{name}/lr"] = np.array(self.rates(parse_options(argv.split())))
        for name, (argv, weights) in feeds.OPTIMISERS.items():
            model = self.load()
            before, training = self.state(model), self.training(model, parse_options(argv.split()))
            steps = [training.step(inputs, weights) for _ in range(feeds.OPTIMISER_STEPS)]
            record[f"{name}/losses"] = _by_terms(steps, (*TERMS, "loss"))
            for key, value in self.state(model).items():
                if key.startswith(("depth.", "heading.")) and key.endswith("weight"):
                    record[f"{name}/walked/{key}"] = value.astype(np.float64) - before[key].astype(np.float64)
        return record

    def train(self) -> dict:
        return self.train_from(self.load("train"))

    def train_from(self, model: Any) -> dict:
        """Train a network on a few frames of the data set, as feeds.TRAIN_ARGV says."""
        options = feeds.data_options(self.context, feeds.TRAIN_ARGV)
        (train_ids, read), (val_ids, read_val) = (self.open_split(options, split) for split in ("train", "val"))
        kept = feeds.chosen(len(train_ids), feeds.TRAIN_FRAMES)
        val = [read_val(0, index) for index in feeds.chosen(len(val_ids), feeds.VAL_FRAMES)]
        val = feeds.frames(val, self.dtype)
        training = self.training(model, options)
        compute_weight = self.task_learning(options.max_epoch, "float64")

        def figures() -> dict[str, float]:
            """By the statistics of the batch: so early the running ones are far from them."""
            state = self.state(model)
            outputs = self.run(model, val)
            self.fill(model, state)
            _, cells, kinds = self.peaks(outputs["heatmap"], feeds.VAL_PEAKS)
            return feeds.figures(cells, kinds, val["targets"], outputs["depth"][:, 0])

        means, epoch_weights, curve = [], [], [figures()]
        for epoch in range(-1, options.max_epoch):  # the first pass makes no updates
            training.set_epoch(max(epoch, 0))
            weights = compute_weight(dict(zip(TERMS, means[-1], strict=True)), epoch) if means else None
            order = np.random.default_rng([options.seed, max(epoch, 0)]).permutation(len(kept))
            losses = []
            for keys in order.reshape(-1, options.batch_size):
                samples = [read(max(epoch, 0), kept[key]) for key in keys]
                losses.append(training.step(feeds.frames(samples, self.dtype), weights))
            means.append(np.mean(_by_terms(losses), 0))
            if weights is not None:
                epoch_weights.append(weights)
                curve.append(figures())
        return feeds.training_record(np.array(means), epoch_weights, curve)


def _by_terms(rows: Sequence[Mapping[str, float]], terms: Sequence[str] = TERMS) -> np.ndarray:
    return np.array([[row[term] for term in terms] for row in rows])


def stage_functions(side: type[Side]) -> list[Callable[[Context], dict]]:
    """The functions of STAGES, in that order, by which `shared.stages` runs a side."""
    return [lambda context, name=name: getattr(side(context), name)() for name in STAGES]
