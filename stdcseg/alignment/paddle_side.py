"""The Paddle side of the seven stages: this folder's own code."""

import zlib

import numpy as np
import paddle

from shared.convert import plan
from shared.stages import Context
from shared.weights import as_numpy, read_torch

from . import feeds
from .parts import outputs_and_parts
from convert import IGNORE, RENAME, load_official
from datasets import CityScapes, EpochBatchSampler, EvalTransform, TrainTransform, build_dataset
from inference import Protocol
from losses import Criterion, DetailAggregateLoss, OhemCELoss, build_criterion
from losses.detail import detail_target
from metrics import ConfusionMatrix
from models import build_classifier, build_model, resize_bilinear
from optimizers import build_optimizer, build_scheduler, parameter_groups


def _build(form: str, options):
    return (build_classifier if form == "classifier" else build_model)(options)


def _loaded(context: Context, backbone: str, form: str, options):
    network = _build(form, options)
    load_official(network, feeds.weights_file(context, backbone, form))
    network.to(dtype=context.dtype)
    if form == "classifier":
        network.dropout.p = 0.0  # its draws cannot agree between frameworks
    return network


def structure(context: Context) -> dict:
    record = {}
    for backbone, form, options in feeds.networks(context):
        network = _build(form, options)
        mapping = plan(network, RENAME, IGNORE)
        name = f"{backbone}/{form}"
        record[f"{name}/tensors"] = list(mapping.torch_shapes())
        for tensor, shape in mapping.torch_shapes().items():
            record[f"{name}/shape/{tensor}"] = np.array(shape, np.int64)
        record[f"{name}/parameters"] = sum(int(p.size) for p in network.parameters() if not p.stop_gradient)
        official = read_torch(feeds.weights_file(context, backbone, form)).tensors
        converted, torch_only, report = mapping.to_paddle(official)
        report.raise_if_bad(feeds.weights_file(context, backbone, form))
        back, _ = mapping.to_torch(converted, torch_only)
        for tensor, array in back.items():
            record[f"{name}/bits/{tensor}"] = zlib.crc32(array.tobytes())
    return record


def data(context: Context) -> dict:
    record = {}
    for split in ("train", "val"):
        dataset = build_dataset(feeds.data_options(context), split)
        record[f"{split}/names"] = dataset.names
    for name, split, argv in feeds.DATA_CASES:
        dataset = build_dataset(feeds.data_options(context, argv.split()), split)
        for epoch in (0, 1):
            dataset.set_epoch(epoch)
            for index in feeds.chosen(len(dataset), 4):
                image, label = dataset[index]
                record[f"{name}/epoch{epoch}/{index}/image"] = image
                record[f"{name}/epoch{epoch}/{index}/label"] = label
    return record


def forward(context: Context) -> dict:
    record = {}
    for backbone, form, options in feeds.networks(context):
        network = _loaded(context, backbone, form, options)
        network.eval()
        for name, images in _pictures(context, form).items():
            images = paddle.to_tensor(images)
            with paddle.no_grad():
                if form == "classifier":
                    features = super(type(network), network).forward(images)
                    values = {"logits": network(images)}
                    values |= {f"feat{2 ** (i + 1)}": feature for i, feature in enumerate(features)}
                else:
                    values, parts = outputs_and_parts(network, images)
                    values["segment"] = network.segment(images)
                    record |= {f"{backbone}/{name}/{part}": value for part, value in parts.items()}
            record |= {f"{backbone}/{form}/{name}/{key}": value.numpy() for key, value in values.items()}
        if form == "segmentation":
            record |= _variants(context, backbone)
    return record


def _pictures(context: Context, form: str) -> dict[str, np.ndarray]:
    """Noise, and pictures of the data set."""
    if form == "classifier":
        return {"noise": feeds.noise("classifier", feeds.CLASSIFIER_SHAPE, context.dtype)}
    dataset = build_dataset(feeds.data_options(context), "val")
    pictures = [dataset[index][0] for index in feeds.chosen(len(dataset), 1)]
    return {
        "noise": feeds.noise("noise", feeds.NOISE_SHAPE, context.dtype),
        "picture": np.stack(pictures).astype(context.dtype),
    }


