"""Speed and memory beside torch, measured in one run.

    python benchmark.py --output benchmark.json

Every side runs in a process of its own, so that no two OpenMP runtimes share one; they take turns, one call each, with
a rest before it. Section operator: multi-scale deformable attention at the encoder's sizes, forward and backward apart,
against torch's grid_sample as the reference falls back to, with the most memory that either held beyond its inputs.
Section infer: the network on one picture, by torch eager (the twin), Paddle dygraph and Paddle Inference with oneDNN.
Section step: a training step (network, losses, gradients, clip, AdamW), with the most memory that it added to the
imported library's.
"""

import argparse
import importlib
import json
import math
import os
import sys
from collections.abc import Callable, Sequence

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

from options import parse_options

TORCH, DYGRAPH, INFERENCE = "torch eager", "Paddle dygraph", "Paddle Inference"
SECTIONS = ("operator", "infer", "step")
REST = 0.4  # seconds before each call: Paddle's idle threads spin on for 0.2
#: what this repository wants to reach
WANTED_FORWARD, WANTED_BACKWARD, WANTED_MEMORY = 5, 4, 1 / 3
BOXES = 7  # of each picture of a training step

# ---------------------------------------------------------------- what a side does


def build_case(case: Sequence[str], options: argparse.Namespace) -> Callable[[], object]:
    """What one call of a side does: `case` is the side, the task, and the task's words and numbers."""
    side, task, *details = case
    if task == "operator":
        what, *size = details
        return (_torch_operator if side == TORCH else _paddle_operator)(what, *map(int, size))
    if task == "infer":
        return (_torch_inference if side == TORCH else _paddle_inference)(side, *map(int, details), options)
    return (_torch_step if side == TORCH else _paddle_step)(*map(int, details), options)


def encoder_inputs(height: int, width: int) -> dict[str, np.ndarray]:
    """Inputs of the operator in the encoder of a base network, for one picture of this size.

    Each token looks around its own place, as a fresh network does, with a scatter of a cell: eight directions, one to
    four cells away, on each of four levels.
    """
    rng, number = np.random.default_rng(0), np.float32
    shapes = np.array([[math.ceil(height / stride), math.ceil(width / stride)] for stride in (8, 16, 32, 64)])
    tokens, heads, points = int(np.prod(shapes, 1).sum()), 8, 4
    centres = [np.stack(np.meshgrid((np.arange(w) + 0.5) / w, (np.arange(h) + 0.5) / h), -1) for h, w in shapes]
    centres = np.concatenate([level.reshape(-1, 2) for level in centres]).astype(number)
    directions = np.array([(1, 0), (1, 1), (0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1)], number)
    locations = rng.standard_normal((1, tokens, heads, len(shapes), points, 2), number)
    locations += directions[:, None, None] * np.arange(1, points + 1, dtype=number)[:, None]
    locations /= shapes[:, None, ::-1].astype(number)
    locations += centres[:, None, None, None]
    weights = rng.random((1, tokens, heads, len(shapes), points), number)
    weights /= weights.sum((-1, -2), keepdims=True)
    return {
        "value": rng.standard_normal((1, tokens, heads, 32), number),
        "shapes": shapes,
        "starts": np.cumsum([0, *np.prod(shapes, 1)])[:-1],
        "locations": locations,
        "weights": weights,
        "gradient": rng.standard_normal((1, tokens, heads * 32), number),
    }


def _torch_operator(what: str, height: int, width: int) -> Callable:
    import torch

    from reference.operator import ms_deform_attn_torch

    inputs = {name: torch.from_numpy(array) for name, array in encoder_inputs(height, width).items()}
    floats = [inputs[name].requires_grad_() for name in ("value", "locations", "weights")]

    def forward():
        return ms_deform_attn_torch(floats[0], inputs["shapes"], *floats[1:])

    def backward(output, retain):
        return torch.autograd.grad(output, floats, inputs["gradient"], retain_graph=retain)

    return _operator_case(what, forward, backward)


def _paddle_operator(what: str, height: int, width: int) -> Callable:
    import paddle

    import ops

    ops.set_implementation("compiled")
    inputs = {name: paddle.to_tensor(array) for name, array in encoder_inputs(height, width).items()}
    floats = [inputs[name] for name in ("value", "locations", "weights")]
    for tensor in floats:
        tensor.stop_gradient = False

    def forward():
        return ops.ms_deform_attn(floats[0], inputs["shapes"], inputs["starts"], *floats[1:])

    def backward(output, retain):
        return paddle.grad(output, floats, inputs["gradient"], retain_graph=retain)

    return _operator_case(what, forward, backward)


