"""Speed and memory beside torch, measured in one run.

    python benchmark.py --model mobilenet_v3_small

Every side runs in a process of its own, so that no two OpenMP runtimes share one; they take turns, one call each. First
come images per second at batch 1 and 16, for torch eager (the twin), Paddle dygraph, Paddle Inference with oneDNN, and
ONNX Runtime; then one training step, with the memory that each side held at most.
"""

from shared import run, set_up

set_up()

import argparse
from collections.abc import Callable, Sequence

import numpy as np

from shared.deploying import benchmark as frame
from shared.deploying.benchmark import DYGRAPH, INFERENCE, ONNX, TORCH, Bench
from shared.deploying.measure import has_onnx
from shared.running.options import positive_int

from options import add_network_options, parse_options

SIZE = 224
ENGINE_OF = {DYGRAPH: "dygraph", INFERENCE: "inference", ONNX: "onnx"}


def build_case(case: Sequence[str], options: argparse.Namespace) -> Callable[[], object]:
    """One call of side, task, batch: a forward pass ("inference") or a step of the V1 recipe ("training")."""
    side, task, batch = case[0], case[1], int(case[2])
    images = np.random.default_rng(0).standard_normal((batch, 3, SIZE, SIZE)).astype(np.float32)
    labels = np.arange(batch) % options.num_classes
    if side == TORCH:
        return _torch_case(task, images, labels, options)
    import paddle

    from deploy import build_network
    from engine import Position, build_training, predict, train_step
    from models import build_model

    paddle.seed(0)
    model = build_model(options)
    x, y = paddle.to_tensor(images), paddle.to_tensor(labels)
    if task == "training":
        training = build_training(options, model)
        return lambda: train_step(training, x, y, options, Position(0, 0, 0))
    network = build_network(model, ENGINE_OF[side])
    return lambda: predict(network, x)


def _torch_case(task: str, images: np.ndarray, labels: np.ndarray, options: argparse.Namespace) -> Callable:
    import torch

    from reference.network import build_reference
    from reference.training import build_optimizer, train_step

    torch.manual_seed(0)
    model = build_reference(options).train(task == "training")
    x, y = torch.from_numpy(images), torch.from_numpy(labels)
    if task == "training":
        optimizer = build_optimizer(model, options)
        return lambda: train_step(model, optimizer, x, y)

    def forward():
        with torch.no_grad():
            return model(x).numpy()

    return forward


def main(argv: Sequence[str] | None = None) -> None:
    parser = frame.build_parser(__doc__, ("inference", "training"), repeats=20)
    add_network_options(parser)
    text = "batches to infer (1 and 16)"
    parser.add_argument("--batch_size", type=positive_int, nargs="+", metavar="N", default=[1, 16], help=text)
    text = "batch of a training step"
    parser.add_argument("--train_batch_size", type=positive_int, metavar="N", default=16, help=text)
    options = parse_options(argv, parser)
    options.opt, options.lr, options.weight_decay = "rmsprop", 0.001, 1e-5

    def inference(bench: Bench) -> dict:
        sides, tables = [TORCH, DYGRAPH, INFERENCE, *([ONNX] if has_onnx() else [])], {}
        for batch in options.batch_size:
            rows = bench.compare(sides, ("inference", batch), batch, warmup=3)
            tables |= frame.show(f"{options.model}, inference, batch {batch}, {SIZE}x{SIZE}", rows)
        return tables

    def training(bench: Bench) -> dict:
        batch = options.train_batch_size
        rows = bench.compare([TORCH, DYGRAPH], ("training", batch), batch, warmup=3, memory=True)
        return frame.show(f"{options.model}, training step, batch {batch}", rows)

    sections = {"inference": inference, "training": training}
    frame.run_benchmark(__file__, argv, options, build_case, sections, {"model": options.model})


if __name__ == "__main__":
    run(main)