def _variants(context: Context, backbone: str) -> dict:
    """Options, in train mode: outputs, and the running statistics that the pass leaves."""
    record = {}
    for variant, argv in feeds.VARIANTS.items():
        network = _loaded(context, backbone, "segmentation", feeds.network_options(context, backbone, argv))
        network.train()
        with paddle.no_grad():
            outputs = network(paddle.to_tensor(feeds.noise("variant", feeds.VARIANT_SHAPE, context.dtype)))
        name = f"{backbone}/variant/{variant}"
        record |= {f"{name}/{key}": value.numpy() for key, value in outputs.items()}
        for tensor, array in _official(network).items():
            if tensor.endswith(("running_mean", "running_var")) and "backbone.x" not in tensor:
                record[f"{name}/statistics/{tensor}"] = array
    return record


def _official(network) -> dict[str, np.ndarray]:
    state = {name: as_numpy(value) for name, value in network.state_dict().items()}
    return plan(network, RENAME, IGNORE).to_torch(state)[0]


def metric(context: Context) -> dict:
    record = {}
    whole = ConfusionMatrix(feeds.CLASSES)
    for case, predicted, target in feeds.label_maps():
        matrix = ConfusionMatrix(feeds.CLASSES)
        for one, other in zip(predicted, target, strict=True):  # picture by picture
            matrix.update(one, other)
        whole = whole + matrix
        record |= {f"{case}/histogram": matrix.matrix, f"{case}/iou": matrix.iou(), f"{case}/miou": matrix.miou()}
    record |= {"whole/histogram": whole.matrix, "whole/iou": whole.iou(), "whole/miou": whole.miou()}

    weight = paddle.to_tensor(feeds.mixture(context.dtype))

    def segment(images):
        return paddle.einsum("kc,nchw->nkhw", weight, images)

    images = paddle.to_tensor(feeds.noise("metric", feeds.METRIC_SHAPE, context.dtype))
    size = feeds.METRIC_SHAPE[2:]
    target = feeds.labels("protocols", (1, *size))
    for scales, flip, crop in feeds.PROTOCOLS:
        protocol = Protocol(scales, flip, crop)
        matrix = ConfusionMatrix(feeds.CLASSES)
        matrix.update(protocol.predict(segment, images, size), target)
        record[f"{protocol.name}/histogram"] = matrix.matrix
    return record


