"""Speed and memory beside torch, measured in one run.

    python benchmark.py --output benchmark.json

Every side runs in a process of its own, so that no two OpenMP runtimes share one; they take turns, one call each, with
a rest before it. Section infer: disparity of one picture at the paper's two sizes, by torch eager (the twin), Paddle
dygraph, Paddle Inference with oneDNN, and ONNX Runtime where it is installed. Section step: a training step from mono
and stereo (networks, losses, gradients, Adam), with the most memory that a process of each side held meanwhile.
Section velodyne: the depth map of a laser scan, from the files, against the twin's loop over its points.
"""

import argparse
import importlib.util
import json
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from shared import HelpFormatter, InputError, run
from shared.deploying.measure import (
    compare_speed,
    environment,
    measure_processes,
    resident_bytes,
    run_child,
    serve,
    speed_table,
)
from shared.running.options import positive_float, positive_int
from shared.weights import atomic_write_text

from options import LAYERS, parse_options, sources

TORCH, DYGRAPH, INFERENCE, ONNX = "torch eager", "Paddle dygraph", "Paddle Inference", "ONNX Runtime"
LOOP, VECTORISED = "loop over points", "whole arrays"
SECTIONS = ("infer", "step", "velodyne")
SIZES = ((192, 640), (320, 1024))  # height, width
REST = 0.4  # seconds before each call: Paddle's and ONNX Runtime's idle threads spin on, Paddle's for 0.2
#: what this repository wants to reach
WANTED_INFERENCE, WANTED_VELODYNE = 1.3, 10

# ---------------------------------------------------------------- what a side does


def build_case(case: Sequence[str], options: argparse.Namespace) -> Callable[[], object]:
    """What one call of a side does: `case` is the side, the task, and the task's numbers or paths."""
    side, task, *details = case
    if task == "velodyne":
        return _velodyne_case(side, *details)
    if task == "infer":
        options.height, options.width = map(int, details)
        return _torch_inference(options) if side == TORCH else _paddle_inference(side, options)
    batch, options.height, options.width = map(int, details)
    return (_torch_step if side == TORCH else _paddle_step)(batch, options)


def _picture(options: argparse.Namespace) -> np.ndarray:
    return np.random.default_rng(0).random((1, 3, options.height, options.width), np.float32)


def _torch_inference(options: argparse.Namespace) -> Callable:
    import torch

    from reference.network import build_reference

    torch.manual_seed(0)
    model, images = build_reference(options).eval(), torch.from_numpy(_picture(options))

    def forward():
        with torch.no_grad():
            return model.predict_disparity(images)["disp", 0].numpy()

    return forward


def _paddle_inference(side: str, options: argparse.Namespace) -> Callable:
    import paddle

    from shared.deploying.export import onnx_engine, translate_to_onnx

    from export import export_inference, exported_predictor
    from inference import dygraph_predictor
    from models import build_model

    paddle.seed(0)
    model, images = build_model(options), _picture(options)
    model.eval()
    if side == ONNX:
        with tempfile.TemporaryDirectory() as folder:
            target = Path(folder) / "model.onnx"
            translate_to_onnx(export_inference(model, Path(folder)), target)
            engine = onnx_engine(target)
    else:
        engine = dygraph_predictor(model) if side == DYGRAPH else exported_predictor(model, options)
    return lambda: engine(images)


def _batch(batch: int, options: argparse.Namespace) -> dict:
    """A random batch with all that networks and losses read (NOTES 2.4 to 2.7), numpy float32."""
    rng, inputs = np.random.default_rng(0), {}
    for f in (0, *sources(options)):
        for scale in range(4):
            size = options.height >> scale, options.width >> scale
            inputs["color", f, scale] = rng.random((batch, 3, *size), np.float32)
        inputs["color_aug", f, 0] = inputs["color", f, 0]
    intrinsics = np.array([[0.58, 0, 0.5, 0], [0, 1.92, 0.5, 0], [0, 0, 1, 0], [0, 0, 0, 1]], np.float32)
    for scale in range(4):
        matrix = intrinsics * np.array([[options.width >> scale], [options.height >> scale], [1], [1]], np.float32)
        inputs["K", scale] = np.tile(matrix, (batch, 1, 1))
        inputs["inv_K", scale] = np.tile(np.linalg.inv(matrix), (batch, 1, 1))
    inputs["stereo_T"] = np.tile(np.eye(4, dtype=np.float32), (batch, 1, 1))
    inputs["stereo_T"][:, 0, 3] = -0.1
    return inputs


