"""torch state dict <-> Paddle state dict, and `python -m shared.convert` to look into weight files.

The layout of every tensor follows from the type of the Paddle layer that owns it, never from its name or rank. A paper
adds only rules of names. Nothing is left over, left out or cast with loss: the `Report` says what did not fit.
"""

import argparse
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from shared import HelpFormatter, InputError, run
from shared.files import one_line
from shared.weights import PADDLE_SUFFIXES, TORCH_SUFFIXES, describe, read_weights, write_torch
from shared.weights.contents import WeightFile, as_numpy
from shared.weights.layouts import COUNTER, ConversionError, Entry, dtype_of, walk
from shared.weights.pdparams import write_pdparams

__all__ = ["ConversionError", "Plan", "Report", "convert_file", "describe", "load_official", "main", "plan"]

Arrays = dict[str, np.ndarray]


@dataclass
class Report:
    """What one conversion did. Names are the source's; each of unused, missing, wrong_* and conflicting makes it bad.

    converted: tensors of the source that fit; given: tensors it has; wanted: tensors the network needs from it.
    wrong_shape, wrong_dtype: (name, in the source, in the network). widened: casts that keep every value.
    """

    direction: str
    given: int = 0
    wanted: int = 0
    converted: int = 0
    unused: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    wrong_shape: list[tuple[str, tuple, tuple]] = field(default_factory=list)
    wrong_dtype: list[tuple[str, str, str]] = field(default_factory=list)
    conflicting: list[str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    widened: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not (self.unused or self.missing or self.wrong_shape or self.wrong_dtype or self.conflicting)

    def __str__(self) -> str:
        """At most 40 lines, whatever the source holds."""
        differ = [f"{name}: {have} in the file, {want} in the network" for name, have, want in self.wrong_shape]
        sections = [
            ("missing", self.missing),
            ("unused", self.unused),
            ("wrong shape", differ),
            ("wrong dtype", [f"{name}: {have}, the network has {want}" for name, have, want in self.wrong_dtype]),
            ("one parameter, two values", self.conflicting),
        ]
        sections = [(title, names) for title, names in sections if names]
        fits = f"{self.converted} of its {self.given} tensors fit, {len(self.missing)} of the network's are missing"
        if self.ok:
            lines = [f"{self.direction}: all {self.converted} tensors converted"]
        elif 2 * self.converted < self.given - len(self.ignored) or 2 * len(self.missing) > self.wanted:
            lines = [f"holds another network's tensors: {fits}"]
        else:
            lines = [f"does not match this network: {fits}"]
        limit = 8 if len(sections) <= 3 else 4
        for title, names in sections:
            lines.append(f"  {title} ({len(names)}):")
            lines += [f"    {one_line(name)[:160]}" for name in names[:limit]]
            if len(names) > limit:
                lines.append(f"    ... and {len(names) - limit} more")
        for title, names in (("ignored", self.ignored), ("cast without loss", self.widened)):
            if names:
                lines.append(f"  {title}: {len(names)}, the first {one_line(names[0])[:80]}")
        return "\n".join(lines + [f"  note: {one_line(note)[:160]}" for note in self.notes[:4]])

    def raise_if_bad(self, path: str | Path) -> None:
        """Raises ConversionError, with the file's name and this report, unless all is well."""
        if not self.ok:
            raise ConversionError(f"{path}: {self}")


class Plan:
    """How one network's tensors correspond, in torch's order. Made by `plan`."""

    def __init__(self, entries: list[Entry], paddle: dict[str, Any], ignore: Iterable[str]) -> None:
        self.entries = entries
        self.ignore = [re.compile(pattern) for pattern in ignore]
        self._shapes = {name: tuple(tensor.shape) for name, tensor in paddle.items()}
        self._dtypes = {name: dtype_of(tensor) for name, tensor in paddle.items()}
        # One parameter may stand under several names; it has one identity.
        self._identity = {name: id(tensor) for name, tensor in paddle.items()}

    def torch_shapes(self) -> dict[str, tuple[int, ...]]:
        """{torch name: shape} in the order of the torch state dict, `num_batches_tracked` included."""
        return {entry.torch: entry.shape for entry in self.entries}

    def to_paddle(self, torch_tensors: Arrays) -> tuple[Arrays, Arrays, Report]:
        """(Paddle tensors in the network's order, the torch-only tensors, the report); partial if the report is bad."""
        counted = {entry.torch for entry in self.entries if entry.paddle}
        report = Report("torch to Paddle", len(torch_tensors), len(counted))
        filled: dict[int, np.ndarray] = {}
        found: Arrays = {}
        torch_only: Arrays = {}
        fitted: dict[str, np.ndarray | None] = {}
        for entry in self.entries:
            if entry.torch in torch_tensors and entry.torch not in fitted:
                fitted[entry.torch] = _fit(entry.torch, torch_tensors[entry.torch], entry.shape, entry.dtype, report)
            array = fitted.get(entry.torch)
            if array is None:
                continue
            if not entry.paddle:
                torch_only[entry.torch] = array
                continue
            for name, part in zip(entry.paddle, entry.split(array), strict=True):
                found[name] = part
                if not _same_bits(filled.setdefault(self._identity[name], part), part):
                    report.conflicting.append(entry.torch)
        for entry in self.entries:
            if entry.torch in fitted or not entry.paddle:
                continue
            if all(self._identity[name] in filled for name in entry.paddle):
                found.update({name: filled[self._identity[name]].copy() for name in entry.paddle})
                report.notes.append(f"{entry.torch} is absent; the network shares it with a tensor that is there")
            else:
                report.missing.append(entry.torch)
        for name in torch_tensors:
            if name not in fitted:
                (report.ignored if any(p.search(name) for p in self.ignore) else report.unused).append(name)
        return {name: found[name] for name in self._shapes if name in found}, torch_only, report

    def to_torch(self, paddle_tensors: Arrays, torch_only: Arrays | None = None) -> tuple[Arrays, Report]:
        """(torch tensors in torch's order, the report); partial if the report is bad.

        `num_batches_tracked` comes from torch_only, or is 0.
        """
        tensors, report = self.check_paddle(paddle_tensors)
        report.direction = "Paddle to torch"
        torch_only = torch_only or {}
        counters = [entry.torch for entry in self.entries if not entry.paddle]
        report.unused += [name for name in torch_only if name not in counters]
        result: Arrays = {}
        for entry in self.entries:
            if not entry.paddle:
                counter = torch_only.get(entry.torch, np.zeros(entry.shape, entry.dtype))
                array = _fit(entry.torch, counter, entry.shape, entry.dtype, report, count=False)
                if array is not None:
                    result[entry.torch] = array
            elif all(name in tensors for name in entry.paddle):
                result[entry.torch] = entry.join([tensors[name] for name in entry.paddle])
        absent = sum(name not in torch_only for name in counters)
        if absent:
            report.notes.append(f"{absent} {COUNTER} unknown to the file, written as 0")
        return result, report

    def check_paddle(self, paddle_tensors: Arrays) -> tuple[Arrays, Report]:
        """(the tensors in the network's order and dtypes, the report) of tensors that have Paddle's names already."""
        report = Report("Paddle", len(paddle_tensors), len(self._shapes))
        result: Arrays = {}
        filled: dict[int, np.ndarray] = {}
        for name, shape in self._shapes.items():
            if name not in paddle_tensors:
                report.missing.append(name)
                continue
            array = _fit(name, paddle_tensors[name], shape, self._dtypes[name], report)
            if array is not None:
                result[name] = array
                if not _same_bits(filled.setdefault(self._identity[name], array), array):
                    report.conflicting.append(name)
        report.unused = [name for name in paddle_tensors if name not in self._shapes]
        return result, report

    def gradients_to_torch(self, gradients: dict[str, Any]) -> Arrays:
        """Gradients or accumulators {Paddle name: array or tensor} under torch's names and layouts; some may be absent.

        Raises ConversionError for a name that the network lacks, another shape than the parameter's, or a fused
        projection of which only parts are there.
        """
        arrays = {name: as_numpy(value) for name, value in gradients.items()}
        for name, array in arrays.items():
            if array.shape != self._shapes.get(name):
                raise ConversionError(f"{name}: shape {array.shape}, the network has {self._shapes.get(name)}")
        result: Arrays = {}
        for entry in self.entries:
            absent = [name for name in entry.paddle if name not in arrays]
            if entry.paddle and not absent:
                result[entry.torch] = entry.join([arrays[name] for name in entry.paddle])
            elif len(absent) < len(entry.paddle):
                raise ConversionError(f"{entry.torch}: its part {', '.join(absent)} is absent")
        return result


def plan(model: Any, rename: Sequence[tuple[str, str]] = (), ignore: Iterable[str] = ()) -> Plan:
    """Walk a Paddle network and say where each of its tensors is in the torch state dict.

    rename: (regular expression, replacement) pairs, applied in turn by `re.sub` to the torch name that follows from the
    Paddle name. ignore: regular expressions, searched in the names of torch tensors which may stay unused.
    Raises ConversionError for a layer type that has tensors and no rule, or when two tensors claim one torch name.
    """
    owned: dict[str, Any] = {}
    entries = []
    claims: dict[str, tuple] = {}
    for entry in walk(model, "", owned):
        name = entry.torch
        for pattern, replacement in rename:
            name = re.sub(pattern, replacement, name)
        claim = tuple(id(owned[part]) for part in entry.paddle)
        if claims.setdefault(name, claim) != claim:
            raise ConversionError(f"{name}: two tensors of the network claim this torch name; mend the rename rules")
        entries.append(Entry(name, entry.paddle, entry.layout, entry.shape, entry.dtype))
    state = model.state_dict()
    if set(state) != set(owned):
        names = ", ".join(sorted(set(state) ^ set(owned))[:4])
        raise ConversionError(f"{type(model).__name__}: its state_dict and its layers differ in {names}")
    return Plan(entries, {name: owned[name] for name in state}, ignore)


def load_official(
    model: Any, path: str | Path, rename: Sequence = (), ignore: Iterable[str] = (), entry: str | None = None
) -> Report:
    """Fill a live Paddle network, strictly, from a torch file, a `.pdparams` file or a checkpoint folder.

    A network already cast to float64 is filled with the float32 values. entry: the checkpoint's part to take
    ("model_ema"). Raises InputError when the file cannot be read, ConversionError when it does not fit; the network
    is then as it was.
    """
    return fill(model, read_weights(path, entry), rename, ignore)


def fill(
    model: Any,
    file: WeightFile,
    rename: Sequence = (),
    ignore: Iterable[str] = (),
    keeps: Callable[[str], bool] = lambda name: False,
) -> Report:
    """Fill a live Paddle network, strictly, with the tensors of `file`; see `load_official`.

    keeps(Paddle name): tensors that stay as they are where the file has none.
    """
    network = plan(model, rename, ignore)
    kept = {name: as_numpy(value) for name, value in model.state_dict().items() if keeps(name)}
    if file.kind == "torch":
        tensors, _, report = network.to_paddle(network.gradients_to_torch(kept) | file.tensors)
    else:
        tensors, report = network.check_paddle(kept | file.tensors)
    report.notes += file.notes
    report.raise_if_bad(file.path)
    missing, unexpected = model.set_state_dict(tensors)
    if missing or unexpected:
        raise ConversionError(f"{file.path}: set_state_dict left {missing or unexpected}")
    return report


def convert_file(
    source: str | Path | WeightFile,
    target: str | Path,
    model: Any,
    rename: Sequence = (),
    ignore: Iterable[str] = (),
    entry: str | None = None,
) -> Report:
    """Convert a torch file to `.pdparams`, or a `.pdparams` file or checkpoint folder to a torch file, by suffix.

    model: a Paddle network of the right architecture; its values do not matter. Raises InputError or ConversionError,
    and then writes nothing.
    """
    kinds = dict.fromkeys(TORCH_SUFFIXES, "torch") | {".pdparams": "paddle"}
    kind = kinds.get(Path(target).suffix.lower())
    if kind is None:
        raise InputError(f"{target}: end its name in {' or '.join(kinds)}, to say which kind to write")
    file = source if isinstance(source, WeightFile) else read_weights(source, entry)
    if file.kind == kind:
        raise InputError(f"{file.path}: is a {kind} file already; there is nothing to convert")
    network = plan(model, rename, ignore)
    if kind == "paddle":
        tensors, torch_only, report = network.to_paddle(file.tensors)
    else:
        tensors, report = network.to_torch(file.tensors, file.torch_only)
    report.notes += file.notes
    report.raise_if_bad(file.path)
    if kind == "paddle":
        write_pdparams(target, tensors, torch_only)
    else:
        write_torch(target, tensors)
    return report


def script_parser(description: str, source: str, target: str) -> argparse.ArgumentParser:
    """The parser of a paper's convert.py: SRC and DST with these helps; the paper adds its network's options."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=HelpFormatter, usage="%(prog)s SRC DST [options]", allow_abbrev=False
    )
    parser.add_argument("source", metavar="SRC", help=source)
    parser.add_argument("target", metavar="DST", help=target)
    return parser


def _fit(
    name: str, value: np.ndarray, shape: tuple, dtype: str, report: Report, count: bool = True
) -> np.ndarray | None:
    """The array if it has this shape, in this dtype if the cast keeps every bit of value; else None and a line."""
    array = np.asarray(value)
    if array.shape != shape:
        report.wrong_shape.append((name, array.shape, shape))
        return None
    target = np.dtype(dtype) if hasattr(np, dtype) else None  # numpy has no bfloat16
    if array.dtype != target:
        if target is None or target.kind not in "fi" or array.dtype.kind != target.kind:
            report.wrong_dtype.append((name, array.dtype.name, dtype))
            return None
        with np.errstate(over="ignore", invalid="ignore"):
            cast = array.astype(target)
            exact = np.can_cast(array.dtype, target) or _same_bits(cast.astype(array.dtype), array)
        if not exact:
            report.wrong_dtype.append((name, array.dtype.name, f"{dtype}, which cannot hold its values"))
            return None
        report.widened.append(f"{name}: {array.dtype.name} to {dtype}")
        array = cast
    report.converted += count
    return array


def _same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    return a is b or (a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes())


# ---------------------------------------------------------------- command line


def main(argv: Sequence[str] | None = None) -> int:
    """`python -m shared.convert`: list a weight file, or hand a conversion to a paper's convert.py."""
    parser = argparse.ArgumentParser(
        prog="python -m shared.convert",
        description="List what a weight file holds, without running any of it; or convert it with a paper's rules.",
        epilog="examples: python -m shared.convert model.pth   |   "
        "python -m shared.convert model.pth model.pdparams --paper FOLDER --model small",
        allow_abbrev=False,
    )
    suffixes = " ".join((*TORCH_SUFFIXES, *PADDLE_SUFFIXES))
    parser.add_argument("source", metavar="FILE", help=f"a weight file ({suffixes}) or a checkpoint folder")
    parser.add_argument("target", metavar="DST", nargs="?", help="the file to write; its suffix says which kind")
    parser.add_argument("--paper", metavar="DIR", help="the paper's folder; every other option goes to its convert.py")
    options, rest = parser.parse_known_args(argv)
    if options.target is None:
        if rest or options.paper:
            parser.error("a conversion needs two files, FILE and DST, before the options")
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `| head` ends the listing quietly
        print(describe(options.source))
        return 0
    if options.paper is None:
        raise InputError(f"{options.source}: say whose network it is: --paper DIR, a folder with a convert.py")
    script = Path(options.paper) / "convert.py"
    if not script.is_file():
        raise InputError(f"{script}: no such file; --paper takes a paper's folder, where its convert.py is")
    status = subprocess.run([sys.executable, script, options.source, options.target, *rest], check=False).returncode
    return status if status >= 0 else 128 - status


if __name__ == "__main__":
    run(main)
