"""For tests: what the conftest.py of every paper does first."""

import os
import sys
from pathlib import Path

import pytest

from shared import set_up


def prepare(tests: Path) -> None:
    """Put a paper's folder and its `tests` on the path, where its imports are local, and prepare Paddle as scripts do.

    MKL takes its AVX2 kernels on every processor. With those of AVX-512, single float32 figures end 1.2 times their
    bound from the golden ones, which were made without them (1.17e-5 for 1e-5); a user's own MKL_CBWR stays.
    """
    os.environ.setdefault("MKL_CBWR", "AVX2")
    set_up()
    suites = [path.stem for path in Path(__file__).parent.glob("*.py") if path.stem != "folder"]
    pytest.register_assert_rewrite(*(f"shared.tests.{name}" for name in suites))  # their asserts show values
    sys.path[:0] = [str(tests.parent), str(tests)]