def _torch_step(batch: int, options: argparse.Namespace) -> Callable:
    import torch

    from reference.losses import build_criterion
    from reference.network import build_reference
    from reference.training import build_optimizer

    torch.manual_seed(0)
    model, criterion = build_reference(options), build_criterion(options)
    optimizer = build_optimizer(model, options)
    inputs = {name: torch.from_numpy(value) for name, value in _batch(batch, options).items()}

    def step():
        optimizer.zero_grad()
        criterion(model(inputs), inputs)["loss"].backward()
        optimizer.step()

    return step


def _paddle_step(batch: int, options: argparse.Namespace) -> Callable:
    import paddle

    from losses import build_criterion
    from models import build_model
    from optimizers import build_optimizer

    paddle.seed(0)
    model, criterion = build_model(options), build_criterion(options)
    optimizer = build_optimizer(model, options, options.learning_rate)
    inputs = {name: paddle.to_tensor(value) for name, value in _batch(batch, options).items()}

    def step():
        criterion(model(inputs), inputs)["loss"].backward()
        optimizer.step()
        optimizer.clear_grad()

    return step


def _velodyne_case(side: str, scan: str, calibration: str) -> Callable:
    if side == LOOP:
        from reference.data import depth_map as looped

        return lambda: looped(calibration, scan, 2, vel_depth=False)
    from datasets.velodyne import depth_map, read_calibration, read_points

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


# ---------------------------------------------------------------- sides that take turns


def hold(case: Sequence[str], options: argparse.Namespace) -> None:
    """Run a case three times; prints the bytes that its process held once its library was imported."""
    importlib.import_module("torch" if case[0] == TORCH else "paddle")
    before = resident_bytes()
    call = build_case(case, options)
    for _ in range(3):
        call()
    print(json.dumps(before))


def compare(argv: Sequence[str], sides: Sequence[str], task: Sequence, options: argparse.Namespace) -> list[dict]:
    """Rows of `shared.deploying.measure.speed_table` for one task; the first side is the one compared with."""
    case = [sys.executable, __file__, *argv, "--serve"]
    commands = {side: [*case, side, *map(str, task)] for side in sides}
    times = measure_processes(commands, repeats=options.repeats, warmup=2, seconds=options.seconds, rest=REST)
    return compare_speed(times, sides[0], int(task[1]) if task[0] == "step" else 1)


def verdict(rows: Sequence[dict], name: str, wanted: float) -> str:
    """One line: how many times faster `name` is than the first row's side, and whether that is enough."""
    speed = next(row["speed"] for row in rows if row["name"] == name)
    answer = "met" if speed >= wanted else "not met"
    return f"{name}: {speed:.2f} times {rows[0]['name']} (wanted {wanted}): {answer}"


# ---------------------------------------------------------------- sections


def infer(argv: Sequence[str], options: argparse.Namespace) -> dict:
    """Print and return {title: rows}, as the other sections do."""
    sides, report = [TORCH, DYGRAPH, INFERENCE], {}
    if all(map(importlib.util.find_spec, ("paddle2onnx", "onnxruntime"))):
        sides.append(ONNX)
    for height, width in SIZES:
        rows = compare(argv, sides, ("infer", height, width), options)
        title = f"disparity of one picture, {width}x{height}"
        print(f"\n{title}\n{speed_table(rows, TORCH)}\n{verdict(rows, INFERENCE, WANTED_INFERENCE)}", flush=True)
        report[title] = rows
    return report


