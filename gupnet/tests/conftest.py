"""The paper's folder is on the path, and Paddle prepared, before a test is imported."""

from pathlib import Path

import pytest

from shared.tests.folder import prepare

prepare(Path(__file__).resolve().parent)


def pytest_report_header() -> str:
    from golden_files import DATA, FULL

    return f"golden figures: {'full set' if FULL else 'committed'}; KITTI pictures: {'yes' if DATA else 'none at hand'}"


@pytest.fixture(scope="session")
def mini(tmp_path_factory) -> Path:
    """A drawn data set."""
    from mini.draw import ensure_mini

    return ensure_mini(tmp_path_factory.mktemp("data") / "mini", 3, {"train": 4, "val": 3, "test": 2})
