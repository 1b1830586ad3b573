"""The attention operator: golden figures, its gradients by differences, borders, threads, bad input, and its cache."""

import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import paddle
import pytest

from shared import InputError
from shared.weights import as_numpy

import ops
from golden_files import close, golden, sliced
from networks import SIDES
from ops import build

OPS = Path(build.__file__).parent
GRADIENTS = ("grad_value", "grad_sampling_locations", "grad_attention_weights")
LIMITS = {"float32": 1e-5, "float64": 1e-12}  # of the largest magnitude (NOTES 9.5)
CASES = [*golden("op")["meta/cases"].tolist(), "exact"]
both = pytest.mark.parametrize("implementation", ["compiled", "paddle"])


@pytest.fixture(autouse=True)
def _automatic_afterwards():
    yield
    ops.set_implementation("auto")


def starts_of(shapes) -> np.ndarray:
    return np.cumsum([0, *np.prod(shapes, 1)])[:-1]


def run(implementation: str | None, value, shapes, locations, weights, gradient=None, needed=(True, True, True)):
    """Arrays in, arrays out: the output, and with `gradient` the gradients (None: not asked for).

    `implementation`: one of ops, the torch twin's, or None for the one that is chosen.
    """
    side = SIDES["torch" if implementation == "twin" else "paddle"]
    if implementation in ops.IMPLEMENTATIONS:
        ops.set_implementation(implementation)
    floats = [side.tensor(array, asked) for array, asked in zip((value, locations, weights), needed, strict=True)]
    shapes, starts = side.tensor(np.asarray(shapes)), side.tensor(starts_of(shapes))
    output = side.operator(floats[0], shapes, starts, *floats[1:])
    if gradient is None:
        return as_numpy(output)
    output.backward(side.tensor(gradient))
    return [as_numpy(output), *(None if tensor.grad is None else as_numpy(tensor.grad) for tensor in floats)]


def draw(seed: int, batch=2, heads=3, channels=32, queries=9, points=4, shapes=((6, 4), (3, 2)), dtype=np.float64):
    """Random inputs of the operator (value, shapes, locations, weights) and a gradient of its output."""
    rng = np.random.default_rng(seed)
    tokens, levels = int(np.prod(shapes, 1).sum()), len(shapes)
    value = rng.normal(size=(batch, tokens, heads, channels))
    locations = rng.uniform(-0.2, 1.2, (batch, queries, heads, levels, points, 2))
    weights = rng.uniform(size=(batch, queries, heads, levels, points))
    gradient = rng.normal(size=(batch, queries, heads * channels))
    value, locations, weights, gradient = (array.astype(dtype) for array in (value, locations, weights, gradient))
    return (value, np.array(shapes), locations, weights), gradient


# ---------------------------------------------------------------- figures


@pytest.mark.parametrize("implementation", ["compiled", "paddle", "twin"])
@pytest.mark.parametrize("dtype", LIMITS)
@pytest.mark.parametrize("case", CASES)
def test_golden(case, dtype, implementation):
    """float32 where the file has its figures, otherwise against those of float64: 4.5e-5 of up to 129 lies between."""
    file, names = golden("op"), ("value", "sampling_locations", "attention_weights", "grad_output")
    value, locations, weights, gradient = (file[f"input/{case}/{name}"].astype(dtype) for name in names)
    results = run(implementation, value, file[f"input/{case}/spatial_shapes"], locations, weights, gradient)
    compared = 0
    for name, actual in zip(("output", *GRADIENTS), results, strict=True):
        keys = [f"output/{case}/{name}"] * (dtype == "float32") + [f"output64/{case}/{name}"]
        key = next((key for key in keys if key in file.files), None)
        if key is None:
            continue  # `exact` lies on the kinks: no gradient of the locations
        close(sliced(file, key, actual), file[key], LIMITS[dtype], f"{key}, {implementation}, {dtype}")
        compared += 1
    assert compared == (3 if case == "exact" else 4)


