"""A folder's small training, and what the tests of every training do with it (training_suite.py)."""

import json
import os
import resource
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import pytest

from shared import InputError
from shared.running.state import TrainingState
from shared.tests.two_processes import launch
from shared.weights import load_checkpoint

FILES = ("model.pdparams", "optimizer.pdopt")


@dataclass
class Case:
    """A folder's small training: a few steps, of at least two epochs, in seconds."""

    train: ModuleType  # the folder's train.py
    data: Path
    scratch: Path  # an empty folder
    network: Sequence[str]  # options of train.py that say what network it is
    recipe: Sequence[str]  # the other options
    steps: int  # of the whole training
    stops: Sequence[int]  # steps at which one is stopped: within an epoch and at the end of one
    broken: Path  # an image to train on, which a truncated one takes the place of
    diverging: Sequence[str]  # options with which the second step diverges
    diverges: str  # what that line says
    wrong: Sequence[str]  # values of options that the command line refuses, each as words
    unfit: Mapping[str, Any]  # network options in a state file -> a value that no network has
    other: tuple[str, Any]  # a network option and another value of it
    further_scripts: Sequence[str] = ()  # that take --device, --weights and --data_path
    batches: int | None = None  # that the log has lines of, where they are not steps
    two: Sequence[str] = ()  # options of a training of two processes
    two_stops: tuple[int, int] = (1, 3)  # its steps: of the one that is stopped and resumed, and of all
    kills: int = 4  # times that one is killed
    rate: str = "--lr"
    files: Sequence[str] = FILES  # of a checkpoint, beside state.json
    logs: Sequence[str] = ()  # text files that a resumed training ends with the same
    varies: Sequence[str] = ()  # what a state holds of where a training was stopped
    free: Sequence[str] = ("options",)  # in what of a state file values of any kind may be

    @property
    def folder(self) -> Path:
        return Path(self.train.__file__).parent

    def words(self, output_dir: Path, *argv) -> list[str]:
        """The command line of a training; what stands in `argv` wins over the recipe."""
        where = ["--data_path", self.data, "--output_dir", output_dir, "--num_workers", 0]
        return [*map(str, where), *self.network, *self.recipe, *map(str, argv)]

    def run(self, output_dir: Path, *argv) -> int:
        """Train in this process; the exit status."""
        return self.train.main(self.words(output_dir, *argv))

    def built(self, output_dir: Path, *argv) -> Any:
        """The Trainer that train.py makes."""
        with mock.patch.object(self.train, "run_training", lambda options, make_trainer: make_trainer(options)):
            return self.run(output_dir, *argv)

    def options(self, output_dir: Path, *argv) -> Any:
        """The options that train.py finds."""
        with mock.patch.object(self.train, "run_training", lambda options, make_trainer: options):
            return self.run(output_dir, *argv)

    def refusal(self, output_dir: Path, *argv) -> str:
        """The one line that train.py says before it ends with status 2 (`shared.run`)."""
        with pytest.raises(InputError) as refused:
            self.run(output_dir, *argv)
        assert "\n" not in str(refused.value)
        return str(refused.value)

    @cached_property
    def whole(self) -> Path:
        """The output of a training that nothing disturbed."""
        assert self.run(self.scratch / "whole") == 0
        return self.scratch / "whole"

    @cached_property
    def two_processes(self) -> Path:
        """The outputs of two processes, `whole` and `stopped`, after what tests/two_processes.py compares."""
        folder = self.scratch / "two"
        folder.mkdir()
        words = [folder, *self.two_stops, *self.words(folder, *self.two)]
        printed = launch(self.folder / "tests/two_processes.py", folder, *words)
        assert printed.count(" equal, largest relative difference") >= 2, printed
        return folder

    def copy(self, folder: Path) -> Path:
        """A copy of the last checkpoint of `whole`; `replace` files of it, they are links."""
        return Path(shutil.copytree((self.whole / "latest").resolve(), folder, copy_function=os.link))

    def outcome(self, output_dir: Path) -> dict[str, Any]:
        """Where a training has ended: the bytes of the files and the state of its last checkpoint."""
        latest = output_dir / "latest"
        left_out = ("seconds", "options", *self.varies)  # the clock's, and options that may change
        state = {name: value for name, value in load_checkpoint(latest).state.items() if name not in left_out}
        return state | {name: (latest / name).read_bytes() for name in self.files}


def one_line(finished: Any, status: int = 2) -> str:
    """The one line of a script that has ended so, warnings of imported packages aside."""
    assert finished.returncode == status and "Traceback" not in finished.stderr, finished.stderr
    lines = [line for line in finished.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, finished.stderr
    return lines[0]


def replace(file: Path, content: bytes | str | dict) -> None:
    """Write a file, in JSON a dictionary, anew: where it was a link, the other file stays."""
    file.unlink(missing_ok=True)
    content = json.dumps(content) if isinstance(content, dict) else content
    file.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def small_disk(size: int) -> Iterator[None]:
    """No file may become larger than `size` bytes: writing then fails as on a disk that is full."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def resumed(case: Case, output_dir: Path) -> tuple[Any, Mapping[str, int]]:
    """A Trainer that has resumed `whole`, and the limits that it gives to counters."""
    given, restore = [], TrainingState.restore

    def note(state, path, limits):
        given.append(limits)
        restore(state, path, limits)

    with mock.patch.object(TrainingState, "restore", note):
        return case.built(output_dir, "--resume", case.whole / "latest"), given[0]


WRONG = {dict: [], list: {}, str: 3, int: "x", float: "x", bool: "x", type(None): {}}


def damaged(value: Any, path: tuple = ()) -> Iterator[tuple[tuple, Any]]:
    """Copies of a state, each with one value missing or of another kind: (where, copy). Of a list the first item."""
    if path:
        yield path, WRONG[type(value)]
    if isinstance(value, dict):
        for key, item in value.items():
            yield (*path, key), {name: value[name] for name in value if name != key}
            yield from ((where, value | {key: copy}) for where, copy in damaged(item, (*path, key)))
    if isinstance(value, list) and value:
        yield from ((where, [copy, *value[1:]]) for where, copy in damaged(value[0], (*path, 0)))
