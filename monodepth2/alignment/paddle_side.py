"""The Paddle side of the seven stages: this folder's own networks, losses, data and metrics."""

import argparse
import zlib

import numpy as np
import paddle

from shared.convert import plan
from shared.stages import Context
from shared.weights import as_numpy

from . import feeds
from convert import STORED, load_official, read_official
from datasets import build_dataset, ground_truth
from losses import build_criterion
from metrics import (
    STEREO_SCALE,
    Scaling,
    batch_post_process_disparity,
    compute_depth_errors,
    evaluate_image,
    monitor_errors,
)
from models import build_model, disp_to_depth, transformation_from_parameters
from optimizers import build_optimizer, build_scheduler
from options import sources


def _loaded(context: Context, name: str, options: argparse.Namespace):
    model = build_model(options)
    load_official(model, feeds.weights_folder(context, name))
    model.to(dtype=context.dtype)
    return model


def _official(model) -> dict[str, np.ndarray]:
    """The network's tensors by their official names, without those that only Paddle's file has."""
    state, _ = plan(model).to_torch({name: as_numpy(value) for name, value in model.state_dict().items()})
    return {name: array for name, array in state.items() if name not in STORED}


def _batch(context: Context, options: argparse.Namespace, indices: list[int], part: str = "val") -> dict:
    dataset = build_dataset(feeds.reading(context, options), part)
    items = [dataset[index] for index in indices]
    return _stacked(items, context.dtype)


def _stacked(items: list[dict], dtype: str) -> dict:
    return {key: paddle.to_tensor(np.stack([item[key] for item in items]).astype(dtype)) for key in items[0]}


# -------------------------------------------------------------------------------------------------------------- stages


def structure(context: Context) -> dict:
    record = {}
    for name, options in feeds.networks(context):
        model = build_model(options)
        state = _official(model)
        record[f"{name}/tensors"] = list(state)
        for tensor, array in state.items():
            record[f"{name}/shape/{tensor}"] = np.array(array.shape, np.int64)
        trained = {key for key, value in model.named_parameters() if not value.stop_gradient}
        record[f"{name}/parameters"] = sum(int(np.prod(p.shape)) for k, p in model.named_parameters() if k in trained)
        file = read_official(feeds.weights_folder(context, name))
        tensors, torch_only, report = plan(model).to_paddle(file.tensors)
        report.raise_if_bad(feeds.weights_folder(context, name))
        back, _ = plan(model).to_torch(tensors, torch_only)
        for tensor, array in back.items():
            if tensor not in STORED:
                record[f"{name}/bits/{tensor}"] = zlib.crc32(np.ascontiguousarray(array).tobytes())
    return record


def data(context: Context) -> dict:
    record = {}
    for name, part, argv in feeds.DATA_CASES:
        dataset = build_dataset(feeds.data_options(context, argv.split()), part)
        for epoch in (0, 1):
            dataset.set_epoch(epoch)
            for index in feeds.chosen(len(dataset), 3):
                for key, array in dataset[index].items():
                    record[f"{name}/epoch{epoch}/{index}/{_named(key)}"] = array
    if not context.options.data_path:
        options = feeds.data_options(context)
        for index, depth in enumerate(ground_truth(options.data_path, "mini", options.split_dir)[:3]):
            record[f"ground_truth/{index}"] = depth
    return record


def _named(key) -> str:
    return key if isinstance(key, str) else "_".join(map(str, key))


def forward(context: Context) -> dict:
    record = {}
    for name, options in feeds.networks(context):
        model = _loaded(context, name, options)
        batch = _batch(context, options, feeds.chosen(8, feeds.BATCH))
        for mode in ("eval", "train"):
            model.eval() if mode == "eval" else model.train()
            with paddle.no_grad():
                if mode == "eval":
                    for level, feature in enumerate(model.encoder(batch["color_aug", 0, 0])):
                        record[f"{name}/eval/feature{level}"] = feature.numpy()
                outputs = model(batch)
            record |= {f"{name}/{mode}/{_named(key)}": value.numpy() for key, value in outputs.items()}
    return record


def metric(context: Context) -> dict:
    record = {}
    for name, gt, prediction in feeds.depth_cases(context.dtype):
        record[f"errors/{name}"] = np.array(list(compute_depth_errors(gt, prediction).values()))
    gt, disparity = feeds.picture_case(context.dtype)
    for factor, median in feeds.SCALINGS:
        for split in ("eigen", "eigen_benchmark"):
            found = evaluate_image(gt, disparity, split, Scaling(factor, median))
            record[f"picture/{split}/{factor:g}_{median}"] = np.array([*found.errors.values(), found.ratio or 1.0])
    record["monitor"] = np.array(list(monitor_errors(*feeds.monitor_case(context.dtype)).values()))
    record["flip"] = batch_post_process_disparity(*feeds.flip_case())
    return record


