"""Speed and memory beside torch, measured in one run.

    python benchmark.py --backbone STDCNet813

Every side runs in a process of its own, so that no two OpenMP runtimes share one; they take turns, one call each. First
come images per second (FPS, batch 1) at the paper's two sizes, 512x1024 (Seg50) and 768x1536 (Seg75), for torch eager
(the twin's main output), Paddle dygraph, Paddle Inference with oneDNN, and ONNX Runtime; then one training step, with
the memory that each side held at most; last, the memory that evaluating a 1024x2048 frame takes.
"""

from shared import run, set_up

set_up()

import argparse
from collections.abc import Callable, Sequence

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
)
from shared.deploying.measure import has_onnx
from shared.running.options import positive_int
from shared.tables import text_table

from options import add_network_options, parse_options

ENGINE_OF = {INFERENCE: "inference", ONNX: "onnx"}
SIZES = ((512, 1024), (768, 1536))  # height, width
FRAME = (1024, 2048)
#: scales, flip, window: ways to evaluate a frame
PROTOCOLS = (
    ((0.5,), False, None),
    ((0.75,), False, None),
    ((1.0,), False, None),
    ((1.0,), True, None),
    ((0.5, 0.75, 1.0), True, None),
    ((1.0,), True, 1024),
)


def build_case(case: Sequence[str], options: argparse.Namespace) -> Callable[[], object]:
    """One call of side, task, batch, height, width: a forward pass ("inference"), a step of the recipe ("training").

    Or side, "frame", number: the evaluation of a frame by that protocol.
    """
    side, task, *numbers = case
    numbers = [int(number) for number in numbers]
    batch, *size = (1, *FRAME) if task == "frame" else numbers
    images = np.random.default_rng(0).standard_normal((batch, 3, *size)).astype(np.float32)
    labels = np.random.default_rng(1).integers(0, options.num_classes, (batch, *size))
    if side == TORCH:
        return _torch_case(task, images, labels, options)
    import paddle

    from deploy import exported_segment
    from engine import build_training, dygraph_segment, predict, train_step
    from losses import build_criterion
    from metrics import Protocol
    from models import build_model

    paddle.seed(0)
    model = build_model(options)
    x, y = paddle.to_tensor(images), paddle.to_tensor(labels)
    if task == "training":
        training = build_training(model, build_criterion(options), options)
        return lambda: train_step(training, x, y, options)
    if task == "frame":
        segment, protocol = dygraph_segment(model), Protocol(*PROTOCOLS[numbers[0]])
        return lambda: predict(segment, x, protocol)
    if side != DYGRAPH:
        options.engine = ENGINE_OF[side]
    segment = dygraph_segment(model) if side == DYGRAPH else exported_segment(model, options)
    return lambda: segment(x).numpy()


def _torch_case(task: str, images: np.ndarray, labels: np.ndarray, options: argparse.Namespace) -> Callable:
    import torch

    from reference.losses import build_criterion
    from reference.network import build_reference
    from reference.training import build_optimizer, train_step

    torch.manual_seed(0)
    model = build_reference(options).train(task == "training")
    x, y = torch.from_numpy(images), torch.from_numpy(labels)
    if task == "training":
        options.n_min = labels.size // 16
        criterion = build_criterion(options)
        optimizer = build_optimizer(model, criterion, options)
        return lambda: train_step(model, criterion, optimizer, x, y)
    return torch.no_grad()(lambda: model.segment(x).numpy())


def main(argv: Sequence[str] | None = None) -> None:
    parser = build_parser(__doc__, ("inference", "training", "frame"))
    add_network_options(parser)
    parser.set_defaults(use_boundary_8=True)  # the published setting
    help_text = "images of a training step: height, width"
    parser.add_argument(
        "--train_size", type=positive_int, nargs=2, metavar=("H", "W"), default=[128, 256], help=help_text
    )
    help_text = "batch of a training step"
    parser.add_argument("--train_batch_size", type=positive_int, metavar="N", default=4, help=help_text)
    options = parse_options(argv, parser)

    def inference(bench: Bench) -> dict:
        sides, tables = [TORCH, DYGRAPH, INFERENCE, *([ONNX] if has_onnx() else [])], {}
        for size in SIZES:
            rows = bench.compare(sides, ("inference", 1, *size), 1)
            tables |= show(f"{options.backbone}, inference, batch 1, {size[0]}x{size[1]}", rows)
        return tables

    def training(bench: Bench) -> dict:
        batch, size = options.train_batch_size, options.train_size
        rows = bench.compare((TORCH, DYGRAPH), ("training", batch, *size), batch, memory=True)
        return show(f"{options.backbone}, training step, batch {batch}, {size[0]}x{size[1]}", rows)

    def frame(bench: Bench) -> dict:
        from metrics import Protocol

        peaks = [
            (Protocol(*protocol).name, round(bench.peak_bytes(DYGRAPH, ("frame", number)) / 2**20))
            for number, protocol in enumerate(PROTOCOLS)
        ]
        title = f"{options.backbone}, evaluation of a {FRAME[0]}x{FRAME[1]} frame, dygraph, peak beyond Paddle itself"
        print(f"\n{title}\n{text_table(('', 'MiB'), peaks)}", flush=True)
        return {"evaluation of a frame, peak MiB": dict(peaks)}

    sections = {"inference": inference, "training": training, "frame": frame}
    run_benchmark(__file__, argv, options, build_case, sections, {"backbone": options.backbone})


if __name__ == "__main__":
    run(main)
