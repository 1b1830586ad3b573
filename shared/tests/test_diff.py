import json
import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from shared import InputError
from shared.align.record import Record
from shared.diff import ReprodDiffHelper, Tolerance, compare, main

EQUAL, CLOSE = Tolerance(absolute=0), Tolerance(1e-5)
ANYTHING = Tolerance(absolute=math.inf, dtype="any", allow_nan=True)
LINE = re.compile(r"\[\d{4}/\d\d/\d\d \d\d:\d\d:\d\d\] root INFO: (.*)")


def one(a, b, tolerance=EQUAL):
    return compare({"x": a}, {"x": b}, tolerance).tensors[0]


@pytest.fixture(scope="module")
def tutorial():
    """What PaddlePaddle's tutorial published: name of the check -> (Paddle's record, torch's)."""
    arrays = Record.load(Path(__file__).parent / "golden/tutorial_records.npz")

    def side(prefix):
        return Record({name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)})

    return {
        check: (side(f"{check}_paddle/"), side(f"{check}_ref/")) for check in ("forward", "loss", "losses", "metric")
    }


def test_published_forward_records(tutorial):
    diff = compare(*tutorial["forward"], CLOSE)
    logits = diff.tensors[0]
    assert diff.passed
    assert logits.mean_abs == pytest.approx(2.308e-06, rel=1e-3)
    assert logits.max_abs == pytest.approx(8.82e-06, rel=1e-3)
    assert not compare(*tutorial["forward"], Tolerance(1e-6)).passed
    assert not compare(*tutorial["forward"], EQUAL).passed


def test_published_losses_need_squeezed_scalars(tutorial):
    strict = compare(*tutorial["losses"], CLOSE)
    assert {tensor.name for tensor in strict.failures} == {f"{kind}_{i}" for kind in ("loss", "lr") for i in range(3)}
    assert strict.tensors[0].reason == "shape (1,) against ()"
    squeezed = compare(*tutorial["losses"], CLOSE, squeeze_scalars=True)
    assert squeezed.passed
    means = {tensor.name: tensor.mean_abs for tensor in squeezed.tensors}
    assert means["loss_0"] == 1.9073486328125e-06 and means["loss_2"] == 9.5367431640625e-06 and means["lr_1"] == 0
    assert squeezed.worst.name == "loss_2"


def test_one_bound_is_enough():
    a, b = np.array([1.0, 2.0 + 1e-4]), np.array([1.0, 2.0])
    relative = 1e-4 / math.sqrt(5)
    assert one(a, b).relative == pytest.approx(relative, rel=1e-9)
    assert one(a, b, Tolerance(relative * 1.01)).passed and not one(a, b, Tolerance(relative * 0.99)).passed
    assert one(a, b, Tolerance(absolute=1.01e-4)).passed and not one(a, b, Tolerance(absolute=0.99e-4)).passed
    assert one(a, b, Tolerance(1e-9, 1e-3)).passed and one(a, b, Tolerance(1e-3, 1e-9)).passed
    failed = one(a, b, Tolerance(1e-9, 1e-9))
    assert not failed.passed and "relative" in failed.reason and "max" in failed.reason
    assert failed.excess == pytest.approx(relative / 1e-9)


def test_the_floor_saves_dead_gradients_only():
    floor = Tolerance(1e-3, 1e-9)
    assert one(np.array([3e-10, 0]), np.array([0, 1e-12]), floor).passed
    assert not one(np.array([3e-8, 0]), np.array([0, 1e-12]), floor).passed


def test_figures_and_place_of_the_worst_element():
    b = np.array([[1.0, 2.0], [3.0, 4.0]], np.float32)
    a = b.copy()
    a[1, 0] += 0.5
    found = one(a, b)
    assert (found.mean_abs, found.max_abs, found.min_abs) == (0.125, 0.5, 0.0)
    assert found.worst_index == (1, 0) and found.worst_values == (3.5, 3.0)
    assert found.relative == pytest.approx(0.5 / math.sqrt(30))
    assert found.cosine == pytest.approx((30 + 1.5) / math.sqrt(30 * 33.25))


