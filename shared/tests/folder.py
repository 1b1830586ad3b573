"""For tests: what the conftest.py of every paper does first."""

import os
import sys
from pathlib import Path

import pytest

from shared import set_up


def prepare(tests: Path, kernels: str | None = "AVX2") -> None:
    """Put a paper's folder and its `tests` on the path, where its imports are local, and prepare Paddle as scripts do.

    `kernels` are the ones that MKL takes on every processor (its MKL_CBWR; a user's own stays), None its own choice.
    Golden float32 figures of the official code were made with one choice, and single figures end at 1.1 to 1.2 times
    their bound with another: bounds that come from a measured floor would not need this.
    """
    if kernels:
        os.environ.setdefault("MKL_CBWR", kernels)
    set_up()
    suites = [path.stem for path in Path(__file__).parent.glob("*.py") if path.stem != "folder"]
    pytest.register_assert_rewrite(*(f"shared.tests.{name}" for name in suites))  # their asserts show values
    sys.path[:0] = [str(tests.parent), str(tests)]
