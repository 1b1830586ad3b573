"""KITTI's evaluation: the official program's figures, overlaps by independent means, bad input."""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from shared import InputError
from shared.tests.fuzz import fuzz_reader

import metrics.matching
from evaluate import main
from golden_files import FOLDER, near
from metrics.average_precision import (
    DIFFICULTIES,
    LOOSE,
    STRICT,
    average_precisions,
    evaluate_folders,
    precision_curves,
    score_thresholds,
)
from metrics.overlaps import ground_distant, ground_intersections, height_intersections, image_intersections
from metrics.results import read_folders, read_objects
from metrics.simulated import write_frames
from reference import evaluation

SCRIPT = Path(__file__).resolve().parents[1] / "evaluate.py"
OFFICIAL = json.loads((FOLDER / "gupnet_eval" / "expected.json").read_text())["sets"]
METRIC_OF = {"detection": "2d", "orientation": "aos", "detection_ground": "bev", "detection_3d": "3d"}
LABEL = "Car 0.00 0 -1.57 100 100 200 200 1.5 1.6 4.0 1.0 1.5 20.0 -1.5"
RESULT = LABEL.replace("0.00 0", "-1 -1") + " 0.9"


def write_sets(folder: Path, labels: dict[str, str], results: dict[str, str]) -> tuple[Path, Path]:
    for name, files in (("label_2", labels), ("data", results)):
        (folder / name).mkdir()
        for file, text in files.items():
            (folder / name / file).write_text(text)
    return folder / "label_2", folder / "data"


# -------------------------------------------------------------------------------------------------- official figures


@pytest.mark.parametrize("name", OFFICIAL)
def test_official_figures(name):
    """Of this evaluator, and of the twin's."""
    official, folder = OFFICIAL[name], FOLDER / "gupnet_eval" / name
    labels, results, frames = read_folders(folder / "label_2", folder)
    curves, twin = precision_curves(labels, results), evaluation.evaluate(folder / "label_2", folder / "data")
    figures = average_precisions(curves)
    assert frames == official["frames"]
    wanted = set()
    for official_name in official["ap40"]:
        kind, _, metric = official_name.partition("_")
        kind, metric = kind.title(), METRIC_OF[metric]
        wanted.add((kind, metric))
        for number, twins in (("AP11", evaluation.ap11), ("AP40", evaluation.ap40)):
            near(figures[kind][metric][number], official[number.lower()][official_name], 1e-5, official_name)
            assert twins(twin[kind, metric]).tolist() == official[number.lower()][official_name]
        expected = [official["curves"][official_name][level] for level in DIFFICULTIES]
        for own in (curves[kind][metric], twin[kind, metric]):
            near(own, expected, 1e-6, official_name)
    assert wanted == set(twin) == {(kind, metric) for kind in figures for metric in figures[kind]}


