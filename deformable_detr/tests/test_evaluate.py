"""evaluate.py with a network: batches against one picture at a time, the command line, checkpoints' options."""

import json
from pathlib import Path

import numpy as np
import paddle
import pytest

from shared import InputError
from shared.weights import write_pdparams

import evaluate
from data_sets import edit, lay_out, small_options, small_set
from datasets import build_dataset
from inference import dygraph_predictor, load_network, parse_for_weights
from metrics import NUMBERS, evaluate_detections
from models import build_model
from options import build_parser

NETWORK = (
    "--backbone resnet18 --backbone_norm batch --hidden_dim 32 --nheads 4 --enc_layers 1 --dec_layers 2 "
    "--dim_feedforward 32 --num_queries 30"
).split()
SIZES = "--val_size 64 --max_size 100 --num_classes 6 --num_workers 0".split()


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """A weight file of random weights whose scores and boxes differ between pictures."""
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
    """Pictures of one size, whose batches need no padding."""
    return lay_out(tmp_path_factory.mktemp("coco"), 6, "val", step=0)


def found(root: Path, weights: Path, batch_size: int):
    options = small_options(root, *NETWORK, *SIZES, "--weights", str(weights), "--batch_size", str(batch_size))
    predict = dygraph_predictor(load_network(options))
    return evaluate.find_all(predict, small_set(root, "val"), options)


@pytest.mark.parametrize("batch_size", [2, 4, 6])
def test_a_batch_of_equal_sizes_finds_what_each_alone_finds(root, weights, batch_size):
    """Every picture's detections, relative 1e-4: the earlier port could not evaluate more than one at a time."""
    ids, rows = found(root, weights, batch_size)
    alone, expected = found(root, weights, 1)
    np.testing.assert_array_equal(ids, alone)
    for image_id in ids:
        one, other = (part[part[:, 0] == image_id] for part in (rows, expected))
        assert one.shape == other.shape == (100, 7)
        np.testing.assert_allclose(one[:, 5], other[:, 5], rtol=1e-4)  # scores, in order
        pairs = ([tuple(row) for row in part[:, [6, 1, 2, 3, 4]]] for part in (one, other))
        np.testing.assert_allclose(*(np.array(sorted(part)) for part in pairs), rtol=1e-4, atol=5e-3)
    assert np.std([rows[rows[:, 0] == image_id][0, 5] for image_id in ids]) > 1e-4  # pictures do differ


def test_command_line(root, weights, tmp_path, capsys):
    words = [*NETWORK, *SIZES, "--data_path", str(root), "--weights", str(weights), "--batch_size", "3"]
    words += ["--output", str(tmp_path / "metrics.json"), "--save_results", str(tmp_path / "found.json")]
    evaluate.main(words)
    said = capsys.readouterr().out
    written = json.loads((tmp_path / "metrics.json").read_text())
    options = small_options(root, *NETWORK, *SIZES, "--batch_size", "3")
    predict = dygraph_predictor(load_network(parse_for_weights(words[:-4], build_parser())))
    expected = evaluate.evaluate_network(predict, build_dataset(small_options(root, *SIZES), "val"), options)
    assert {name: written[name] for name in NUMBERS} == pytest.approx(expected.numbers, abs=1e-12)
    assert "Average Recall" in said and "6 pictures, 600 detections, dygraph" in said
    assert len(json.loads((tmp_path / "found.json").read_text())) == 600

    evaluate.main(["--data_path", str(root), "--results", str(tmp_path / "found.json"),
                   "--output", str(tmp_path / "again.json")])  # fmt: skip
    again = json.loads((tmp_path / "again.json").read_text())
    assert {name: again[name] for name in NUMBERS} == pytest.approx(expected.numbers, abs=1e-12)


def test_weights_say_what_network_they_are_of(root, weights):
    """The sizes of layers are read from the tensors; what they do not show is the command line's."""
    options = parse_for_weights(["--weights", str(weights), "--nheads", "4"], build_parser())
    assert (options.backbone, options.hidden_dim, options.dec_layers, options.num_queries) == ("resnet18", 32, 2, 30)
    load_network(options)


def test_a_category_beyond_the_network(tmp_path, weights):
    root = lay_out(tmp_path, 3, "val", edit("categories", 1, id=77))
    with pytest.raises(InputError, match="(category id 77 does not fit 6 classes|annotation . has category_id 5)"):
        evaluate.main([*NETWORK, *SIZES, "--data_path", str(root), "--weights", str(weights)])


def test_random_weights_score_near_nothing(root, weights):
    ids, rows = found(root, weights, 3)
    numbers = evaluate_detections(small_set(root, "val").coco, rows, ids).numbers
    assert 0 <= numbers["AP50"] < 0.3


def test_inference_engine_scores_the_same(root, weights, tmp_path):
    words = [*NETWORK, *SIZES, "--data_path", str(root), "--weights", str(weights), "--batch_size", "3"]
    results = {}
    for engine in ("dygraph", "inference"):
        file = tmp_path / f"{engine}.json"
        evaluate.main([*words, "--engine", engine, "--save_results", str(file)])
        results[engine] = json.loads(file.read_text())
    scores = [[entry["score"] for entry in found] for found in results.values()]
    np.testing.assert_allclose(*scores, rtol=1e-4)
    boxes = [sorted((e["image_id"], e["category_id"], *e["bbox"]) for e in found) for found in results.values()]
    np.testing.assert_allclose(*boxes, rtol=1e-4, atol=5e-3)
