"""Imports in this folder are local: put it on the path and prepare Paddle, as its scripts do."""

import os
import sys
from pathlib import Path

import pytest

from shared import set_up

set_up()
# MKL's kernels are the same on every processor: with those of AVX-512 five float32 steps end elsewhere (NOTES 8.11)
os.environ.setdefault("MKL_CBWR", "AVX2")
pytest.register_assert_rewrite("shared.tests")  # its suites
TESTS = Path(__file__).resolve().parent
sys.path[:0] = [str(TESTS.parent), str(TESTS)]


def pytest_report_header() -> str:
    from golden_files import DATA, FIGURES

    return f"golden figures: {FIGURES}; COCO pictures: {'yes' if DATA else 'none at hand'}"
