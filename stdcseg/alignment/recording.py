"""What the stages record of a side: one function a stage, written once for both, so that their names agree.

A side is a module-like object (`paddle_side.SIDE`, `torch_side.SIDE`) with the functions that are used here; each side
computes everything with its own code and framework. Values of a record are arrays or tensors of either framework.
"""

import itertools

import numpy as np

from shared.stages import Context
from shared.weights import as_numpy

from . import feeds


def structure(side, context: Context) -> dict:
    record = {}
    for backbone, form, options in feeds.networks(context):
        model = side.build(form, options)
        found = side.structure(model, feeds.weights_file(context, backbone, form))
        record[f"{backbone}/{form}"] = found | {"parameters": side.parameter_count(model)}
    return record


def data(side, context: Context) -> dict:
    listed = {split: side.names(feeds.data_options(context), split) for split in ("train", "val")}
    record = {f"{split}/names": names for split, names in listed.items()}
    for name, split, argv in feeds.DATA_CASES:
        options = feeds.data_options(context, argv.split())
        indices = feeds.chosen(len(listed[split]), 4)
        for epoch in (0, 1):
            for index, (image, label) in zip(indices, side.samples(options, split, epoch, indices), strict=True):
                record |= {f"{name}/epoch{epoch}/{index}/image": image, f"{name}/epoch{epoch}/{index}/label": label}
    return record


# ------------------------------------------------------------------------------------------------------ forward


def forward(side, context: Context) -> dict:
    record = {}
    for backbone, form, options in feeds.networks(context):
        model = side.load(context, backbone, form, options)
        model.eval()
        for name, images in _inputs(side, context, form).items():
            images = side.tensor(images)
            with side.no_grad():
                if form == "classifier":
                    values = {"logits": model(images)} | side.features(model, images)
                else:
                    values, parts = outputs_and_parts(model, images)
                    values["segment"] = side.segment(model, images, values)
                    record |= {f"{backbone}/{name}/{part}": value for part, value in parts.items()}
            record |= {f"{backbone}/{form}/{name}/{key}": value for key, value in values.items()}
        if form == "segmentation":
            record |= _variants(side, context, backbone)
    return record


def _inputs(side, context: Context, form: str) -> dict[str, np.ndarray]:
    """Noise, and for the segmentation network an image of the data set too."""
    if form == "classifier":
        return {"noise": feeds.noise("classifier", feeds.CLASSIFIER_SHAPE, context.dtype)}
    options = feeds.data_options(context)
    indices = feeds.chosen(len(side.names(options, "val")), 1)
    images = [as_numpy(image) for image, _ in side.samples(options, "val", 0, indices)]
    noise = feeds.noise("noise", feeds.NOISE_SHAPE, context.dtype)
    return {"noise": noise, "picture": np.stack(images).astype(context.dtype)}


def _variants(side, context: Context, backbone: str) -> dict:
    """Network options in train mode: outputs, and the running statistics that the pass leaves."""
    record = {}
    for variant, argv in feeds.VARIANTS.items():
        model = side.load(context, backbone, "segmentation", feeds.network_options(context, backbone, argv))
        model.train()
        with side.no_grad():
            outputs = model(side.tensor(feeds.noise("variant", feeds.VARIANT_SHAPE, context.dtype)))
        name = f"{backbone}/variant/{variant}"
        record |= {f"{name}/{key}": value for key, value in outputs.items()}
        for tensor, value in side.state(model).items():
            if tensor.endswith(("running_mean", "running_var")):
                record[f"{name}/statistics/{tensor}"] = value
    return record


#: intermediate results: name in the records and the golden files -> the sub-layer whose output it is, on both sides
PARTS = {
    "arm16": "cp.arm16",
    "arm32": "cp.arm32",
    "conv_avg": "cp.conv_avg",
    "bn_atten16": "cp.arm16.bn_atten",
    "bn_atten32": "cp.arm32.bn_atten",
    "head32": "cp.conv_head32",
    "head16": "cp.conv_head16",
    "ffm": "ffm",
    "raw_out": "conv_out",
    "raw_out16": "conv_out16",
    "raw_out32": "conv_out32",
}


def outputs_and_parts(model, images) -> tuple[dict, dict[str, np.ndarray]]:
    """(outputs of `model(images)`, its PARTS as arrays), for a Paddle layer or a torch module."""
    kept: dict[str, np.ndarray] = {}

    def keep(name):
        def hook(layer, inputs, output):
            kept[name] = np.array(as_numpy(output.detach()))

        return hook

    layers = dict(model.named_sublayers() if hasattr(model, "named_sublayers") else model.named_modules())
    hooks = []
    for name, path in PARTS.items():
        layer = layers[path]
        register = getattr(layer, "register_forward_post_hook", None) or layer.register_forward_hook
        hooks.append(register(keep(name)))
    outputs = model(images)
    for hook in hooks:
        hook.remove()
    return outputs, kept


# ------------------------------------------------------------------------------------------------------ metric and loss


def metric(side, context: Context) -> dict:
    record, pairs = {}, []
    for case, predicted, target in feeds.label_maps():
        images = list(zip(predicted, target, strict=True))
        pairs += images
        record |= {f"{case}/{name}": value for name, value in side.metrics(images).items()}
    record |= {f"whole/{name}": value for name, value in side.metrics(pairs).items()}
    weight = side.tensor(feeds.mixture(context.dtype))
    images = side.tensor(feeds.noise("metric", feeds.METRIC_SHAPE, context.dtype))
    target = feeds.labels("protocols", (1, *feeds.METRIC_SHAPE[2:]))
    for name, (scales, flip, crop) in feeds.PROTOCOLS.items():
        predicted = side.predict(lambda x: side.einsum("kc,nchw->nkhw", weight, x), images, scales, flip, crop)
        record[f"{name}/histogram"] = side.metrics([(predicted, target)])["histogram"]
    return record


