"""The inputs of both sides, in numpy alone: networks, batches, losses. Neither framework is imported here."""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from shared.align.formula import formula_input, rng_for
from shared.stages import Context

from options import NETWORK_OPTIONS, parse_options, stored_options

SEED = 2026
BATCH = 2
#: image sizes for the drawn networks and for those that take steps, then the same for real weights
SIZE, STEP_SIZE = "--val_size 96 --max_size 144", "--val_size 64 --max_size 96"
REAL_SIZE, REAL_STEP_SIZE = "--val_size 320 --max_size 533", "--val_size 128 --max_size 213"
#: the networks of stages 1 and 3: the five of the paper, learned encodings, and one to train from scratch
NETWORKS = {
    "base": "",
    "single_scale": "--num_feature_levels 1",
    "single_scale_dc5": "--num_feature_levels 1 --dilation",
    "refine": "--with_box_refine",
    "two_stage": "--with_box_refine --two_stage --num_queries 40",
    "learned": "--position_embedding learned --enc_layers 1 --dec_layers 2 --num_queries 50",
    "small": (
        "--backbone resnet18 --backbone_norm batch --hidden_dim 64 --nheads 4 --enc_layers 2 --dec_layers 2 "
        "--dim_feedforward 128 --num_queries 50 --num_classes 38"
    ),
}
#: networks of stage 6, and those of its ten steps: a few layers show the optimiser as well as many
TRAINED = ("base", "two_stage")
STEPPED = {
    "base": "--enc_layers 2 --dec_layers 3 --num_queries 60",
    "two_stage": "--with_box_refine --two_stage --enc_layers 2 --dec_layers 2 --num_queries 30",
}
OPTIMISER_STEPS = 10
# small rates: Adam's first step moves every weight by the rate, also where its gradient is a rounding error
OPTIMISER_RATES = "--lr 1e-5 --lr_backbone 1e-6"
BATCH_CANDIDATES = 3

#: name, split, options, samples: those of stage 2
DATA_CASES = (
    ("val", "val", "", 2),
    ("val_small", "val", "--val_size 128 --max_size 150", 12),
    ("train", "train", "", 3),
    ("train_seed7", "train", "--seed 7", 2),
    ("train_small", "train", "--scales 96 128 160 --max_size 200 --crop_sides 128 160 --crop_range 80 120", 12),
)


def official_knows(options: argparse.Namespace) -> bool:
    """Whether the reference can build this network."""
    return options.backbone_norm == "frozen" and options.num_classes == 91


def network_options(context: Context, name: str, argv: str = "") -> argparse.Namespace:
    """The options of one of NETWORKS; or of the network in --weights, with what the command line states."""
    more = ["--dropout", "0", *argv.split()]
    if context.options.weights:
        defaults, given = vars(parse_options([])), vars(context.options)
        stated = {key: given[key] for key in NETWORK_OPTIONS if key in given and given[key] != defaults[key]}
        return parse_options([*REAL_SIZE.split(), *more], defaults=stored_options(context.options.weights) | stated)
    return parse_options([*SIZE.split(), *NETWORKS[name].split(), *more])


def networks(context: Context, chosen: Sequence[str] = tuple(NETWORKS)) -> Iterator[tuple[str, argparse.Namespace]]:
    """(name, options) of every network to compare."""
    for name in ["weights"] if context.options.weights else chosen:
        options = network_options(context, name)
        if official_knows(options) or not context.options.reference:
            yield name, options


def stepped(context: Context) -> Iterator[tuple[str, argparse.Namespace]]:
    """(name, options) of the networks that take optimiser steps."""
    if context.options.weights:
        yield "weights", network_options(context, "weights", f"{REAL_STEP_SIZE} {OPTIMISER_RATES}")
        return
    same = f"{STEP_SIZE} {OPTIMISER_RATES} --dropout 0"
    for name, argv in STEPPED.items():
        yield f"{name}_steps", parse_options([*same.split(), *argv.split()])


def weights_file(context: Context, name: str) -> Path:
    """The official-format file that both sides load: --weights, or what `prepare` drew."""
    return Path(context.options.weights) if context.options.weights else context.output_dir / "weights" / f"{name}.pth"


def data_options(context: Context, argv: Sequence[str] = ()) -> argparse.Namespace:
    """Reading options for --data_path, or for the mini data set that `prepare` draws."""
    from mini.draw import DEFAULT_ROOT

    return parse_options([*argv, "--data_path", context.options.data_path or str(DEFAULT_ROOT)])