def step(argv: Sequence[str], options: argparse.Namespace) -> dict:
    """A training step, with the memory that it adds to the imported library's."""
    batch, (height, width) = options.step_batch_size, options.step_size
    task = ("step", batch, height, width)
    rows = compare(argv, (TORCH, DYGRAPH), task, options)
    for row in rows:
        child = run_child([sys.executable, __file__, *argv, "--hold", row["name"], *map(str, task)])
        row["peak_bytes"] = child.peak_bytes - child.result
    title = f"training step, mono and stereo, batch {batch}, {width}x{height}"
    print(f"\n{title}; peak beyond the imported library\n{speed_table(rows, TORCH)}", flush=True)
    return {title: rows}


def velodyne(argv: Sequence[str], options: argparse.Namespace) -> dict:
    """A scan's depth map for camera 2, with reading the files."""
    with tempfile.TemporaryDirectory() as folder:
        scan, calibration = (options.scan, options.calib) if options.scan else simulate_scan(Path(folder))
        count = Path(scan).stat().st_size // 16
        rows = compare(argv, (LOOP, VECTORISED), ("velodyne", scan, calibration), options)
    title = f"depth map of a {'given' if options.scan else 'simulated'} scan, {count} points"
    print(f"\n{title}\n{speed_table(rows, LOOP)}\n{verdict(rows, VECTORISED, WANTED_VELODYNE)}", flush=True)
    return {title: rows}


def build_parser() -> argparse.ArgumentParser:
    """This script's own few options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=HelpFormatter, usage="%(prog)s [options]", allow_abbrev=False
    )
    add, cores = parser.add_argument, len(os.sched_getaffinity(0))
    add("--section", nargs="+", choices=SECTIONS, default=list(SECTIONS), help="what to measure")
    add("--num_layers", type=int, choices=LAYERS, default=18, help="depth of the ResNets")
    add("--repeats", type=positive_int, metavar="N", default=10, help="measured calls of each side")
    add("--seconds", type=positive_float, metavar="S", default=30, help="most seconds for one comparison")
    add("--threads", type=positive_int, metavar="N", default=cores, help="cores and threads of each side")
    text = "picture of a training step: height, width; multiples of 32"
    add("--step_size", type=positive_int, nargs=2, metavar=("H", "W"), default=[96, 320], help=text)
    add("--step_batch_size", type=positive_int, metavar="N", default=2, help="batch of a training step")
    text = "a laser scan (.bin); default: a simulated one"
    add("--scan", metavar="FILE", help=text)
    add("--calib", metavar="DIR", help="folder of that scan's calib_*.txt")
    add("--output", metavar="JSON", help="also write the figures to this file")
    add("--serve", nargs="+", help=argparse.SUPPRESS)
    add("--hold", nargs="+", help=argparse.SUPPRESS)
    return parser


def main(raw: Sequence[str] | None = None) -> None:
    parser = build_parser()
    options = parse_options(raw, parser)
    options.use_stereo = True
    if options.serve:
        return serve(build_case(options.serve, options))
    if options.hold:
        return hold(options.hold, options)
    if any(side % 32 for side in options.step_size):
        parser.error("argument --step_size: both must be multiples of 32")
    if bool(options.scan) != bool(options.calib):
        raise InputError("--scan and --calib belong together: a scan (.bin), and the folder of its day's calib_*.txt")
    if options.scan:
        from datasets.velodyne import read_calibration, read_points

        read_points(options.scan), read_calibration(options.calib)  # a bad file is named before anything is measured

    # inherited by the children; Paddle takes one thread where this variable is not set
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.threads])
    argv = list(sys.argv[1:] if raw is None else raw)
    report = {"environment": environment(), "num_layers": options.num_layers}
    print(
        f"ResNet-{options.num_layers}  " + "  ".join(f"{key} {value}" for key, value in report["environment"].items())
    )
    for section in SECTIONS:
        if section in options.section:
            report |= {"infer": infer, "step": step, "velodyne": velodyne}[section](argv, options)
    if options.output:
        atomic_write_text(options.output, json.dumps(report, indent=1) + "\n")
    return None


if __name__ == "__main__":
    run(main)
