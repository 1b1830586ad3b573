"""Two records in, a verdict out.

    python -m shared.diff PORT REFERENCE [--rtol R] [--atol A] [--log FILE] [--json FILE] [--all]

What reprod_log lets through is a failure here: a missing name, another shape (nothing is broadcast or transposed),
another dtype, NaN, infinities. Differences are computed in float64, those of integers exactly.
"""

import argparse
import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from shared import InputError, run
from shared.align.record import Record
from shared.files import atomic_write_text, write_json
from shared.tables import text_table

FAMILIES = {"b": "bool", "i": "integer", "u": "integer", "f": "float", "c": "complex", "U": "text"}


@dataclass(frozen=True)
class Tolerance:
    """A tensor passes when one of the stated bounds holds: ‖a−b‖/‖b‖ <= `relative`, or max |a−b| <= `absolute`.

    None: that bound is not offered; at least one must be. `Tolerance(absolute=0)` asks for equal arrays;
    `Tolerance(1e-3, 1e-9)` is a relative bound with a floor for dead gradients. Integers have no rounding: only
    `absolute` applies to them. Bools and text must be equal, whatever is stated.

    `dtype`: "same" type and width; "kind": any width of one kind (float32 with float64, int32 with uint8); "any": all
    numbers and bools.
    `allow_nan`: NaN at the same index on both sides agrees. Infinities of one sign at the same index always agree.
    """

    relative: float | None = None
    absolute: float | None = None
    dtype: str = "same"
    allow_nan: bool = False

    def __post_init__(self) -> None:
        bounds = [bound for bound in (self.relative, self.absolute) if bound is not None]
        if not bounds or not all(bound >= 0 for bound in bounds):
            raise ValueError("a tolerance states a relative or an absolute bound, none below 0")
        if self.dtype not in ("same", "kind", "any"):
            raise ValueError(f"dtype={self.dtype!r}: same, kind or any")

    def __str__(self) -> str:
        stated = (("relative", self.relative), ("max", self.absolute))
        return " or ".join(f"{name} <= {bound:g}" for name, bound in stated if bound is not None)


Tolerances = Tolerance | Mapping[str, Tolerance] | Callable[[str], Tolerance]


@dataclass
class TensorDiff:
    """The verdict on one name; `a` is what is judged, `b` the reference. Figures that do not exist are NaN.

    `worst_index` and `worst_values` (a's, b's): the largest difference, or the first NaN or infinity without its like.
    `excess`: how often the error exceeds the bound that is nearest to holding; inf for what has no figures.
    Text and bools differ by 1 or 0, so their mean is the share of elements that differ.
    """

    name: str
    shape: tuple[int, ...] | None
    reference_shape: tuple[int, ...] | None
    tolerance: Tolerance
    passed: bool = False
    reason: str = ""
    mean_abs: float = math.nan
    max_abs: float = math.nan
    min_abs: float = math.nan
    relative: float = math.nan
    cosine: float = math.nan
    worst_index: tuple[int, ...] | None = None
    worst_values: tuple[Any, Any] | None = None
    excess: float = math.inf

    @property
    def figures(self) -> tuple[float, float, float, float]:
        return self.mean_abs, self.max_abs, self.relative, self.cosine

    def as_dict(self) -> dict[str, Any]:
        """For strict JSON: NaN is null, infinities are "inf" and "-inf"."""
        return {field.name: _json_value(getattr(self, field.name)) for field in fields(self)}