def reading(context: Context, options: argparse.Namespace) -> argparse.Namespace:
    """The options to read images with for a network of `options`."""
    size = f"--val_size {options.val_size} --max_size {options.max_size}"
    return data_options(context, [*size.split(), "--num_classes", str(max(options.num_classes, 91))])


def chosen(count: int, most: int) -> list[int]:
    """At most `most` of `count` indices, spread evenly."""
    return np.linspace(0, count - 1, min(count, most)).round().astype(int).tolist()


# ------------------------------------------------------------------------------------------------------- stage 3


def watched(options: argparse.Namespace) -> list[str]:
    """The layers whose outputs are compared, by their official names."""
    stages = (2, 3, 4) if options.num_feature_levels > 1 else (4,)
    return [
        *(f"backbone.0.body.layer{stage}" for stage in stages),
        "backbone.1",
        *(f"input_proj.{level}" for level in range(options.num_feature_levels)),
        *(f"transformer.encoder.layers.{index}" for index in range(options.enc_layers)),
        *(f"transformer.decoder.layers.{index}" for index in range(options.dec_layers)),
    ]


def without_padding(seen: Mapping[str, list[np.ndarray]], mask: np.ndarray, levels: int) -> dict[str, np.ndarray]:
    """Outputs of `watched` layers, one entry a call, with 0 where a level is padding.

    No valid output depends on those positions, and some hold the sine of 3 million radians (NOTES 3.8).
    """
    sizes = [seen[f"input_proj.{level}"][0].shape[2:] for level in range(levels)]
    masks = [mask[:, np.arange(h) * mask.shape[1] // h][:, :, np.arange(w) * mask.shape[2] // w] for h, w in sizes]
    tokens = np.concatenate([one.reshape(len(one), -1) for one in masks], 1)
    kept = {}
    for name, calls in seen.items():
        for call, value in enumerate(calls):
            if name == "backbone.1":
                value = np.where(masks[call][:, None], np.zeros_like(value), value)
            elif name.startswith("transformer.encoder"):
                value = np.where(tokens[..., None], np.zeros_like(value), value)
            kept[f"{name}/{call}"] = value
    return kept


#: inputs of the operator that have a gradient
OPERATOR_FLOATS = ("value", "sampling_locations", "attention_weights")
#: stages 3 and 6: batch, heads, channels of a head, queries, points, sizes of the levels
OPERATOR = {
    "model": (2, 8, 32, 23, 4, [(16, 20), (8, 10), (4, 5), (2, 3)]),
    "odd": (1, 3, 5, 9, 3, [(5, 7), (1, 1), (2, 9)]),
    "one_level": (2, 1, 64, 7, 2, [(11, 13)]),
    "borders": (1, 2, 4, 81, 1, [(4, 8)]),
}


def operator_case(name: str, dtype: str) -> dict[str, np.ndarray]:
    """Arguments of the operator, and `grad_output`.

    "borders" samples exactly at pixel centres, borders, half and whole cells outside; the others keep away from the
    kinks of the interpolation, where the gradient of a location jumps.
    """
    n, heads, channels, queries, points, sizes = OPERATOR[name]
    rng = rng_for(f"operator/{name}", SEED)
    sizes_ = np.array(sizes, np.int64)
    starts = np.concatenate([[0], sizes_.prod(1).cumsum()[:-1]])
    cells = sizes_[:, None, ::-1]  # (w, h)
    shape = (n, queries, heads, len(sizes), points, 2)
    if name == "borders":
        h, w = sizes[0]
        across, down = ([-2, -1, -0.5, 0, 1.5, *(size - np.array([1, 0.5, 0, -1]))] for size in (w, h))
        grid = np.stack(np.meshgrid(across, down), -1).reshape(1, -1, 1, 1, 1, 2)
        locations = np.broadcast_to((grid + 0.5) / cells, shape)
    else:
        locations = rng.uniform(-0.3, 1.3, shape)
        fraction = (locations * cells - 0.5) % 1
        locations = np.where(np.minimum(fraction, 1 - fraction) < 1e-3, locations + 0.01 / cells, locations)
    weights = rng.random(shape[:-1]) + 1e-3
    arrays = {
        "value": rng.standard_normal((n, int(sizes_.prod(1).sum()), heads, channels)),
        "sampling_locations": locations,
        "attention_weights": weights / weights.sum((-1, -2), keepdims=True),
        "grad_output": rng.standard_normal((n, queries, heads * channels)),
    }
    arrays = {key: value.astype(np.float32).astype(dtype) for key, value in arrays.items()}
    return arrays | {"spatial_shapes": sizes_, "level_start_index": starts.astype(np.int64)}


# ------------------------------------------------------------------------------------------------------- stage 4

#: name, images, whether scores repeat, probability that an object is detected
DETECTIONS = (("good", 40, False, 0.9), ("ties", 25, True, 0.6), ("poor", 15, False, 0.2))


def detections(content: Mapping, name: str) -> list[dict]:
    """Results in COCO's format for an annotation file's content: moved objects, doubles, and false ones."""
    _, count, ties, probability = next(case for case in DETECTIONS if case[0] == name)
    rng = rng_for(f"detections/{name}", SEED)
    images = {image["id"]: image for image in sorted(content["images"], key=lambda image: image["id"])[:count]}
    categories = sorted(category["id"] for category in content["categories"])
    results = []

    def add(image_id: int, box, category: int) -> None:
        score = float(rng.random())
        score = round(score, 1) if ties else score
        results.append({"image_id": image_id, "bbox": [float(x) for x in box], "score": score, "category_id": category})

    for entry in content["annotations"]:
        if entry["image_id"] not in images:
            continue
        box = np.array(entry["bbox"], float)
        for _ in range(1 + int(rng.integers(2))):
            if rng.random() < probability:
                moved = box + rng.normal(0, 0.08, 4) * np.tile(box[2:], 2)
                category = entry["category_id"] if rng.random() < 0.9 else int(rng.choice(categories))
                add(entry["image_id"], [*moved[:2], *np.maximum(moved[2:], 1)], category)
    for image_id, image in images.items():
        for _ in range(int(rng.integers(6))):
            corner = rng.random(2) * (image["width"], image["height"]) * 0.7
            # 0 is not a category of the file: it must be ignored
            add(image_id, [*corner, *(5 + 60 * rng.random(2))], int(rng.choice([0, *categories])))
    return results


def random_outputs(name: str, dtype: str, images: int, queries: int, classes: int) -> dict[str, np.ndarray]:
    """Outputs as of a network: `pred_logits` [images, queries, classes], `pred_boxes` [images, queries, 4]."""
    logits = 2 * formula_input(f"{name}/logits", (images, queries, classes), SEED) - 2
    drawn = formula_input(f"{name}/boxes", (images, queries, 4), SEED).astype(np.float64)
    boxes = 1 / (1 + np.exp(-(drawn - [0, 0, 1, 1])))
    return {"pred_logits": logits.astype(dtype), "pred_boxes": boxes.astype(np.float32).astype(dtype)}


# ------------------------------------------------------------------------------------------------------- stage 5

#: name: options, boxes in each image, queries, boxes in each of the other processes
LOSSES = {
    "plain": ("", (4, 2), 30, ()),
    "one_picture_empty": ("", (0, 3, 1), 30, ()),
    "no_targets": ("", (0, 0), 30, ()),
    "one_target": ("", (0, 1), 30, ()),
    "many_targets": ("", (40, 63), 100, ()),
    "more_targets_than_queries": ("", (9, 12), 7, ()),
    "two_stage": ("--with_box_refine --two_stage", (3, 0, 2), 30, ()),
    "two_stage_no_targets": ("--with_box_refine --two_stage", (0,), 30, ()),
    "no_aux_loss": ("--no_aux_loss", (3, 2), 30, ()),
    "no_aux_loss_two_stage": ("--no_aux_loss --with_box_refine --two_stage", (3, 2), 30, ()),
    "two_processes": ("", (3, 2), 30, (12,)),
    "three_processes_without_targets": ("", (0, 0), 30, (0, 1)),
    "other_weights": (
        "--cls_loss_coef 1 --bbox_loss_coef 3 --giou_loss_coef 0.5 --focal_alpha 0.4 --set_cost_class 1 "
        "--set_cost_bbox 2 --set_cost_giou 3 --dec_layers 2",
        (3, 5),
        30,
        (),
    ),
}
TOKENS = 57  # of the encoder's proposals in stage 5


def loss_options(name: str) -> argparse.Namespace:
    return parse_options(LOSSES[name][0].split())


def loss_case(name: str, dtype: str) -> tuple[dict, list[dict]]:
    """(outputs by layer "", "0", ..., "enc"; targets) of one of LOSSES, as numpy arrays."""
    _, counts, queries, _ = LOSSES[name]
    options = loss_options(name)
    layers = ["", *(str(index) for index in range(options.dec_layers - 1) if options.aux_loss)]
    outputs = {layer: random_outputs(f"{name}/{layer}", dtype, len(counts), queries, 91) for layer in layers}
    if options.two_stage:
        outputs["enc"] = random_outputs(f"{name}/enc", dtype, len(counts), TOKENS, 91)
    targets = []
    for index, count in enumerate(counts):
        rng = rng_for(f"{name}/target{index}", SEED)
        sides = rng.uniform(0.05, 0.5, (count, 2))
        centres = sides / 2 + rng.random((count, 2)) * (1 - sides)
        boxes = np.concatenate([centres, sides], 1).astype(np.float32)
        targets.append({"boxes": boxes.astype(dtype), "labels": rng.integers(1, 91, count).astype(np.int64)})
    return outputs, targets


def assembled(layers: Mapping) -> dict:
    """The network's outputs from those of its layers."""
    outputs = dict(layers[""])
    later = [layers[name] for name in layers if name.isdigit()]
    if later:
        outputs["aux_outputs"] = later
    if "enc" in layers:
        outputs["enc_outputs"] = layers["enc"]
    return outputs


# ------------------------------------------------------------------------------------------------------- stage 6


def choice_file(context: Context, name: str) -> Path:
    return context.output_dir / "weights" / f"{name}_batch.json"


def batch_choice(context: Context, name: str, count: int) -> list[int]:
    """The validation items of a network's batch: those that `prepare` chose, or the first candidates."""
    file = choice_file(context, name)
    return json.loads(file.read_text()) if file.is_file() else candidates(count)[0]


def candidates(count: int) -> list[list[int]]:
    """Batches of validation items to choose from."""
    rng = rng_for("candidates", SEED)
    return [sorted(rng.choice(count, BATCH, replace=False).tolist()) for _ in range(BATCH_CANDIDATES)]


def distances(before: Sequence[Sequence[np.ndarray]], now: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
    """How far each group of parameters moved, as one vector: float64 [groups]."""
    squares = [
        sum(float(((b - a).astype(np.float64) ** 2).sum()) for a, b in zip(*group, strict=True))
        for group in zip(before, now, strict=True)
    ]
    return np.sqrt(squares)


# ------------------------------------------------------------------------------------------------------- stage 7

#: the training of stage 7: a small network from scratch on small images
TRAIN_ARGV = (
    "--backbone resnet18 --backbone_norm batch --hidden_dim 64 --nheads 4 --enc_layers 1 --dec_layers 2 "
    "--dim_feedforward 128 --num_queries 30 --dropout 0 --lr 1e-3 --lr_backbone 1e-3 --lr_linear_proj_mult 0.1 "
    "--clip_max_norm 1 --batch_size 4 --val_size 96 --max_size 128 --scales 88 96 104 --crop_sides 100 112 "
    "--crop_range 80 110 --seed 1"
).split()
TRAIN_STEPS, TRAIN_ITEMS, VAL_ITEMS = 48, 64, 16
CURVE_EVERY = 8
FIRST_LOSSES = 3  # later ones hold grown rounding errors


def first_weights(context: Context) -> Path:
    """The official-format file that both trainings start from."""
    return context.output_dir / "weights" / "train.pth"


def training_batches(options: argparse.Namespace, kept: Sequence[int]) -> Iterator[tuple[int, list[int]]]:
    """(epoch, items) of every step."""
    steps, epoch = 0, 0
    while True:
        order = np.random.default_rng([options.seed, epoch]).permutation(len(kept))
        for keys in order.reshape(-1, options.batch_size):
            yield epoch, [kept[key] for key in keys]
            steps += 1
            if steps == TRAIN_STEPS:
                return
        epoch += 1


def training_record(values: Sequence[float], steps: Sequence[int], curve: Sequence[float]) -> dict:
    """The record of stage 7: losses of the first steps and of the last, the loss on val, and whether both fell."""
    losses, untrained, final = np.array(values), curve[0], np.mean(curve[-2:])
    learns = losses[-8:].mean() < 0.8 * losses[:4].mean() and final < 0.8 * untrained
    return {
        "mini/first_losses": losses[:FIRST_LOSSES],
        "mini/last_losses": losses[-10:].mean(),
        "mini/final_val_loss": final,
        "mini/learns": bool(learns),
        "curve/loss": losses,
        "curve/steps": np.array(steps),
        "curve/val_loss": np.array(curve),
    }