@both
def test_twin(implementation):
    """The torch twin on other shapes than the golden ones, with gradients."""
    inputs, gradient = draw(1, batch=3, heads=2, channels=7, queries=40, points=3, shapes=((5, 9), (1, 1), (2, 3)))
    pairs = zip(run(implementation, *inputs, gradient), run("twin", *inputs, gradient), strict=True)
    for name, (actual, expected) in zip(("output", *GRADIENTS), pairs, strict=True):
        close(actual, expected, 1e-12, name)


@pytest.mark.parametrize("channels", [1, 30, 32, 64, 71, 1025, 2048])
def test_gradients_are_differences(channels):
    """float64: the slope along a random direction, of each input alone, by central differences."""
    inputs, gradient = draw(channels, batch=1, heads=2, channels=channels, queries=2, points=2)
    value, shapes, locations, weights = inputs
    locations = 0.02 + np.round((locations + 0.2) * 40) / 45  # off the kinks: see the assertion
    floats, step = [value, locations, weights], 1e-6
    for height, width in shapes:
        places = locations * [width, height] - 0.5
        assert np.abs(places - np.round(places)).min() > 1e-3
    gradients = run("compiled", value, shapes, locations, weights, gradient)[1:]
    for index, name in enumerate(GRADIENTS):
        direction = np.random.default_rng(index).normal(size=floats[index].shape)
        values = []
        for sign in (1, -1):
            moved = [*floats]
            moved[index] = moved[index] + sign * step * direction
            values.append((run("compiled", moved[0], shapes, *moved[1:]) * gradient).sum())
        slope, expected = (values[0] - values[1]) / (2 * step), (gradients[index] * direction).sum()
        assert abs(slope - expected) <= 1e-7 * max(1, np.abs(gradients[index] * direction).sum()), name


# ---------------------------------------------------------------- borders


@both
def test_a_cell_outside_counts_for_nothing(implementation):
    """Exactly one cell outside, or NaN, or far away: zero, and zero gradients; half a cell outside: half."""
    value = np.full((1, 12, 1, 2), 3.0)
    shapes, far = [[3, 4]], 1e30
    middle = 0.375, 0.5  # the centre of a cell
    places = [(-0.125, 0.5), (1.125, 0.5), (0.375, -1 / 6), (0.375, 7 / 6), (np.nan, 0.5), (0.375, np.nan)]
    places += [(far, 0.5), (0.375, -far), (np.inf, 0.5), (0.0, 0.5), (0.375, 1.0), middle]
    locations = np.array(places).reshape(1, -1, 1, 1, 1, 2)
    weights, gradient = np.ones((1, len(places), 1, 1, 1)), np.ones((1, len(places), 2))
    output, to_value, to_locations, to_weights = run(implementation, value, shapes, locations, weights, gradient)
    outside = len(places) - 3
    assert not output[0, :outside].any() and not to_locations[0, :outside].any() and not to_weights[0, :outside].any()
    np.testing.assert_array_equal(output[0, outside:, 0], [1.5, 1.5, 3])
    np.testing.assert_allclose(to_locations[0, outside:-1, 0, 0, 0], [(24, 0), (0, -18)], atol=1e-12)
    assert to_value.sum() == 4  # 0.5 + 0.5 + 1, of both channels


@both
def test_points_that_do_not_count_hide_bad_weights(implementation):
    inputs, gradient = draw(2)
    inputs[2][:], inputs[3][:] = 7.0, np.nan
    for array in run(implementation, *inputs, gradient):
        assert not array.any()


# ---------------------------------------------------------------- shapes


@both
@pytest.mark.parametrize("sizes", [{"batch": 0}, {"queries": 0}])
def test_nothing_to_do(implementation, sizes):
    inputs, gradient = draw(3, **sizes)
    output, *gradients = run(implementation, *inputs, gradient)
    assert output.shape == gradient.shape
    for array, given in zip(gradients, (inputs[0], inputs[2], inputs[3]), strict=True):
        assert array.shape == given.shape and not array.any()


