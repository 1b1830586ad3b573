"""Static graph for Paddle Inference, and ONNX.

    python export.py --weights output/best --output_dir output/export --format inference onnx

Writes inference.json and inference.pdiparams, model.onnx, and network.json (classes and picture sizes). Each is run
once on the same random pictures and compared with the network; a difference above 1e-4 ends with exit status 1.
"""

import argparse
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
from models import build_model
from options import NETWORK_OPTIONS, PREPROCESSING_OPTIONS, build_parser, parse_options_for_weights

LIMIT = 1e-4  # largest difference of an exported network's logits, of their largest where that is above 1
OPSET = 13
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


def _input_spec() -> list[paddle.static.InputSpec]:
    return [paddle.static.InputSpec([None, 3, None, None], "float32", name="images")]


def export_inference(model: paddle.nn.Layer, folder: Path) -> Path:
    """Write `folder`/inference.json and inference.pdiparams; any batch, any picture size. Returns the common prefix."""
    model.eval()
    with _quiet():
        graph = paddle.jit.to_static(model, input_spec=_input_spec(), full_graph=True)
        paddle.jit.save(graph, str(folder / "inference"))
    model.forward = model.forward.rollback()  # to_static replaced it in place
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
    """Paddle Inference on an exported graph, with oneDNN on CPU: float32 [N, 3, H, W] -> float32 [N, K]."""
    from paddle import inference

    config = inference.Config(f"{prefix}.json", f"{prefix}.pdiparams")
    config.disable_glog_info()
    if device == "gpu":
        config.enable_use_gpu(1000, 0)
    else:
        config.disable_gpu()
        config.enable_mkldnn()
        config.set_cpu_math_library_num_threads(len(os.sched_getaffinity(0)))
    predictor = inference.create_predictor(config)
    feed = predictor.get_input_handle(predictor.get_input_names()[0])
    fetch = predictor.get_output_handle(predictor.get_output_names()[0])

    def engine(images: np.ndarray) -> np.ndarray:
        feed.copy_from_cpu(np.ascontiguousarray(images, np.float32))
        predictor.run()
        return fetch.copy_to_cpu()

    return engine


def onnx_engine(path: Path) -> Engine:
    """ONNX Runtime on CPU: float32 [N, 3, H, W] -> float32 [N, K]."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda images: session.run(None, {name: images})[0]


def exported_predictor(model: paddle.nn.Layer, options: argparse.Namespace) -> Engine:
    """Export to a temporary folder and return the engine; the folder is gone when it returns."""
    with tempfile.TemporaryDirectory() as folder:
        return inference_engine(export_inference(model, Path(folder)), options.device)


def _move(source: Path, target: Path) -> None:
    """Put a finished file in its place, atomically."""

    def copy(file) -> None:
        with source.open("rb") as content:
            shutil.copyfileobj(content, file)

    atomic_write(target, copy)


def main(argv: Sequence[str] | None = None) -> int:
    parser = build_parser(__doc__, ("run", "output", "network", "preprocessing"))
    parser.add_argument(
        "--format", nargs="+", choices=["inference", "onnx"], default=["inference", "onnx"], help="what to write"
    )
    options, remembered = parse_options_for_weights(argv, parser)
    model = build_model(options)
    load_official(model, options.weights)
    model.eval()
    target = Path(options.output_dir)
    size = options.val_crop_size
    images = np.random.default_rng(0).standard_normal((2, 3, size, size)).astype(np.float32)
    with paddle.no_grad():
        expected = model(paddle.to_tensor(images)).numpy()
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
    network = {name: getattr(options, name) for name in (*NETWORK_OPTIONS, *PREPROCESSING_OPTIONS)}
    network["classes"] = remembered.get("classes")
    atomic_write_text(target / "network.json", json.dumps(network, indent=1) + "\n")
    print(f"wrote {', '.join([*names, 'network.json'])} to {target}")
    return 0


if __name__ == "__main__":
    run(main)
