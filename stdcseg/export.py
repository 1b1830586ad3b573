"""Static graph for Paddle Inference, and ONNX.

    python export.py --weights output/mini/best --output_dir output/export --format inference onnx

Writes inference.json and inference.pdiparams, model.onnx, and network.json (the network's options): pictures
[N, 3, H, W] in, logits [N, classes, H, W] out. Each is run once on the same random picture and compared with the
network; a difference above 1e-4 ends with exit status 1.
"""

import argparse
import copy
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from shared import InputError, run
from shared.weights import atomic_write, atomic_write_text

import numpy as np
import paddle
from convert import load_official
from models import STDCSeg, build_model, fold_norms
from options import NETWORK_OPTIONS, build_parser, parse_options_for_weights

LIMIT = 1e-4  # largest difference of an exported network's logits, of their largest where that is above 1
OPSET = 13
CHECKED = (1, 3, 256, 512)  # shape of the picture that the graphs are compared on
Engine = Callable[[np.ndarray], np.ndarray]


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what the C++ libraries print off the terminal, unless they fail."""
    sys.stdout.flush(), sys.stderr.flush()
    terminal = os.dup(1), os.dup(2)
    with tempfile.TemporaryFile() as said:
        os.dup2(said.fileno(), 1), os.dup2(said.fileno(), 2)
        try:
            yield
        except BaseException:
            said.seek(0)
            os.write(terminal[1], said.read())
            raise
        finally:
            sys.stdout.flush(), sys.stderr.flush()
            for number, saved in enumerate(terminal, start=1):
                os.dup2(saved, number)
                os.close(saved)


class _Deployed(paddle.nn.Layer):
    """What is deployed of a network: its main output, from plain batch norms."""

    def __init__(self, model: STDCSeg):
        super().__init__()
        self.network = copy.deepcopy(model)
        fold_norms(self.network)
        self.eval()

    def forward(self, images):
        return self.network.segment(images)


def export_inference(model: STDCSeg, folder: Path) -> Path:
    """Write `folder`/inference.json and inference.pdiparams; any batch, any picture size. Returns the common prefix.

    `model` stays as it is.
    """
    spec = [paddle.static.InputSpec([None, 3, None, None], "float32", name="images")]
    with _quiet():
        graph = paddle.jit.to_static(_Deployed(model), input_spec=spec, full_graph=True)
        paddle.jit.save(graph, str(folder / "inference"))
    return folder / "inference"


def export_onnx(prefix: Path, target: Path) -> None:
    """Translate an exported graph to ONNX. InputError when paddle2onnx is not installed."""
    try:
        import paddle2onnx
    except ImportError as error:
        raise InputError("--format onnx needs paddle2onnx: pip install -e '.[export]' in the repository") from error
    with _quiet():
        paddle2onnx.export(f"{prefix}.json", f"{prefix}.pdiparams", str(target), opset_version=OPSET)


def inference_engine(prefix: Path, device: str = "cpu") -> Engine:
    """Paddle Inference on an exported graph, with oneDNN on CPU: float32 [N, 3, H, W] -> float32 [N, K, H, W]."""
    from paddle import inference

    config = inference.Config(f"{prefix}.json", f"{prefix}.pdiparams")
    config.disable_glog_info()
    if device == "gpu":
        config.enable_use_gpu(1000, 0)
    else:
        config.disable_gpu()
        config.enable_mkldnn()
        config.set_cpu_math_library_num_threads(len(os.sched_getaffinity(0)))
    with _quiet():
        predictor = inference.create_predictor(config)
    feed = predictor.get_input_handle(predictor.get_input_names()[0])
    fetch = predictor.get_output_handle(predictor.get_output_names()[0])

    def engine(images: np.ndarray) -> np.ndarray:
        feed.copy_from_cpu(np.ascontiguousarray(images, np.float32))
        predictor.run()
        return fetch.copy_to_cpu()

    return engine


def onnx_engine(path: Path) -> Engine:
    """ONNX Runtime on CPU: float32 [N, 3, H, W] -> float32 [N, K, H, W]."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda images: session.run(None, {name: images})[0]


def exported_predictor(model: STDCSeg, options: argparse.Namespace) -> Engine:
    """Export to a temporary folder and return the engine; the folder is gone when it returns."""
    with tempfile.TemporaryDirectory() as folder:
        return inference_engine(export_inference(model, Path(folder)), options.device)


def _move(source: Path, target: Path) -> None:
    """Put a finished file in its place, atomically."""

    def write(file) -> None:
        with source.open("rb") as content:
            shutil.copyfileobj(content, file)

    atomic_write(target, write)


def main(argv: Sequence[str] | None = None) -> int:
    parser = build_parser(__doc__, ("run", "output", "network"))
    parser.add_argument(
        "--format", nargs="+", choices=["inference", "onnx"], default=["inference", "onnx"], help="what to write"
    )
    options = parse_options_for_weights(argv, parser)
    model = build_model(options)
    load_official(model, options.weights)
    model.eval()
    target = Path(options.output_dir)
    images = np.random.default_rng(0).standard_normal(CHECKED).astype(np.float32)
    with paddle.no_grad():
        expected = model(paddle.to_tensor(images))["out"].numpy()
    scale = max(1.0, float(np.abs(expected).max()))  # float32 rounds in proportion to the logits

    worst = 0.0
    with tempfile.TemporaryDirectory() as folder:
        prefix = export_inference(model, Path(folder))
        engines = {}
        if "inference" in options.format:
            engines["Paddle Inference"] = inference_engine(prefix, options.device)
        if "onnx" in options.format:
            export_onnx(prefix, Path(folder) / "model.onnx")
            engines["ONNX Runtime"] = onnx_engine(Path(folder) / "model.onnx")
        for name, engine in engines.items():
            difference = float(np.abs(engine(images) - expected).max() / scale)
            worst = max(worst, difference)
            print(f"{name}: largest difference to dygraph {difference:.2e} (limit {LIMIT:.0e})")
        if worst <= LIMIT:
            names = ["model.onnx"] if "onnx" in options.format else []
            names += ["inference.json", "inference.pdiparams"] if "inference" in options.format else []
            for name in names:
                _move(Path(folder) / name, target / name)
    if worst > LIMIT:
        print("nothing was written")
        return 1
    network = {name: getattr(options, name) for name in NETWORK_OPTIONS}
    atomic_write_text(target / "network.json", json.dumps(network, indent=1) + "\n")
    print(f"wrote {', '.join([*names, 'network.json'])} to {target}")
    return 0


if __name__ == "__main__":
    run(main)
