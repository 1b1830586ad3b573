"""evaluate.py with a network: batches against one image at a time, the command line, engines, options of weights."""

import importlib
import json
from pathlib import Path

import numpy as np
import paddle
import pytest

from shared import InputError
from shared.weights import write_pdparams

import engine
import evaluate
import ops
from data_sets import edit, lay_out, small_options, small_set
from deploy import load_network
from metrics import NUMBERS, CocoMetrics
from models import build_model
from options import build_parser, parse_options_for_weights

NETWORK = (
    "--backbone resnet18 --backbone_norm batch --hidden_dim 32 --nheads 4 --enc_layers 1 --dec_layers 2 "
    "--dim_feedforward 32 --num_queries 30"
).split()
SIZES = "--val_size 64 --max_size 100 --num_classes 6 --num_workers 0".split()


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """A weight file of random weights whose scores and boxes differ between images."""
    paddle.seed(2)
    model = build_model(small_options(Path("."), *NETWORK))
    for name, parameter in model.named_parameters():
        if name.startswith(("class_embed", "bbox_embed")) and name.endswith("weight"):
            parameter.set_value(paddle.randn(parameter.shape) * 0.2)
    path = tmp_path_factory.mktemp("weights") / "small.pdparams"
    write_pdparams(path, model.state_dict())
    return path


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Images of one size, whose batches need no padding."""
    return lay_out(tmp_path_factory.mktemp("coco"), 6, "val", step=0)


def metrics_of(root: Path, weights: Path, batch_size: int) -> CocoMetrics:
    options = small_options(root, *NETWORK, *SIZES, "--weights", str(weights), "--batch_size", str(batch_size))
    return engine.evaluate(load_network(options), small_set(root, "val"), options)[0]


@pytest.mark.parametrize("batch_size", [2, 4, 6])
def test_a_batch_of_equal_sizes_has_the_detections_of_each_alone(root, weights, batch_size):
    """Every image's detections, relative 1e-4."""
    rows, alone = (metrics_of(root, weights, size).rows for size in (batch_size, 1))
    ids = np.unique(alone[:, 0])
    assert len(ids) == 6
    for image_id in ids:
        one, other = (part[part[:, 0] == image_id] for part in (rows, alone))
        assert one.shape == other.shape == (100, 7)
        np.testing.assert_allclose(one[:, 5], other[:, 5], rtol=1e-4)  # scores, in order
        pairs = ([tuple(row) for row in part[:, [6, 1, 2, 3, 4]]] for part in (one, other))
        np.testing.assert_allclose(*(np.array(sorted(part)) for part in pairs), rtol=1e-4, atol=5e-3)
    assert np.std([rows[rows[:, 0] == image_id][0, 5] for image_id in ids]) > 1e-4  # images do differ


def test_command_line(root, weights, tmp_path, capsys):
    words = [*NETWORK, *SIZES, "--data_path", str(root), "--weights", str(weights), "--batch_size", "3"]
    evaluate.main([*words, "--output", str(tmp_path / "m.json"), "--save_results", str(tmp_path / "results.json")])
    printed, expected = capsys.readouterr().out, metrics_of(root, weights, 3)
    assert 0 <= expected.numbers["AP50"] < 0.3  # random weights
    assert "Average Recall" in printed and "6 images, 600 detections, dygraph" in printed
    assert len(json.loads((tmp_path / "results.json").read_text())) == 600
    results = ["--data_path", str(root), "--results", str(tmp_path / "results.json")]
    evaluate.main([*results, "--output", str(tmp_path / "again.json")])
    for name in ("m.json", "again.json"):
        written = json.loads((tmp_path / name).read_text())
        assert {number: written[number] for number in NUMBERS} == pytest.approx(expected.numbers, abs=1e-12)


def test_weights_say_what_network_they_are_of(root, weights):
    """The sizes of layers are read from the tensors; the command line states what they do not show."""
    options = parse_options_for_weights(["--weights", str(weights), "--nheads", "4"], build_parser())
    assert (options.backbone, options.hidden_dim, options.dec_layers, options.num_queries) == ("resnet18", 32, 2, 30)
    load_network(options)


def test_a_category_beyond_the_network(tmp_path, weights):
    root = lay_out(tmp_path, 3, "val", edit("categories", 1, id=77))
    with pytest.raises(InputError, match="(category id 77 does not fit 6 classes|annotation . has category_id 5)"):
        evaluate.main([*NETWORK, *SIZES, "--data_path", str(root), "--weights", str(weights)])


def test_every_engine_has_the_same_detections(root, weights, tmp_path):
    words = [*NETWORK, *SIZES, "--data_path", str(root), "--weights", str(weights), "--batch_size", "3"]
    results = []
    for name in ("dygraph", "inference", "onnx"):
        evaluate.main([*words, "--engine", name, "--save_results", str(tmp_path / f"{name}.json")])
        results.append(json.loads((tmp_path / f"{name}.json").read_text()))
    for other in results[1:]:
        scores = [[entry["score"] for entry in entries] for entries in (results[0], other)]
        np.testing.assert_allclose(*scores, rtol=1e-4)
        boxes = [sorted((e["image_id"], e["category_id"], *e["bbox"]) for e in part) for part in (results[0], other)]
        np.testing.assert_allclose(*boxes, rtol=1e-4, atol=5e-3)


@pytest.mark.parametrize("script", ["train", "evaluate", "demo", "export", "convert", "benchmark"])
def test_a_wrong_choice_of_the_operator_is_one_line(script, root, weights, tmp_path, monkeypatch):
    """$DEFORMABLE_DETR_OP, in every script that builds a network."""
    monkeypatch.setitem(ops._state, "wanted", "fast")
    monkeypatch.setitem(ops._state, "used", None)
    lay_out(tmp_path / "data"), lay_out(tmp_path / "data", 3, "val")
    network, out = [*NETWORK, "--num_classes", 6, "--weights", weights], ["--output_dir", tmp_path / "out"]
    words = {
        "train": [*network, *SIZES, *out, "--data_path", tmp_path / "data"],
        "evaluate": [*network, *SIZES, "--data_path", root],
        "demo": [*network, *out, "--image_path", root / "val2017"],
        "export": [*network, *out],
        "convert": [weights, tmp_path / "w.pth", "--nheads", 4],
        "benchmark": [],
    }[script]
    with pytest.raises(InputError, match="^DEFORMABLE_DETR_OP=fast: choose one of auto, compiled, paddle$"):
        importlib.import_module(script).main([str(word) for word in words])
    assert not (tmp_path / "out").exists() and not (tmp_path / "w.pth").exists()
