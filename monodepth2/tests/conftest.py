"""The paper's folder is on the path, and Paddle prepared, before a test is imported."""

from pathlib import Path

from shared.tests.folder import prepare

prepare(Path(__file__).resolve().parent)


def pytest_report_header() -> str:
    from golden_files import DATA, FOLDERS

    return f"golden figures: {', '.join(FOLDERS)}; KITTI pictures: {'yes' if DATA else 'none at hand'}"
