"""Speed and memory beside torch, measured in one run.

    python benchmark.py --output benchmark.json

Every side runs in a process of its own, so that no two OpenMP runtimes share one; they take turns, one call each, with
a rest before it. Section infer: one picture through the dense part (backbone, neck and dense heads) at the paper's
size, by torch eager (the twin), Paddle dygraph, Paddle Inference with oneDNN, and ONNX Runtime where it is installed;
and through the whole network. Section step: a training step (network, losses, gradients, Adam), with the most memory
that a process of each side held meanwhile. Section evaluator: `evaluate.py` on simulated labels and results of as many
frames as KITTI's val split has, as a process, its start included.
"""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from shared import HelpFormatter, run
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

from constants import INPUT_SIZE
from options import FOLDER, input_side, parse_options

TORCH, DYGRAPH, INFERENCE, ONNX = "torch eager", "Paddle dygraph", "Paddle Inference", "ONNX Runtime"
SECTIONS = ("infer", "step", "evaluator")
PARTS = {"dense": "dense part", "whole": "whole network"}
REST = 0.4  # seconds before each call: Paddle's and ONNX Runtime's idle threads spin on, Paddle's for 0.2
FRAMES = 3769  # of KITTI's val split
#: what this repository wants to reach: times torch eager, and seconds
WANTED_INFERENCE, WANTED_EVALUATOR = 1.3, 15

# ---------------------------------------------------------------- what a side does


def build_case(case: Sequence[str], options: argparse.Namespace) -> Callable[[], object]:
    """What one call of a side does: `case` is the side, the task, the part of the network, and the task's numbers."""
    side, task, part, batch, *size = case
    options.input_size = list(map(int, size))
    if task == "infer":
        return _torch_inference(part, options) if side == TORCH else _paddle_inference(side, part, options)
    return (_torch_step if side == TORCH else _paddle_step)(int(batch), options)


def _torch_inference(part: str, options: argparse.Namespace) -> Callable:
    import torch

    from inference import simulated_inputs
    from reference.network import build_reference

    torch.manual_seed(0)
    model = build_reference(options).eval()
    inputs = [torch.from_numpy(array) for array in simulated_inputs(1, options.input_size).values()]

    def forward():
        with torch.no_grad():
            if part == "whole":
                return model(*inputs, mode="test")
            features = model.feat_up(model.backbone(inputs[0])[2:])
            heads = [getattr(model, name)(features) for name in ("heatmap", "offset_2d", "size_2d")]
            return [output.numpy() for output in (features, *heads)]

    return forward


def _paddle_inference(side: str, part: str, options: argparse.Namespace) -> Callable:
    import paddle

    import export
    from inference import simulated_inputs
    from models import build_model

    paddle.seed(0)
    model = build_model(options)
    model.eval()
    inputs = list(simulated_inputs(1, options.input_size).values())
    if side == DYGRAPH:
        tensors = [paddle.to_tensor(array) for array in inputs]
        if part == "whole":
            return paddle.no_grad()(lambda: model(*tensors, mode="test"))
        return paddle.no_grad()(lambda: [output.numpy() for output in _dense_outputs(model, tensors[0])])
    if part == "whole":
        engine = export.exported_engine(model, options)
        return lambda: engine(*inputs)
    with tempfile.TemporaryDirectory() as folder:
        prefix = export.export_dense(model, options.input_size, Path(folder) / "dense")
        if side == ONNX:
            target = Path(folder) / "model.onnx"
            export.translate_to_onnx(prefix, target)
            engine = export.onnx_engine(target, export.DENSE_OUTPUTS)
        else:
            engine = export.inference_engine(prefix, outputs=export.DENSE_OUTPUTS)
    return lambda: engine(inputs[0])


def _dense_outputs(model, images) -> list:
    features, dense = model.dense(images)
    return [features, *dense.values()]


