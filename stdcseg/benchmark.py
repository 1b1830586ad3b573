"""Speed and memory beside torch, measured in one run.

    python benchmark.py --backbone STDCNet813

Every side runs in a process of its own, so that no two OpenMP runtimes share one; they take turns, one call each. First
come pictures per second (FPS, batch 1) at the paper's two sizes, 512x1024 (Seg50) and 768x1536 (Seg75), for torch eager
(the twin's main output), Paddle dygraph, Paddle Inference with oneDNN, and ONNX Runtime; then one training step, with
the most memory that a process of each side held; last, the memory that evaluating a 1024x2048 frame takes.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from shared import HelpFormatter, run
from shared.deploying.measure import (
    compare_speed,
    environment,
    measure_processes,
    run_child,
    serve,
    speed_table,
    text_table,
)
from shared.running.options import positive_float, positive_int
from shared.weights import atomic_write_text

from options import add_network_options, parse_options

TORCH = "torch eager"
INFERENCE = ("Paddle dygraph", "Paddle Inference", "ONNX Runtime")
TRAINING = ("Paddle dygraph",)
SIZES = ((512, 1024), (768, 1536))  # height, width
FRAME = (1024, 2048)
#: scales, flip, window: how evaluate.py can look at a frame
PROTOCOLS = (
    ((0.5,), False, None),
    ((0.75,), False, None),
    ((1.0,), False, None),
    ((1.0,), True, None),
    ((0.5, 0.75, 1.0), True, None),
    ((1.0,), True, 1024),
)
REST = 0.4  # seconds before each call: Paddle's and ONNX Runtime's idle threads spin on, Paddle's for 0.2


def _pictures(batch: int, size: Sequence[int]) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((batch, 3, *size)).astype(np.float32)


def build_case(
    side: str, task: str, batch: int, size: Sequence[int], options: argparse.Namespace
) -> Callable[[], object]:
    """What one call of `side` does: a forward pass ("inference") or a step of the reference's recipe ("training")."""
    images = _pictures(batch, size)
    labels = np.random.default_rng(1).integers(0, options.num_classes, (batch, *size))
    if side == TORCH:
        return _torch_case(task, images, labels, options)
    import paddle

    from shared.deploying.export import inference_engine, onnx_engine, translate_to_onnx

    from export import export_inference
    from losses import build_criterion
    from models import build_model
    from optimizers import build_optimizer

    paddle.seed(0)
    model = build_model(options)
    if task == "training":
        x, y = paddle.to_tensor(images), paddle.to_tensor(labels)
        criterion = build_criterion(options)
        optimizer = build_optimizer(model, criterion, options, options.lr)

        def step():
            criterion(model(x), y)["loss"].backward()
            optimizer.step()
            optimizer.clear_grad()

        return step
    model.eval()
    if side == "Paddle dygraph":
        x = paddle.to_tensor(images)

        def forward():
            with paddle.no_grad():
                return model.segment(x).numpy()

        return forward
    with tempfile.TemporaryDirectory() as folder:
        prefix = export_inference(model, Path(folder))
        if side == "Paddle Inference":
            engine = inference_engine(prefix)
        else:
            translate_to_onnx(prefix, Path(folder) / "model.onnx")
            engine = onnx_engine(Path(folder) / "model.onnx")
    return lambda: engine(images)


def _torch_case(task: str, images: np.ndarray, labels: np.ndarray, options: argparse.Namespace) -> Callable:
    import torch

    from reference.losses import build_criterion
    from reference.network import build_reference
    from reference.training import build_optimizer

    torch.manual_seed(0)
    model = build_reference(options).train(task == "training")
    x, y = torch.from_numpy(images), torch.from_numpy(labels)
    options.n_min = labels.size // 16
    criterion = build_criterion(options)
    optimizer = build_optimizer(model, criterion, options)

    def forward():
        with torch.no_grad():
            return model.segment(x).numpy()

    def step():
        optimizer.zero_grad()
        criterion(model(x), y)["loss"].backward()
        optimizer.step()

    return forward if task == "inference" else step


