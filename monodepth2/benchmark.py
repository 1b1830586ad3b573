"""Speed and memory beside torch, measured in one run.

    python benchmark.py --output benchmark.json

Every side runs in a process of its own, so that no two OpenMP runtimes share one; they take turns, one call each, with
a rest before it. Section infer: disparity of one image at the paper's two sizes, by torch eager (the twin), Paddle
dygraph, Paddle Inference with oneDNN, and ONNX Runtime where it is installed. Section step: a training step from mono
and stereo (networks, losses, gradients, Adam), with the most memory that a process of each side held meanwhile.
Section velodyne: the depth map of a laser scan, from the files, against the twin's loop over its points.
"""

from shared import InputError, run, set_up

set_up()

import argparse
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from shared.deploying.benchmark import (
    DYGRAPH,
    INFERENCE,
    ONNX,
    TORCH,
    Bench,
    build_parser,
    run_benchmark,
    show,
    verdict,
)
from shared.deploying.measure import has_onnx
from shared.running.options import positive_int

from datasets.transforms import SCALES, intrinsics
from datasets.velodyne import depth_map, read_calibration, read_points
from options import LAYERS, parse_options, sources

LOOP, VECTORISED = "loop over points", "whole arrays"
SIZES = ((192, 640), (320, 1024))  # height, width
#: what this repository wants to reach
WANTED_INFERENCE, WANTED_VELODYNE = 1.3, 10


# ------------------------------------------------------------------------------------ what a side does


def build_case(case: Sequence[str], options: argparse.Namespace) -> Callable[[], object]:
    """What one call of a side does: `case` is the side, the task, and the task's numbers or paths."""
    side, task, *details = case
    if task == "velodyne":
        return _velodyne_case(side, *details)
    if task == "infer":
        options.height, options.width = map(int, details)
        images = np.random.default_rng(0).random((1, 3, options.height, options.width), np.float32)
        return _torch_inference(images, options) if side == TORCH else _paddle_inference(side, images, options)
    batch, options.height, options.width = map(int, details)
    return (_torch_step if side == TORCH else _paddle_step)(_batch(batch, options), options)


def _torch_inference(images: np.ndarray, options: argparse.Namespace) -> Callable:
    import torch

    from reference.network import build_reference

    torch.manual_seed(0)
    model, inputs = build_reference(options).eval(), torch.from_numpy(images)
    return torch.no_grad()(lambda: model.predict_disparity(inputs)["disp", 0].numpy())


def _paddle_inference(side: str, images: np.ndarray, options: argparse.Namespace) -> Callable:
    import paddle

    from deploy import build_predictor
    from models import build_model

    paddle.seed(0)
    options.engine = {DYGRAPH: "dygraph", INFERENCE: "inference", ONNX: "onnx"}[side]
    predictor = build_predictor(build_model(options), options)
    return lambda: predictor(images)


def _batch(batch: int, options: argparse.Namespace) -> dict:
    """A random batch with all that networks and losses read (NOTES 2.4 to 2.7), numpy float32."""
    rng, inputs = np.random.default_rng(0), {}
    for f in (0, *sources(options)):
        for scale in SCALES:
            size = options.height >> scale, options.width >> scale
            inputs["color", f, scale] = rng.random((batch, 3, *size), np.float32)
        inputs["color_aug", f, 0] = inputs["color", f, 0]
    for scale in SCALES:
        for name, matrix in zip(("K", "inv_K"), intrinsics(options.height, options.width, scale), strict=True):
            inputs[name, scale] = np.tile(matrix, (batch, 1, 1))
    inputs["stereo_T"] = np.tile(np.eye(4, dtype=np.float32), (batch, 1, 1))
    inputs["stereo_T"][:, 0, 3] = -0.1
    return inputs


def _torch_step(batch: dict, options: argparse.Namespace) -> Callable:
    import torch

    from reference.losses import build_criterion
    from reference.network import build_reference
    from reference.training import build_optimizer, train_step

    torch.manual_seed(0)
    model, criterion = build_reference(options), build_criterion(options)
    optimizer = build_optimizer(model, options)
    inputs = {name: torch.from_numpy(value) for name, value in batch.items()}
    return lambda: train_step(model, criterion, optimizer, inputs)


def _paddle_step(batch: dict, options: argparse.Namespace) -> Callable:
    import paddle

    from engine import build_training, train_step
    from models import build_model

    paddle.seed(0)
    training = build_training(build_model(options), options)
    inputs = {name: paddle.to_tensor(value) for name, value in batch.items()}
    return lambda: train_step(training, inputs, options, step=0)


