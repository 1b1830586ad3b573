"""What a training says: train.log and the terminal, VisualDL, the progress bar."""

import argparse
import time
from collections.abc import Mapping
from pathlib import Path

from tqdm import tqdm
from visualdl import LogWriter

from shared.files import write_error, write_json


class RunLog:
    """The log of a training in `output_dir`; process 0 writes, the others stay silent.

    A context manager: it opens VisualDL's writer and leaves it closed. `writer` is that writer, None in the others.
    """

    def __init__(self, output_dir: Path, rank: int):
        self.output_dir, self.silent = output_dir, rank != 0
        self.writer: LogWriter | None = None

    def __enter__(self) -> "RunLog":
        if not self.silent:
            try:
                self.output_dir.mkdir(parents=True, exist_ok=True)
                self.writer = LogWriter(str(self.output_dir / "visualdl"))
            except OSError as error:
                raise write_error(self.output_dir, error) from error
        return self

    def __exit__(self, *error: object) -> None:
        if self.writer:
            self.writer.close()
            self.writer = None

    def line(self, text: str) -> None:
        """One line to the terminal and, with the time, to output_dir/train.log. InputError if it cannot be written."""
        if not self.silent:
            tqdm.write(text)
            self.append("train.log", f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")

    def append(self, name: str, text: str) -> None:
        """Append `text` to the file `name` of output_dir. InputError if it cannot be written."""
        if self.silent:
            return
        path = self.output_dir / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a", encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            raise write_error(path, error) from error

    def options(self, options: argparse.Namespace | Mapping, name: str = "options.json") -> None:
        """Write the options of the training to output_dir. InputError if it cannot be written."""
        if not self.silent:
            write_json(self.output_dir / name, dict(options) if isinstance(options, Mapping) else vars(options))

    def scalars(self, group: str, values: Mapping[str, float], step: int) -> None:
        """Add `group/name` for every value to VisualDL."""
        if self.writer:
            for name, value in values.items():
                self.writer.add_scalar(f"{group}/{name}", value, step)

    def bar(self, total: int, initial: int, unit: str = "step", title: str = "train") -> tqdm:
        """The progress bar of a training; shown on a terminal only."""
        hidden = True if self.silent else None
        return tqdm(total=total, initial=initial, desc=title, unit=unit, leave=False, disable=hidden)


def batch_line(epoch: int, batch: int, speed: float, lr: float, terms: str, seconds: float, left: float) -> str:
    """The line of a batch, in the form of every folder.

    `speed` in examples a second, `terms` as "loss: 1.0 | ...", `seconds` so far and `left` to the end.
    """
    return (
        f"epoch {epoch:>3} | batch {batch:>6} | examples/s: {speed:5.1f} | lr: {lr:.3e} | {terms} | "
        f"time elapsed: {clock(seconds)} | time left: {clock(left)}"
    )


def clock(seconds: float) -> str:
    """01h02m05s."""
    whole = int(seconds)
    return f"{whole // 3600:02d}h{whole // 60 % 60:02d}m{whole % 60:02d}s"