@both
def test_transposed_inputs(implementation):
    """Inputs that Paddle holds as views of other arrays."""
    inputs, _ = draw(4)
    value, shapes, locations, weights = inputs
    ops.set_implementation(implementation)
    views = [
        paddle.to_tensor(np.ascontiguousarray(array.swapaxes(1, 2))).transpose([0, 2, 1, *range(3, array.ndim)])
        for array in (value, locations, weights)
    ]
    starts = paddle.to_tensor(starts_of(shapes))
    actual = ops.ms_deform_attn(views[0], paddle.to_tensor(shapes), starts, *views[1:]).numpy()
    close(actual, run("compiled", *inputs), 1e-14)


@both
@pytest.mark.parametrize("needed", [(True, False, False), (False, True, False), (False, False, True)])
def test_one_gradient_alone(implementation, needed):
    """Paddle's grid_sample ends the process when it is the grid alone that needs a gradient."""
    inputs, gradient = draw(5)
    all_, alone = run("compiled", *inputs, gradient), run(implementation, *inputs, gradient, needed)
    for wanted, array, asked in zip(all_[1:], alone[1:], needed, strict=True):
        assert (array is not None) == asked
        if asked:
            close(array, wanted, 1e-12)


def test_half_precision_is_computed_in_float32():
    inputs, _ = draw(6, dtype=np.float32)
    value, shapes, locations, weights = inputs
    half = paddle.to_tensor(value).astype("bfloat16")
    starts = paddle.to_tensor(starts_of(shapes))
    rest = [paddle.to_tensor(array) for array in (locations, weights)]
    output = ops.ms_deform_attn(half, paddle.to_tensor(shapes), starts, *rest)
    assert output.dtype == paddle.bfloat16
    close(output.astype("float32").numpy(), run("compiled", half.astype("float32").numpy(), *inputs[1:]), 1e-2)


