"""Exported graphs against the network, at other sizes than they were made with, and the files that export.py writes."""

import json

import numpy as np
import onnxruntime
import paddle
import pytest

from shared import InputError

import export
from deploy import OUTPUTS, build_network
from engine import predict
from models import build_model
from models.backbone import FrozenBatchNorm2D
from options import parse_options

SMALL = "--backbone resnet18 --hidden_dim 32 --nheads 4 --dim_feedforward 64 --enc_layers 1 --dec_layers 2".split()
VARIANTS = {
    "refine": ["--num_queries", "11", "--with_box_refine"],
    "single_scale": ["--num_queries", "11", "--num_feature_levels", "1"],
    "two_stage": ["--num_queries", "11", "--with_box_refine", "--two_stage"],
}


def network(*more: str):
    """A small network whose norms and boxes are not as at the start, where they would hide much."""
    options = parse_options([*SMALL, *more])
    paddle.seed(3)
    model, rng = build_model(options), np.random.default_rng(3)
    model.eval()
    for layer in model.sublayers():
        if isinstance(layer, FrozenBatchNorm2D):
            for name, buffer in layer.named_buffers():
                centre = 0.0 if name in ("bias", "running_mean") else 1.0
                buffer.set_value((centre + rng.uniform(-0.3, 0.3, buffer.shape)).astype(np.float32))
    for head in model.bbox_embed:
        weight = head.layers[-1].weight
        weight.set_value(rng.normal(0, 0.3, weight.shape).astype(np.float32))
    return model


def expected(model, images: np.ndarray, mask: np.ndarray) -> dict[str, np.ndarray]:
    outputs = predict(model, paddle.to_tensor(images), paddle.to_tensor(mask))
    return {name: outputs[name].numpy() for name in OUTPUTS}


@pytest.mark.parametrize("variant", VARIANTS)
def test_inference_at_any_size(variant):
    """Two sizes, one of them of a single picture, after another; the network that was exported stays as it was."""
    model = network(*VARIANTS[variant])
    before = {name: value.numpy() for name, value in model.state_dict().items()}
    engine = build_network(model, "inference", "cpu")
    for count, height, width in ((2, 128, 160), (1, 96, 200)):
        images, mask = (array[:count] for array in export.sample_batch(height, width))
        found = engine(images, mask)
        assert set(found) == set(OUTPUTS)
        for key, array in expected(model, images, mask).items():
            np.testing.assert_allclose(found[key], array, rtol=0, atol=2e-5, err_msg=key)
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(np.array_equal(after[name].numpy(), value) for name, value in before.items())


def test_files(tmp_path, capsys):
    """export.py on a weight file, both formats; the ONNX file runs at another size than the one it was checked at."""
    model = network(*VARIANTS["refine"])
    weights, folder = tmp_path / "small.pdparams", tmp_path / "out"
    paddle.save(model.state_dict(), str(weights))
    argv = [*SMALL, *VARIANTS["refine"], "--weights", str(weights), "--output_dir", str(folder)]
    assert export.main(argv) == 0
    assert capsys.readouterr().out.count("largest difference to dygraph") == 4
    names = {path.name for path in folder.iterdir()}
    assert names == {"inference.json", "inference.pdiparams", "model.onnx", "network.json"}
    assert json.loads((folder / "network.json").read_text())["hidden_dim"] == 32
    images, mask = export.sample_batch(96, 224)
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    found = session.run(None, {"images": images, "mask": mask})
    for key, array in zip(OUTPUTS, found, strict=True):
        np.testing.assert_allclose(array, expected(model, images, mask)[key], rtol=0, atol=1e-3, err_msg=key)


def test_a_difference_writes_nothing(tmp_path, monkeypatch, capsys):
    """An engine that answers something else: exit status 1, and no file."""
    model = network(*VARIANTS["single_scale"])
    weights, folder = tmp_path / "small.pdparams", tmp_path / "out"
    paddle.save(model.state_dict(), str(weights))

    def engine(images, mask):
        outputs = expected(model, images, mask)
        return outputs | {"pred_boxes": outputs["pred_boxes"] + np.float32(2e-4)}

    monkeypatch.setattr(export, "exported_engine", lambda *_: engine)
    argv = [*SMALL, *VARIANTS["single_scale"], "--weights", str(weights), "--output_dir", str(folder)]
    assert export.main([*argv, "--format", "inference"]) == 1
    assert "nothing was written" in capsys.readouterr().out and not folder.exists()


def test_missing_weights():
    with pytest.raises(InputError, match="--weights"):
        export.main(SMALL)