def test_comparison_is_in_float64():
    a, b = np.float32([16777216.0]), np.float32([16777218.0])
    assert one(a, b).max_abs == 2.0
    big = np.full(4, 60000, np.float16)  # the sum of squares, even of two, is beyond float16
    assert one(big, -big).relative == 2.0
    huge = np.full(3, 1e300)
    assert one(huge, -huge).relative == pytest.approx(2.0)
    tiny = np.full(3, 1e-300)
    assert one(tiny, 2 * tiny).relative == pytest.approx(0.5)


def test_a_reference_of_zeros():
    zeros = np.zeros(3)
    assert one(zeros, zeros, CLOSE).relative == 0 and one(zeros, zeros, CLOSE).passed
    assert one(zeros + 1e-30, zeros, CLOSE).relative == math.inf and not one(zeros + 1e-30, zeros, CLOSE).passed


NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("a", "b", "place"),
    [([1, NAN], [1, 2], 1), ([1, 2], [NAN, 2], 0), ([0, NAN], [0, NAN], 1), ([INF, 1], [1, 1], 0), ([INF], [-INF], 0)],
)
def test_nan_and_infinities_fail(a, b, place):
    found = one(np.array(a, float), np.array(b, float), Tolerance(1e9, math.inf))
    assert not found.passed and found.worst_index == (place,) and "1 NaN or infinite" in found.reason


def test_nan_and_infinities_that_agree():
    a = np.array([NAN, INF, -INF, 1.0])
    b = np.array([NAN, INF, -INF, 1.5])
    found = one(a, b, Tolerance(absolute=0.5, allow_nan=True))
    assert found.passed and found.max_abs == 0.5
    assert not one(a, b, Tolerance(absolute=0.4, allow_nan=True)).passed
    assert one(a[1:], b[1:], Tolerance(absolute=0.5)).passed
    assert not one(a[::-1], b, ANYTHING).passed
    assert not one(np.array(NAN), np.array(NAN), CLOSE).passed


@pytest.mark.parametrize("shapes", [((3,), (2, 3)), ((), (1,)), ((2, 3), (3, 2)), ((0,), (0, 1)), ((1, 4), (4,))])
def test_nothing_is_broadcast_or_transposed(shapes):
    found = one(np.zeros(shapes[0]), np.zeros(shapes[1]), ANYTHING)
    assert not found.passed and found.reason == f"shape {shapes[0]} against {shapes[1]}"


def test_a_transposed_square_is_found():
    square = np.arange(9.0).reshape(3, 3)
    assert not one(square.T, square, CLOSE).passed


def test_empty_arrays_agree():
    assert one(np.zeros((0, 3)), np.zeros((0, 3))).passed
    assert one(np.zeros(0, "U3"), np.zeros(0, "U5")).passed


@pytest.mark.parametrize(
    ("a", "b", "rules"),
    [
        ("f4", "f4", "same kind any"),
        ("f4", ">f4", "same kind any"),
        ("f4", "f8", "kind any"),
        ("u1", "i8", "kind any"),
        ("i4", "f4", "any"),
        ("?", "u1", "any"),
        ("f4", "c8", "any"),
        ("U1", "f4", ""),
    ],
)
def test_dtypes_meet_only_where_stated(a, b, rules):
    for rule in ("same", "kind", "any"):
        found = one(np.zeros(2, a), np.zeros(2, b), Tolerance(1e-5, dtype=rule))
        assert found.passed == (rule in rules.split()), rule
        assert found.passed or found.reason == f"dtype {np.dtype(a)} against {np.dtype(b)}"


def test_integers_are_subtracted_exactly():
    assert one(np.uint8([1]), np.uint8([2])).max_abs == 1
    assert one(np.int64([-(2**63)]), np.int64([2**63 - 1])).max_abs == 2.0**64
    assert one(np.int64([2**62 + 1]), np.int64([2**62])).max_abs == 1
    assert one(np.uint64([2**64 - 1]), np.int64([-1]), Tolerance(absolute=0, dtype="kind")).max_abs == 2.0**64
    assert one(np.uint64(5), np.uint64(7)).max_abs == 2
    assert one(np.array([2**64 - 1], ">u8"), np.array([0], ">u8")).max_abs == 2.0**64
    assert one(np.int64([2**40 + 1]), np.int64([0])).max_abs == 2**40 + 1