@dataclass
class Diff:
    """The verdicts of two records, in the reference's order, then what only `a` has."""

    tensors: list[TensorDiff]

    @property
    def passed(self) -> bool:
        """False also when there was nothing to compare."""
        return bool(self.tensors) and not self.failures

    @property
    def failures(self) -> list[TensorDiff]:
        return [tensor for tensor in self.tensors if not tensor.passed]

    @property
    def worst(self) -> TensorDiff | None:
        return max(self.tensors, key=lambda tensor: (not tensor.passed, tensor.excess), default=None)

    def as_dict(self) -> dict[str, Any]:
        return {"passed": self.passed, "tensors": [tensor.as_dict() for tensor in self.tensors]}

    def summary(self) -> str:
        if not self.tensors:
            return "differs: there is nothing to compare"
        worst = self.worst
        if not worst.passed:
            count = f"{len(self.failures)} of {len(self.tensors)}"
            return f"differs: {count} beyond tolerance (worst: {worst.name}, {worst.reason})"
        figures = f"relative {worst.relative:.3g}, max {worst.max_abs:.3g}"
        return f"passed: all {len(self.tensors)} within tolerance (worst: {worst.name}, {figures})"

    def table(self, limit: int | None = None) -> str:
        """Aligned text, worst first, at most `limit` rows; the last line is `summary()`."""
        ranked = sorted(self.tensors, key=lambda tensor: (tensor.passed, -tensor.excess))
        rows = [(_mark(t), t.name, _shape(t), *t.figures, _note(t)) for t in ranked[:limit]]
        lines = [text_table(("", "name", "shape", "mean", "max", "relative", "cosine", "note"), rows)] if rows else []
        if len(rows) < len(ranked):
            lines.append(f"... and {len(ranked) - len(rows)} more")
        return "\n".join([*lines, self.summary()])

    def write_log(self, path: str | Path, method: str | Sequence[str] = "mean", threshold: float | None = None) -> bool:
        """Write reprod_log's log and return what its last line says.

        `method`: mean, min, max, all (min, max, mean), or a list of these. A value passes as its tensor did, or, where
        `threshold` is given, when it is at most that. A tensor without figures prints nan, False, and the reason.
        """
        methods = ("min", "max", "mean") if method == "all" else (method,) if isinstance(method, str) else tuple(method)
        if not methods or not set(methods) <= {"min", "max", "mean"}:
            raise ValueError(f"method {method!r}: mean, min, max or all")
        texts, verdicts = [], [bool(self.tensors)]
        for tensor in self.tensors:
            texts.append(f"{tensor.name}: ")
            for name in methods:
                value = float(getattr(tensor, f"{name}_abs"))
                verdicts.append(tensor.passed if threshold is None else value <= threshold)
                reason = f" ({tensor.reason})" if math.isnan(value) else ""
                texts.append(f"\t{name} diff: check passed: {verdicts[-1]}, value: {value!r}{reason}")
        texts.append(f"diff check {'passed' if all(verdicts) else 'failed'}")
        stamp = time.strftime("%Y/%m/%d %H:%M:%S")
        atomic_write_text(path, "".join(f"[{stamp}] root INFO: {text}\n" for text in texts))
        return all(verdicts)


def compare(a: Mapping[str, Any], b: Mapping[str, Any], tolerance: Tolerances, squeeze_scalars: bool = False) -> Diff:
    """Compare `a` with the reference `b` (records, or mappings of arrays), name by name.

    `tolerance`: one for all; a function of the name; or a mapping of regular expressions, of which the first that
    matches the start of the name counts (so a plain prefix works; "" matches the rest). KeyError where none does.
    `squeeze_scalars`: take shape (1,) for a scalar, as Paddle 2.2 wrote them.
    """
    a, b = (side if isinstance(side, Record) else Record(side) for side in (a, b))
    tensors = []
    for name in [*b, *(name for name in a if name not in b)]:
        sides = [side.get(name) for side in (a, b)]
        if squeeze_scalars:
            sides = [side.reshape(()) if side is not None and side.shape == (1,) else side for side in sides]
        shapes = [None if side is None else side.shape for side in sides]
        verdict = TensorDiff(name, shapes[0], shapes[1], _tolerance_for(name, tolerance))
        with np.errstate(over="ignore", invalid="ignore"):
            _judge(verdict, *sides)
        tensors.append(verdict)
    return Diff(tensors)


def _tolerance_for(name: str, tolerance: Tolerances) -> Tolerance:
    if isinstance(tolerance, Tolerance):
        return tolerance
    if callable(tolerance):
        return tolerance(name)
    for pattern, stated in tolerance.items():
        if re.match(pattern, name):
            return stated
    raise KeyError(f"{name}: no tolerance is stated for it")


