"""From a Paddle network to a static graph and to ONNX, the engines that run them, and what every export.py does last.

What is deployed of a network, and on which inputs its graphs are compared with it, is each paper's own.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import paddle

from shared import InputError
from shared.deploying.measure import has_onnx
from shared.files import atomic_write, atomic_write_text

FORMATS = ("inference", "onnx")
NO_ONNX = "paddle2onnx is not installed; make setup installs it where it has a wheel (none for Python 3.13 yet)"
#: arrays in; the only output out, or {output: array} where they are named
Engine = Callable[..., Any]


@contextmanager
def quiet() -> Iterator[None]:
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


def save_graph(layer: paddle.nn.Layer, inputs: Sequence[paddle.static.InputSpec], prefix: Path) -> Path:
    """Trace `layer` and write PREFIX.json and PREFIX.pdiparams. Returns `prefix`. The layer's forward is replaced."""
    with quiet():
        paddle.jit.save(paddle.jit.to_static(layer, input_spec=list(inputs), full_graph=True), str(prefix))
    return prefix


def translate_to_onnx(prefix: Path, target: Path, opset: int = 13) -> None:
    """Translate the graph at PREFIX.json to an ONNX file. InputError when paddle2onnx is not installed."""
    try:
        import paddle2onnx
    except ImportError as error:
        raise InputError(f"--format onnx: {NO_ONNX}") from error
    with quiet():
        paddle2onnx.export(f"{prefix}.json", f"{prefix}.pdiparams", str(target), opset_version=opset)


def inference_engine(prefix: Path, device: str = "cpu", outputs: Sequence[str] | None = None) -> Engine:
    """Paddle Inference on an exported graph, with oneDNN on CPU. Arrays in the order of the graph's inputs.

    Returns the graph's only output, or with `outputs`, their names in the graph's order, a dictionary.
    """
    from paddle import inference

    config = inference.Config(f"{prefix}.json", f"{prefix}.pdiparams")
    config.disable_glog_info()
    if device == "gpu":
        config.enable_use_gpu(1000, 0)
    else:
        config.disable_gpu()
        config.enable_mkldnn()
        config.set_cpu_math_library_num_threads(len(os.sched_getaffinity(0)))
    with quiet():
        predictor = inference.create_predictor(config)
    feeds = [predictor.get_input_handle(name) for name in predictor.get_input_names()]
    fetches = [predictor.get_output_handle(name) for name in predictor.get_output_names()]

    def engine(*arrays: np.ndarray) -> Any:
        for feed, array in zip(feeds, arrays, strict=True):
            feed.copy_from_cpu(np.ascontiguousarray(array))
        predictor.run()
        return _named([fetch.copy_to_cpu() for fetch in fetches], outputs)

    return engine


def onnx_engine(path: Path, outputs: Sequence[str] | None = None) -> Engine:
    """ONNX Runtime on CPU: called as `inference_engine`'s."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    feeds = [feed.name for feed in session.get_inputs()]

    def engine(*arrays: np.ndarray) -> Any:
        return _named(session.run(None, dict(zip(feeds, arrays, strict=True))), outputs)

    return engine


def exported_engines(prefix: Path, formats: Sequence[str], device: str = "cpu") -> dict[str, Engine]:
    """The engines that `formats` ask for, of one graph; "onnx" writes model.onnx beside it first."""
    engines = {}
    if "inference" in formats:
        engines["Paddle Inference"] = inference_engine(prefix, device)
    if "onnx" in formats:
        target = prefix.with_name("model.onnx")
        translate_to_onnx(prefix, target)
        engines["ONNX Runtime"] = onnx_engine(target)
    return engines


def differences_of(engines: Mapping[str, Engine], images: np.ndarray, expected: np.ndarray, limit: float) -> dict:
    """{engine: (largest difference of its output, limit)}, relative to the largest value where that is above 1."""
    scale = max(1.0, float(np.abs(expected).max()))  # float32 rounds in proportion to the values
    return {name: (float(np.abs(engine(images) - expected).max() / scale), limit) for name, engine in engines.items()}


def _named(arrays: Sequence[np.ndarray], names: Sequence[str] | None) -> Any:
    if names is None:
        (array,) = arrays
        return array
    return dict(zip(names, arrays, strict=True))


# ------------------------------------------------------------------------------------ the script


def add_format_option(parser: argparse.ArgumentParser) -> None:
    """--format inference onnx; by default those that can be written here."""
    default = list(FORMATS) if has_onnx() else ["inference"]
    parser.add_argument("--format", nargs="+", choices=FORMATS, default=default, help="what to write")


def deliver(
    folder: Path, target: Path, formats: Sequence[str], differences: Mapping[str, tuple[float, float]], network: Mapping
) -> int:
    """Say how far each exported network is from dygraph, and move what was exported to `target`; the exit status.

    folder: holds inference.json, inference.pdiparams and model.onnx, those that `formats` ask for. differences:
    {what was compared: (difference, limit)}. Where one is above its limit, or no number, nothing is written and the
    status is 1. network: what network.json shall say.
    """
    for name, (difference, limit) in differences.items():
        print(f"{name}: largest difference to dygraph {difference:.2e} (limit {limit:.0e})")
    if not all(difference <= limit for difference, limit in differences.values()):  # a NaN is no agreement either
        print("nothing was written")
        return 1
    names = ["inference.json", "inference.pdiparams"] if "inference" in formats else []
    names += ["model.onnx"] if "onnx" in formats else []
    for name in names:
        atomic_write(target / name, lambda file, source=folder / name: _copy(source, file))
    atomic_write_text(target / "network.json", json.dumps(network, indent=1) + "\n")
    print(f"wrote {', '.join([*names, 'network.json'])} to {target}")
    if "onnx" not in formats and not has_onnx():
        print(f"ONNX left out: {NO_ONNX}")
    return 0


def _copy(source: Path, file) -> None:
    with source.open("rb") as content:
        shutil.copyfileobj(content, file)
