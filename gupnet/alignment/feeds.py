"""What both sides are fed, as numpy arrays: images, targets, outputs, results. Imports neither framework."""

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from shared.align.formula import formula_input, rng_for
from shared.stages import Context

from constants import DENSE_OUTPUTS, DOWN_RATIO, HEADING_BINS, MAX_OBJECTS, ROI_OUTPUTS, TERMS
from options import parse_options

SEED = 2026
#: weights of the first epochs: the 3D tasks weigh 0, and yet have gradients (NOTES 6.2)
FIRST_WEIGHTS = {term: float(term in TERMS[:3]) for term in TERMS}
RATIO = np.array([3.88125, 3.90625])  # pixels of the original image per cell
OPTIMISER_STEPS = 10
#: name -> options, and weights of the terms, of ten steps of an optimiser
OPTIMISERS = {
    "adam_first_epoch": ("--lr 1e-6 --warmup false", FIRST_WEIGHTS),
    "sgd": ("--optimizer sgd --lr 1e-6 --warmup false --weight_decay 1e-3", dict.fromkeys(TERMS, 1.0)),
}
SCHEDULES = {
    "default": "",
    "first_epoch": "--decay_start first_epoch",
    "no_warmup": "--warmup false",
    "short": "--max_epoch 30 --decay_list 5 20 --decay_rate 0.3 --lr 0.01",
}
PEAK_CANDIDATES, BATCH_CANDIDATES = 4, 6

#: name, split, options: the samples of stage 2
DATA_CASES = (
    ("val", "val", ""),
    ("train", "train", ""),
    ("train_seed7_small", "train", "--input_size 320 96 --seed 7 --random_crop 1 --scale 0.3 --shift 0.2"),
    ("mirrored", "train", "--input_size 640 192 --random_flip 1 --random_crop 0"),
    ("merge", "val", "--input_size 640 192 --class_merging"),
    ("center2d_cars", "val", "--input_size 640 192 --use_3d_center false --writelist Car"),
    ("dontcare", "val", "--input_size 640 192 --use_dontcare"),
)

#: the training of stage 7. At this rate torch's float32 trainings from weights that differ by 1e-6 end within 5 % of
#: each other, on real frames too; at 1e-3 they end up to 60 % apart
TRAIN_ARGV = (
    "--input_size 160 64 --batch_size 2 --max_epoch 8 --lr 0.0005 --random_crop 0 --decay_list 2 --seed 1"
).split()
TRAIN_FRAMES, VAL_FRAMES = 8, 8
FIRST_LOSSES = 2  # of the pass without updates and the first epoch; later ones differ by grown rounding
VAL_PEAKS = 20


@dataclass(frozen=True)
class Case:
    """A forward pass. `objects`: of each of two images, in mode "train"; `biases`: {tensor: its values}."""

    size: tuple[int, int] = (160, 64)
    mode: str = "train"
    objects: Sequence[int] = (7, 5)
    k: int = MAX_OBJECTS
    biases: dict[str, Sequence[float]] = field(default_factory=dict)


#: the passes of stage 3, edge cases included
FORWARD = {
    "val": Case((320, 96), "val"),
    "test_ten": Case((192, 128), "test", k=10),
    "train": Case((320, 96)),
    "narrow": Case((64, 128)),
    "one_object": Case(objects=(0, 1)),
    "no_object": Case(objects=(0, 0)),
    "all_slots": Case(objects=(MAX_OBJECTS, 3)),
    "saturated": Case(biases={"heatmap.2.bias": (60, -60, 0)}),
    "inverted_boxes": Case(biases={"size_2d.2.bias": (-9, -8)}),
    "boxes_outside": Case(biases={"offset_2d.2.bias": (60, -40)}),
    "boxes_across": Case(biases={"offset_2d.2.bias": (-20, 8), "size_2d.2.bias": (50, 30)}),
}
#: passes of which every level, the neck's features and the running statistics afterwards are recorded too
WATCHED = ("val", "narrow")
#: size -> frames of val that go through the network in mode "train"
FRAMES = {(320, 96): 2, (1280, 384): 1}
BACKWARD = Case((128, 64))


