"""Static graph of the network for Paddle Inference, and ONNX.

    python export.py --weights output/train/best --output_dir output/export --format inference onnx

Writes inference.json and inference.pdiparams, model.onnx, and network.json (the network's options): images float32
[N, 3, H, W], normalised, zeros where padded, and their mask bool [N, H, W], True where padded, in; pred_logits
[N, Q, classes] and pred_boxes [N, Q, 4] out, for any N, H and W. Each is run on a random padded batch and compared with
the network; a difference above its limit ends with exit status 1 and nothing written.

Paddle Inference runs the compiled operator, several times faster than Paddle's own ones: `import ops;
ops.implementation()` registers it before the graph is loaded. ONNX has no such operator: its graph holds grid samplings
instead, which need no library.
"""

from shared import run, set_up

set_up()

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import paddle

from shared.deploying.export import FORMATS, Engine, add_format_option, deliver
from shared.running.launch import use_device

from deploy import OUTPUTS, exported_engine, load_network
from engine import predict
from models import DeformableDETR
from options import FOLDER, NETWORK_OPTIONS, build_parser, parse_options_for_weights

LIMITS = (1e-3, 1e-4)  # largest difference of a logit and of a box
TITLES = {"inference": "Paddle Inference", "onnx": "ONNX Runtime"}


def sample_batch(height: int = 160, width: int = 192) -> tuple[np.ndarray, np.ndarray]:
    """Two random images, the second smaller and padded."""
    rng = np.random.default_rng(0)
    images, mask = rng.normal(size=(2, 3, height, width)).astype(np.float32), np.zeros((2, height, width), bool)
    mask[1, height * 3 // 4 :] = mask[1, :, width * 2 // 3 :] = True
    images[1, :, mask[1]] = 0
    return images, mask


def _differences(engine: Engine, model: DeformableDETR) -> list[float]:
    images, mask = sample_batch()
    expected, outputs = predict(model, paddle.to_tensor(images), paddle.to_tensor(mask)), engine(images, mask)
    return [float(np.abs(outputs[name] - expected[name].numpy()).max()) for name in OUTPUTS]


def main(argv: Sequence[str] | None = None) -> int:
    parser = build_parser(__doc__, ("run", "output", "network", "sizes"))
    parser.set_defaults(output_dir=str(FOLDER / "output" / "export"))
    add_format_option(parser)
    options = parse_options_for_weights(argv, parser)
    use_device(options.device)
    model, differences = load_network(options), {}
    with tempfile.TemporaryDirectory() as folder:
        for kind in (kind for kind in FORMATS if kind in options.format):
            engine = exported_engine(model, Path(folder), kind, options.device)
            for name, difference, limit in zip(OUTPUTS, _differences(engine, model), LIMITS, strict=True):
                differences[f"{TITLES[kind]}, {name}"] = difference, limit
        network = {name: getattr(options, name) for name in NETWORK_OPTIONS}
        return deliver(Path(folder), Path(options.output_dir), options.format, differences, network)


if __name__ == "__main__":
    run(main)
