"""Speed and memory beside torch, measured in one run.

    python benchmark.py --output benchmark.json

Each side runs in a process of its own, so that no two OpenMP runtimes share one; they take turns, one call each, with a
rest before it. Section infer: one image through the dense part (backbone, neck and dense heads) at the paper's size, by
torch eager (the twin), Paddle dygraph, Paddle Inference with oneDNN, and ONNX Runtime where it is installed; then
through the whole network. Section step: a training step, and the peak memory of a process of each side. Section
evaluator: `evaluate.py` on simulated labels and results of as many frames as KITTI's val split has, as a process, its
start included.
"""

from shared import run, set_up

set_up()

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

import shared.deploying.benchmark as frame
from shared.deploying.benchmark import DYGRAPH, INFERENCE, ONNX, TORCH, Bench, show
from shared.running.options import positive_int

from constants import INPUT_SIZE, TERMS
from options import FOLDER, input_side, parse_options

PARTS = {"dense": "dense part", "whole": "whole network"}
FRAMES = 3769  # of KITTI's val split
#: aims of this repository: times torch eager, and seconds
WANTED_INFERENCE, WANTED_EVALUATOR = 1.3, 15

# ---------------------------------------------------------------- what a side does


def build_case(case: Sequence[str], options: argparse.Namespace) -> Callable[[], object]:
    """One call of a side: `case` is the side, the task, the part of the network, batch, width and height."""
    side, task, part, batch, *size = case
    options.input_size = list(map(int, size))
    if task == "infer":
        return _torch_inference(part, options) if side == TORCH else _paddle_inference(side, part, options)
    return (_torch_step if side == TORCH else _paddle_step)(int(batch), options)


def _torch_inference(part: str, options: argparse.Namespace) -> Callable:
    import torch

    from deploy import simulated_inputs
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

    from shared.deploying.export import inference_engine, onnx_engine, translate_to_onnx

    import deploy
    from engine import in_test_mode
    from models import build_model

    paddle.seed(0)
    model = build_model(options)
    model.eval()
    inputs = list(deploy.simulated_inputs(1, options.input_size).values())
    if side == DYGRAPH:
        tensors = [paddle.to_tensor(array) for array in inputs]
        if part == "whole":
            return paddle.no_grad()(lambda: in_test_mode(model)(*tensors))
        dense = deploy.DensePart(model)
        return paddle.no_grad()(lambda: [output.numpy() for output in dense(tensors[0])])
    if part == "whole":
        engine = deploy.exported_engine(model, options)
        return lambda: engine(*inputs)
    with tempfile.TemporaryDirectory() as folder:
        prefix = deploy.save_dense(model, options.input_size, Path(folder) / "dense")
        if side == ONNX:
            target = Path(folder) / "model.onnx"
            translate_to_onnx(prefix, target)
            engine = onnx_engine(target, deploy.DENSE_OUTPUTS)
        else:
            engine = inference_engine(prefix, outputs=deploy.DENSE_OUTPUTS)
    return lambda: engine(inputs[0])


def _targets(batch: int, options: argparse.Namespace) -> dict[str, np.ndarray]:
    """Targets with eight objects per image."""
    from alignment.feeds import targets

    return targets("benchmark", options.input_size, [8] * batch, "float32")


def _torch_step(batch: int, options: argparse.Namespace) -> Callable:
    import torch

    from deploy import simulated_inputs
    from reference.losses import build_criterion
    from reference.network import build_reference
    from reference.training import build_optimizer, train_step

    torch.manual_seed(0)
    model, criterion = build_reference(options), build_criterion(options)
    optimizer = build_optimizer(model, options)
    inputs = {k: torch.from_numpy(array) for k, array in simulated_inputs(batch, options.input_size).items()}
    inputs["targets"] = {name: torch.from_numpy(array) for name, array in _targets(batch, options).items()}
    return lambda: train_step(model, criterion, optimizer, inputs)


def _paddle_step(batch: int, options: argparse.Namespace) -> Callable:
    import paddle

    from datasets import Batch
    from deploy import simulated_inputs
    from engine import build_training, train_step
    from models import build_model

    paddle.seed(0)
    options.warmup = False  # torch's step has the full learning rate
    training = build_training(build_model(options), options)
    images, coord_ranges, calibs = map(paddle.to_tensor, simulated_inputs(batch, options.input_size).values())
    targets = {name: paddle.to_tensor(array) for name, array in _targets(batch, options).items()}
    inputs, weights = Batch(images, calibs, coord_ranges, targets, {}), dict.fromkeys(TERMS, 1.0)
    return lambda: train_step(training, inputs, weights)


# ---------------------------------------------------------------- sections


def infer(bench: Bench) -> dict:
    """Print and return {title: rows}, as the other sections do."""
    report, (width, height) = {}, bench.options.infer_size
    for part, name in PARTS.items():
        sides = [TORCH, DYGRAPH, INFERENCE, *([ONNX] if part == "dense" and frame.has_onnx() else [])]
        rows = bench.compare(sides, ("infer", part, 1, width, height), items=1)
        note = frame.verdict(rows, INFERENCE, WANTED_INFERENCE) if part == "dense" else ""
        report |= show(f"{name}, one picture, {width}x{height}", rows, note)
    return report


def step(bench: Bench) -> dict:
    """A training step, with the memory that it adds to the imported library's."""
    batch, (width, height) = bench.options.step_batch_size, bench.options.step_size
    rows = bench.compare((TORCH, DYGRAPH), ("step", "whole", batch, width, height), items=batch, memory=True)
    return show(f"training step, batch {batch}, {width}x{height}; peak beyond the imported library", rows)


def evaluator(bench: Bench) -> dict:
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


SECTIONS = {"infer": infer, "step": step, "evaluator": evaluator}


def main(argv: Sequence[str] | None = None) -> None:
    parser = frame.build_parser(__doc__, list(SECTIONS))
    size = {"type": input_side, "nargs": 2, "metavar": ("W", "H")}
    parser.add_argument("--infer_size", **size, default=list(INPUT_SIZE), help="input of section infer")
    parser.add_argument("--step_size", **size, default=[640, 192], help="input of a training step")
    text = "batch of a training step"
    parser.add_argument("--step_batch_size", type=positive_int, metavar="N", default=2, help=text)
    options = parse_options(argv, parser)
    frame.run_benchmark(__file__, argv, options, build_case, SECTIONS, {"network": "GUPNet"})


if __name__ == "__main__":
    run(main)
