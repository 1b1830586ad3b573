"""Static graphs against the network in dygraph, and result files of a split by both engines."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from shared import InputError
from shared.running.sampling import EpochBatchSampler
from shared.weights import write_pdparams

import deploy
import evaluate
import export
from datasets import build_dataset, build_loader
from engine import in_test_mode, predict_split
from metrics.average_precision import evaluate_folders
from networks import network
from options import parse_options

SIZE = (128, 64)


@pytest.fixture(scope="module")
def model():
    """With the weights of the golden figures, whose peaks are clear, in eval mode."""
    model = network("model", "float32")
    model.eval()
    return model


@pytest.fixture(scope="module")
def weights(model, tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("weights") / "gupnet.pdparams"
    write_pdparams(path, {name: value.numpy() for name, value in model.state_dict().items()})
    return str(path)


@pytest.fixture(scope="module")
def exported(weights, tmp_path_factory) -> Path:
    """What `python export.py --format inference` writes."""
    folder = tmp_path_factory.mktemp("graph") / "export"
    words = ["--weights", weights, "--input_size", *map(str, SIZE), "--format", "inference"]
    assert export.main([*words, "--output_dir", str(folder)]) == 0
    return folder


@pytest.mark.parametrize("count", [1, 3])
def test_the_whole_network_for_any_batch(model, exported, count):
    inputs = deploy.simulated_inputs(count, SIZE)
    found = export.inference_engine(exported / "inference", outputs=deploy.OUTPUTS)(*inputs.values())
    expected = export.dygraph_outputs(model, inputs)
    assert list(found) == list(deploy.OUTPUTS)
    assert {name: value.shape for name, value in found.items()} == {name: expected[name].shape for name in found}
    assert export.largest_difference(found, expected) <= export.LIMIT
    assert not model.training


def test_rows_are_compared_by_their_cells():
    """Peaks that change places are no difference; a changed row is, and so are other peaks."""
    rng = np.random.default_rng(0)
    heatmap = np.full((1, 3, 24, 80), -9, np.float32)
    cells = [
        (0, c, 2 * y + 1, 3 * x + 1) for c, y, x in zip(rng.integers(0, 3, 50), *divmod(np.arange(50), 10), strict=True)
    ]
    logits = np.linspace(4, 1, 50, dtype=np.float32)
    for cell, logit in zip(cells, logits, strict=True):
        heatmap[cell] = logit
    expected = {"heatmap": heatmap, "depth": rng.random((50, 2)).astype(np.float32)}
    assert export.largest_difference(expected, expected) == 0

    swapped = {name: value.copy() for name, value in expected.items()}
    swapped["heatmap"][cells[3]], swapped["heatmap"][cells[4]] = logits[4], logits[3]
    swapped["depth"][[3, 4]] = swapped["depth"][[4, 3]]
    gap = float(logits[3] - logits[4]) / 9
    assert abs(export.largest_difference(swapped, expected) - gap) < 1e-6
    swapped["depth"][4] += 1
    assert export.largest_difference(swapped, expected) > 0.5
    assert export.largest_difference(swapped | {"heatmap": np.roll(heatmap, 1, 3)}, expected) == np.inf
    assert np.isnan(export.largest_difference(expected | {"depth": expected["depth"] * np.nan}, expected))


def test_the_dense_part_in_onnx(model, tmp_path):
    # both come with `.[export]`; a clone without them has nothing to test here
    if not all(map(importlib.util.find_spec, ("paddle2onnx", "onnxruntime"))):
        with pytest.raises(InputError, match="paddle2onnx is not installed"):
            export.translate_to_onnx(tmp_path / "dense", tmp_path / "model.onnx")
        return
    prefix = deploy.save_dense(model, SIZE, tmp_path / "dense")
    export.translate_to_onnx(prefix, tmp_path / "model.onnx")
    inputs = deploy.simulated_inputs(2, SIZE)
    found = export.onnx_engine(tmp_path / "model.onnx", deploy.DENSE_OUTPUTS)(inputs["images"])
    assert export.largest_difference(found, export.dygraph_outputs(model, inputs)) <= export.LIMIT


def test_script_writes_what_agrees_and_nothing_else(weights, exported, tmp_path, capsys, monkeypatch):
    assert {path.name for path in exported.iterdir()} == {"inference.json", "inference.pdiparams", "network.json"}
    assert json.loads((exported / "network.json").read_text())["input_size"] == list(SIZE)
    monkeypatch.setattr(export, "LIMIT", 0.0)
    words = ["--weights", weights, "--input_size", *map(str, SIZE), "--format", "inference"]
    assert export.main([*words, "--output_dir", str(tmp_path / "none")]) == 1
    assert "nothing was written" in capsys.readouterr().out and not (tmp_path / "none").exists()


def words_of(weights: str, mini: Path) -> list[str]:
    return ["--weights", weights, "--data_path", str(mini), "--input_size", *map(str, SIZE), "--num_workers", "0"]


def result_numbers(folder: Path) -> dict[str, np.ndarray]:
    texts = {path.name: path.read_text().split() for path in sorted(folder.iterdir())}
    return {name: np.array([float(word) for word in text if not word.isalpha()]) for name, text in texts.items()}


def test_both_engines_score_a_split(weights, mini, tmp_path):
    """The same result files to a cent, whatever stood there before; the metrics are those of the files."""
    found = {}
    for engine in ("dygraph", "inference"):
        folder = tmp_path / engine
        (folder / "data").mkdir(parents=True)
        (folder / "data" / "999999.txt").write_text("a frame of an earlier run\n")
        options = ["--threshold", "0.05", "--batch_size", "2", "--engine", engine, "--output_dir", str(folder)]
        evaluate.main([*words_of(weights, mini), *options, "--output", str(folder / "metrics.json")])
        found[engine] = result_numbers(folder / "data")
        official = evaluate_folders(mini / "training" / "label_2", folder)
        assert json.loads((folder / "metrics.json").read_text()) == official and official
    assert found["dygraph"].keys() == found["inference"].keys() and len(found["dygraph"]) == 3
    assert sum(map(len, found["dygraph"].values())) > 100
    for name, numbers in found["dygraph"].items():
        assert np.abs(numbers - found["inference"][name]).max(initial=0) <= 0.011


def test_the_split_test_is_predicted_only(weights, mini, tmp_path, capsys):
    words = [*words_of(weights, mini), "--eval_split", "test", "--output_dir", str(tmp_path)]
    evaluate.main(words)
    assert "nothing is scored" in capsys.readouterr().out
    assert len(list((tmp_path / "data").iterdir())) == 2
    with pytest.raises(InputError, match="no labels"):
        evaluate.main([*words, "--output", str(tmp_path / "metrics.json")])


def test_a_network_that_finds_nothing_writes_empty_files(model, mini, tmp_path):
    dataset = build_dataset(parse_options(["--data_path", str(mini), "--input_size", *map(str, SIZE)]), "val")
    loader = build_loader(dataset, EpochBatchSampler(len(dataset), 2, shuffle=False), 0)
    assert predict_split(in_test_mode(model), loader, 1.0, tmp_path) == 0
    assert [path.read_text() for path in tmp_path.iterdir()] == [""] * 3
