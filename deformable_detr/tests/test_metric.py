"""COCO's figures against the official ones and plain pycocotools, of one process and of two, and bad result files."""

import contextlib
import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from shared import InputError
from shared.tests.two_processes import launch

import engine
import evaluate
from data_sets import edit, lay_out, small_options, small_set
from datasets import read_annotations, split_paths
from datasets.annotations import create_index
from golden_files import golden
from metrics import NUMBERS, detection_rows, evaluate_detections, merge, read_results, to_results

FILE = golden("pieces")
FOLDER = Path(evaluate.__file__).parent
EXACT = {"rtol": 0, "atol": 1e-12}


@pytest.fixture(scope="module")
def official(tmp_path_factory):
    """(annotation file, result file) of the golden metric."""
    folder = tmp_path_factory.mktemp("metric")
    paths = folder / "ground_truth.json", folder / "detections.json"
    for path, key in zip(paths, ("ground_truth_json", "detections_json"), strict=True):
        path.write_bytes(bytes(FILE[f"metric/{key}"]))
    return paths


def plain_evaluation(truth: Path, found: Path) -> COCOeval:
    """pycocotools' own run over two files."""
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(truth))
        evaluation = COCOeval(coco, coco.loadRes(str(found)), "bbox")
        evaluation.evaluate(), evaluation.accumulate(), evaluation.summarize()
    return evaluation


# -------------------- Figures


def test_golden(official):
    coco = read_annotations(official[0])
    result = evaluate_detections(coco, read_results(official[1], coco))
    assert tuple(result.numbers) == NUMBERS
    np.testing.assert_allclose(list(result.numbers.values()), FILE["metric/stats"], **EXACT)
    evaluation = plain_evaluation(*official)
    precision, recall = evaluation.eval["precision"], evaluation.eval["recall"]
    assert list(precision.shape) == FILE["metric/precision_shape"].tolist()
    np.testing.assert_allclose(precision[0, :, :, 0, 2], FILE["metric/precision_iou50_all_max100"], **EXACT)
    np.testing.assert_allclose(recall[:, :, 0, 2], FILE["metric/recall_all_max100"], **EXACT)
    np.testing.assert_allclose(evaluation.stats, FILE["metric/stats"], **EXACT)


def drawn_case(folder: Path, seed: int) -> tuple[Path, Path]:
    """Random boxes with crowds, missing fields and empty pictures, and detections near some of them."""
    place = np.random.default_rng(seed)
    images = [{"id": 10 + 3 * n, "file_name": f"{n}.jpg", "width": 300, "height": 200} for n in range(12)]
    truth, found = [], []
    for image in images[: place.integers(6, 13)]:
        for _ in range(place.integers(0, 7)):
            box = (place.uniform(0, 150, 4) ** place.uniform(0.5, 1) + 1).round(2)
            entry = {"id": len(truth) + 1, "image_id": image["id"], "category_id": int(place.choice([2, 7, 9]))}
            entry |= {"bbox": box.tolist(), "area": float(box[2] * box[3] * place.uniform(0.5, 1))}
            truth.append(entry | ({"iscrowd": int(place.random() < 0.15)}))
            for _ in range(place.integers(0, 4)):
                near = np.float32(box + place.normal(0, 4, 4)).clip(0.1).astype(float)
                label = entry["category_id"] if place.random() < 0.8 else int(place.choice([2, 5, 9]))
                score = round(place.random(), 1)  # many equal scores
                found.append({"image_id": image["id"], "category_id": label, "bbox": near.tolist(), "score": score})
    categories = [{"id": number, "name": f"kind {number}"} for number in (2, 7, 9, 40)]
    paths = folder / "truth.json", folder / "found.json"
    for path, content in zip(paths, ({"images": images, "annotations": truth, "categories": categories}, found),
                             strict=True):  # fmt: skip
        path.write_text(json.dumps(content))
    return paths


@pytest.mark.parametrize("seed", range(6))
def test_equal_to_plain_pycocotools(tmp_path, seed):
    truth, found = drawn_case(tmp_path, seed)
    expected = plain_evaluation(truth, found).stats
    coco = read_annotations(truth)
    rows = read_results(found, coco)
    result = evaluate_detections(coco, rows)
    np.testing.assert_allclose(list(result.numbers.values()), expected, **EXACT)
    assert result.as_json() | {"images": 12} == result.as_json() and 0 < result.numbers["AP50"] < 1
    # Category 40 has no ground truth and no figure; the mean over the others is AP.
    assert set(result.per_category) == {"kind 2", "kind 7", "kind 9"}
    assert np.mean(list(result.per_category.values())) == pytest.approx(result.numbers["AP"])
    table = result.table()
    assert "Average Precision  (AP) @[ IoU=0.50:0.95 | area=   all | maxDets=100 ]" in table and "kind 7" in table


