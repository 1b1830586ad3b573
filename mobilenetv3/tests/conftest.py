"""The paper's folder is on the path, and Paddle prepared, before a test is imported."""

from pathlib import Path

from shared.tests.folder import prepare

prepare(Path(__file__).resolve().parent)


def pytest_report_header() -> str:
    from golden_files import FOLDERS, PHOTOS

    return f"golden figures: {', '.join(FOLDERS)}; photographs: {'yes' if PHOTOS else 'none at hand'}"