def weights_file(context: Context, name: str = "drawn") -> Path:
    """The official checkpoint that both sides load: --weights, or what `prepare` drew."""
    if context.options.weights and name == "drawn":
        return Path(context.options.weights)
    return context.output_dir / "weights" / f"{name}.pth"


def data_options(context: Context, argv: Sequence[str] = ()) -> argparse.Namespace:
    """Reading options for --data_path, or for the mini data set that `prepare` makes."""
    from mini.draw import DEFAULT_ROOT

    return parse_options(["--data_path", context.options.data_path or str(DEFAULT_ROOT), *argv])


def chosen(count: int, most: int) -> list[int]:
    """At most `most` of `count` indices, evenly spread."""
    return np.linspace(0, count - 1, min(count, most)).round().astype(int).tolist()


# ---------------------------------------------------------------------------------------------------- images, targets


def choices(context: Context) -> dict[str, int]:
    """{pass: which candidate of its images it takes}, as `prepare` chose."""
    return json.loads(choice_file(context).read_text())


def choice_file(context: Context) -> Path:
    return context.output_dir / "weights" / "choices.json"


def noise(name: str, size: tuple[int, int], candidate: int, dtype: str) -> np.ndarray:
    """[2, 3, H, W] of N(0, 1); the second image is darker and has more contrast."""
    drawn = formula_input(f"{name}{candidate}", (2, 3, size[1], size[0]), SEED)
    spread, level = np.array([0.8, 1.2], np.float32), np.array([0.2, -0.3], np.float32)
    return (drawn * spread[:, None, None, None] + level[:, None, None, None]).astype(dtype)