def test_fields_that_may_be_missing(tmp_path):
    """Without iscrowd (no crowd) and without info, where plain pycocotools stops."""
    truth, found = drawn_case(tmp_path, 1)
    content = json.loads(truth.read_text())
    expected = evaluate_detections(create_index(content), read_results(found, read_annotations(truth))).numbers
    for annotation in content["annotations"]:
        if not annotation["iscrowd"]:
            del annotation["iscrowd"]
    truth.write_text(json.dumps(content))
    coco = read_annotations(truth)
    assert evaluate_detections(coco, read_results(found, coco)).numbers == expected


def test_perfect_none_and_empty(tmp_path):
    coco = read_annotations(drawn_case(tmp_path, 2)[0])
    whole = [a for a in coco.dataset["annotations"] if not a["iscrowd"]]
    rows = np.array([[a["image_id"], *a["bbox"], 0.5, a["category_id"]] for a in whole])
    perfect = evaluate_detections(coco, rows).numbers
    assert perfect["AP"] == perfect["AP50"] == perfect["AR100"] == pytest.approx(1)
    nothing = evaluate_detections(coco, np.empty((0, 7)))
    assert nothing.numbers["AP"] == nothing.numbers["AR100"] == 0 and len(nothing.rows) == 0
    empty = create_index(coco.dataset | {"annotations": []})
    assert set(evaluate_detections(empty, rows).numbers.values()) == {-1}


def test_pictures_that_were_looked_at(tmp_path):
    """Only they count."""
    coco = read_annotations(drawn_case(tmp_path, 2)[0])
    whole = [a for a in coco.dataset["annotations"] if not a["iscrowd"]]
    rows = np.array([[a["image_id"], *a["bbox"], 0.5, a["category_id"]] for a in whole])
    ids = sorted(coco.imgs)[:4]
    part = evaluate_detections(coco, rows[np.isin(rows[:, 0], ids)], ids)
    assert part.images == 4 and part.numbers["AP"] == pytest.approx(1)
    assert evaluate_detections(coco, rows[np.isin(rows[:, 0], ids)]).numbers["AP"] < 0.9
    with pytest.raises(ValueError, match="picture 1, which"):
        evaluate_detections(coco, np.array([[1, 2, 3, 4, 5, 0.5, 2]]))


def test_rows_and_results():
    boxes = np.float32([[1.1, 2.2, 30.7, 40.9], [0, 0, 5, 5]])
    rows = detection_rows(9, np.float32([0.75, 0.5]), np.int64([3, 90]), boxes)
    sides = (boxes[:, 2:] - boxes[:, :2]).astype(float)
    np.testing.assert_array_equal(rows[0], [9, *boxes[0, :2].astype(float), *sides[0], 0.75, 3])
    assert to_results(rows)[1] == {"image_id": 9, "category_id": 90, "bbox": [0, 0, 5, 5], "score": 0.5}
    assert detection_rows(9, np.empty(0), np.empty(0), np.empty((0, 4))).shape == (0, 7)


def test_merge_keeps_the_first_of_a_picture():
    def rows(*entries):
        return np.array([[image, 0, 0, 1, 1, score, 1] for image, score in entries]).reshape(-1, 7)

    first = np.array([7, 3]), rows((7, 0.9), (7, 0.8), (3, 0.7))
    second = np.array([5, 7]), rows((5, 0.6), (7, 0.5))
    third = np.array([4, 3]), rows((3, 0.1))
    ids, merged = merge([first, second, third])
    assert ids.tolist() == [3, 4, 5, 7]
    assert merged[:, [0, 5]].tolist() == [[3, 0.7], [5, 0.6], [7, 0.9], [7, 0.8]]


# -------------------- From pictures to figures


def network(images: np.ndarray, mask: np.ndarray) -> dict[str, np.ndarray]:
    """Logits [N, 8, 6] and boxes [N, 8, 4] that follow from the image itself, not from its padding."""
    valid = ~mask[:, None]
    seed = (images * valid).sum((2, 3)) / valid.sum((2, 3))
    wave = np.sin(seed.sum(1).reshape(-1, 1, 1) * 40 + np.arange(80, dtype=np.float32).reshape(8, 10) * 1.7)
    return {"pred_logits": 3 * wave[..., :6], "pred_boxes": 0.4 + 0.3 * wave[..., 6:]}


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return lay_out(tmp_path_factory.mktemp("coco"), 7, "val")


def all_rows(root: Path, size: int, workers: int = 0) -> np.ndarray:
    options = small_options(root, "--batch_size", str(size), "--num_workers", str(workers))
    metrics, _ = engine.evaluate(network, small_set(root, "val"), options)
    assert metrics.images == 7
    return metrics.rows


@pytest.mark.parametrize("size, workers", [(2, 0), (3, 1), (7, 0)])
def test_batches_of_any_size_have_the_same_detections(root, size, workers):
    rows, expected = all_rows(root, size, workers), all_rows(root, 1)
    assert rows.shape == (7 * 48, 7) and np.unique(rows[:, 0]).tolist() == [84, 85, 86, 87, 88, 89, 90]
    np.testing.assert_array_equal(rows[:, 0], expected[:, 0])
    np.testing.assert_allclose(rows[:, 1:6], expected[:, 1:6], rtol=1e-4, atol=1e-3)