def test_integers_know_no_relative_tolerance_and_bools_none():
    a, b = np.array([100_000, 1]), np.array([100_001, 1])
    assert not one(a, b, Tolerance(0.5)).passed
    assert one(a, b, Tolerance(absolute=1)).passed
    assert one(a, b, Tolerance(0.5)).reason.startswith("1 of 2 not equal")
    found = one(np.array([True, False]), np.array([True, True]), Tolerance(9.0, 9.0))
    assert not found.passed and found.mean_abs == 0.5


def test_text_is_compared_by_equality():
    assert one(np.array(["car", "van"]), np.array(["car", "van"], "U9")).passed
    found = one(np.array(["car", "bus"]), np.array(["car", "van"]), ANYTHING)
    assert not found.passed and found.worst_values == ("bus", "van")


def test_complex_numbers():
    assert one(np.array([3 + 4j]), np.array([0j]), Tolerance(absolute=5)).passed
    assert not one(np.array([3 + 4j]), np.array([4 + 3j]), CLOSE).passed


def test_permuted_outputs_with_equal_means_are_found():
    b = np.random.default_rng(0).normal(size=(4, 8))
    assert not one(b[:, ::-1], b, CLOSE).passed


def test_missing_names_fail_each_by_name():
    diff = compare({"a": 1, "extra": 2}, {"a": 1, "b": 2, "c": 3}, EQUAL)
    assert [(t.name, t.reason) for t in diff.failures] == [
        ("b", "missing"),
        ("c", "missing"),
        ("extra", "not in the reference"),
    ]


def test_two_empty_records_do_not_pass():
    diff = compare({}, {}, EQUAL)
    assert not diff.passed and "nothing to compare" in diff.table()


def test_tolerances_by_name():
    a, b = {"loss/a": 1.001, "lr": 0.1}, {"loss/a": 1.0, "lr": 0.1}
    assert compare(a, b, {"loss/": Tolerance(1e-2), "": EQUAL}).passed
    assert not compare(a, b, {r"lo.*/b": Tolerance(1e-2), "": EQUAL}).passed
    assert compare(a, b, lambda name: EQUAL if name == "lr" else Tolerance(1e-2)).passed
    with pytest.raises(KeyError, match="lr"):
        compare(a, b, {"loss": EQUAL})


@pytest.mark.parametrize("bad", [{}, {"relative": -1.0}, {"absolute": math.nan}, {"absolute": 0, "dtype": "float"}])
def test_senseless_tolerances(bad):
    with pytest.raises(ValueError):
        Tolerance(**bad)


@given(hnp.arrays(st.sampled_from(["f4", "f8"]).map(np.dtype), hnp.array_shapes(min_dims=0, max_dims=3), elements={}))
@settings(max_examples=50, deadline=None)
def test_figures_agree_with_numpy(b):
    b = np.nan_to_num(b, nan=0.5, posinf=1, neginf=-1).clip(-1e6, 1e6)
    a = b + b.dtype.type(0.25)
    found, error = one(a, b), np.abs(a.astype("f8") - b)
    assert (found.max_abs, found.min_abs) == (error.max(), error.min())
    assert found.mean_abs == pytest.approx(error.mean(), rel=1e-12)
    norm = np.linalg.norm(b.astype("f8").ravel())
    assert found.relative == (
        pytest.approx(np.linalg.norm(error.ravel()) / norm, rel=1e-9) if norm > 1e-150 else found.relative
    )
    assert one(b, b).passed and one(b, b).relative == 0


def test_json_is_strict():
    a = {"nan": np.array([NAN]), "zero": np.array([1.0]), "shape": np.zeros(2), "text": "a", "c": 1 + 2j, "ok": 1}
    b = {"nan": np.array([INF]), "zero": np.array([0.0]), "shape": np.zeros(3), "text": "b", "c": 1 + 0j, "ok": 1}
    loaded = json.loads(json.dumps(compare(a, b, Tolerance(1.0, 0.0)).as_dict(), allow_nan=False))
    tensors = {tensor["name"]: tensor for tensor in loaded["tensors"]}
    assert loaded["passed"] is False
    assert tensors["zero"]["relative"] == "inf" and tensors["nan"]["worst_values"] == [None, "inf"]
    assert tensors["shape"]["max_abs"] is None and tensors["shape"]["reference_shape"] == [3]
    assert tensors["ok"]["passed"] is True and tensors["ok"]["tolerance"]["relative"] == 1.0