def _targets(batch: int, options: argparse.Namespace, objects: int = 8) -> dict[str, np.ndarray]:
    """Random targets with `objects` objects in each picture, in the shapes of the data set's (NOTES 3.14)."""
    rng = np.random.default_rng(0)
    width, height = (side // 4 for side in options.input_size)
    shapes = {"depth": 1, "size_2d": 2, "offset_2d": 2, "offset_3d": 2, "size_3d": 3, "heading_res": 1}
    targets = {name: rng.random((batch, 50, size), np.float32) for name, size in shapes.items()}
    targets["depth"] = targets["depth"] * 40 + 5
    targets["heading_bin"] = rng.integers(0, 12, (batch, 50, 1))
    targets["indices"] = rng.integers(0, width * height, (batch, 50))
    targets["cls_ids"] = rng.integers(0, 3, (batch, 50))
    targets["mask_2d"] = np.tile((np.arange(50) < objects).astype(np.uint8), (batch, 1))
    targets["heatmap"] = rng.random((batch, 3, height, width), np.float32) ** 8
    for image in range(batch):
        cells = targets["indices"][image, :objects]
        targets["heatmap"][image].reshape(3, -1)[targets["cls_ids"][image, :objects], cells] = 1
    return targets


def _torch_step(batch: int, options: argparse.Namespace) -> Callable:
    import torch

    from inference import simulated_inputs
    from reference.losses import build_criterion
    from reference.network import build_reference
    from reference.training import build_optimizer

    torch.manual_seed(0)
    model, criterion = build_reference(options), build_criterion(options)
    optimizer = build_optimizer(model, options)
    inputs = [torch.from_numpy(array) for array in simulated_inputs(batch, options.input_size).values()]
    targets = {name: torch.from_numpy(array) for name, array in _targets(batch, options).items()}

    def step():
        optimizer.zero_grad()
        criterion(model(*inputs, targets), targets)["loss"].backward()
        optimizer.step()

    return step


def _paddle_step(batch: int, options: argparse.Namespace) -> Callable:
    import paddle

    from inference import simulated_inputs
    from losses import build_criterion
    from models import build_model
    from optimizers import build_optimizer

    paddle.seed(0)
    model, criterion = build_model(options), build_criterion(options)
    optimizer = build_optimizer(model, options, options.lr)
    inputs = [paddle.to_tensor(array) for array in simulated_inputs(batch, options.input_size).values()]
    targets = {name: paddle.to_tensor(array) for name, array in _targets(batch, options).items()}

    def step():
        criterion(model(*inputs, targets), targets)["loss"].backward()
        optimizer.step()
        optimizer.clear_grad()

    return step


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
    return compare_speed(times, sides[0], int(task[2]))


# ---------------------------------------------------------------- sections


def infer(argv: Sequence[str], options: argparse.Namespace) -> dict:
    """Print and return {title: rows}, as the other sections do."""
    report, (width, height) = {}, options.infer_size
    onnx = [ONNX] if all(map(importlib.util.find_spec, ("paddle2onnx", "onnxruntime"))) else []
    for part, name in PARTS.items():
        sides = [TORCH, DYGRAPH, INFERENCE, *(onnx if part == "dense" else [])]
        rows = compare(argv, sides, ("infer", part, 1, width, height), options)
        title = f"{name}, one picture, {width}x{height}"
        print(f"\n{title}\n{speed_table(rows, TORCH)}", flush=True)
        if part == "dense":
            speed = next(row["speed"] for row in rows if row["name"] == INFERENCE)
            answer = "met" if speed >= WANTED_INFERENCE else "not met"
            print(f"{INFERENCE}: {speed:.2f} times {TORCH} (wanted {WANTED_INFERENCE}): {answer}", flush=True)
        report[title] = rows
    return report


def step(argv: Sequence[str], options: argparse.Namespace) -> dict:
    """A training step, with the memory that it adds to the imported library's."""
    batch, (width, height) = options.step_batch_size, options.step_size
    task = ("step", "whole", batch, width, height)
    rows = compare(argv, (TORCH, DYGRAPH), task, options)
    for row in rows:
        child = run_child([sys.executable, __file__, *argv, "--hold", row["name"], *map(str, task)])
        row["peak_bytes"] = child.peak_bytes - child.result
    title = f"training step, batch {batch}, {width}x{height}"
    print(f"\n{title}; peak beyond the imported library\n{speed_table(rows, TORCH)}", flush=True)
    return {title: rows}


def evaluator(argv: Sequence[str], options: argparse.Namespace) -> dict:
    """`evaluate.py` on simulated files."""
    from metrics.simulated import write_frames

    with tempfile.TemporaryDirectory() as folder:
        labels, results = write_frames(folder, FRAMES)
        command = [sys.executable, str(FOLDER / "evaluate.py"), "--label_dir", folder + "/label_2"]
        command += ["--result_dir", folder, "--output", folder + "/metrics.json"]
        seconds = []
        for _ in range(3):
            begin = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            seconds.append(time.perf_counter() - begin)
    median = float(np.median(seconds))
    answer = "met" if median <= WANTED_EVALUATOR else "not met"
    title = f"evaluator, {FRAMES} frames, {labels} labels, {results} results"
    print(f"\n{title}: {median:.2f} s, start included (wanted {WANTED_EVALUATOR}): {answer}", flush=True)
    return {title: {"seconds": seconds, "median_s": median}}


def build_parser() -> argparse.ArgumentParser:
    """This script's own few options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=HelpFormatter, usage="%(prog)s [options]", allow_abbrev=False
    )
    add, cores = parser.add_argument, len(os.sched_getaffinity(0))
    add("--section", nargs="+", choices=SECTIONS, default=list(SECTIONS), help="what to measure")
    add("--repeats", type=positive_int, metavar="N", default=10, help="measured calls of each side")
    add("--seconds", type=positive_float, metavar="S", default=60, help="most seconds for one comparison")
    add("--threads", type=positive_int, metavar="N", default=cores, help="cores and threads of each side")
    size = {"type": input_side, "nargs": 2, "metavar": ("W", "H")}
    add("--infer_size", **size, default=list(INPUT_SIZE), help="picture of section infer")
    add("--step_size", **size, default=[640, 192], help="picture of a training step")
    add("--step_batch_size", type=positive_int, metavar="N", default=2, help="batch of a training step")
    add("--output", metavar="JSON", help="also write the figures to this file")
    add("--serve", nargs="+", help=argparse.SUPPRESS)
    add("--hold", nargs="+", help=argparse.SUPPRESS)
    return parser


def main(raw: Sequence[str] | None = None) -> None:
    options = parse_options(raw, build_parser())
    if options.serve:
        return serve(build_case(options.serve, options))
    if options.hold:
        return hold(options.hold, options)

    # inherited by the children; Paddle takes one thread where this variable is not set
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.threads])
    argv = list(sys.argv[1:] if raw is None else raw)
    report = {"environment": environment()}
    print("GUPNet  " + "  ".join(f"{key} {value}" for key, value in report["environment"].items()), flush=True)
    for section in SECTIONS:
        if section in options.section:
            report |= {"infer": infer, "step": step, "evaluator": evaluator}[section](argv, options)
    if options.output:
        atomic_write_text(options.output, json.dumps(report, indent=1) + "\n")
    return None


if __name__ == "__main__":
    run(main)
