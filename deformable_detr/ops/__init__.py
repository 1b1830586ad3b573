"""The paper's operator, multi-scale deformable attention (section 4.1 of the paper, NOTES 4).

Compiled from C++ on first use (`build`), or computed by Paddle's own operators (`pure_paddle`). "auto", the default,
takes the compiled one and falls back to the other where it cannot be compiled, with one warning. $DEFORMABLE_DETR_OP
or `set_implementation` chooses one of the two.
"""

import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import paddle
from paddle import _C_ops
from paddle.framework import in_dynamic_mode

from shared import InputError

from . import build, checks, pure_paddle

IMPLEMENTATIONS = ("auto", "compiled", "paddle")
# loaded: False before the first try, then True or the error; a second try is not made
_state = {"wanted": os.environ.get("DEFORMABLE_DETR_OP") or "auto", "used": None, "loaded": False}
_lock = threading.Lock()


def set_implementation(name: str) -> None:
    """Choose "compiled", "paddle", or "auto" for all later calls. ValueError for another name."""
    if name not in IMPLEMENTATIONS:
        raise ValueError(f"implementation {name!r}: choose one of {', '.join(IMPLEMENTATIONS)}")
    _state.update(wanted=name, used=None)


def check_choice() -> None:
    """InputError for a wrong $DEFORMABLE_DETR_OP."""
    if _state["wanted"] not in IMPLEMENTATIONS:
        raise InputError(f"DEFORMABLE_DETR_OP={_state['wanted']}: choose one of {', '.join(IMPLEMENTATIONS)}")


@contextmanager
def temporarily(name: str) -> Iterator[None]:
    """`set_implementation` for a while."""
    before = _state["wanted"]
    set_implementation(name)
    try:
        yield
    finally:
        set_implementation(before)


@paddle.jit.not_to_static
def implementation() -> str:
    """Which of "compiled" and "paddle" calls run; compiles if necessary.

    InputError when "compiled" was asked for and cannot be built, and for a wrong $DEFORMABLE_DETR_OP.
    """
    if _state["used"] is None:
        with _lock:
            _state["used"] = _choose(_state["wanted"])
    return _state["used"]


def _choose(wanted: str) -> str:
    check_choice()
    if wanted == "paddle":
        return wanted
    if not _state["loaded"]:
        try:
            build.load()
            _state["loaded"] = True
        except build.CannotBuild as error:
            _state["loaded"] = error
    if _state["loaded"] is True:
        return "compiled"
    if wanted == "compiled":
        raise _state["loaded"]
    text = f"attention operator not compiled ({_state['loaded']}); Paddle's own operators are used, slower"
    warnings.warn(text, stacklevel=4)
    return "paddle"


def ms_deform_attn(value, spatial_shapes, level_start_index, sampling_locations, attention_weights):
    """Weighted sum of bilinear samples of several feature maps, for each query and head.

    value: [N, S, M, D], the tokens of all levels, float32 or float64 (half precision is computed in float32).
    spatial_shapes: int64 [L, 2], height and width of each level; level_start_index: int64 [L], its first token.
    sampling_locations: [N, Q, M, L, P, 2], x then y, 0 and 1 at the borders of a level; outside, the value is zero.
    attention_weights: [N, Q, M, L, P]. Returns [N, Q, M * D]; gradients for value, locations and weights.
    Raises TypeError for wrong or mixed types, ValueError for shapes that do not belong together.
    """
    if in_dynamic_mode():  # in an exported graph the operator itself checks
        checks.check(value, spatial_shapes, level_start_index, sampling_locations, attention_weights)
    floats, dtype = (value, sampling_locations, attention_weights), value.dtype
    half = (paddle.float16, paddle.bfloat16)
    if any(tensor.dtype in half for tensor in floats):
        value, sampling_locations, attention_weights = (tensor.astype("float32") for tensor in floats)
    if implementation() == "compiled":
        inputs = (value, spatial_shapes, level_start_index, sampling_locations, attention_weights)
        output = _C_ops._run_custom_op("ms_deform_attn", *inputs)[0]
    else:
        # tensors in a static graph, which serves every image size
        levels = range(spatial_shapes.shape[0])
        shapes = spatial_shapes.tolist() if in_dynamic_mode() else [spatial_shapes[level] for level in levels]
        output = pure_paddle.ms_deform_attn(value, shapes, sampling_locations, attention_weights)
    return output.astype(dtype)
