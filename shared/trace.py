"""Record what goes in and out of every layer on both sides, and name the first layer whose output differs.

    python -m shared.trace REFERENCE PORT [--rtol R] [--atol A] [--rename PATTERN REPLACEMENT ...]

Each side leaves a file, so torch need not be installed beside Paddle. A name in it is `0003/features.0.1/in/0`: the
order in which the calls ended (a container after what it contains), the layer's path ("" is the model, "#2" marks the
second call), `in`, `out` or `grad` (the gradient of that output), and the tensor's position or keyword.

Functional calls are invisible to hooks. Since the inputs are recorded too, a layer that is handed something else
already is not blamed: the code that feeds it is.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from shared import InputError, run
from shared.align.record import Record, to_array
from shared.diff import Diff, Tolerances, compare, comparison_parser, tolerance_of

KEY = re.compile(r"([0-9]{1,9})/(.*?)/(in|out|grad)/(.*)", re.DOTALL)


class Trace(Record):
    """The record of one forward; `output` is what the model returned, with its graph, for a loss and its backward."""

    output: Any = None


def trace_torch(model: Any, *inputs: Any, gradients: bool = False, **keywords: Any) -> Trace:
    """Run a torch module on the inputs, as `model(*inputs, **keywords)`, and record every call of every submodule.

    Mode and grad state stay the caller's. With `gradients`, the gradients of the layers' outputs are added to the
    record while the caller runs backward, once.
    """
    layers, has_gradient = model.named_modules(), lambda tensor: tensor.requires_grad
    return _trace(model, layers, "register_forward_hook", has_gradient, gradients, inputs, keywords)


def trace_paddle(model: Any, *inputs: Any, gradients: bool = False, **keywords: Any) -> Trace:
    """The same for a Paddle layer."""
    layers, has_gradient = model.named_sublayers(include_self=True), lambda tensor: not tensor.stop_gradient
    return _trace(model, layers, "register_forward_post_hook", has_gradient, gradients, inputs, keywords)


def _trace(
    model: Any,
    layers: Iterable[tuple[str, Any]],
    register: str,
    has_gradient: Callable[[Any], bool],
    gradients: bool,
    inputs: tuple,
    keywords: dict[str, Any],
) -> Trace:
    trace, running, calls, ended = Trace(), [], {}, 0

    def watch(path: str, layer: Any) -> tuple:
        def before(_: Any, args: tuple, kwargs: dict[str, Any]) -> None:
            calls[path] = calls.get(path, 0) + 1
            # Copied now: an in-place activation writes into its input, which is also the output of the layer before.
            arrays = [(key, to_array(path, tensor)) for key, tensor in [*_tensors(args), *_tensors(kwargs)]]
            running.append((path if calls[path] == 1 else f"{path}#{calls[path]}", arrays))

        def after(_: Any, args: tuple, output: Any) -> None:
            nonlocal ended
            call, arrays = running.pop()
            prefix, ended = f"{ended:04d}/{call}", ended + 1
            for key, array in arrays:
                trace.add(f"{prefix}/in/{key}", array)
            for key, tensor in _tensors(output):
                trace.add(f"{prefix}/out/{key}", tensor)
                if gradients and has_gradient(tensor):
                    tensor.register_hook(lambda gradient, name=f"{prefix}/grad/{key}": trace.add(name, gradient))

        return layer.register_forward_pre_hook(before, with_kwargs=True), getattr(layer, register)(after)

    handles = []
    try:
        for path, layer in layers:
            handles += watch(path, layer)
        trace.output = model(*inputs, **keywords)
    finally:
        for handle in handles:
            handle.remove()
    return trace


def _tensors(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """The tensors in `value` by position or key: "0", "1.mask"; a single tensor is "0". Other values are left out."""
    if isinstance(value, Mapping):
        inner = value.items()
    elif isinstance(value, tuple | list):
        inner = enumerate(value)
    else:
        if hasattr(value, "detach") and hasattr(value, "register_hook"):
            yield key or "0", value
        return
    for name, item in inner:
        yield from _tensors(item, f"{key}.{name}" if key else str(name))


@dataclass
class Call:
    """One call of one layer, read back from a trace."""

    name: str  # the path; from the second call on with its number
    tensors: dict[str, dict[str, np.ndarray]] = field(default_factory=lambda: {"in": {}, "out": {}, "grad": {}})

    def holds(self, other: "Call") -> bool:
        """Whether the other is a layer inside this one."""
        return other is not self and (self.path == "" or other.path.startswith(self.path + "."))

    @property
    def path(self) -> str:
        return self.name.partition("#")[0]

    def __str__(self) -> str:
        return self.name if self.path else "the model" + self.name


def read_calls(trace: Mapping[str, np.ndarray], rename: Callable[[str], str] = lambda path: path) -> list[Call]:
    """The calls of a trace in the order in which they ended, paths renamed. InputError when it is no trace."""
    calls: dict[tuple[int, str], Call] = {}
    for whole, array in trace.items():
        match = KEY.fullmatch(whole)
        if not match:
            raise InputError(f"{whole[:80]!r} is not a name of a trace: trace_torch and trace_paddle make traces")
        order, name, side, key = match.groups()
        path, mark, number = name.partition("#")
        call = calls.setdefault((int(order), name), Call(rename(path) + mark + number))
        call.tensors[side][key] = array
    name, count = Counter(call.name for call in calls.values()).most_common(1)[0] if calls else ("", 0)
    if count > 1:
        raise InputError(f"{count} layers are called {name!r} after renaming")
    return [calls[key] for key in sorted(calls)]


@dataclass
class Verdict:
    """What `first_difference` found; `str()` gives a paragraph and the figures.

    `layer`: the first call whose output (with `backward`: whose output's gradient) differs, None when all agree.
    `culprit`: the code to check, in words. `last_agreeing`: the call that ended last before it and agrees.
    `inputs`, `outputs`: the figures of `layer`.
    """

    compared: int
    only_reference: list[str]
    only_port: list[str]
    layer: str | None = None
    backward: bool = False
    culprit: str = ""
    last_agreeing: str | None = None
    inputs: Diff = field(default_factory=lambda: Diff([]))
    outputs: Diff = field(default_factory=lambda: Diff([]))

    @property
    def passed(self) -> bool:
        """False also when the two sides have no call in common."""
        return self.layer is None and self.compared > 0

    def __str__(self) -> str:
        if self.layer is None:
            found = "no difference" if self.compared else "nothing to compare: no layer is called by the same name"
            text = [f"{found} ({self.compared} calls of layers on both sides)"]
        else:
            what = "the gradient of its output" if self.backward else "its output"
            text = [
                f"{self.layer} is the first layer{' going backwards' if self.backward else ''} where {what} differs; "
                f"last that agrees: {self.last_agreeing or 'none'}.",
                f"Check {self.culprit}.",
                self.outputs.table(),
            ]
            if self.inputs.tensors:
                text.append(self.inputs.table())
        for side, names in (("the reference", self.only_reference), ("the port", self.only_port)):
            if names:
                text.append(f"only in {side}: {', '.join(names[:10])}{' ...' if len(names) > 10 else ''}")
        return "\n".join(text)


def first_difference(
    reference: Mapping[str, np.ndarray],
    port: Mapping[str, np.ndarray],
    tolerance: Tolerances,
    rename: Callable[[str], str] | Iterable[tuple[str, str]] = (),
) -> Verdict:
    """Walk two traces in the reference's order of execution up to the first output that differs.

    `rename` turns a path of the port into the reference's: a function, or pairs for `re.sub`, applied in order.
    A layer that only one side has is listed, no more. Where all outputs agree, the gradients that were recorded are
    walked in the opposite order. `tolerance` as for `compare`; a name there is `PATH/out/POSITION`.
    """
    ours = {call.name: call for call in read_calls(port, rename if callable(rename) else _renamer(rename))}
    theirs = read_calls(reference)
    common = [call for call in theirs if call.name in ours]
    known = {call.name for call in theirs}
    verdict = Verdict(
        compared=len(common),
        only_reference=[str(call) for call in theirs if call.name not in ours],
        only_port=[str(call) for name, call in ours.items() if name not in known],
    )

    def differ(call: Call, side: str) -> Diff:
        return _compare_call(ours[call.name], call, side, tolerance)

    for backward, side, calls in ((False, "out", common), (True, "grad", common[::-1])):
        for number, call in enumerate(calls):
            outputs = differ(call, side)
            if not outputs.failures:
                continue
            verdict.layer, verdict.outputs, verdict.backward = str(call), outputs, backward
            verdict.last_agreeing = str(calls[number - 1]) if number else None
            if backward:
                downstream = verdict.last_agreeing or "the loss"
                verdict.culprit = f"the backward of what lies between the output of {call} and {downstream}"
            else:
                verdict.inputs = differ(call, "in")
                verdict.culprit = _culprit(common, number, lambda call: differ(call, "in"))
            return verdict
    return verdict


def _renamer(pairs: Iterable[tuple[str, str]]) -> Callable[[str], str]:
    pairs = list(pairs)

    def rename(path: str) -> str:
        for pattern, replacement in pairs:
            path = re.sub(pattern, replacement, path)
        return path

    return rename


def _compare_call(port: Call, reference: Call, side: str, tolerance: Tolerances) -> Diff:
    a, b = ({f"{reference.name}/{side}/{key}": x for key, x in c.tensors[side].items()} for c in (port, reference))
    return compare(a, b, tolerance)


def _culprit(common: Sequence[Call], number: int, inputs_of: Callable[[Call], Diff]) -> str:
    """The code to check when call `number` is the first whose output differs: all that ended before it agrees."""
    call = common[number]
    if not _fed_differently(inputs_of(call)):
        inside = [earlier for earlier in common[:number] if call.holds(earlier)]
        if inside:
            return f"the code of {call} after {inside[-1]}: every layer inside agrees, what it returns does not"
        return f"{call} itself: its input agrees, its output does not"
    # Of every layer around it, the call that is still running is the one that ends next; innermost first.
    around = list({later.path: later for later in reversed(common[number + 1 :]) if later.holds(call)}.values())[::-1]
    fed = next((outer for outer in reversed(around) if _fed_differently(inputs_of(outer))), call)
    owner = next((outer for outer in around if outer.holds(fed)), None)
    if owner is None:
        return f"what {fed} is given: its input differs already"
    before = next((earlier for earlier in reversed(common[:number]) if not fed.holds(earlier)), None)
    stretch = f"between {before} and {fed}" if before else f"before {fed}"
    return f"the code of {owner} {stretch}: the input of {fed} differs already"


def _fed_differently(inputs: Diff) -> bool:
    """Judged on what both sides have: a keyword on one side may be a position on the other."""
    return any(not tensor.passed for tensor in inputs.tensors if None not in (tensor.shape, tensor.reference_shape))


def main(argv: Sequence[str] | None = None) -> int:
    what = "Name the first layer whose output differs between two traces."
    parser = comparison_parser("trace", what, "reference", "port")
    parser.add_argument(
        "--rename",
        nargs=2,
        action="append",
        default=[],
        metavar=("PATTERN", "REPLACEMENT"),
        help="regular expression that turns the port's layer paths into the reference's; may be repeated",
    )
    options = parser.parse_args(argv)
    tolerance = tolerance_of(options)
    traces = Record.load(options.reference), Record.load(options.port)
    try:
        verdict = first_difference(*traces, tolerance, options.rename)
    except re.error as error:
        raise InputError(f"--rename: {error}") from error
    print(verdict)
    return 0 if verdict.passed else 1


if __name__ == "__main__":
    run(main)