def loss(context: Context) -> dict:
    record = {}
    for name, (values, target, thresh, n_min) in feeds.ohem_cases(context.dtype).items():
        x = paddle.to_tensor(values, stop_gradient=False)
        value = OhemCELoss(thresh, n_min)(x, paddle.to_tensor(target))
        record[f"ohem/{name}/loss"] = value.numpy()
        if n_min:  # the mean of nothing has no gradient to speak of
            value.backward()
            record[f"ohem/{name}/gradient"] = x.grad.numpy()
    for name, (values, target, factor) in feeds.detail_cases(context.dtype).items():
        detail = DetailAggregateLoss()
        paddle.assign(detail.fuse_kernel * factor, detail.fuse_kernel)
        target = paddle.to_tensor(target)
        record[f"detail/{name}/target"] = detail_target(target, detail.fuse_kernel).numpy()
        for index, term in enumerate(("bce", "dice")):
            x = paddle.to_tensor(values, stop_gradient=False)
            value = detail(x, target)[index]
            value.backward()
            record[f"detail/{name}/{term}"] = value.numpy()
            record[f"detail/{name}/{term}/gradient"] = x.grad.numpy()
    outputs, target = feeds.whole_loss(context.dtype)
    outputs = {name: paddle.to_tensor(value, stop_gradient=False) for name, value in outputs.items()}
    criterion = Criterion(n_min=target.size // 16)
    terms = criterion(outputs, paddle.to_tensor(target))
    terms["loss"].backward()
    record |= {f"whole/{term}": value.numpy() for term, value in terms.items()}
    record |= {f"whole/{name}/gradient": value.grad.numpy() for name, value in outputs.items()}
    record["whole/fuse_kernel/gradient"] = criterion.detail.fuse_kernel.grad.numpy()
    return record


def backward(context: Context) -> dict:
    record = {}
    for backbone in feeds.backbones(context):
        if "segmentation" not in feeds.forms(context):
            continue
        images, target = (paddle.to_tensor(array) for array in feeds.batch(context, backbone))
        n_min = int(target.size) // 16
        options = feeds.network_options(context, backbone, feeds.DETAILS)
        for mode in ("train", "eval"):
            network = _loaded(context, backbone, "segmentation", options)
            network.train() if mode == "train" else network.eval()
            terms = Criterion(n_min=n_min)(network(images), target)
            terms["loss"].backward()
            record |= {f"{backbone}/{mode}/{term}": value.numpy() for term, value in terms.items()}
            gradients = {n: p.grad for n, p in network.named_parameters() if p.grad is not None}
            for name, gradient in plan(network, RENAME, IGNORE).gradients_to_torch(gradients).items():
                if "backbone.x" not in name:  # the aliases
                    record[f"{backbone}/{mode}/gradient/{name}"] = gradient
        for name, argv in feeds.optimisers(context, backbone).items():
            steps = _optimiser_steps(context, backbone, argv, images, target)
            record |= {f"{backbone}/{name}/{key}": value for key, value in steps.items()}
    return record


def _optimiser_steps(context: Context, backbone: str, argv: list[str], images, target) -> dict:
    recipe = feeds.network_options(context, backbone, argv)
    recipe.n_min = int(target.size) // 16
    network = _loaded(context, backbone, "segmentation", recipe)
    network.train()
    criterion, scheduler = build_criterion(recipe), build_scheduler(recipe)
    criterion.to(dtype=context.dtype)
    optimizer = build_optimizer(network, criterion, recipe, scheduler)
    groups = parameter_groups(network, criterion, recipe)
    losses, rates, sums = [], [], {}
    for step in range(feeds.OPTIMISER_STEPS):
        value = criterion(network(images), target)["loss"]
        value.backward()
        losses.append(float(value))
        rates.append([optimizer.get_lr() * group["learning_rate"] for group in groups])
        optimizer.step()
        optimizer.clear_grad()
        scheduler.step()
        for part in feeds.measured_parts(step, context.dtype):
            state = _official(network).items()
            arrays = [array for name, array in state if name.endswith(part) and "backbone.x" not in name]
            sums[f"step{step}/{part}"] = np.array([np.linalg.norm(array.astype(np.float64)) for array in arrays])
    sums |= {f"groups/{index}": group["names"] for index, group in enumerate(groups)}
    sums["fuse_kernel"] = criterion.detail.fuse_kernel.numpy().astype(np.float32)
    return {"loss": np.array(losses), "lr": np.array(rates)} | sums


def train(context: Context) -> dict:
    options = feeds.data_options(context, feeds.TRAIN_ARGV)
    network = build_model(options)
    load_official(network, context.output_dir / "weights" / "train.pth")
    network.to(dtype=context.dtype)
    criterion, scheduler = build_criterion(options), build_scheduler(options)
    criterion.to(dtype=context.dtype)
    optimizer = build_optimizer(network, criterion, options, scheduler)
    transform = TrainTransform(options.scales, tuple(options.crop_size), options.colour_jitter)
    train_set = CityScapes(options.data_path, "train", transform, options.seed)
    val_set = CityScapes(options.data_path, "val", EvalTransform())
    val = [val_set[index] for index in feeds.chosen(len(val_set), feeds.VAL_PICTURES)]
    val_images, val_labels = _batch(val, context.dtype)
    val_images = resize_bilinear(val_images, feeds.VAL_SIZE)
    kept = feeds.chosen(len(train_set), feeds.TRAIN_PICTURES)

    def miou() -> float:
        # statistics of the batch: the running ones need more steps than this training has
        network.train()
        with paddle.no_grad():
            predicted = resize_bilinear(network(val_images)["out"], val_labels.shape[1:]).argmax(1)
        matrix = ConfusionMatrix(options.num_classes)
        matrix.update(predicted.numpy(), val_labels.numpy())
        return matrix.miou_present()

    losses, steps, curve = [], [0], [miou()]
    epoch = 0
    while len(losses) < options.max_iter:
        sampler = EpochBatchSampler(len(kept), options.n_img_per_gpu, seed=options.seed, drop_last=True)
        sampler.set_epoch(epoch)
        train_set.set_epoch(epoch)
        for keys in sampler:
            network.train()
            images, target = _batch([train_set[kept[key]] for key in keys], context.dtype)
            value = criterion(network(images), target)["loss"]
            value.backward()
            optimizer.step()
            optimizer.clear_grad()
            scheduler.step()
            losses.append(float(value))
            if len(losses) % 40 == 0:
                steps.append(len(losses))
                curve.append(miou())
        epoch += 1
    return feeds.training_record(losses, curve[-1], curve[0], steps, curve)


def _batch(samples: list, dtype: str) -> tuple:
    images, target = zip(*samples, strict=True)
    return paddle.to_tensor(np.stack(images).astype(dtype)), paddle.to_tensor(np.stack(target))