@pytest.mark.parametrize("chunk", [1 << 17, 50])
def test_simulated_frames_score_as_the_twins(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(metrics.matching, "_CHUNK", chunk)
    write_frames(tmp_path, 60, seed=3)
    labels, results, _ = read_folders(tmp_path / "label_2", tmp_path)
    curves = precision_curves(labels, results)
    twin = evaluation.evaluate(tmp_path / "label_2", tmp_path / "data")
    assert {(kind, metric) for kind in curves for metric in curves[kind]} == set(twin)
    for (kind, metric), expected in twin.items():
        near(curves[kind][metric], expected, 1e-12, f"{kind} {metric}")


def test_loose_overlaps_find_more(tmp_path):
    write_frames(tmp_path, 60, seed=4)
    strict, loose = (evaluate_folders(tmp_path / "label_2", tmp_path, limits) for limits in (STRICT, LOOSE))
    assert strict["Car"]["2d"] == loose["Car"]["2d"]
    for metric in ("bev", "3d"):
        assert all(a < b for a, b in zip(strict["Car"][metric]["AP40"], loose["Car"][metric]["AP40"], strict=True))


def test_a_perfect_detector_of_few_labels(tmp_path):
    """n valid labels (n <= 40) give n thresholds, so AP40 is (n - 1) / 40 (NOTES 7.9)."""
    files = {f"{frame:06d}.txt": LABEL + "\n" for frame in range(9)}
    found = dict.fromkeys(files, RESULT + "\n")
    figures = evaluate_folders(*write_sets(tmp_path, files, found))
    assert list(figures) == ["Car"]
    for metric in ("2d", "aos", "bev", "3d"):
        near(figures["Car"][metric]["AP40"], [20.0] * 3, 1e-5)
        near(figures["Car"][metric]["AP11"], [100 * 3 / 11] * 3, 1e-5)


def test_thresholds_are_the_twins():
    rng = np.random.default_rng(0)
    for valid in (1, 7, 40, 41, 83, 500):
        scores = rng.integers(0, 100, rng.integers(valid // 2, valid + 1)) / 100
        recorded = evaluation._thresholds(scores.tolist(), valid)
        assert score_thresholds(scores, valid).tolist() == recorded
        assert len(recorded) <= 41


def test_nothing_true_and_nothing_false_is_undefined(tmp_path):
    """In the curve's pass an ignored label takes the better box, and DontCare excuses the other: 0 / 0."""
    van = LABEL.replace("Car", "Van")
    car = LABEL.replace("100 100 200 200", "100 100 200 290")
    region = "DontCare -1 -1 -10 100 100 200 150 -1 -1 -1 -1000 -1000 -1000 -10"
    best = RESULT.replace("100 100 200 200", "100 100 200 150").replace("0.9", "0.95")
    shared = RESULT.replace("100 100 200 200", "100 100 200 240")
    limits = STRICT | {"Car": {"2d": 0.45, "bev": 0.7, "3d": 0.7}}
    labels = "\n".join([van, car, region])
    folders = write_sets(tmp_path, {"000001.txt": labels}, {"000001.txt": f"{best}\n{shared}\n"})
    figures = evaluate_folders(*folders, limits)
    assert figures["Car"]["2d"] == {"AP11": [None] * 3, "AP40": [0.0] * 3}


def test_an_empty_file_is_a_frame_without_detections(tmp_path):
    labels = {f"{frame:06d}.txt": LABEL for frame in range(4)}
    folders = write_sets(tmp_path, labels, {"000000.txt": RESULT, "000001.txt": "", "000002.txt": "\n"})
    figures = evaluate_folders(*folders)
    # one of the three frames that have a file: one threshold, precision 1 at recall 0
    near(figures["Car"]["2d"]["AP11"], [100 / 11] * 3, 1e-5)
    only = write_sets(tmp_path / "only", labels, {"000000.txt": ""}) if (tmp_path / "only").mkdir() is None else None
    assert evaluate_folders(*only) == {}


# ----------------------------------------------------------------------------------------------------------- overlaps


def rectangles(rng, count: int) -> np.ndarray:
    """(x, z, l, w, ry), near one another."""
    return np.column_stack([rng.uniform(-2, 2, (count, 2)), rng.uniform(0.5, 5, (count, 2)), rng.uniform(-9, 9, count)])


def twins_box(rectangle) -> evaluation.Box:
    x, z, length, width, ry = rectangle
    return evaluation.Box("car", 0, 0, 0, 0, 0, 0, 0, 1, width, length, x, 0, z, ry)


def test_ground_intersections_are_the_twins():
    rng = np.random.default_rng(0)
    first, second = rectangles(rng, 2000), rectangles(rng, 2000)
    second[::5, 4] = first[::5, 4] + rng.integers(0, 4, 400) * np.pi / 2  # parallel and upright ones
    second[::7, :2] = first[::7, :2]
    expected = [evaluation.shared_ground(twins_box(b), twins_box(a)) for a, b in zip(first, second, strict=True)]
    near(ground_intersections(first, second), expected, 1e-12)
    assert np.mean(np.array(expected) > 0) > 0.5
    assert not ground_distant(first, second)[np.array(expected) > 0].any()


@pytest.mark.parametrize("turn", [0.0, 0.3, 1.5707963267948966, -2.0])
@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ((0, 0, 4, 2, 0), (0, 0, 4, 2, 0), 8),
        ((0, 0, 4, 2, 0), (0, 0, 4, 2, math.pi), 8),
        ((0, 0, 4, 2, 0), (0, 0, 2, 1, 0.5), 2),
        ((0, 0, 4, 2, 0), (4, 0, 4, 2, 0), 0),  # side to side
        ((0, 0, 4, 2, 0), (4, 2, 4, 2, 0), 0),  # corner to corner
        ((0, 0, 4, 2, 0), (2, 0, 4, 2, 0), 4),
        ((0, 0, 2, 2, 0), (0, 0, 2, 2, math.pi / 4), 8 * (math.sqrt(2) - 1)),  # a regular octagon
        ((0, 0, 2, 2, 0), (0, 0, 10, 0.5, math.pi / 4), 2 * math.sqrt(2) * 0.5 - 2 * 0.25**2),  # a band's two ends cut
        ((0, 0, 4, 2, 0), (0, 0, 0, 0, 0.5), 0),
    ],
)
def test_ground_intersections_in_closed_form(first, second, expected, turn):
    """Whichever is first, and however the two are turned together."""
    cos, sin = math.cos(turn), math.sin(turn)
    pair = [(x * cos + z * sin + 30, -x * sin + z * cos - 70, a, b, ry + turn) for x, z, a, b, ry in (first, second)]
    a, b = np.array(pair[:1], float), np.array(pair[1:], float)
    near(ground_intersections(a, b), [expected], 1e-12)
    near(ground_intersections(b, a), [expected], 1e-12)


def test_upright_intersections():
    first = np.array([[0, 0, 10, 10], [0, 0, 10, 10], [0, 0, 10, 10], [0, 0, 10, 10.0]])
    second = np.array([[5, 5, 20, 20], [10, 0, 20, 10], [20, 20, 30, 30], [8, 8, 2, 2.0]])
    assert image_intersections(first, second).tolist() == [25, 0, 0, 0]
    heights = height_intersections(np.array([[1, 2], [1, 2.0]]), np.array([[2, 2], [4, 1.0]]))
    assert heights.tolist() == [1, 0]


# ---------------------------------------------------------------------------------------------- files and bad input


def test_both_places_of_results_and_any_case(tmp_path):
    labels, results = write_sets(tmp_path, {"000007.txt": LABEL}, {"000007.txt": RESULT.replace("Car", "cAR")})
    (results / "notes.txt").write_text("not a result file")
    assert evaluate_folders(labels, results) == evaluate_folders(labels, tmp_path)
    assert list(evaluate_folders(labels, results)) == ["Car"]


BAD = {
    "15 fields": ("", RESULT.rsplit(" ", 1)[0]),
    "17 fields": ("", RESULT + " 1"),
    "score is 'high'": ("", RESULT.replace("0.9", "high")),
    "z is 'nan', not finite": ("", RESULT.replace("20.0", "nan")),
    "score is 'inf', not finite": ("", RESULT.replace("0.9", "inf")),
    "14 fields": (LABEL.rsplit(" ", 1)[0], RESULT),
    "occlusion is '0.0', not an integer": (LABEL.replace("0.00 0 ", "0.00 0.0 "), RESULT),
    "h is 'tall'": (LABEL.replace("1.5 1.6", "tall 1.6"), RESULT),
    "ry is '-inf', not finite": (LABEL.replace(" -1.5", " -inf", 2).replace("-inf7", "-1.57"), RESULT),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_lines(tmp_path, message):
    label, result = BAD[message]
    folders = write_sets(tmp_path, {"000003.txt": f"{LABEL}\n{label}\n"}, {"000003.txt": f"{RESULT}\n\n{result}\n"})
    with pytest.raises(InputError) as caught:
        read_folders(*folders)
    place = "label_2/000003.txt:2: " if label else "data/000003.txt:3: "
    assert place in str(caught.value) and message in str(caught.value) and "\n" not in str(caught.value)


def test_missing_files(tmp_path):
    labels, results = write_sets(tmp_path, {"000001.txt": LABEL}, {})
    for folders, message in (
        ((tmp_path / "none", results), "no such folder of labels"),
        ((labels, tmp_path / "none"), "no such folder of results"),
        ((labels, results), "no result files"),
    ):
        with pytest.raises(InputError, match=message):
            read_folders(*folders)
    (results / "000002.txt").write_text(RESULT)
    with pytest.raises(InputError, match=r"000002\.txt: no such label file"):
        read_folders(labels, results)


@pytest.mark.parametrize("scored", [False, True])
def test_hostile_files(tmp_path, scored):
    def read(path: Path) -> None:
        objects = read_objects([path], scored)
        for value in vars(objects).values():
            assert isinstance(value, tuple) or (np.isfinite(value).all() and len(value) == len(objects))
        others = read_objects([], not scored)
        precision_curves(*((others, objects) if scored else (objects, others)))

    text = (f"{RESULT}\n" if scored else f"{LABEL}\n") * 4
    assert fuzz_reader(read, tmp_path / "000000.txt", text.encode(), 300, seed=int(scored)) > 60


def test_absurd_numbers_do_not_match(tmp_path):
    huge = RESULT.replace("4.0 1.0", "1e308 -1e308").replace("200 200", "1e308 1e308")
    folders = write_sets(tmp_path, {"000001.txt": LABEL}, {"000001.txt": f"{huge}\n{RESULT}"})
    # one of two results of the same score is right
    near(evaluate_folders(*folders)["Car"]["3d"]["AP11"], [50 / 11] * 3, 1e-5)


# ------------------------------------------------------------------------------------------------------- evaluate.py


def test_script_without_paddle(tmp_path):
    write_frames(tmp_path, 30, seed=1)
    target = tmp_path / "out" / "metrics.json"
    words = ["--label_dir", str(tmp_path / "label_2"), "--result_dir", str(tmp_path), "--output", str(target)]
    code = "import sys, evaluate; evaluate.main(sys.argv[1:]); sys.exit(7 if 'paddle' in sys.modules else 0)"
    done = subprocess.run([sys.executable, "-c", code, *words], cwd=SCRIPT.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(target.read_text()) == evaluate_folders(tmp_path / "label_2", tmp_path)
    assert "30 frames" in done.stdout and "overlaps: strict" in done.stdout
    assert len(done.stdout.splitlines()) == 3 + 12


def test_script_says_what_is_scored(tmp_path, capsys):
    unknown = RESULT.replace("Car", "Dog")
    labels, results = write_sets(tmp_path, {"000001.txt": LABEL}, {"000001.txt": f"{unknown}\n{RESULT}"})
    main(["--label_dir", str(labels), "--result_dir", str(results), "--overlap", "loose"])
    said = capsys.readouterr().out
    assert "overlaps: loose" in said and "'Dog'" in said and "bev         0.50" in said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "--weights W --data_path D is missing"),
        (["--label_dir", "X"], "belong together"),
        (["--label_dir", "X", "--result_dir", "Y", "--weights", "Z"], "drop it"),
        (["--weights", "/none.pdparams"], "no such file"),
    ],
)
def test_script_needs_one_form(words, message):
    done = subprocess.run([sys.executable, SCRIPT, *words], capture_output=True, text=True)
    assert done.returncode == 2 and message in done.stderr and done.stderr.count("\n") == 1
