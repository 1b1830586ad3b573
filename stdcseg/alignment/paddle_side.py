"""The Paddle side of the seven stages: this folder's own code."""

from functools import partial

import numpy as np
import paddle

from shared.align.papers import paddle_structure
from shared.convert import plan
from shared.running.sampling import EpochBatchSampler
from shared.stages import Context
from shared.weights import as_numpy

from . import feeds, recording
from convert import load_official
from datasets import build_dataset, collate
from engine import build_training, predict, train_step
from losses import Criterion, build_criterion
from losses.detail import detail_target
from metrics import ConfusionMatrix, Protocol
from models import STDCNet, build_classifier, build_model, resize_bilinear
from optimizers import parameter_groups


def _official_names(tensors: dict) -> dict:
    """Without the second names of the backbone's blocks (NOTES 1.4)."""
    return {name: value for name, value in tensors.items() if "backbone.x" not in name}


class PaddleSide:
    """What `recording` asks of a side."""

    no_grad = staticmethod(paddle.no_grad)
    einsum = staticmethod(paddle.einsum)

    def tensor(self, array: np.ndarray, gradient: bool = False):
        return paddle.to_tensor(array, stop_gradient=not gradient)

    # ------------------------------------------------------------------ networks

    def build(self, form: str, options):
        return (build_classifier if form == "classifier" else build_model)(options)

    def load(self, context: Context, backbone: str, form: str, options):
        model = self.build(form, options)
        load_official(model, feeds.weights_file(context, backbone, form))
        model.to(dtype=context.dtype)
        if form == "classifier":
            model.dropout.p = 0.0  # the frameworks draw different random numbers
        return model

    def structure(self, model, file) -> dict:
        return paddle_structure(plan(model), file)

    def parameter_count(self, model) -> int:
        return sum(int(p.size) for p in model.parameters() if not p.stop_gradient)

    def features(self, model, images) -> dict:
        features = STDCNet.forward(model, images)
        return {f"feat{2 ** (i + 1)}": feature for i, feature in enumerate(features)}

    def segment(self, model, images, outputs: dict):
        return model.segment(images)

    def state(self, model) -> dict:
        state = {name: as_numpy(value) for name, value in model.state_dict().items()}
        return _official_names(plan(model).to_torch(state)[0])

    def gradients(self, model) -> dict:
        gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        return _official_names(plan(model).gradients_to_torch(gradients))

    # ------------------------------------------------------------------ data and metric

    def names(self, options, split: str) -> list[str]:
        return build_dataset(options, split).names

    def samples(self, options, split: str, epoch: int, indices: list[int]) -> list:
        dataset = build_dataset(options, split)
        dataset.set_epoch(epoch)
        return [dataset[index] for index in indices]

    def metrics(self, pairs: list) -> dict:
        matrix = ConfusionMatrix(feeds.CLASSES)
        for predicted, target in pairs:
            matrix.update(predicted, target)
        return {"histogram": matrix.matrix, "iou": matrix.iou(), "miou": matrix.miou()}

    def predict(self, segment, images, scales, flip, crop) -> np.ndarray:
        return predict(segment, images, Protocol(scales, flip, crop))

    # ------------------------------------------------------------------ losses and training

    def criterion(self, thresh: float = 0.7, n_min: int = 0) -> Criterion:
        return Criterion(thresh, n_min)

    def kernel(self, criterion: Criterion):
        return criterion.detail.fuse_kernel

    def scale_kernel(self, criterion: Criterion, factor: float) -> None:
        paddle.assign(self.kernel(criterion) * factor, self.kernel(criterion))

    def detail_target(self, labels, criterion: Criterion):
        return detail_target(labels, self.kernel(criterion))

    def training(self, model, options, dtype: str):
        criterion = build_criterion(options)
        criterion.to(dtype=dtype)  # Momentum takes parameters of one dtype only (NOTES 8.6)
        return build_training(model, criterion, options)

    def groups(self, model, criterion: Criterion, options) -> list[tuple[list[str], float, float]]:
        """(names, factor of the learning rate, weight decay) of each group."""
        groups = parameter_groups(model, criterion, options)
        return [(group["names"], group["learning_rate"], group["weight_decay"]) for group in groups]

    def train_step(self, training, images, labels, step: int, options) -> tuple[float, float]:
        values = train_step(training, images, labels, options)
        return values["loss"], values["lr"]

    def epoch_of_batches(self, options, kept: list[int], epoch: int):
        sampler = EpochBatchSampler(len(kept), options.n_img_per_gpu, seed=options.seed, drop_last=True)
        sampler.set_epoch(epoch)
        for keys in sampler:
            yield self.samples(options, "train", epoch, [kept[key] for key in keys])

    def batch(self, samples: list, dtype: str) -> tuple:
        images, labels = collate(samples)
        return images.astype(dtype), labels

    def miou(self, model, images, labels, options) -> float:
        # in train mode: the running statistics need more steps than this training has
        model.train()
        with paddle.no_grad():
            small = resize_bilinear(images, feeds.VAL_SIZE)
            predicted = predict(lambda x: model(x)["out"], small, Protocol((1.0,)), labels.shape[1:])
        matrix = ConfusionMatrix(options.num_classes)
        matrix.update(predicted, labels.numpy())
        return matrix.miou_present()


SIDE = PaddleSide()
structure, data, forward = (partial(stage, SIDE) for stage in (recording.structure, recording.data, recording.forward))
metric, loss, backward = (partial(stage, SIDE) for stage in (recording.metric, recording.loss, recording.backward))


def train(context: Context) -> dict:
    model = build_model(feeds.data_options(context, feeds.TRAIN_ARGV))
    load_official(model, context.output_dir / "weights" / "train.pth")
    model.to(dtype=context.dtype)
    return recording.train(SIDE, context, model)
