"""For tests: both sides of a stage of align.py in this process."""

import argparse
import importlib
from pathlib import Path

from shared.align.record import Record
from shared.diff import Diff, compare
from shared.stages import Context


def judge(name: str, dtype: str, folder: Path, data_path: Path | None = None) -> Diff:
    """The verdict on a stage, without its processes, of the `alignment` package that is on the path."""
    options = argparse.Namespace(weights=None, reference=None, data_path=data_path and str(data_path))
    sides = [importlib.import_module(f"alignment.{side}_side") for side in ("paddle", "torch")]
    records = [Record(getattr(side, name)(Context(dtype, folder, options))) for side in sides]
    stages = {stage.name: stage for stage in importlib.import_module("alignment").STAGES}
    return compare(*records, stages[name].tolerance(dtype))