def test_losses_of_every_batch(root):
    """Means over the batches; the criterion gets outputs and targets that belong together."""
    options, sizes = small_options(root, "--batch_size", "3", "--num_workers", "0"), []

    def criterion(outputs: dict, targets: list) -> dict:
        sizes.append(len(targets))
        assert len(outputs["pred_logits"]) == len(targets)
        return {"loss": float(len(targets))}

    _, losses = engine.evaluate(network, small_set(root, "val"), options, criterion)
    assert sizes == [3, 3, 1] and losses == {"loss": pytest.approx(7 / 3)}


PROCESSES = """
import sys
sys.path[:0] = sys.argv[1:3]
import numpy as np
import paddle.distributed as dist
from pathlib import Path
dist.init_parallel_env()
from test_metric import all_rows
rows = all_rows(Path(sys.argv[3]), 2)
if dist.get_rank() == 1:
    np.save(sys.argv[4], rows)
"""


def test_two_processes_detect_what_one_detects(root, tmp_path):
    """Seven images on two processes: one of them is evaluated twice, and counts once."""
    script = tmp_path / "processes.py"
    script.write_text(PROCESSES)
    launch(script, tmp_path, FOLDER, FOLDER / "tests", root, tmp_path / "rows.npy")
    rows, expected = np.load(tmp_path / "rows.npy"), all_rows(root, 1)
    np.testing.assert_allclose(rows[:, 1:6], expected[:, 1:6], rtol=1e-4, atol=1e-3)
    np.testing.assert_array_equal(rows[:, 0], expected[:, 0])


# -------------------- evaluate.py on result files


def test_command_line_on_results(tmp_path, capsys):
    root = lay_out(tmp_path, 7, "val")
    coco = read_annotations(split_paths(root, "val")[1])
    rows = np.array([[a["image_id"], *a["bbox"], 0.5, a["category_id"]] for a in coco.dataset["annotations"]])
    (tmp_path / "found.json").write_text(json.dumps(to_results(rows)))
    words = ["--data_path", str(root), "--results", str(tmp_path / "found.json")]
    evaluate.main([*words, "--output", str(tmp_path / "metrics.json"), "--save_results", str(tmp_path / "again.json")])
    said = capsys.readouterr().out
    assert "Average Precision" in said and f"7 images, {len(rows)} detections" in said
    written = json.loads((tmp_path / "metrics.json").read_text())
    assert written["AP"] == pytest.approx(1) and set(written) == {*NUMBERS, "per_category", "images", "detections"}
    assert json.loads((tmp_path / "again.json").read_text()) == json.loads((tmp_path / "found.json").read_text())


GOOD = {"image_id": 90, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}


@pytest.mark.parametrize(
    "content, said",
    [
        (b"{", "cannot be read as COCO results"),
        (b"{}", "holds a dict, not a list of detections"),
        ([GOOD, 3], "detection number 1 .* has no finite image_id"),
        ([GOOD | {"bbox": [1, 2, 3]}], "detection number 0 .* has no finite image_id"),
        ([GOOD | {"bbox": None}], "detection number 0 .* has no finite image_id"),
        ([GOOD | {"score": float("nan")}], "detection number 0 .* has no finite image_id"),
        ([GOOD | {"score": "high"}], "detection number 0 .* has no finite image_id"),
        ([{"image_id": 90}], "detection number 0 .* has no finite image_id"),
        ([GOOD | {"image_id": 1}], "detection number 0 .* is in image 1, which the annotation file lacks"),
    ],
)
def test_bad_result_files(root, tmp_path, content, said):
    path = tmp_path / "found.json"
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    with pytest.raises(InputError, match=said) as caught:
        evaluate.main(["--data_path", str(root), "--results", str(path)])
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "words, said",
    [
        ([], "--weights is missing: give .* or --results"),
        (["--weights", "{root}", "--results", "x.json"], "exclude each other"),
        (["--results", "nowhere.json"], "--data_path is missing"),
        (["--results", "nowhere.json", "--data_path", "{root}"], "nowhere.json: cannot be read as COCO results"),
        (["--weights", "nowhere.pdparams", "--data_path", "{root}"], "nowhere.pdparams: no such file"),
    ],
)
def test_missing_things(root, words, said):
    with pytest.raises(InputError, match=said):
        evaluate.main([word.replace("{root}", str(root)) for word in words])


def test_bad_input_is_one_line_and_status_2(tmp_path):
    root = lay_out(tmp_path, 3, "val", edit("annotations", 0, bbox=[1, 2, float("nan"), 4]))
    command = [sys.executable, str(FOLDER / "evaluate.py"), "--data_path", str(root), "--results", "x.json"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and not done.stdout
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1 and "annotation 1 has" in done.stderr
