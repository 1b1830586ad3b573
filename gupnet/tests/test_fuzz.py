"""Damaged labels, calibrations, lists and logs are read right or refused with one line that says why."""

from pathlib import Path

import numpy as np
import pytest

from shared.tests.fuzz import fuzz_reader

from datasets import read_calibration, read_objects
from datasets.kitti import read_split
from golden_files import fails
from metrics.results import TYPES
from plot_htl import read_log

LABELS = (
    "Truck 0.00 0 -1.57 599.41 156.40 629.75 189.25 2.85 2.63 12.34 0.47 1.49 69.44 -1.56\n"
    "Car 0.00 0 1.85 387.63 181.54 423.81 203.12 1.67 1.87 3.69 -16.53 2.39 58.49 1.57\n"
    "DontCare -1 -1 -10 503.89 169.71 590.61 190.13 -1 -1 -1 -1000 -1000 -1000 -10\n"
)
RESULTS = "Car 0.0 0 1.85 387.63 181.54 423.81 203.12 1.67 1.87 3.69 -16.53 2.39 58.49 1.57 0.71\n" * 3
CALIBRATION = (
    "P0: 7.2e+02 0 6.1e+02 0 0 7.2e+02 1.7e+02 0 0 0 1 0\n"
    "P2: 7.2e+02 0 6.1e+02 4.5e+01 0 7.2e+02 1.7e+02 2.2e-01 0 0 1 2.7e-03\n"
    "R0_rect: 1 0 0 0 1 0 0 0 1\n"
)


def test_labels_and_results(tmp_path):
    def read(path: Path) -> None:
        objects = read_objects(path)
        assert set(objects.types) <= set(TYPES)
        for name, value in vars(objects).items():
            if name != "types" and value is not None:
                assert len(value) == len(objects) and np.isfinite(value).all()

    assert fuzz_reader(read, tmp_path / "000000.txt", LABELS.encode(), 300) > 100
    assert fuzz_reader(read, tmp_path / "000000.txt", RESULTS.encode(), 200, seed=1) > 60


def test_calibrations(tmp_path):
    def read(path: Path) -> None:
        matrix = read_calibration(path).P2
        assert matrix.shape == (3, 4) and np.isfinite(matrix).all() and matrix[0, 0] > 0

    assert fuzz_reader(read, tmp_path / "000000.txt", CALIBRATION.encode(), 300) > 60


def test_lists(tmp_path):
    (tmp_path / "ImageSets").mkdir()

    def read(path: Path) -> None:
        frames = read_split(tmp_path, "train")
        assert frames and all(frame >= 0 for frame in frames)

    content = "".join(f"{number:06d}\n" for number in range(8)).encode()
    assert fuzz_reader(read, tmp_path / "ImageSets" / "train.txt", content, 200) > 60


def test_training_logs(tmp_path):
    terms = "seg offset2d size2d depth offset3d size3d heading".split()
    weights, losses = (", ".join(f"{term}{end}: 0.5000" for term in terms) for end in ("", "_loss"))
    log = f"2026-05-01 epoch  -1 | losses before\n2026 epoch  -1 | batch      0 | {losses} | time left: 1\n"
    log += (
        f"2026 epoch   0 | weights: {weights}\n2026 epoch   0 | batch      0 | loss: 2.0000 | {losses} | time left: 1\n"
    )

    def read(path: Path) -> None:
        assert all(np.isfinite([*one.weights.values(), *one.losses.values()]).all() for one in read_log(path))

    assert fuzz_reader(read, tmp_path / "train.log", log.encode(), 200) > 10


# ---- refused with the reason

LINE = "Car 0.00 0 1.85 387.63 181.54 423.81 203.12 1.67 1.87 3.69 -16.53 2.39 58.49 1.57"
P2 = "P2: 7.2e+02 0 6.1e+02 4.5e+01 0 7.2e+02 1.7e+02 2.2e-01 0 0 1 2.7e-03"


@pytest.mark.parametrize(
    "line, reason",
    [
        ("Car 0.00 0 1.85", "4 fields instead of 15"),
        (LINE + " 0.5 7", "17 fields"),
        (LINE.replace("Car", "Lorry"), "unknown type 'Lorry'"),
        (LINE.replace("58.49", "far"), "not a number"),
        (LINE.replace("58.49", "nan"), "not finite"),
        (LINE.replace("58.49", "inf"), "not finite"),
        (LINE.replace("58.49", "1e39"), "not finite"),
        (LINE + " 0.5", "some lines have a score"),
    ],
)
def test_bad_label_lines(line, reason, tmp_path):
    path = tmp_path / "000007.txt"
    path.write_text(f"{LINE}\n{line}\n")
    fails(lambda: read_objects(path), f"{path}", reason)
    if "some lines" not in reason:
        fails(lambda: read_objects(path), f"{path}:2")


def test_label_files_that_are_fine(tmp_path):
    path = tmp_path / "000007.txt"
    path.write_text("")
    assert len(read_objects(path)) == 0
    path.write_bytes(f"{LINE}  \r\n\r\n{LINE} \r\n".encode())
    objects = read_objects(path)
    assert objects.types == ("Car", "Car") and objects.boxes.dtype == np.float32 and objects.scores is None
    path.write_text("".join(LINE.replace("Car", kind) + " 0.25\n" for kind in TYPES))
    assert read_objects(path).types == TYPES and (read_objects(path).scores == 0.25).all()
    path.write_bytes(b"\xff\xfe\x00")
    fails(lambda: read_objects(path), str(path), "not a text file")
    fails(lambda: read_objects(tmp_path / "none.txt"), "none.txt", "No such file")


@pytest.mark.parametrize(
    "text, reason",
    [
        ("", "no line with P2"),
        (P2.replace("P2", "P1"), "no line with P2"),
        (P2.replace("7.2e+02", "nan"), "not 12 finite numbers"),
        (P2.replace("7.2e+02", "1e39"), "not 12 finite numbers"),
        (P2.rsplit(" ", 1)[0], "not 12 finite numbers"),
        (P2.replace("6.1e+02", "wide"), "not 12 numbers"),
        (P2.replace("7.2e+02", "0"), "focal length"),
    ],
)
def test_bad_calibrations(text, reason, tmp_path):
    path = tmp_path / "000007.txt"
    path.write_text(f"P0: 1 2 3\n{text}\r\n")
    fails(lambda: read_calibration(path), str(path), reason)
