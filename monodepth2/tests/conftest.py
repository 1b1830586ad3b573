"""Imports in this folder are local: put it on the path, as running one of its scripts does."""

import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
pytest.register_assert_rewrite("shared.tests")  # its suites
sys.path[:0] = [str(TESTS.parent), str(TESTS)]


def pytest_report_header() -> str:
    from golden_files import DATA, FOLDERS

    return f"golden figures: {', '.join(FOLDERS)}; KITTI pictures: {'yes' if DATA else 'none at hand'}"
