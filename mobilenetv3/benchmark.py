"""Speed and memory beside torch, measured in one run.

    python benchmark.py --model mobilenet_v3_small

Every side runs in a process of its own, so that no two OpenMP runtimes share one; they take turns, one call each. First
come images per second at batch 1 and 16, for torch eager (the twin), Paddle dygraph, Paddle Inference with oneDNN, and
ONNX Runtime; then one training step, with the most memory that a process of each side held.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from shared import HelpFormatter, run
from shared.deploying.measure import compare_speed, environment, measure_processes, run_child, serve, speed_table
from shared.running.options import positive_float, positive_int
from shared.weights import atomic_write_text

from options import add_network_options, parse_options

TORCH = "torch eager"
INFERENCE = ("Paddle dygraph", "Paddle Inference", "ONNX Runtime")
TRAINING = ("Paddle dygraph",)
SIZE = 224
REST = 0.4  # seconds before each call: Paddle's and ONNX Runtime's idle threads spin on, Paddle's for 0.2


def _pictures(batch: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((batch, 3, SIZE, SIZE)).astype(np.float32)


def build_case(side: str, task: str, batch: int, options: argparse.Namespace) -> Callable[[], object]:
    """What one call of `side` does: a forward pass ("inference") or a step of the V1 recipe ("training")."""
    images = _pictures(batch)
    labels = np.arange(batch) % options.num_classes
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
        optimizer, criterion = build_optimizer(model, options, options.lr), build_criterion(options)

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
                return model(x).numpy()

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

    from reference.network import build_reference
    from reference.training import build_optimizer

    torch.manual_seed(0)
    model = build_reference(options).train(task == "training")
    x, y = torch.from_numpy(images), torch.from_numpy(labels)
    optimizer = build_optimizer(model, options)

    def forward():
        with torch.no_grad():
            return model(x).numpy()

    def step():
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()

    return forward if task == "inference" else step


def compare(
    argv: Sequence[str], sides: Sequence[str], task: str, batch: int, options: argparse.Namespace
) -> list[dict]:
    """Rows of `shared.deploying.measure.speed_table` for one task and batch size; memory as well for training."""
    case = [sys.executable, __file__, *argv, "--serve"]
    commands = {side: [*case, side, task, str(batch)] for side in (TORCH, *sides)}
    times = measure_processes(commands, repeats=options.repeats, warmup=3, seconds=options.seconds, rest=REST)
    rows = compare_speed(times, TORCH, batch)
    if task == "training":
        for row in rows:
            command = [sys.executable, __file__, *argv, "--steps", row["name"], task, str(batch)]
            row["peak_bytes"] = run_child(command).peak_bytes
    return rows


def main(raw: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=HelpFormatter, usage="%(prog)s [options]", allow_abbrev=False
    )
    add_network_options(parser)
    parser.add_argument(
        "--batch_size",
        type=positive_int,
        nargs="+",
        metavar="N",
        default=[1, 16],
        help="batches to infer (1 and 16)",
    )
    parser.add_argument(
        "--train_batch_size", type=positive_int, metavar="N", default=16, help="batch of a training step"
    )
    parser.add_argument("--repeats", type=positive_int, metavar="N", default=20, help="measured calls of each side")
    parser.add_argument(
        "--seconds", type=positive_float, metavar="S", default=60, help="most seconds for one comparison"
    )
    parser.add_argument("--output", metavar="JSON", help="also write the figures to this file")
    parser.add_argument("--serve", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--steps", nargs=3, help=argparse.SUPPRESS)
    options = parse_options(raw, parser)
    options.opt, options.lr, options.weight_decay = "rmsprop", 0.001, 1e-5
    if options.serve or options.steps:
        side, task, batch = options.serve or options.steps
        case = build_case(side, task, int(batch), options)
        if options.serve:
            return serve(case)
        for _ in range(3):
            case()
        print(json.dumps(None))
        return None

    argv = list(sys.argv[1:] if raw is None else raw)
    report = {"environment": environment(), "model": options.model}
    print("  ".join(f"{name} {value}" for name, value in report["environment"].items()))
    for batch in options.batch_size:
        rows = compare(argv, INFERENCE, "inference", batch, options)
        report[f"inference, batch {batch}"] = rows
        print(f"\n{options.model}, inference, batch {batch}, {SIZE}x{SIZE}\n{speed_table(rows, TORCH)}", flush=True)
    rows = compare(argv, TRAINING, "training", options.train_batch_size, options)
    report[f"training, batch {options.train_batch_size}"] = rows
    print(f"\n{options.model}, training step, batch {options.train_batch_size}\n{speed_table(rows, TORCH)}")
    if options.output:
        atomic_write_text(options.output, json.dumps(report, indent=1) + "\n")
    return None


if __name__ == "__main__":
    run(main)
