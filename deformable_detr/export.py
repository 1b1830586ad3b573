"""Static graph of the network for Paddle Inference, and ONNX.

    python export.py --weights output/train/best --output_dir output/export --format inference onnx

Writes inference.json and inference.pdiparams, model.onnx, and network.json (the network's options): pictures float32
[N, 3, H, W], normalised, zeros where padded, and their mask bool [N, H, W], True where padded, in; pred_logits
[N, Q, classes] and pred_boxes [N, Q, 4] out, for any N, H and W. Each is run on a random padded batch and compared with
the network; a difference above its limit ends with exit status 1 and nothing written.

Paddle Inference runs the compiled operator, several times faster than Paddle's own ones: `import ops;
ops.implementation()` makes it known before the graph is loaded. ONNX knows no such operator, so its graph holds grid
samplings instead, which need no library. Frozen batch norms are folded into their convolutions.
"""

import argparse
import copy
import json
import math
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
import ops
import paddle
from inference import load_network, parse_for_weights
from models import DeformableDETR
from models.backbone import FrozenBatchNorm2D
from options import FOLDER, NETWORK_OPTIONS, build_parser
from paddle import nn

OUTPUTS = ("pred_logits", "pred_boxes")
INFERENCE, ONNX = "Paddle Inference", "ONNX Runtime"
LIMITS = (1e-3, 1e-4)  # largest difference of a logit and of a box
NORM_EPSILON = 1e-5  # of the network's group norms
OPSET = 16  # the first that has GridSample
Engine = Callable[[np.ndarray, np.ndarray], dict[str, np.ndarray]]


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


def _fold_norms(layer: nn.Layer) -> None:
    """Put every frozen norm of a ResNet (`conv1` and `bn1`, or 0 and 1 of a shortcut) into its convolution.

    The network folds them anew in each forward; with oneDNN, Paddle Inference 3.3 gets such a convolution wrong.
    """
    for name, norm in list(layer.named_children()):
        if not isinstance(norm, FrozenBatchNorm2D):
            _fold_norms(norm)
            continue
        convolution = getattr(layer, "0" if name == "1" else name.replace("bn", "conv"))
        weight, bias = norm.fold_into(convolution.weight)
        convolution.weight.set_value(weight)
        convolution.bias = convolution.create_parameter([weight.shape[0]], is_bias=True)
        convolution.bias.set_value(bias)
        layer.add_sublayer(name, nn.Identity())


class _Deployed(nn.Layer):
    """What is deployed of a network: a copy with folded norms, and the last layer's output alone."""

    def __init__(self, model: DeformableDETR):
        super().__init__()
        self.network = copy.deepcopy(model)
        self.network.aux_loss = False
        _fold_norms(self.network.backbone[0].body)
        self.eval()

    def forward(self, images, mask):
        outputs = self.network(images, mask)
        return outputs["pred_logits"], outputs["pred_boxes"]


def export_inference(model: DeformableDETR, folder: Path) -> Path:
    """Write `folder`/inference.json and inference.pdiparams. Returns the common prefix. `model` stays as it is."""
    batch = [
        paddle.static.InputSpec([None, 3, None, None], "float32", name="images"),
        paddle.static.InputSpec([None, None, None], "bool", name="mask"),
    ]
    ops.implementation()  # which may compile it, and says so
    with _quiet():
        graph = paddle.jit.to_static(_Deployed(model), input_spec=batch, full_graph=True)
        paddle.jit.save(graph, str(folder / "inference"))
    return folder / "inference"


def _masked_fill(x, mask, value):
    return paddle.where(mask, paddle.full([], value, x.dtype), x)


def _flip(x, axis):
    return x.index_select(paddle.arange(x.shape[axis] - 1, -1, -1), axis)


def _power(exponent, base):
    return (exponent * math.log(base)).exp()


@contextmanager
def _in_operators_of_onnx() -> Iterator[None]:
    """The graph made inside is of operators that paddle2onnx 2.1 knows; it ends the process at one that it does not."""
    value = paddle.pir.Value
    others = {"masked_fill": _masked_fill, "flip": _flip, "__rpow__": _power}
    before = {name: getattr(value, name) for name in others}
    try:
        for name, other in others.items():
            setattr(value, name, other)
        with ops.temporarily("paddle"):
            yield
    finally:
        for name, own in before.items():
            setattr(value, name, own)


def export_onnx(model: DeformableDETR, target: Path) -> None:
    """Write the network as ONNX. InputError when paddle2onnx is not installed."""
    try:
        import paddle2onnx
    except ImportError as error:
        raise InputError("--format onnx needs paddle2onnx: pip install -e '.[export]' in the repository") from error
    with tempfile.TemporaryDirectory() as folder:
        with _in_operators_of_onnx():
            prefix = export_inference(model, Path(folder))
        with _quiet():
            paddle2onnx.export(f"{prefix}.json", f"{prefix}.pdiparams", str(target), opset_version=OPSET)
    _mend_group_norms(target)