def compare(
    argv: Sequence[str],
    sides: Sequence[str],
    task: str,
    batch: int,
    size: Sequence[int],
    options: argparse.Namespace,
) -> list[dict]:
    """Rows of `shared.deploying.measure.speed_table` for one task; memory as well for training."""
    case = [task, str(batch), *map(str, size)]
    serving = [sys.executable, __file__, *argv, "--serve"]
    commands = {side: [*serving, side, *case] for side in (TORCH, *sides)}
    times = measure_processes(commands, repeats=options.repeats, warmup=2, seconds=options.seconds, rest=REST)
    rows = compare_speed(times, TORCH, batch)
    if task == "training":
        for row in rows:
            command = [sys.executable, __file__, *argv, "--steps", row["name"], *case]
            row["peak_bytes"] = run_child(command).peak_bytes
    return rows


def evaluate_frame(place: int, options: argparse.Namespace) -> str:
    """Segment one frame as protocol number `place` does; returns the protocol's name."""
    import paddle

    from evaluate import dygraph_segment
    from inference import Protocol
    from models import build_model

    protocol = Protocol(*PROTOCOLS[place])
    protocol.predict(dygraph_segment(build_model(options)), paddle.to_tensor(_pictures(1, FRAME)), FRAME)
    return protocol.name


def main(raw: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=HelpFormatter, usage="%(prog)s [options]", allow_abbrev=False
    )
    add_network_options(parser)
    parser.set_defaults(use_boundary_8=True)  # the published setting
    text = "picture of a training step: height, width"
    parser.add_argument("--train_size", type=positive_int, nargs=2, metavar=("H", "W"), default=[128, 256], help=text)
    parser.add_argument(
        "--train_batch_size", type=positive_int, metavar="N", default=4, help="batch of a training step"
    )
    parser.add_argument("--repeats", type=positive_int, metavar="N", default=10, help="measured calls of each side")
    parser.add_argument(
        "--seconds", type=positive_float, metavar="S", default=60, help="most seconds for one comparison"
    )
    parser.add_argument("--output", metavar="JSON", help="also write the figures to this file")
    parser.add_argument("--serve", nargs=5, help=argparse.SUPPRESS)
    parser.add_argument("--steps", nargs=5, help=argparse.SUPPRESS)
    parser.add_argument("--frame", type=int, help=argparse.SUPPRESS)
    options = parse_options(raw, parser)
    if options.serve or options.steps:
        side, task, batch, height, width = options.serve or options.steps
        case = build_case(side, task, int(batch), (int(height), int(width)), options)
        if options.serve:
            return serve(case)
        for _ in range(3):
            case()
        print(json.dumps(None))
        return None

    if options.frame is not None:
        print(json.dumps(evaluate_frame(options.frame, options)))
        return None

    argv = list(sys.argv[1:] if raw is None else raw)
    report = {"environment": environment(), "backbone": options.backbone}
    print("  ".join(f"{name} {value}" for name, value in report["environment"].items()))
    for size in SIZES:
        rows = compare(argv, INFERENCE, "inference", 1, size, options)
        name = f"inference, batch 1, {size[0]}x{size[1]}"
        report[name] = rows
        print(f"\n{options.backbone}, {name}\n{speed_table(rows, TORCH)}", flush=True)
    rows = compare(argv, TRAINING, "training", options.train_batch_size, options.train_size, options)
    name = f"training step, batch {options.train_batch_size}, {options.train_size[0]}x{options.train_size[1]}"
    report[name] = rows
    print(f"\n{options.backbone}, {name}\n{speed_table(rows, TORCH)}")
    frames = []
    for place in range(len(PROTOCOLS)):
        child = run_child([sys.executable, __file__, *argv, "--frame", str(place)])
        frames.append((child.result, round(child.peak_bytes / 2**20)))
    report["evaluation of a frame, peak MiB"] = dict(frames)
    print(f"\n{options.backbone}, evaluation of a {FRAME[0]}x{FRAME[1]} frame, dygraph, peak of the process")
    print(text_table(("", "MiB"), frames))
    if options.output:
        atomic_write_text(options.output, json.dumps(report, indent=1) + "\n")
    return None


if __name__ == "__main__":
    run(main)