def wrong_inputs():
    """(what is wrong, the message, which input, what becomes of it)"""
    return [
        ("rank", r"value has shape \[2, 30, 96\], wanted \[N, S, M, D\]", 0, lambda a: a.reshape(2, 30, 96)),
        ("heads", r"sampling_locations has shape .* wanted \[2, Q, 3, L, P, 2\]", 3, lambda a: a[:, :, :2]),
        ("batch", r"sampling_locations has shape", 3, lambda a: a[:1]),
        ("pairs", r"sampling_locations has shape", 3, lambda a: a[..., :1]),
        ("points", r"attention_weights has shape .* wanted \[2, 9, 3, 2, 4\]", 4, lambda a: a[..., :3]),
        ("levels", r"spatial_shapes has shape \[1, 2\], wanted \[2, 2\]", 1, lambda a: a[:1]),
        ("starts", r"level_start_index has shape", 2, lambda a: a[:1]),
        ("sum", "the levels of spatial_shapes hold 30 tokens, value holds 29", 0, lambda a: a[:, 1:]),
        ("order", "level_start_index says 6 where spatial_shapes makes it 24", 2, lambda a: a // 4),
        ("empty level", "a level of 0 x 4", 1, lambda a: a * [[0, 1], [1, 1]]),
        ("integers", "value is int64, not float32 or float64", 0, lambda a: a.astype(np.int64)),
        ("mixed", "one floating type is needed, not value float64, sampling_locations float32", 3, np.float32),
        ("int32", "spatial_shapes is int32, not int64", 1, lambda a: a.astype(np.int32)),
    ]


@both
@pytest.mark.parametrize(
    ("message", "index", "change"), [case[1:] for case in wrong_inputs()], ids=[case[0] for case in wrong_inputs()]
)
def test_wrong_inputs(message, index, change, implementation):
    ops.set_implementation(implementation)
    (value, shapes, locations, weights), _ = draw(7)
    arrays = [value, shapes, starts_of(shapes), locations, weights]
    arrays[index] = change(arrays[index])
    with pytest.raises((TypeError, ValueError), match=message) as caught:
        ops.ms_deform_attn(*map(paddle.to_tensor, arrays))
    assert "\n" not in str(caught.value) and str(caught.value).startswith("ms_deform_attn: ")


def test_the_compiled_operator_keeps_in_bounds():
    """Called past the checks in Python, it refuses what would read beside its arrays."""
    assert ops.implementation() == "compiled"
    (value, shapes, locations, weights), _ = draw(8)
    arrays = [value[:, 1:], shapes, starts_of(shapes), locations, weights]
    with pytest.raises(Exception, match="do not add up"):
        paddle._C_ops._run_custom_op("ms_deform_attn", *map(paddle.to_tensor, arrays))


# ---------------------------------------------------------------- threads, cache, compilers

CHILD = """
import sys
import shared
import hashlib
import time
import numpy as np
import ops
import paddle

start = time.perf_counter()
ops.set_implementation("compiled")
ops.implementation()
taken = time.perf_counter() - start
rng, digest = np.random.default_rng(0), hashlib.sha256()
for queries in (5, 1500):  # few: the value as it lies; many: a copy with each head's rows together
    value = paddle.to_tensor(rng.normal(size=(2, 160, 3, 32)).astype(np.float32), stop_gradient=False)
    locations = paddle.to_tensor(rng.random((2, queries, 3, 2, 4, 2)).astype(np.float32), stop_gradient=False)
    weights = paddle.to_tensor(rng.random((2, queries, 3, 2, 4)).astype(np.float32), stop_gradient=False)
    shapes, starts = paddle.to_tensor(np.array([[10, 12], [5, 8]])), paddle.to_tensor(np.array([0, 120]))
    output = ops.ms_deform_attn(value, shapes, starts, locations, weights)
    output.backward(paddle.ones_like(output) * 0.37)
    for tensor in (output, value.grad, locations.grad, weights.grad):
        digest.update(tensor.numpy().tobytes())
print(f"{digest.hexdigest()} {taken:.3f}")
"""


def start(**settings) -> subprocess.Popen:
    """A process that loads the operator and prints a digest of what it computes, and the seconds of the loading."""
    environment = os.environ | {"PYTHONPATH": str(OPS.parent)} | settings
    command = [sys.executable, "-c", CHILD]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen) -> tuple[str, float, str]:
    """The digest, the seconds, and what it said."""
    output, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    digest, seconds = output.splitlines()[-1].split()
    return digest, float(seconds), errors


def test_any_number_of_threads_gives_the_same_bits():
    """And the loading from the cache is quick: the library is there, as the tests before have used it."""
    ops.set_implementation("compiled")
    ops.implementation()
    results = [finish(start(OMP_NUM_THREADS=threads)) for threads in ("1", "2", "3")]
    assert len({digest for digest, _, _ in results}) == 1
    assert min(seconds for _, seconds, _ in results) < 1


def test_processes_that_start_at_once_compile_once(tmp_path):
    """One that is killed in the middle leaves nothing that another would load; then three start together."""
    killed, deadline = start(DEFORMABLE_DETR_BUILD=str(tmp_path)), time.monotonic() + 60
    while not list(tmp_path.glob(".tmp-*/*")):
        assert time.monotonic() < deadline and killed.poll() is None, "it never began to compile"
        time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert not list(tmp_path.glob("*.so"))
    together = [start(DEFORMABLE_DETR_BUILD=str(tmp_path)) for _ in range(3)]
    results = [finish(process) for process in together]
    assert len({digest for digest, _, _ in results}) == 1
    assert sum("compiling the attention operator" in said for _, _, said in results) == 1
    assert len(list(tmp_path.glob("*.so"))) == 1 and not list(tmp_path.glob(".tmp-*"))