def _operator_case(what: str, forward: Callable, backward: Callable) -> Callable:
    """`what`: forward, backward, or both, for memory."""
    if what == "forward":
        return forward
    if what == "both":
        return lambda: backward(forward(), False)
    output = forward()
    return lambda: backward(output, True)


def _batch(batch: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    images = np.random.default_rng(0).standard_normal((batch, 3, height, width), np.float32)
    return images, np.zeros((batch, height, width), bool)


def _targets(batch: int, options: argparse.Namespace) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    return [
        {
            "labels": rng.integers(1, options.num_classes, BOXES),
            "boxes": np.concatenate(
                [rng.uniform(0.3, 0.7, (BOXES, 2)), rng.uniform(0.05, 0.5, (BOXES, 2))], 1, dtype=np.float32
            ),
        }
        for _ in range(batch)
    ]


def _torch_inference(side: str, height: int, width: int, options: argparse.Namespace) -> Callable:
    import torch

    from reference.network import build_reference

    torch.manual_seed(0)
    model, batch = build_reference(options).eval(), [torch.from_numpy(array) for array in _batch(1, height, width)]

    def forward():
        with torch.no_grad():
            return model(*batch)["pred_logits"].numpy()

    return forward


def _paddle_inference(side: str, height: int, width: int, options: argparse.Namespace) -> Callable:
    import paddle

    from export import exported_predictor
    from inference import dygraph_predictor
    from models import build_model

    paddle.seed(0)
    model, batch = build_model(options), _batch(1, height, width)
    model.eval()
    if side == INFERENCE:
        engine = exported_predictor(model, options)
        return lambda: engine(*batch)
    predict, batch = dygraph_predictor(model), [paddle.to_tensor(array) for array in batch]
    return lambda: predict(*batch)["pred_logits"].numpy()


def _torch_step(batch: int, height: int, width: int, options: argparse.Namespace) -> Callable:
    import torch

    from reference.losses import build_criterion
    from reference.network import build_reference
    from reference.training import build_optimizer, step

    torch.manual_seed(0)
    model, criterion = build_reference(options), build_criterion(options)
    optimizer = build_optimizer(model, options)
    inputs = [torch.from_numpy(array) for array in _batch(batch, height, width)]
    targets = [{name: torch.from_numpy(a) for name, a in target.items()} for target in _targets(batch, options)]
    return lambda: step(model, optimizer, criterion(model(*inputs), targets)["loss"], options)


def _paddle_step(batch: int, height: int, width: int, options: argparse.Namespace) -> Callable:
    import paddle

    from losses import build_criterion
    from models import build_model
    from optimizers import build_optimizer, clip_gradients

    paddle.seed(0)
    model, criterion = build_model(options), build_criterion(options)
    optimizer = build_optimizer(model, options, options.lr)
    inputs = [paddle.to_tensor(array) for array in _batch(batch, height, width)]
    targets = [{name: paddle.to_tensor(a) for name, a in target.items()} for target in _targets(batch, options)]

    def step():
        criterion(model(*inputs), targets)["loss"].backward()
        clip_gradients(model, options.clip_max_norm)
        optimizer.step()
        optimizer.clear_grad()

    return step


# ---------------------------------------------------------------- sides that take turns


def hold(case: Sequence[str], options: argparse.Namespace) -> None:
    """Run a case three times; prints the bytes held before: with the operator's inputs, or the library alone."""
    importlib.import_module("torch" if case[0] == TORCH else "paddle")
    before = resident_bytes()
    call = build_case(case, options)
    if case[1] == "operator":
        before = resident_bytes()
    for _ in range(3):
        call()
    print(json.dumps(before))


def compare(argv: Sequence[str], sides: Sequence[str], task: Sequence, options: argparse.Namespace) -> list[dict]:
    """Rows of `shared.deploying.measure.speed_table` for one task; the first side is the one compared with."""
    case = [sys.executable, __file__, *argv, "--serve"]
    commands = {side: [*case, side, *map(str, task)] for side in sides}
    times = measure_processes(commands, repeats=options.repeats, warmup=1, seconds=options.seconds, rest=REST)
    return compare_speed(times, sides[0], int(task[1]) if task[0] == "step" else None)


def peak_memory(argv: Sequence[str], side: str, task: Sequence) -> int:
    """The most bytes that a process of this side held beyond what `hold` says."""
    child = run_child([sys.executable, __file__, *argv, "--hold", side, *map(str, task)])
    return child.peak_bytes - child.result


# ---------------------------------------------------------------- sections


def operator(argv: Sequence[str], options: argparse.Namespace) -> dict:
    """Print and return {title: rows}, as the other sections do."""
    report, (height, width) = {}, options.size
    memory = {side: peak_memory(argv, side, ("operator", "both", height, width)) for side in (TORCH, DYGRAPH)}
    for what, wanted in (("forward", WANTED_FORWARD), ("backward", WANTED_BACKWARD)):
        rows = compare(argv, (TORCH, DYGRAPH), ("operator", what, height, width), options)
        title = f"attention operator, {what}, encoder of a picture of {width}x{height}"
        print(f"\n{title}\n{speed_table(rows, TORCH)}")
        answer = "met" if rows[1]["speed"] >= wanted else "not met"
        print(f"{rows[1]['speed']:.1f} times as fast (wanted {wanted}): {answer}", flush=True)
        report[title] = rows
    share = memory[DYGRAPH] / memory[TORCH]
    answer = "met" if share <= WANTED_MEMORY else "not met"
    megabytes = " and ".join(f"{side} {bytes_held / 2**20:.0f} MiB" for side, bytes_held in memory.items())
    print(f"\nmost memory of forward and backward beyond the inputs: {megabytes}")
    print(f"{share:.2f} of torch's (wanted {WANTED_MEMORY:.2f}): {answer}", flush=True)
    return report | {"attention operator, most bytes beyond the inputs": memory}


def infer(argv: Sequence[str], options: argparse.Namespace) -> dict:
    """The network on one picture."""
    height, width = options.infer_size
    rows = compare(argv, (TORCH, DYGRAPH, INFERENCE), ("infer", height, width), options)
    title = f"detection in one picture, {width}x{height}"
    print(f"\n{title}\n{speed_table(rows, TORCH)}", flush=True)
    return {title: rows}


def step(argv: Sequence[str], options: argparse.Namespace) -> dict:
    """A training step, with the memory that it adds to the imported library's."""
    batch, (height, width) = options.batch, options.step_size
    task = ("step", batch, height, width)
    rows = compare(argv, (TORCH, DYGRAPH), task, options)
    for row in rows:
        row["peak_bytes"] = peak_memory(argv, row["name"], task)
    title = f"training step, batch {batch}, {width}x{height}"
    print(f"\n{title}; peak beyond the imported library\n{speed_table(rows, TORCH)}")
    print(f"memory: {rows[1]['peak_bytes'] / rows[0]['peak_bytes']:.2f} of torch's", flush=True)
    return {title: rows}


def build_parser() -> argparse.ArgumentParser:
    """This script's own few options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=HelpFormatter, usage="%(prog)s [options]", allow_abbrev=False
    )
    add, cores = parser.add_argument, len(os.sched_getaffinity(0))
    size = {"type": positive_int, "nargs": 2, "metavar": ("H", "W")}
    add("--section", nargs="+", choices=SECTIONS, default=list(SECTIONS), help="what to measure")
    add("--size", **size, default=[800, 1199], help="the picture whose encoder's operator is measured")
    add("--infer_size", **size, default=[480, 640], help="the picture of section infer")
    add("--step_size", **size, default=[320, 480], help="the pictures of a training step")
    add("--batch", type=positive_int, metavar="N", default=1, help="pictures of a training step")
    add("--repeats", type=positive_int, metavar="N", default=10, help="measured calls of each side")
    add("--seconds", type=positive_float, metavar="S", default=60, help="most seconds for one comparison")
    add("--threads", type=positive_int, metavar="N", default=cores, help="cores and threads of each side")
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
    print("ResNet-50  " + "  ".join(f"{key} {value}" for key, value in report["environment"].items()), flush=True)
    for section in SECTIONS:
        if section in options.section:
            report |= {"operator": operator, "infer": infer, "step": step}[section](argv, options)
    if options.output:
        atomic_write_text(options.output, json.dumps(report, indent=1) + "\n")
    return None


if __name__ == "__main__":
    run(main)
