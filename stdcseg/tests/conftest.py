"""Imports in this folder are local: put it on the path, as running one of its scripts does."""

import sys
from pathlib import Path

import pytest

from shared import set_up

set_up()
TESTS = Path(__file__).resolve().parent
pytest.register_assert_rewrite("shared.tests")  # its suites
sys.path[:0] = [str(TESTS.parent), str(TESTS)]


def pytest_report_header() -> str:
    from golden_files import FOLDERS, FRAME

    return f"golden figures: {', '.join(FOLDERS)}; Cityscapes frame: {'yes' if FRAME else 'none at hand'}"
