"""What both sides are fed, in numpy alone: networks, weights, images, motions. Neither framework is imported here."""

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from shared.align.formula import formula_input, rng_for
from shared.stages import Context

from options import parse_options, sources

SEED = 2026
HEIGHT, WIDTH, BATCH = 64, 128, 2
#: the networks of stages 1 and 3; the reference can build each of them
NETWORKS = {
    "resnet18": "--use_stereo",
    "resnet18_all": "--pose_model_input all",
    "resnet18_mask": "--predictive_mask --disable_automasking --scales 3 0",
    "resnet34_shared": "--num_layers 34 --pose_model_type shared --use_stereo",
    "resnet50": "--num_layers 50",
    "posecnn": "--pose_model_type posecnn",
    "stereo": "--frame_ids 0 --use_stereo",
}
#: networks of stage 6
TRAINED = ("resnet18", "posecnn")
OPTIMISER_STEPS = 10
# small steps: Adam's first moves every weight by the rate in the direction of its gradient's sign, rounding or not
OPTIMISER_RATE = "1e-6"
BATCH_CANDIDATES = 6

#: name, part, options: the samples of stage 2
DATA_CASES = (
    ("val", "val", "--use_stereo"),
    ("train", "train", "--use_stereo"),
    ("train_seed7_small", "train", "--height 64 --width 192 --frame_ids 0 1 --seed 7"),
    ("train_earlier_port", "train", "--use_stereo --resize nearest --jitter per_image"),
)

#: the losses of stage 5, by their options
LOSSES = {
    "mono": "",
    "stereo": "--frame_ids 0 --use_stereo",
    "mono_stereo": "--use_stereo",
    "align_corners_false": "--align_corners false",
    "avg_reprojection": "--use_stereo --avg_reprojection",
    "v1_multiscale": "--v1_multiscale",
    "disable_automasking": "--disable_automasking",
    "baseline": "--use_stereo --v1_multiscale --disable_automasking --avg_reprojection",
    "predictive_mask": "--predictive_mask --disable_automasking",
    "no_ssim": "--no_ssim",
    "posecnn": "--pose_model_type posecnn",
    "scales_3_0": "--scales 3 0",
    "depth_range": "--min_depth 0.5 --max_depth 20 --disparity_smoothness 0.1",
}
#: more of stage 5, all with mono_stereo's options: special inputs
EDGES = ("no_motion", "black", "behind_the_camera", "outside_the_picture")

#: the training of stage 7; at this rate, torch's float32 trainings from weights 1e-6 apart end within 0.2 % of each
#: other, at 5e-4 within 10 %
TRAIN_ARGV = (
    "--use_stereo --pose_model_type posecnn --height 64 --width 96 --batch_size 4 --learning_rate 2e-4 "
    "--min_depth 0.6 --max_depth 20 --seed 1 --split mini"
).split()
TRAIN_STEPS, TRAIN_ITEMS, VAL_ITEMS = 24, 72, 8
CURVE_EVERY = 4
FIRST_LOSSES = 4  # later ones differ by grown rounding


def network_options(context: Context, name: str, argv: str = "") -> argparse.Namespace:
    """The options of one of NETWORKS, at the figures' size; or of the networks in --weights, at theirs."""
    if context.options.weights:
        from convert import stored_options

        return parse_options(argv.split(), defaults=stored_options(context.options.weights))
    return parse_options([*f"--height {HEIGHT} --width {WIDTH}".split(), *NETWORKS[name].split(), *argv.split()])


def networks(context: Context, chosen: Sequence[str] = tuple(NETWORKS)) -> Iterator[tuple[str, argparse.Namespace]]:
    """(name, options) of every network to compare."""
    for name in ["weights"] if context.options.weights else chosen:
        yield name, network_options(context, name)


def weights_folder(context: Context, name: str) -> Path:
    """The official-format folder that both sides load: --weights, or what `prepare` drew."""
    return Path(context.options.weights) if context.options.weights else context.output_dir / "weights" / name


def data_options(context: Context, argv: Sequence[str] = ()) -> argparse.Namespace:
    """Reading options for --data_path, or for the mini data set that `prepare` draws."""
    from mini.draw import DEFAULT_ROOT

    split = context.options.split or ("eigen_zhou" if context.options.data_path else "mini")
    where = ["--data_path", context.options.data_path or str(DEFAULT_ROOT), "--split", split]
    return parse_options([*argv, *where])


def reading(context: Context, options: argparse.Namespace) -> argparse.Namespace:
    """The options to read images with for a network of `options`."""
    size = f"--height {options.height} --width {options.width}".split()
    frames = ["--frame_ids", *map(str, options.frame_ids if len(options.frame_ids) > 1 else [0, -1, 1])]
    return data_options(context, [*size, *frames, "--use_stereo"])


def chosen(count: int, most: int) -> list[int]:
    """At most `most` of `count` indices, spread evenly."""
    return np.linspace(0, count - 1, min(count, most)).round().astype(int).tolist()


def noise(options: argparse.Namespace, dtype: str) -> list[np.ndarray]:
    """The noise that breaks ties: N(0, 1), one array for each scale."""
    channels = 1 if options.avg_reprojection else len(sources(options))
    drawn = []
    for index, scale in enumerate(options.scales):
        at = scale if options.v1_multiscale else 0
        shape = (BATCH, channels, options.height >> at, options.width >> at)
        drawn.append(formula_input(f"noise/{index}", shape, SEED).astype(dtype))
    return drawn