def _mend_group_norms(path: Path) -> None:
    """Set the epsilon of the norms in a graph: paddle2onnx 2.1 writes whatever lies in memory for a group norm's."""
    import onnx

    graph = onnx.load(str(path))
    for node in graph.graph.node:
        if node.op_type == "InstanceNormalization":  # what it makes of a group norm
            for attribute in node.attribute:
                if attribute.name == "epsilon":
                    attribute.f = NORM_EPSILON
    onnx.save(graph, str(path))


def inference_engine(prefix: Path, device: str = "cpu") -> Engine:
    """Paddle Inference on an exported graph, with oneDNN on CPU."""
    from paddle import inference

    ops.implementation()
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
    outputs = [predictor.get_output_handle(name) for name in predictor.get_output_names()]

    def engine(images: np.ndarray, mask: np.ndarray) -> dict[str, np.ndarray]:
        for name, array in (("images", images), ("mask", mask)):
            predictor.get_input_handle(name).copy_from_cpu(np.ascontiguousarray(array))
        predictor.run()
        return dict(zip(OUTPUTS, (output.copy_to_cpu() for output in outputs), strict=True))

    return engine


def onnx_engine(path: Path) -> Engine:
    """ONNX Runtime on CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def engine(images: np.ndarray, mask: np.ndarray) -> dict[str, np.ndarray]:
        return dict(zip(OUTPUTS, session.run(None, {"images": images, "mask": mask}), strict=True))

    return engine


def exported_predictor(model: DeformableDETR, options: argparse.Namespace) -> Engine:
    """Export to a temporary folder and return the engine; the folder is gone when it returns.

    images float32 [N, 3, H, W] and mask bool [N, H, W] in; `pred_logits` and `pred_boxes` out.
    """
    with tempfile.TemporaryDirectory() as folder:
        return inference_engine(export_inference(model, Path(folder)), options.device)


def sample_batch(height: int = 160, width: int = 192) -> tuple[np.ndarray, np.ndarray]:
    """Two random pictures, the second smaller and padded."""
    rng = np.random.default_rng(0)
    images, mask = rng.normal(size=(2, 3, height, width)).astype(np.float32), np.zeros((2, height, width), bool)
    mask[1, height * 3 // 4 :] = mask[1, :, width * 2 // 3 :] = True
    images[1, :, mask[1]] = 0
    return images, mask


def _differences(engine: Engine, model: DeformableDETR) -> dict[str, float]:
    images, mask = sample_batch()
    with paddle.no_grad():
        expected = model(paddle.to_tensor(images), paddle.to_tensor(mask))
    return {key: float(np.abs(array - expected[key].numpy()).max()) for key, array in engine(images, mask).items()}


def _move(source: Path, target: Path) -> None:
    """Put a finished file in its place, atomically."""

    def write(file) -> None:
        with source.open("rb") as content:
            shutil.copyfileobj(content, file)

    atomic_write(target, write)


def main(argv: Sequence[str] | None = None) -> int:
    parser = build_parser(__doc__, ("run", "output", "network", "sizes"))
    parser.set_defaults(output_dir=str(FOLDER / "output" / "export"))
    parser.add_argument(
        "--format", nargs="+", choices=["inference", "onnx"], default=["inference", "onnx"], help="what to write"
    )
    options = parse_for_weights(argv, parser)
    paddle.set_device(options.device)
    model, target = load_network(options), Path(options.output_dir)
    with tempfile.TemporaryDirectory() as folder:
        engines, names = {}, []
        if "inference" in options.format:
            engines[INFERENCE] = inference_engine(export_inference(model, Path(folder)), options.device)
            names += ["inference.json", "inference.pdiparams"]
        if "onnx" in options.format:
            export_onnx(model, Path(folder) / "model.onnx")
            engines[ONNX] = onnx_engine(Path(folder) / "model.onnx")
            names.append("model.onnx")
        for name, engine in engines.items():
            found, limits = _differences(engine, model), dict(zip(OUTPUTS, LIMITS, strict=True))
            text = ", ".join(f"{key} {value:.2e} (limit {limits[key]:.0e})" for key, value in found.items())
            print(f"{name}: largest difference to dygraph: {text}")
            if not all(found[key] <= limits[key] for key in OUTPUTS):  # a NaN is no agreement either
                print("nothing was written")
                return 1
        for name in names:
            _move(Path(folder) / name, target / name)
    network = {name: getattr(options, name) for name in NETWORK_OPTIONS}
    atomic_write_text(target / "network.json", json.dumps(network, indent=1) + "\n")
    print(f"wrote {', '.join([*names, 'network.json'])} to {target}")
    return 0


if __name__ == "__main__":
    run(main)
