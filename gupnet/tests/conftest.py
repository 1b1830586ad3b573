"""Imports in this folder are local: put it on the path, as running one of its scripts does."""

import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
sys.path[:0] = [str(TESTS.parent), str(TESTS)]
pytest.register_assert_rewrite("shared.tests")  # so that the common suites' asserts show their values


def pytest_report_header() -> str:
    from golden_files import DATA, FULL

    return f"golden figures: {'full set' if FULL else 'committed'}; KITTI pictures: {'yes' if DATA else 'none at hand'}"


@pytest.fixture(scope="session")
def mini(tmp_path_factory) -> Path:
    """A drawn data set."""
    from mini.draw import ensure_mini

    return ensure_mini(tmp_path_factory.mktemp("data") / "mini", 3, {"train": 4, "val": 3, "test": 2})
