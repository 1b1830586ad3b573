"""Speed and memory beside torch, measured in one run.

    python benchmark.py --output benchmark.json

Every side runs in a process of its own, so that no two OpenMP runtimes share one; they take turns, one call each, with
a rest before it. Section operator: multi-scale deformable attention at the encoder's sizes, forward and backward apart,
against the reference's fallback in plain torch, with the most memory that either held beyond its inputs. Section infer:
the network on one image, by torch eager (the twin), Paddle dygraph and Paddle Inference with oneDNN. Section step: a
training step (network, losses, gradients, clip, AdamW), with the most memory that it added to the imported library's.
"""

from shared import run, set_up

set_up()

import argparse
import math
from collections.abc import Callable, Sequence

import numpy as np

from shared.deploying.benchmark import DYGRAPH, INFERENCE, TORCH, Bench, build_parser, run_benchmark, show
from shared.running.options import positive_int

import ops
from options import parse_options

#: speed and memory that this repository aims at
WANTED_FORWARD, WANTED_BACKWARD, WANTED_MEMORY = 5, 4, 1 / 3
BOXES = 7  # of each image of a training step

# ---------------------------------------------------------------- one call of a side


def build_case(case: Sequence[str], options: argparse.Namespace) -> Callable[[], object]:
    """The function whose calls are measured; `case` is the side, the task, and the task's words and numbers."""
    side, task, *details = case
    if task == "operator":
        what, *size = details
        return (_torch_operator if side == TORCH else _paddle_operator)(what, *map(int, size))
    if task == "infer":
        return _inference(side, *map(int, details), options)
    return (_torch_step if side == TORCH else _paddle_step)(*map(int, details), options)


def encoder_inputs(height: int, width: int) -> dict[str, np.ndarray]:
    """Inputs of the operator in the encoder of a base network, for one image of this size.

    Sampling points are those of a fresh network, eight directions, one to four cells away, on each of four levels, with
    a standard deviation of a cell.
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
    targets = []
    for _ in range(batch):
        labels = rng.integers(1, options.num_classes, BOXES)
        sides = rng.uniform(0.3, 0.7, (BOXES, 2)), rng.uniform(0.05, 0.5, (BOXES, 2))
        targets.append({"labels": labels, "boxes": np.concatenate(sides, 1, dtype=np.float32)})
    return targets


def _inference(side: str, height: int, width: int, options: argparse.Namespace) -> Callable:
    arrays = _batch(1, height, width)
    if side == TORCH:
        import torch

        from reference.network import build_reference

        torch.manual_seed(0)
        model, batch = build_reference(options).eval(), [torch.from_numpy(array) for array in arrays]

        def forward():
            with torch.no_grad():
                return model(*batch)["pred_logits"].numpy()

        return forward
    import paddle

    from deploy import build_network
    from engine import predict
    from models import build_model

    paddle.seed(0)
    model, batch = build_model(options), [paddle.to_tensor(array) for array in arrays]
    model.eval()
    if side == INFERENCE:
        engine = build_network(model, "inference", "cpu")
        return lambda: engine(*arrays)
    return lambda: predict(model, *batch)["pred_logits"].numpy()


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

    from shared.running.launch import build_scaler

    from engine import train_step
    from losses import build_criterion
    from models import build_model
    from optimizers import build_optimizer

    paddle.seed(0)
    model = build_model(options)
    training = model, build_criterion(options), build_optimizer(model, options, options.lr), build_scaler(options)
    inputs = [paddle.to_tensor(array) for array in _batch(batch, height, width)]
    targets = [{name: paddle.to_tensor(a) for name, a in target.items()} for target in _targets(batch, options)]
    return lambda: train_step(*training, (*inputs, targets), options, 0)


# ---------------------------------------------------------------- sections


def operator(bench: Bench) -> dict:
    """Print and return {title: rows}, as the other sections do."""
    report, (height, width) = {}, bench.options.size
    memory = {side: bench.peak_bytes(side, ("operator", "both", height, width)) for side in (TORCH, DYGRAPH)}
    for what, wanted in (("forward", WANTED_FORWARD), ("backward", WANTED_BACKWARD)):
        rows = bench.compare((TORCH, DYGRAPH), ("operator", what, height, width), warmup=1)
        report |= show(f"attention operator, {what}, encoder of a picture of {width}x{height}", rows)
        print(f"{rows[1]['speed']:.1f} times as fast (wanted {wanted}): {_met(rows[1]['speed'] >= wanted)}", flush=True)
    ratio = memory[DYGRAPH] / memory[TORCH]
    megabytes = " and ".join(f"{side} {held / 2**20:.0f} MiB" for side, held in memory.items())
    print(f"\nmost memory of forward and backward beyond the inputs: {megabytes}")
    print(f"{ratio:.2f} of torch's (wanted {WANTED_MEMORY:.2f}): {_met(ratio <= WANTED_MEMORY)}", flush=True)
    return report | {"attention operator, most bytes beyond the inputs": memory}


def _met(reached: bool) -> str:
    return "met" if reached else "not met"


def infer(bench: Bench) -> dict:
    """The network on one image."""
    height, width = bench.options.infer_size
    rows = bench.compare((TORCH, DYGRAPH, INFERENCE), ("infer", height, width), warmup=1)
    return show(f"detection in one picture, {width}x{height}", rows)


def step(bench: Bench) -> dict:
    """A training step, with the memory that it adds to the imported library's."""
    batch, (height, width) = bench.options.batch, bench.options.step_size
    rows = bench.compare((TORCH, DYGRAPH), ("step", batch, height, width), items=batch, warmup=1, memory=True)
    note = f"memory beyond the imported library: {rows[1]['peak_bytes'] / rows[0]['peak_bytes']:.2f} of torch's"
    return show(f"training step, batch {batch}, {width}x{height}", rows, note)


def main(argv: Sequence[str] | None = None) -> None:
    sections = {"operator": operator, "infer": infer, "step": step}
    parser = build_parser(__doc__, list(sections))
    size = {"type": positive_int, "nargs": 2, "metavar": ("H", "W")}
    add = parser.add_argument
    add("--size", **size, default=[800, 1199], help="the image whose encoder's operator is measured")
    add("--infer_size", **size, default=[480, 640], help="the image of section infer")
    add("--step_size", **size, default=[320, 480], help="the images of a training step")
    add("--batch", type=positive_int, metavar="N", default=1, help="images of a training step")
    options = parse_options(argv, parser)
    ops.check_choice()
    about = {"network": "ResNet-50"}
    run_benchmark(__file__, argv, options, build_case, sections, about, lambda case: case[1] != "operator")


if __name__ == "__main__":
    run(main)