def loss(context: Context) -> dict:
    record = {}
    for name, options, edge in feeds.loss_cases():
        batch = _batch(context, options, feeds.chosen(8, feeds.BATCH))
        if edge == "black":
            batch = {key: value * 0 if key[0] == "color" else value for key, value in batch.items()}
        outputs = {key: paddle.to_tensor(value) for key, value in feeds.answers(options, edge, context.dtype).items()}
        for value in outputs.values():
            value.stop_gradient = False
        given = dict(outputs)
        for f in options.frame_ids[1:]:
            axisangle, translation = (outputs[kind, 0, f][:, 0] for kind in ("axisangle", "translation"))
            given["cam_T_cam", 0, f] = transformation_from_parameters(axisangle, translation, f < 0)
        noise = [paddle.to_tensor(array) for array in feeds.noise(options, context.dtype)]
        found = build_criterion(options).details(given, batch, noise)
        found["loss"].backward()
        for scale in options.scales:
            record[f"{name}/loss/{scale}"] = found[f"loss/{scale}"].numpy()
            record[f"{name}/depth/{scale}"] = found["depth", 0, scale].numpy()
            if f"identity_selection/{scale}" in found:
                selection = found[f"identity_selection/{scale}"].numpy().astype(np.float64)
                if context.dtype == "float64":  # in float32 up to 0.1 % of the pixels differ (NOTES 9.5)
                    shape = (feeds.BATCH, *selection.shape[-2:])
                    record[f"{name}/identity_selection/{scale}"] = selection.reshape(shape)
                record[f"{name}/share_selected/{scale}"] = selection.mean()
            for f in sources(options):
                if edge != "behind_the_camera":  # there coordinates reach 1e7, where a picture is sampled at its border
                    record[f"{name}/sample/{f}_{scale}"] = found["sample", f, scale].numpy()
                record[f"{name}/color/{f}_{scale}"] = found["color", f, scale].numpy()
        record[f"{name}/loss"] = found["loss"].numpy()
        for key, value in outputs.items():
            if value.grad is not None and edge == "":
                record[f"{name}/gradient/{_named(key)}"] = value.grad.numpy()
    return record


def backward(context: Context) -> dict:
    record = {}
    for name, options in feeds.networks(context, feeds.TRAINED):
        options = feeds.network_options(context, name, f"--learning_rate {feeds.OPTIMISER_RATE}")
        batch = _batch(context, options, feeds.batch_choice(context, name))
        noise = [paddle.to_tensor(array) for array in feeds.noise(options, context.dtype)]
        model, criterion = _loaded(context, name, options), build_criterion(options)
        model.train()
        scheduler = build_scheduler(options)
        optimizer = build_optimizer(model, options, scheduler)
        losses, rates = [], []
        for step in range(feeds.OPTIMISER_STEPS):
            terms = criterion(model(batch), batch, noise)
            terms["loss"].backward()
            if step == 0:
                record |= {f"{name}/{term}": value.numpy() for term, value in terms.items()}
                gradients = {key: p.grad for key, p in model.named_parameters() if p.grad is not None}
                for tensor, gradient in plan(model).gradients_to_torch(gradients).items():
                    record[f"{name}/gradient/{tensor}"] = gradient
            losses.append(float(terms["loss"]))
            optimizer.step()
            optimizer.clear_grad()
        for _ in range(options.num_epochs):
            rates.append(optimizer.get_lr())
            scheduler.step()
        record |= {f"{name}/steps/losses": np.array(losses), f"{name}/lr": np.array(rates)}
    return record


def train(context: Context) -> dict:
    options = feeds.data_options(context, feeds.TRAIN_ARGV)
    model = build_model(options)
    load_official(model, context.output_dir / "weights" / "train")
    model.to(dtype=context.dtype)
    criterion, optimizer = build_criterion(options), build_optimizer(model, options, options.learning_rate)
    train_set, val_set = build_dataset(options, "train"), build_dataset(options, "val")
    val = [val_set[index] for index in feeds.chosen(len(val_set), feeds.VAL_ITEMS)]
    kept = feeds.chosen(len(train_set), feeds.TRAIN_ITEMS)

    def error() -> float:
        model.eval()
        with paddle.no_grad():
            disp = model.predict_disparity(_stacked(val, context.dtype)["color", 0, 0])["disp", 0]
        scaled, _ = disp_to_depth(disp, options.min_depth, options.max_depth)
        scaling = Scaling(STEREO_SCALE, median=False)
        pairs = zip(val, scaled.numpy()[:, 0], strict=True)
        found = [evaluate_image(item["depth_gt"][0], one, "eigen", scaling).errors["abs_rel"] for item, one in pairs]
        return float(np.mean(found))

    losses, steps, curve = [], [0], [error()]
    epoch = 0
    while len(losses) < feeds.TRAIN_STEPS:
        train_set.set_epoch(epoch)
        order = np.random.default_rng([options.seed, epoch]).permutation(len(kept))
        for keys in order.reshape(-1, options.batch_size):
            batch = _stacked([train_set[kept[key]] for key in keys], context.dtype)
            model.train()
            noise = np.random.default_rng(len(losses)).standard_normal(
                (len(options.scales), len(keys), len(sources(options)), options.height, options.width)
            )
            noise = [paddle.to_tensor(array.astype(context.dtype)) for array in noise]
            value = criterion(model(batch), batch, noise)["loss"]
            value.backward()
            optimizer.step()
            optimizer.clear_grad()
            losses.append(float(value))
            if len(losses) % feeds.CURVE_EVERY == 0:
                steps.append(len(losses))
                curve.append(error())
            if len(losses) == feeds.TRAIN_STEPS:
                break
        epoch += 1
    return feeds.training_record(losses, steps, curve)