def _judge(verdict: TensorDiff, a: np.ndarray | None, b: np.ndarray | None) -> None:
    """Fill in `verdict`; it stays a failure without figures when there is nothing that could be subtracted."""
    tolerance = verdict.tolerance
    if a is None or b is None:
        verdict.reason = "missing" if a is None else "not in the reference"
    elif a.shape != b.shape:
        verdict.reason = f"shape {a.shape} against {b.shape}"
    elif not _dtypes_agree(a.dtype, b.dtype, tolerance.dtype):
        verdict.reason = f"dtype {a.dtype} against {b.dtype}"
    else:
        family = {FAMILIES[a.dtype.kind], FAMILIES[b.dtype.kind]}
        if family & {"float", "complex"}:
            a, b = (side.astype(np.complex128 if "complex" in family else np.float64) for side in (a, b))
            finite = np.isfinite(a) & np.isfinite(b)
            agree = finite | (a == b) | (np.isnan(a) & np.isnan(b) & tolerance.allow_nan)
            if not agree.all():
                _locate(verdict, a, b, agree.argmin())
                verdict.reason = f"{np.count_nonzero(~agree)} NaN or infinite"
                return
            a, b = (np.where(finite, side, 0) for side in (a, b))
            difference = np.abs(a - b)
        elif family & {"integer"}:
            difference = _integer_difference(a, b)
        else:
            difference = (a != b).astype(np.float64)
        _measure(verdict, a, b, difference)
        _apply(verdict, family, difference)


def _dtypes_agree(a: np.dtype, b: np.dtype, rule: str) -> bool:
    if "U" in (a.kind, b.kind) or rule == "kind":  # the width of text is that of its longest element
        return FAMILIES[a.kind] == FAMILIES[b.kind]
    return rule == "any" or (a.kind, a.itemsize) == (b.kind, b.itemsize)


