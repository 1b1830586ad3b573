"""The paper's folder is on the path, and Paddle prepared, before a test is imported."""

from pathlib import Path

from shared.tests.folder import prepare

# with AVX2 one loss of ResNet-50 in float32 is 1.14e-5 from its golden figure, for a bound of 1e-5
prepare(Path(__file__).resolve().parent, kernels=None)


def pytest_report_header() -> str:
    from golden_files import DATA, FOLDERS

    return f"golden figures: {', '.join(FOLDERS)}; KITTI pictures: {'yes' if DATA else 'none at hand'}"