def cameras(dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """coord_ranges [2, 2, 2] and calibs [2, 3, 4] of a whole image and a crop, with different focal lengths."""
    ranges = np.array([[[0, 0], [1242, 375]], [[120.5, -22.25], [1100.25, 290.5]]], np.float32)
    calibs = np.zeros((2, 3, 4), np.float32)
    calibs[0] = [[721.5, 0, 609.6, 44.86], [0, 721.5, 172.9, 0.2164], [0, 0, 1, 0.00275]]
    calibs[1] = [[707.0, 0, 637.9, -45.76], [0, 709.5, 180.5, -0.3454], [0, 0, 0, 0.004981]]  # as after mirroring
    return ranges.astype(dtype), calibs.astype(dtype)


def targets(name: str, size: tuple[int, int], counts: Sequence[int], dtype: str) -> dict[str, np.ndarray]:
    """Targets of images with these numbers of objects, in any slots, of any class (NOTES 3.14)."""
    width, height = size[0] // DOWN_RATIO, size[1] // DOWN_RATIO
    rng, batch = rng_for(f"targets/{name}", SEED), len(counts)
    shape = (batch, MAX_OBJECTS)
    found = {
        "cls_ids": rng.integers(0, 3, shape),
        "indices": rng.integers(0, width * height, shape),
        "heading_bin": rng.integers(0, HEADING_BINS, (*shape, 1)),
        "offset_2d": rng.standard_normal((*shape, 2)),
        "offset_3d": rng.standard_normal((*shape, 2)),
        "size_2d": rng.uniform(1, 12, (*shape, 2)),
        "size_3d": 0.3 * rng.standard_normal((*shape, 3)),
        "depth": rng.uniform(4, 60, (*shape, 1)),
        "heading_res": rng.uniform(-np.pi / HEADING_BINS, np.pi / HEADING_BINS, (*shape, 1)),
    }
    mask = np.stack([rng.permutation(MAX_OBJECTS) < count for count in counts])
    heatmap = np.zeros((batch, 3, height, width))
    columns, rows = np.arange(width), np.arange(height)[:, None]
    for image, slot in np.argwhere(mask):
        row, column = divmod(found["indices"][image, slot], width)
        peak = np.exp(-((columns - column) ** 2 + (rows - row) ** 2) / 2)
        channel = heatmap[image, found["cls_ids"][image, slot]]
        np.maximum(channel, peak, out=channel)
    found = {key: value * mask.reshape(*shape, *[1] * (value.ndim - 2)) for key, value in found.items()}
    found = {
        key: value if value.dtype == np.int64 else value.astype(np.float32).astype(dtype)
        for key, value in found.items()
    }
    return found | {"heatmap": heatmap.astype(np.float32).astype(dtype), "mask_2d": mask.astype(np.uint8)}


def inputs(name: str, case: Case, candidate: int, dtype: str) -> dict:
    """Keyword arguments of the network for a pass."""
    ranges, calibs = cameras(dtype)
    images = noise(name, case.size, candidate, dtype)
    found = {"images": images, "coord_ranges": ranges, "calibs": calibs, "K": case.k, "mode": case.mode}
    return found | ({"targets": targets(name, case.size, case.objects, dtype)} if case.mode == "train" else {})


def frames(samples: Sequence[tuple], dtype: str) -> dict:
    """Keyword arguments of the network for samples (image, P2, coord_range, targets, info) of the data set."""

    def stacked(arrays: Sequence[np.ndarray]) -> np.ndarray:
        array = np.stack(arrays)
        return array.astype(dtype) if array.dtype == np.float32 else array

    images, calibs, ranges, wanted, _ = zip(*samples, strict=True)
    slots = {name: stacked([own[name] for own in wanted]) for name in wanted[0]}
    return {"images": stacked(images), "coord_ranges": stacked(ranges), "calibs": stacked(calibs), "targets": slots}


# ------------------------------------------------------------------------------------------------------------- stage 5


def loss_cases(dtype: str) -> Iterator[tuple[str, dict, dict, dict | None]]:
    """(name, outputs, targets, weights of the terms), with edge cases."""
    size = (160, 64)
    usual = targets("loss", size, (7, 5), dtype)
    late = {term: 0.1 + 0.3 * index for index, term in enumerate(TERMS)}
    yield "usual", outputs("usual", usual, dtype), usual, None
    yield "first_weights", outputs("usual", usual, dtype), usual, FIRST_WEIGHTS
    yield "late_weights", outputs("late", usual, dtype), usual, late
    one = targets("one", size, (0, 1), dtype)
    yield "one_object", outputs("one", one, dtype), one, None
    full = targets("full", size, (MAX_OBJECTS, MAX_OBJECTS), dtype)
    yield "all_slots", outputs("full", full, dtype), full, None
    none = targets("none", size, (0, 0), dtype)
    none["heatmap"] = np.minimum(usual["heatmap"], 0.9).astype(dtype)  # no positive either
    yield "no_object", outputs("none", none, dtype), none, None
    yield "no_positive", outputs("usual", usual, dtype), usual | {"heatmap": none["heatmap"]}, None

    saturated = outputs("usual", usual, dtype)
    saturated["heatmap"] = saturated["heatmap"] * 40
    yield "saturated", saturated, usual, None
    certain = outputs("usual", usual, dtype)
    certain["depth"][:, 1] = np.linspace(-14, 12, len(certain["depth"]))
    certain["h3d_log_variance"][:, 0] = np.linspace(12, -14, len(certain["depth"]))
    certain["heading"] = certain["heading"] * 60
    yield "far_variances", certain, usual, None
    exact = outputs("usual", usual, dtype)
    mask = usual["mask_2d"].astype(bool)
    for name in ("offset_3d", "size_3d"):
        exact[name] = usual[name][mask]
    exact["depth"][:, 0] = usual["depth"][mask][:, 0]
    yield "exact", exact, usual, None


def outputs(name: str, wanted: dict, dtype: str) -> dict[str, np.ndarray]:
    """Possible outputs of the network for these targets: rows for their objects, one row of zeros for none."""
    batch, _, height, width = wanted["heatmap"].shape
    count = int(wanted["mask_2d"].sum())
    shapes = {name: (batch, channels, height, width) for name, channels in DENSE_OUTPUTS.items()}
    shapes |= {name: (max(count, 1), channels) for name, channels in ROI_OUTPUTS.items()}
    found = {key: formula_input(f"outputs/{name}/{key}", shape, SEED).astype(dtype) for key, shape in shapes.items()}
    found["heatmap"] = 2 * found["heatmap"] - 2
    found["size_2d"] = found["size_2d"] + 6
    found["depth"][:, 0] = 30 + 20 * found["depth"][:, 0]
    if not count:
        found |= {key: np.zeros_like(value) for key, value in found.items() if len(shapes[key]) == 2}
    return found | {"train_tag": np.full(max(count, 1), count > 0)}


def task_losses() -> Iterator[tuple[str, int, list[dict[str, float]]]]:
    """(name, max_epoch, {term: loss} before each epoch) for hierarchical task learning."""
    for name, epochs in (("falling", 145), ("noisy", 40), ("rising", 20)):
        rng, when = rng_for(f"tasks/{name}", SEED), np.arange(epochs)[:, None]
        rate, end = rng.uniform(0.02, 0.2, len(TERMS)), rng.uniform(0.1, 1, len(TERMS))
        values = end + rng.uniform(1, 8, len(TERMS)) * np.exp(-rate * when)
        if name == "noisy":
            values = values * (1 + 0.05 * rng.standard_normal(values.shape))
        if name == "rising":
            values = values + np.where(when < 9, 0.4 * when, 3.6) * (np.arange(len(TERMS)) % 2)
        yield name, 140, [dict(zip(TERMS, map(float, row), strict=True)) for row in values]


# ------------------------------------------------------------------------------------------------------------- stage 4


def peak_outputs(dtype: str) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Outputs of mode "test" for two images, ratios [2, 2] and calibs [2, 3, 4]; some sizes are negative."""
    _, calibs = cameras("float32")  # as they are read
    wanted = {"heatmap": np.zeros((2, 3, 24, 80)), "mask_2d": np.ones(2 * MAX_OBJECTS)}
    found = outputs("peaks", wanted, dtype)
    found["heatmap"] = found["heatmap"] * 2
    found["size_3d"] = found["size_3d"] * 0.4
    return found, np.stack([RATIO, RATIO * 0.9]), calibs


THRESHOLDS = (0.0, 0.2, 0.5)


def result_folders(context: Context) -> tuple[Path, Path]:
    """The folders of the labels and the results that `prepare` draws."""
    return context.output_dir / "evaluation" / "label_2", context.output_dir / "evaluation" / "data"


def result_files() -> Iterator[tuple[str, str, str]]:
    """(file name, label lines, result lines) of frames with small, hidden and truncated objects, neighbouring classes,
    DontCare regions, misses, double and false detections, equal scores."""
    rng = rng_for("results", SEED)
    kinds = ("Car", "Pedestrian", "Cyclist", "Van", "Person_sitting", "Truck", "DontCare")
    for frame in range(24):
        labels, results = [], []
        for _ in range(int(rng.integers(0, 9))):
            kind = str(rng.choice(kinds, p=(0.4, 0.2, 0.15, 0.1, 0.05, 0.03, 0.07)))
            x1, y1, height = rng.uniform(0, 1100), rng.uniform(100, 250), rng.uniform(18, 110)
            box = [x1, y1, x1 + height * rng.uniform(0.5, 1.8), y1 + height]
            body = [*rng.uniform((1.4, 0.6, 0.9), (1.9, 1.8, 4.4)), *rng.uniform((-15, 1.2, 5), (15, 2, 50))]
            alpha, ry = rng.uniform(-3.1, 3.1, 2)
            truncation, occlusion = rng.choice((0, 0.1, 0.2, 0.4, 0.7)), rng.integers(0, 4)
            if kind == "DontCare":
                labels.append("DontCare -1 -1 -10 " + _numbers([*box, -1, -1, -1, -1000, -1000, -1000, -10]))
            else:
                labels.append(f"{kind} {truncation:.2f} {occlusion} " + _numbers([alpha, *box, *body, ry]))
            for _ in range(int(rng.choice((0, 1, 1, 1, 2)))):
                found = str(rng.choice(kinds[:3])) if kind not in kinds[:3] or rng.random() < 0.1 else kind
                near = 0.1 if rng.random() < 0.75 else 1.0
                moved = [*np.array(box) + 12 * near * rng.standard_normal(4)]
                there = [*np.array(body) + near * np.array([0.2, 0.1, 0.3, 0.5, 0.2, 1]) * rng.standard_normal(6)]
                turned = [alpha + 0.4 * rng.standard_normal(), *moved, *np.abs(there[:3]), *there[3:], ry + 0.1 * near]
                results.append(f"{found} 0.0 0 " + _numbers([*turned, rng.uniform(0.2, 1)]))
        yield f"{frame:06d}.txt", "".join(f"{line}\n" for line in labels), "".join(f"{line}\n" for line in results)


def words(lines: str) -> list[str]:
    """Of result lines the words, and for numbers their count of decimals: the values are compared elsewhere."""
    return [
        " ".join(word if not word[-1].isdigit() else f"N.{len(word.partition('.')[2])}" for word in line.split())
        for line in lines.splitlines()
    ] or [""]


def _numbers(values: Sequence[float]) -> str:
    return " ".join(f"{value:.2f}" for value in values)


# ------------------------------------------------------------------------------------------------------------- stage 7


def figures(cells, kinds, wanted: dict[str, np.ndarray], depth: np.ndarray) -> dict[str, float]:
    """On val: the fraction of objects with a peak of their class at most one cell away, and the error of depth, metres.

    cells, kinds [B, VAL_PEAKS]; depth [M] of the objects, in metres.
    """
    width = wanted["heatmap"].shape[3]
    found = []
    for image, slot in np.argwhere(wanted["mask_2d"]):
        cell, peaks = wanted["indices"][image, slot], cells[image]
        near = np.maximum(abs(peaks % width - cell % width), abs(peaks // width - cell // width)) <= 1
        found.append((near & (kinds[image] == wanted["cls_ids"][image, slot])).any())
    error = depth.astype(np.float64) - wanted["depth"][wanted["mask_2d"].astype(bool)][:, 0]
    return {"recall": float(np.mean(found)), "depth_error": float(np.abs(error).mean())}


def training_record(losses: np.ndarray, weights: list[dict], curve: list[dict[str, float]]) -> dict:
    """The record of stage 7.

    losses: [1 + epochs, 7], means of the pass without updates and of each epoch, by TERMS; weights: of each epoch;
    curve: figures on val before the training and after each epoch.
    """
    pictured = losses[:, :3].sum(1)  # of the tasks that count from the start
    recall, error = (np.array([point[name] for point in curve]) for name in ("recall", "depth_error"))
    last, found = pictured[-2:].mean(), recall[-3:].mean()  # so early they vary from epoch to epoch
    return {
        "mini/first_losses": losses[:FIRST_LOSSES],
        "mini/first_weights": np.array([[found[term] for term in TERMS] for found in weights[:6]]),
        "mini/last_losses": last,
        "mini/final_recall": found,
        "mini/learns": bool(last < 0.7 * pictured[0] and found > recall[0]),
        "curve/loss": losses.sum(1),
        "curve/pictured": pictured,
        "curve/recall": recall,
        "curve/depth_error": error,
    }