def test_the_name_in_the_cache_covers_flags_and_compiler(monkeypatch, tmp_path):
    before = build._key()
    with monkeypatch.context() as patch:
        patch.setattr(build, "FLAGS", [*build.FLAGS, "-O1"])
        assert build._key() != before
    with monkeypatch.context() as patch:
        other = tmp_path / "other"
        other.write_text("#!/bin/sh\necho another compiler 1.0\n")
        other.chmod(0o755)
        patch.setenv("CXX", str(other))
        assert build._key() != before
    with monkeypatch.context() as patch:
        changed = tmp_path / "changed.h"
        changed.write_bytes(build.HEADERS[0].read_bytes() + b"\n")
        patch.setattr(build, "HEADERS", [changed, *build.HEADERS[1:]])
        assert build._key() != before
    assert build._key() == before


@pytest.mark.parametrize(("compiler", "reason"), [("no-such-compiler", "no C\\+\\+ compiler"), ("false", "failed")])
def test_without_a_working_compiler(compiler, reason, monkeypatch, tmp_path):
    """Paddle's own operators do it, with one line of warning, once; asked for by name, it is an error."""
    inputs, _ = draw(9)
    expected = run("compiled", *inputs)
    monkeypatch.setenv("CXX", compiler)
    monkeypatch.setenv("DEFORMABLE_DETR_BUILD", str(tmp_path))
    monkeypatch.setitem(ops._state, "loaded", False)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for implementation in ("auto", None):
            close(run(implementation, *inputs), expected, 1e-13)
    said = [str(entry.message) for entry in caught if "attention operator" in str(entry.message)]
    assert len(said) == 1 and "slower" in said[0] and "\n" not in said[0]
    with pytest.raises(build.CannotBuild, match=reason) as error:
        run("compiled", *inputs)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.glob("*.so"))


def test_unwritable_cache(monkeypatch, tmp_path):
    """A file stands where the folder is needed: named in the one line."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DEFORMABLE_DETR_BUILD", str(tmp_path / "file"))
    with pytest.raises(build.CannotBuild, match=f"{tmp_path}/file: "):
        build.library()


def test_unknown_implementation(monkeypatch):
    with pytest.raises(ValueError, match="choose one of auto, compiled, paddle"):
        ops.set_implementation("fast")
    monkeypatch.setitem(ops._state, "wanted", "fast")
    monkeypatch.setitem(ops._state, "used", None)
    with pytest.raises(InputError, match="DEFORMABLE_DETR_OP=fast: choose one of"):
        ops.implementation()


if shutil.which("nvcc"):  # without CUDA's compiler there is nothing to compile the kernels with

    def test_nvcc_compiles_the_kernels(tmp_path):
        """Both types, warnings as errors; they are not run."""
        source = tmp_path / "kernels.cu"
        pointers = "cudaStream_t, const {0}*, const int64_t*, const int64_t*, const {0}*, const {0}*"
        lines = ['#include "ms_deform_attn_cuda.h"', "using ms_deform_attn::Sizes;"]
        for number in ("float", "double"):
            given = pointers.format(number)
            name = f"template cudaError_t ms_deform_attn::{{}}_cuda<{number}>"
            lines.append(f"{name.format('forward')}({given}, const Sizes&, {number}*);")
            outputs = ", ".join([f"{number}*"] * 3)
            lines.append(f"{name.format('backward')}({given}, const {number}*, const Sizes&, {outputs});")
        source.write_text("\n".join(lines) + "\n")
        command = ["nvcc", "-std=c++17", "-Werror", "all-warnings", "-arch=sm_80", f"-I{OPS}", "-c", str(source)]
        done = subprocess.run([*command, "-o", str(tmp_path / "kernels.o")], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
