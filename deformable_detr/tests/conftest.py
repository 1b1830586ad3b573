"""Imports in this folder are local: put it on the path, as running one of its scripts does."""

import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parent
sys.path[:0] = [str(TESTS.parent), str(TESTS)]


def pytest_report_header() -> str:
    from golden_files import DATA, FIGURES

    return f"golden figures: {FIGURES}; COCO pictures: {'yes' if DATA else 'none at hand'}"