def _velodyne_case(side: str, scan: str, calibration: str) -> Callable:
    if side == LOOP:
        from reference.data import depth_map as looped

        return lambda: looped(calibration, scan, 2, vel_depth=False)
    return lambda: depth_map(read_points(scan), read_calibration(calibration), 2)


def simulate_scan(folder: Path) -> tuple[Path, Path]:
    """A scan of KITTI's size, 64 rings of 1800 points over flat ground, and its calibration, both in `folder`."""
    turn = np.linspace(-np.pi, np.pi, 1800, endpoint=False)
    down = np.radians(np.linspace(-2.0, 24.9, 64))[:, None]
    ground = 1.73 / np.sin(np.maximum(down, 0.01))
    distance = np.minimum(ground, np.random.default_rng(0).uniform(5, 80, (64, 1800)))
    x, y = distance * np.cos(down) * np.cos(turn), distance * np.cos(down) * np.sin(turn)
    points = np.stack([x, y, -distance * np.sin(down), np.zeros_like(x)], -1)
    points.astype(np.float32).tofile(folder / "scan.bin")
    cameras = "R_rect_00: 1 0 0 0 1 0 0 0 1\nS_rect_02: 1242 375\n"
    for camera, shift in ((2, 44.9), (3, -339.5)):
        cameras += f"P_rect_0{camera}: 721.5 0 609.6 {shift} 0 721.5 172.9 0.2 0 0 1 0.003\n"
    (folder / "calib_cam_to_cam.txt").write_text(cameras.rstrip())
    (folder / "calib_velo_to_cam.txt").write_text("R: 0 -1 0 0 0 -1 1 0 0\nT: 0 -0.08 -0.27")
    return folder / "scan.bin", folder


# ------------------------------------------------------------------------------------ sections


def infer(bench: Bench) -> dict:
    """Disparity of one image at both sizes."""
    sides, report = [TORCH, DYGRAPH, INFERENCE, *([ONNX] if has_onnx() else [])], {}
    for height, width in SIZES:
        rows = bench.compare(sides, ("infer", height, width), 1)
        note = verdict(rows, INFERENCE, WANTED_INFERENCE)
        report |= show(f"disparity of one image, {width}x{height}", rows, note)
    return report


def step(bench: Bench) -> dict:
    """A training step, with the memory that it adds to the imported library's."""
    batch, (height, width) = bench.options.step_batch_size, bench.options.step_size
    rows = bench.compare((TORCH, DYGRAPH), ("step", batch, height, width), batch, memory=True)
    title = f"training step, mono and stereo, batch {batch}, {width}x{height}"
    return show(f"{title}; peak beyond the imported library", rows)


def velodyne(bench: Bench) -> dict:
    """A scan's depth map for camera 2, with reading the files."""
    given = bench.options.scan, bench.options.calib
    with tempfile.TemporaryDirectory() as folder:
        scan, calibration = given if given[0] else simulate_scan(Path(folder))
        count = Path(scan).stat().st_size // 16
        rows = bench.compare((LOOP, VECTORISED), ("velodyne", scan, calibration), 1)
    title = f"depth map of a {'given' if given[0] else 'simulated'} scan, {count} points"
    return show(title, rows, verdict(rows, VECTORISED, WANTED_VELODYNE))


def main(argv: Sequence[str] | None = None) -> None:
    sections = {"infer": infer, "step": step, "velodyne": velodyne}
    parser = build_parser(__doc__, tuple(sections), seconds=30)
    add = parser.add_argument
    add("--num_layers", type=int, choices=LAYERS, default=18, help="depth of the ResNets")
    text = "image of a training step: height, width; multiples of 32"
    add("--step_size", type=positive_int, nargs=2, metavar=("H", "W"), default=[96, 320], help=text)
    add("--step_batch_size", type=positive_int, metavar="N", default=2, help="batch of a training step")
    add("--scan", metavar="FILE", help="a laser scan (.bin); default: a simulated one")
    add("--calib", metavar="DIR", help="folder of that scan's calib_*.txt")
    options = parse_options(argv, parser)
    options.use_stereo = True
    if any(side % 32 for side in options.step_size):
        parser.error("argument --step_size: both must be multiples of 32")
    if bool(options.scan) != bool(options.calib):
        raise InputError("--scan and --calib belong together: a scan (.bin), and the folder of its day's calib_*.txt")
    if options.scan:  # a bad file is named before anything is measured
        read_points(options.scan), read_calibration(options.calib)
    about = {"network": f"ResNet-{options.num_layers}"}
    run_benchmark(__file__, argv, options, build_case, sections, about)


if __name__ == "__main__":
    run(main)