def _integer_difference(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """|a−b| without wrapping and without rounding a difference to 0; float64."""
    beyond_int64 = [(side.dtype.kind, side.dtype.itemsize) == ("u", 8) for side in (a, b)]
    if all(beyond_int64):
        difference = np.maximum(a, b) - np.minimum(a, b)
    elif any(beyond_int64):
        difference = np.abs(a.astype(object) - b.astype(object))
    else:
        a, b = a.astype(np.int64), b.astype(np.int64)
        # The difference of two int64 fits in uint64, and subtraction modulo 2**64 gives it.
        difference = np.maximum(a, b).astype(np.uint64) - np.minimum(a, b).astype(np.uint64)
    return np.asarray(difference, dtype=np.float64)


def _measure(verdict: TensorDiff, a: np.ndarray, b: np.ndarray, difference: np.ndarray) -> None:
    if not difference.size:
        verdict.mean_abs = verdict.max_abs = verdict.min_abs = verdict.relative = 0.0
        verdict.cosine = 1.0
        return
    verdict.mean_abs, verdict.max_abs, verdict.min_abs = (float(f(difference)) for f in (np.mean, np.max, np.min))
    _locate(verdict, a, b, difference.argmax())
    if b.dtype.kind == "U":
        verdict.relative = math.inf if verdict.max_abs else 0.0
        return
    a, b = (side.ravel() if side.dtype.kind == "c" else side.ravel().astype(np.float64) for side in (a, b))
    error, length_a, length_b = _norm(difference), _norm(a), _norm(b)
    verdict.relative = error / length_b if length_b else math.inf if error else 0.0
    if length_a and length_b:
        verdict.cosine = min(1.0, float(np.vdot(a / length_a, b / length_b).real))
    else:
        verdict.cosine = float(length_a == length_b)


def _norm(array: np.ndarray) -> float:
    """Euclidean norm that does not underflow or overflow on the way."""
    largest = np.abs(array).max()
    if largest == 0 or not np.isfinite(largest):
        return float(largest)
    return float(largest * np.linalg.norm((array / largest).ravel()))


def _locate(verdict: TensorDiff, a: np.ndarray, b: np.ndarray, flat_index: np.integer) -> None:
    index = np.unravel_index(flat_index, a.shape)
    verdict.worst_index = tuple(int(i) for i in index)
    verdict.worst_values = (a[index].item(), b[index].item())


def _apply(verdict: TensorDiff, family: set[str], difference: np.ndarray) -> None:
    tolerance, checks = verdict.tolerance, []
    if family & {"float", "complex"} and tolerance.relative is not None:
        checks.append(("relative", verdict.relative, tolerance.relative))
    if family & {"float", "complex", "integer"} and tolerance.absolute is not None:
        checks.append(("max", verdict.max_abs, tolerance.absolute))
    if not checks:
        checks.append(("max", verdict.max_abs, 0.0))
    verdict.passed = any(value <= bound for _, value, bound in checks)
    verdict.excess = min(_excess(value, bound) for _, value, bound in checks)
    if not verdict.passed:
        bounds = " and ".join(f"{name} {value:.3g} > {bound:g}" for name, value, bound in checks)
        exact = not family & {"float", "complex"}
        verdict.reason = exact * f"{np.count_nonzero(difference)} of {difference.size} not equal, " + bounds


def _excess(value: float, bound: float) -> float:
    if value == 0:
        return 0.0
    return value / bound if bound and not math.isnan(value) else math.inf


def _mark(tensor: TensorDiff) -> str:
    return "ok" if tensor.passed else "DIFF"


def _shape(tensor: TensorDiff) -> str:
    shape = tensor.shape if tensor.reference_shape is None else tensor.reference_shape
    return "x".join(str(size) for size in shape) or "scalar"


def _note(tensor: TensorDiff) -> str:
    if tensor.passed or tensor.worst_values is None:
        return tensor.reason
    index, values = ", ".join(map(str, tensor.worst_index)), tensor.worst_values
    return f"{tensor.reason}; worst at [{index}]: {_value_text(values[0])} against {_value_text(values[1])}"


def _value_text(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)[:40]


def _json_value(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    if isinstance(value, tuple):
        return [_json_value(inner) for inner in value]
    if isinstance(value, Tolerance):
        return {field.name: _json_value(getattr(value, field.name)) for field in fields(value)}
    return str(value) if isinstance(value, complex) else value


class ReprodDiffHelper:
    """reprod_log's differ on top of `compare`: same members and defaults, but `report` returns its verdict."""

    def load_info(self, path: str | Path) -> dict[str, np.ndarray]:
        return dict(Record.load(path))

    def compare_info(self, info1: Mapping[str, Any], info2: Mapping[str, Any]) -> None:
        self._diff = compare(info1, info2, Tolerance(absolute=0))

    def report(self, diff_method="mean", diff_threshold: float = 1e-6, path: str | Path = "./diff.txt") -> bool:
        passed = self._diff.write_log(path, diff_method, diff_threshold)
        print(Path(path).read_text(encoding="utf-8"), end="")
        return passed


def tolerance_of(options: argparse.Namespace) -> Tolerance:
    """The tolerance of --rtol, --atol and --dtype; relative 1e-5 where neither bound is given."""
    relative = 1e-5 if options.rtol is None and options.atol is None else options.rtol
    try:
        return Tolerance(relative, options.atol, options.dtype)
    except ValueError as error:
        raise InputError(f"--rtol, --atol: {error}") from error


def comparison_parser(verb: str, description: str, *files: str) -> argparse.ArgumentParser:
    """The parser of a verb that compares two files, with the options that `tolerance_of` reads."""
    parser = argparse.ArgumentParser(
        prog=f"python -m shared.{verb}",
        description=f"{description} Without --rtol and --atol, a tensor passes when norm(port - reference) / "
        "norm(reference) <= 1e-5; with both, when either bound holds.",
        epilog="exit status: 0 all within tolerance, 1 something differs, 2 bad usage or file",
    )
    for file in files:
        parser.add_argument(file)
    parser.add_argument("--rtol", type=float, metavar="R", help="norm(port - reference) / norm(reference) <= R passes")
    parser.add_argument("--atol", type=float, metavar="A", help="max |port - reference| <= A passes")
    parser.add_argument("--dtype", default="same", choices=["same", "kind", "any"], help="which dtypes may meet")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    what = "Compare two records (.npz of this package, .npy of reprod_log)."
    parser = comparison_parser("diff", what, "port", "reference")
    parser.add_argument("--squeeze-scalars", action="store_true", help="take shape (1,) for a scalar")
    parser.add_argument("--log", metavar="FILE", help="write a log in reprod_log's format")
    parser.add_argument("--json", metavar="FILE", help="write every figure as JSON")
    parser.add_argument("--all", action="store_true", help="print every row (default: the 30 worst)")
    options = parser.parse_args(argv)
    tolerance = tolerance_of(options)
    diff = compare(Record.load(options.port), Record.load(options.reference), tolerance, options.squeeze_scalars)
    print(diff.table(None if options.all else 30))
    if options.log:
        diff.write_log(options.log)
    if options.json:
        write_json(options.json, diff.as_dict())
    return 0 if diff.passed else 1


if __name__ == "__main__":
    run(main)