def loss(side, context: Context) -> dict:
    record = {}
    for name, (values, target, thresh, n_min) in feeds.ohem_cases(context.dtype).items():
        x = side.tensor(values, gradient=True)
        value = side.criterion(thresh, n_min).ohem(x, side.tensor(target))
        record[f"ohem/{name}/loss"] = value
        if n_min:  # the mean of no pixels has no gradient to compare
            value.backward()
            record[f"ohem/{name}/gradient"] = x.grad
    for name, (values, target, factor) in feeds.detail_cases(context.dtype).items():
        criterion, target = side.criterion(), side.tensor(target)
        side.scale_kernel(criterion, factor)
        record[f"detail/{name}/target"] = side.detail_target(target, criterion)
        for index, term in enumerate(("bce", "dice")):
            x = side.tensor(values, gradient=True)
            value = criterion.detail(x, target)[index]
            value.backward()
            record |= {f"detail/{name}/{term}": value, f"detail/{name}/{term}/gradient": x.grad}
    outputs, target = feeds.whole_loss(context.dtype)
    outputs = {name: side.tensor(value, gradient=True) for name, value in outputs.items()}
    criterion = side.criterion(n_min=target.size // 16)
    terms = criterion(outputs, side.tensor(target))
    terms["loss"].backward()
    record |= {f"whole/{term}": value for term, value in terms.items()}
    record |= {f"whole/{name}/gradient": value.grad for name, value in outputs.items()}
    return record | {"whole/fuse_kernel/gradient": side.kernel(criterion).grad}


# ------------------------------------------------------------------------------------------------------ training


def backward(side, context: Context) -> dict:
    record = {}
    for backbone in feeds.backbones(context):
        if "segmentation" not in feeds.forms(context):
            continue
        images, target = map(side.tensor, feeds.batch(context, backbone))
        options = feeds.network_options(context, backbone, feeds.DETAILS)
        for mode in ("train", "eval"):
            model = side.load(context, backbone, "segmentation", options)
            model.train() if mode == "train" else model.eval()
            terms = side.criterion(n_min=feeds.BATCH_PIXELS // 16)(model(images), target)
            terms["loss"].backward()
            record |= {f"{backbone}/{mode}/{term}": value for term, value in terms.items()}
            record |= {f"{backbone}/{mode}/gradient/{name}": value for name, value in side.gradients(model).items()}
        for name, argv in feeds.optimisers(context, backbone).items():
            recipe = feeds.network_options(context, backbone, argv)
            recipe.n_min = feeds.BATCH_PIXELS // 16
            steps = _optimiser_steps(side, context, backbone, recipe, images, target)
            record |= {f"{backbone}/{name}/{key}": value for key, value in steps.items()}
    return record


def _optimiser_steps(side, context: Context, backbone: str, recipe, images, target) -> dict:
    model = side.load(context, backbone, "segmentation", recipe)
    training = side.training(model, recipe, context.dtype)
    groups = side.groups(model, training.criterion, recipe)
    losses, rates, record = [], [], {}
    for step in range(feeds.OPTIMISER_STEPS):
        value, rate = side.train_step(training, images, target, step, recipe)
        losses.append(value)
        rates.append([rate * factor for _, factor, _ in groups])
        for part in feeds.measured_parts(step, context.dtype):
            arrays = [as_numpy(value) for name, value in side.state(model).items() if name.endswith(part)]
            record[f"step{step}/{part}"] = np.array([np.linalg.norm(array.astype(np.float64)) for array in arrays])
    record |= {f"groups/{index}": names for index, (names, *_) in enumerate(groups)}
    kernel = np.array(as_numpy(side.kernel(training.criterion).detach()), np.float32)
    return {"loss": np.array(losses), "lr": np.array(rates), "fuse_kernel": kernel} | record


def train(side, context: Context, model) -> dict:
    """A short training of `model` on some of the images; mIoU on val at every 40th step."""
    options = feeds.data_options(context, feeds.TRAIN_ARGV)
    training = side.training(model, options, context.dtype)
    counts = {split: len(side.names(options, split)) for split in ("train", "val")}
    val = side.batch(side.samples(options, "val", 0, feeds.chosen(counts["val"], feeds.VAL_IMAGES)), context.dtype)
    kept = feeds.chosen(counts["train"], feeds.TRAIN_IMAGES)
    losses, steps, curve = [], [0], [side.miou(model, *val, options)]
    batches = itertools.chain.from_iterable(side.epoch_of_batches(options, kept, epoch) for epoch in itertools.count())
    for samples in itertools.islice(batches, options.max_iter):
        value, _ = side.train_step(training, *side.batch(samples, context.dtype), len(losses), options)
        losses.append(value)
        if len(losses) % 40 == 0:
            steps.append(len(losses))
            curve.append(side.miou(model, *val, options))
    losses = np.array(losses)
    learns = losses[-20:].mean() < 0.75 * losses[:20].mean() and curve[-1] > curve[0] + 0.05
    return {
        "mini/first_losses": losses[: feeds.FIRST_LOSSES],
        "mini/last_losses": losses[-20:].mean(),
        "mini/final_miou": curve[-1],
        "mini/learns": bool(learns),
        "curve/loss": losses,
        "curve/steps": np.array(steps),
        "curve/miou": np.array(curve),
    }
