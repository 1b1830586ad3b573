"""The Paddle side of the seven stages: this folder's own network, losses, data, metrics and training step."""

import numpy as np
import paddle

from shared.align import papers
from shared.convert import plan
from shared.weights import as_numpy

from . import feeds, records
from convert import load_official
from datasets import Batch, build_dataset
from decoding import decode_detections, extract_dets_from_outputs, result_lines
from engine import build_training, measure_losses, train_step
from losses import HierarchicalTaskLearning, build_criterion
from metrics.average_precision import average_precisions, precision_curves
from metrics.results import read_folders
from models import build_model, find_peaks
from optimizers import EpochSchedule, parameter_groups
from options import parse_options


def _tensors(arrays: dict) -> dict:
    return {name: paddle.to_tensor(array) for name, array in arrays.items()}


def _batch(inputs: dict) -> Batch:
    images, calibs, ranges = (paddle.to_tensor(inputs[name]) for name in ("images", "calibs", "coord_ranges"))
    return Batch(images, calibs, ranges, _tensors(inputs.get("targets", {})), {})


class _Training:
    def __init__(self, model, options):
        self.inner = build_training(model, options)

    def set_epoch(self, epoch):
        self.inner.schedule.step(epoch)

    def step(self, inputs, weights):
        batch = _batch(inputs)
        return measure_losses(self.inner, batch) if weights is None else train_step(self.inner, batch, weights)


class PaddleSide(records.Side):
    def structure(self):
        model = build_model(parse_options([]))
        trained = sum(int(np.prod(p.shape)) for p in model.parameters() if not p.stop_gradient)
        return papers.paddle_structure(plan(model), feeds.weights_file(self.context)) | {"parameters": trained}

    def open_split(self, options, split):
        dataset = build_dataset(options, split)

        def read(epoch: int, index: int) -> tuple:
            dataset.set_epoch(epoch)
            return dataset[index]

        return dataset.ids, read

    def load(self, name="drawn"):
        model = build_model(parse_options([]))
        load_official(model, feeds.weights_file(self.context, name))
        model.to(dtype=self.dtype)
        model.train()
        return model

    def state(self, model):
        return plan(model).to_torch({name: as_numpy(value) for name, value in model.state_dict().items()})[0]

    def fill(self, model, state):
        tensors, _, report = plan(model).to_paddle(state)
        report.raise_if_bad("alignment")
        model.set_state_dict(tensors)

    @paddle.no_grad()
    def run(self, model, inputs):
        mode, regions, batch = inputs.get("mode", "train"), {}, _batch(inputs)
        model.train() if mode == "train" else model.eval()
        hook = model.depth.register_forward_pre_hook(lambda layer, given: regions.update(regions=given[0].numpy()))
        count = {"K": inputs["K"]} if "K" in inputs else {}
        outputs = model(batch.images, batch.coord_ranges, batch.calibs, batch.targets, mode=mode, **count)
        hook.remove()
        return {name: value.numpy() for name, value in outputs.items()} | regions

    @paddle.no_grad()
    def parts(self, model, images):
        levels = model.backbone(paddle.to_tensor(images))
        return [level.numpy() for level in levels], model.feat_up(levels[2:]).numpy()

    def peaks(self, heatmap, count):
        return tuple(value.numpy() for value in find_peaks(paddle.to_tensor(heatmap), count))

    def metric(self):
        outputs, ratios, calibs = feeds.peak_outputs(self.dtype)
        rows = extract_dets_from_outputs(_tensors(outputs)).numpy()
        record, info = {"peaks": rows}, {"img_id": np.arange(len(rows)), "bbox_downsample_ratio": ratios}
        for threshold in feeds.THRESHOLDS:
            for image, decoded in decode_detections(rows, info, calibs, threshold).items():
                record[f"decoded/{threshold}/{image}"] = np.array(decoded, np.float64).reshape(-1, 14)
                record[f"lines/{threshold}/{image}"] = feeds.words(result_lines(decoded))
        labels, results, _ = read_folders(*feeds.result_folders(self.context))
        curves = precision_curves(labels, results)
        return record | {"ap": average_precisions(curves), "curve": curves}

    def losses(self, outputs, targets, weights):
        given = _tensors(outputs)
        leaves = {key: value for key, value in given.items() if value.is_floating_point()}
        for value in leaves.values():
            value.stop_gradient = False
        terms = build_criterion(parse_options([]))(given, _tensors(targets), weights)
        terms["loss"].backward()
        gradients = {key: value.grad.numpy() for key, value in leaves.items()}
        return {term: value.numpy() for term, value in terms.items()}, gradients

    def gradients(self, model, inputs):
        batch = _batch(inputs)
        outputs = model(batch.images, batch.coord_ranges, batch.calibs, batch.targets)
        terms = build_criterion(parse_options([]))(outputs, batch.targets)
        terms["loss"].backward()
        gradients = {key: p.grad for key, p in model.named_parameters() if p.grad is not None}
        return {term: value.numpy() for term, value in terms.items()}, plan(model).gradients_to_torch(gradients)

    def task_learning(self, max_epoch, dtype):
        tasks = HierarchicalTaskLearning()
        return lambda losses, epoch: tasks.compute_weight(losses, epoch, max_epoch)

    def groups(self, options):
        model = self.load()
        names = {id(p): name for name, p in model.named_parameters()}
        groups = parameter_groups(model, options.weight_decay)
        return [([names[id(p)] for p in group["params"]], group["weight_decay"]) for group in groups]

    def rates(self, options):
        schedule = EpochSchedule(options)
        return [(schedule.step(epoch), schedule())[1] for epoch in range(options.max_epoch)]

    def training(self, model, options):
        return _Training(model, options)


structure, data, forward, metric, loss, backward, train = records.stage_functions(PaddleSide)