# ------------------------------------------------------------------------------------------------------- stage 5


def loss_cases() -> Iterator[tuple[str, argparse.Namespace, str]]:
    """(name, options, edge) of every loss to compare; edge is "" for most."""
    size = f"--height {HEIGHT} --width {WIDTH}".split()
    for name, argv in LOSSES.items():
        yield name, parse_options([*size, *argv.split()]), ""
    for edge in EDGES:
        yield edge, parse_options([*size, *LOSSES["mono_stereo"].split()]), edge


def network_outputs(options: argparse.Namespace, edge: str, dtype: str) -> dict:
    """Drawn outputs of a network as numpy arrays: disparities, motions, masks."""
    outputs = {}
    for scale in options.scales:
        shape = (BATCH, 1, options.height >> scale, options.width >> scale)
        outputs["disp", scale] = _sigmoid(0.4 * formula_input(f"disp{scale}", shape, SEED) - 2.2)
        if options.predictive_mask:
            shape = (BATCH, len(sources(options)), *shape[2:])
            outputs["predictive_mask", scale] = _sigmoid(formula_input(f"mask{scale}", shape, SEED))
    size = {"no_motion": 0.0, "behind_the_camera": 30.0, "outside_the_picture": 5.0}.get(edge, 1.0)
    for f in options.frame_ids[1:]:
        for kind, spread in (("axisangle", 0.01), ("translation", 0.05)):
            drawn = formula_input(f"{kind}{f}", (BATCH, 2, 1, 3), SEED)
            if edge == "behind_the_camera":  # straight backwards, farther than the farthest point
                drawn = np.zeros_like(drawn) if kind == "axisangle" else np.broadcast_to([0, 0, -2], drawn.shape)
            if edge == "outside_the_picture" and kind == "axisangle":
                drawn = np.zeros_like(drawn)
            outputs[kind, 0, f] = size * spread * drawn
    return {key: value.astype(np.float32).astype(dtype) for key, value in outputs.items()}


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


# ------------------------------------------------------------------------------------------------------- stage 4


def depth_cases(dtype: str) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """(name, ground truth, prediction): lists of depths in metres."""
    for name, count, spread in (("near", 1001, 0.1), ("far", 2000, 0.9), ("one", 1, 0.5)):
        rng = rng_for(f"depth/{name}", SEED)
        gt = np.exp(rng.uniform(0.5, 4.2, count))
        yield name, gt.astype(dtype), (gt * np.exp(spread * rng.standard_normal(count))).astype(dtype)


def image_case(dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """A ground-truth map [188, 621] with holes and a scaled disparity [48, 160]."""
    rng = rng_for("picture", SEED)
    gt = np.exp(rng.uniform(0.5, 4.6, (188, 621))) * (rng.random((188, 621)) < 0.2)
    return gt.astype(dtype), (0.02 + 0.4 * rng.random((48, 160))).astype(dtype)


#: factor, median scaling
SCALINGS = ((1.0, True), (5.4, False), (2.5, True))


def monitor_case(dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """Predicted depth [2, 1, 64, 128] and ground truth [2, 1, 375, 1242]."""
    rng = rng_for("monitor", SEED)
    depth = 2 + 60 * rng.random((2, 1, 64, 128))
    gt = np.where(rng.random((2, 1, 375, 1242)) < 0.1, 5 + 75 * rng.random((2, 1, 375, 1242)), 0)
    return depth.astype(np.float32).astype(dtype), gt.astype(np.float32).astype(dtype)


def flip_case() -> tuple[np.ndarray, np.ndarray]:
    """Two disparities [2, 5, 60], of an image and of its mirror image."""
    rng = rng_for("flip", SEED)
    return rng.random((2, 5, 60)), rng.random((2, 5, 60))


# ------------------------------------------------------------------------------------------------------- stages 6 and 7


def choice_file(context: Context, name: str) -> Path:
    return context.output_dir / "weights" / f"{name}_batch.json"


def batch_choice(context: Context, name: str) -> list[int]:
    """The validation items of the gradient check, chosen by `prepare`."""
    return json.loads(choice_file(context, name).read_text())


def candidates(count: int) -> list[list[int]]:
    """Batches of validation items to choose from."""
    rng = rng_for("candidates", SEED)
    return [sorted(rng.choice(count, BATCH, replace=False).tolist()) for _ in range(BATCH_CANDIDATES)]


def training_noise(options: argparse.Namespace, step: int, count: int, dtype: str) -> np.ndarray:
    """The noise that breaks ties in a step of stage 7: N(0, 1) [scales, count, sources, H, W]."""
    shape = (len(options.scales), count, len(sources(options)), options.height, options.width)
    return np.random.default_rng(step).standard_normal(shape).astype(dtype)


def training_record(losses: list[float], steps: list[int], curve: list[float]) -> dict:
    """What stage 7 compares: losses of the first and of the last steps, abs_rel on val, and whether the network learns.

    abs_rel varies from step to step so early in a training: the mean of its last three values is compared.
    """
    values, untrained, error = np.array(losses), curve[0], np.mean(curve[-3:])
    learns = values[-8:].mean() < 0.97 * values[:8].mean() and error < untrained
    return {
        "mini/first_losses": values[:FIRST_LOSSES],
        "mini/last_losses": values[-10:].mean(),
        "mini/final_abs_rel": error,
        "mini/learns": bool(learns),
        "curve/loss": values,
        "curve/steps": np.array(steps),
        "curve/abs_rel": np.array(curve),
    }