def test_table_shows_the_worst_first():
    a, b = {"fine": 1.0, "bad": 1.1, "worse": 3.0}, {"fine": 1.0, "bad": 1.0, "worse": 1.0}
    lines = compare(a, b, CLOSE).table().splitlines()
    assert [line.split()[:2] for line in lines[1:4]] == [["DIFF", "worse"], ["DIFF", "bad"], ["ok", "fine"]]
    assert lines[4].startswith("differs: 2 of 3 beyond tolerance (worst: worse")
    assert len({line.index("scalar") for line in lines[1:4]}) == 1
    assert "... and 2 more" in compare(a, b, CLOSE).table(limit=1)


def read_log(path):
    return [LINE.fullmatch(line).group(1) for line in path.read_text().splitlines()]


def test_log_has_reprod_logs_lines(tmp_path, tutorial):
    path = tmp_path / "log/forward_diff.log"
    diff = compare(*tutorial["forward"], CLOSE)
    for _ in range(2):  # reprod_log doubles its lines at the second report
        assert diff.write_log(path)
    value = repr(diff.tensors[0].mean_abs)
    assert read_log(path) == ["logits: ", f"\tmean diff: check passed: True, value: {value}", "diff check passed"]
    assert not diff.write_log(path, "all", threshold=5e-6)
    assert [text.split(",")[0] for text in read_log(path)] == [
        "logits: ",
        "\tmin diff: check passed: True",
        "\tmax diff: check passed: False",
        "\tmean diff: check passed: True",
        "diff check failed",
    ]
    assert diff.write_log(path, ["mean"], threshold=diff.tensors[0].mean_abs), "only above the threshold fails"


def test_log_of_what_cannot_be_subtracted(tmp_path):
    diff = compare({"a": NAN, "b": 1.0}, {"a": NAN, "b": 1.0, "c": 1.0}, CLOSE)
    assert not diff.write_log(tmp_path / "d.log", threshold=1e9)
    assert read_log(tmp_path / "d.log") == [
        "a: ",
        "\tmean diff: check passed: False, value: nan (1 NaN or infinite)",
        "b: ",
        "\tmean diff: check passed: True, value: 0.0",
        "c: ",
        "\tmean diff: check passed: False, value: nan (missing)",
        "diff check failed",
    ]


def test_reprod_diff_helper(tmp_path, tutorial, capsys):
    for record, name in zip(tutorial["forward"], ("paddle.npy", "ref.npy"), strict=True):
        record.save(tmp_path / name)
    helper = ReprodDiffHelper()
    helper.compare_info(helper.load_info(tmp_path / "ref.npy"), helper.load_info(tmp_path / "paddle.npy"))
    assert helper.report(diff_threshold=1e-5, path=tmp_path / "d.txt") is True
    assert helper.report(path=tmp_path / "d.txt") is False
    assert capsys.readouterr().out.count("diff check") == 2
    helper.compare_info({"grads": {"w": np.zeros(2)}}, {"grads": {"w": np.zeros(2)}})
    assert helper.report("all", path=tmp_path / "d.txt")


def test_command_line(tmp_path, tutorial, capsys):
    paddle, torch = tutorial["losses"]
    paddle.save(tmp_path / "paddle.npz")
    torch.save(tmp_path / "torch.npy")
    files = [str(tmp_path / "paddle.npz"), str(tmp_path / "torch.npy")]
    assert main(files) == 1
    assert "shape (1,) against ()" in capsys.readouterr().out
    outputs = ["--log", str(tmp_path / "d.log"), "--json", str(tmp_path / "d.json")]
    assert main([*files, "--squeeze-scalars", *outputs]) == 0
    assert json.loads((tmp_path / "d.json").read_text())["passed"] is True
    assert read_log(tmp_path / "d.log")[-1] == "diff check passed"
    assert main([*files, "--squeeze-scalars", "--atol", "1e-6"]) == 1, "--atol alone drops the default --rtol"
    assert main([*files, "--squeeze-scalars", "--atol", "1e-6", "--rtol", "1e-5"]) == 0
    with pytest.raises(InputError, match="below 0"):
        main([*files, "--rtol", "-1"])


def test_bad_files_end_with_status_2(tmp_path):
    command = [sys.executable, "-m", "shared.diff", str(tmp_path / "none.npz"), str(tmp_path / "none.npz")]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 2 and ended.stderr.startswith("error: ") and ended.stderr.count("\n") == 1
