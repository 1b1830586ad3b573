"""The Makefile on a tree drawn here: papers are found by paper.mk, and an environment holds one Paddle."""

import inspect
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PYPROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
[project]
name = "toy"
"""
# A build backend without setuptools, so that nothing is fetched: the tree as a wheel with the extras of ours.
BACKEND = """
EXTRAS = ["Provides-Extra: cpu", "Provides-Extra: gpu", 'Requires-Dist: paddlepaddle; extra == "cpu"',
          'Requires-Dist: paddlepaddle-gpu; extra == "gpu"']
def build_wheel(folder, config_settings=None, metadata_directory=None):
    return draw_wheel(folder, "toy", EXTRAS).name
build_editable = build_wheel
"""


def draw_wheel(folder, name: str, metadata=()) -> Path:
    """A wheel whose package `paddle` says which wheel it is from."""
    path, info = Path(folder) / f"{name}-3.3.1-py3-none-any.whl", f"{name}-3.3.1.dist-info"
    entries = {
        f"{info}/METADATA": "\n".join(["Metadata-Version: 2.1", f"Name: {name}", "Version: 3.3.1", *metadata, ""]),
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    if name != "toy":
        entries["paddle/__init__.py"] = f"wheel = {name!r}\n"
    entries[f"{info}/RECORD"] = "".join(f"{entry},,\n" for entry in [*entries, f"{info}/RECORD"])
    with zipfile.ZipFile(path, "w") as archive:
        for entry, text in entries.items():
            archive.writestr(entry, text)
    return path


@pytest.fixture
def tree(tmp_path):
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "paper").mkdir()
    (tmp_path / "paper" / "paper.mk").write_text("MINI := --epochs 2\nMINI_CPUS := 3\nMINI_IMAGES := val\n")
    (tmp_path / "sixth").mkdir()
    (tmp_path / "sixth" / "paper.mk").write_text(
        "MINI := --lr 0.1\nMINI_EVALUATION := --fast\nMINI_CHECKPOINT := latest\n"
    )
    (tmp_path / "not_a_paper").mkdir()
    (tmp_path / "pyproject.toml").write_text(PYPROJECT)
    imports = "import zipfile\nfrom pathlib import Path\n"
    (tmp_path / "backend.py").write_text(imports + inspect.getsource(draw_wheel) + BACKEND)
    (tmp_path / "wheels").mkdir()
    for name in ("paddlepaddle", "paddlepaddle_gpu"):
        draw_wheel(tmp_path / "wheels", name)
    return tmp_path


def make(tree, *arguments: str) -> subprocess.CompletedProcess:
    """`make` as a user starts it: this process may itself run under make, with its variables."""
    env = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MFLAGS", "PADDLE", "PYTHON")}
    command = ["make", "--no-print-directory", "EXTRAS=", "USED=", *arguments]
    return subprocess.run(command, cwd=tree, env=env | {"PIP_CONFIG_FILE": os.devnull}, capture_output=True, text=True)


def test_a_folder_with_a_paper_mk_is_a_paper(tree):
    def commands(*arguments: str) -> str:
        return " ".join(make(tree, "-n", *arguments).stdout.split())

    assert "PAPER one of: paper sixth\n" in make(tree).stdout
    trained = commands("train-paper")
    assert "python paper/draw_mini.py" in trained
    assert "--nproc_per_node 3 paper/train.py --data_path 'paper/data/mini' --epochs 2 --output_dir" in trained
    assert "--image_path 'paper/data/mini/val'" in commands("demo-paper")
    assert "--weights 'paper/output/mini/best'" in commands("export-paper")
    # nothing of the first recipe is left in the second
    assert "python sixth/train.py --data_path 'sixth/data/mini' --lr 0.1 --output_dir" in commands("train-sixth")
    evaluated = commands("evaluate-sixth")
    assert "--weights 'sixth/output/mini/latest' --data_path 'sixth/data/mini' --fast" in evaluated
    # nor of any where the data are the user's
    assert "--fast" not in commands("evaluate-sixth", "DATA=d") and "--lr" not in commands("train-sixth", "DATA=d")


def test_one_paddle_in_an_environment(tree):
    def setup(*arguments: str) -> tuple[int, str]:
        """Exit status, and the wheel that `import paddle` then finds; no other is installed."""
        status = make(tree, "setup", "PIP_ARGS=--no-index --find-links wheels", *arguments).returncode
        python = str(tree / ".venv/bin/python")
        found = subprocess.run([python, "-c", "import paddle; print(paddle.wheel)"], capture_output=True, text=True)
        installed = [
            path.name.partition("-")[0] for path in tree.glob(".venv/lib/*/site-packages/paddlepaddle*.dist-info")
        ]
        assert installed == [found.stdout.strip()]
        return status, installed[0]

    assert setup(f"PYTHON={sys.executable}") == (0, "paddlepaddle")
    assert setup("PADDLE=gpu") == (0, "paddlepaddle_gpu")
    (tree / "pyproject.toml").touch()
    assert setup() == (0, "paddlepaddle_gpu")  # which one it is need not be said again
    assert setup("PADDLE=cpu", "PIP_ARGS=--no-index") == (2, "paddlepaddle_gpu")  # it cannot be had: nothing changes
    # by hand, as no set-up does it: both
    pip = [
        str(tree / ".venv/bin/python"),
        "-m",
        "pip",
        "install",
        "--no-index",
        str(tree / "wheels/paddlepaddle-3.3.1-py3-none-any.whl"),
    ]
    subprocess.run(pip, check=True, capture_output=True)
    assert setup("PADDLE=cpu") == (0, "paddlepaddle")


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("PADDLE=rocm", "PADDLE=rocm: give cpu or gpu"),
        ("PYTHON=/bin/false", "/bin/false is not Python 3.11, 3.12 or 3.13"),
    ],
)
def test_an_unfit_environment_is_one_line(tree, argument, words):
    failed = make(tree, "setup", argument)
    assert failed.returncode == 2 and words in failed.stderr and failed.stderr.count("\n") == 1 and not failed.stdout
    assert not (tree / ".venv").exists()
