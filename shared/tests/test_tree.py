"""What every file of the repository keeps; and each rule finds what breaks it, in a tree drawn here."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from shared.tests import tree as rules
from shared.tests.tree import Tree

ROOT = Path(__file__).parents[2]
RULES = [
    rules.cycles,
    rules.sizes,
    rules.training_modules,
    rules.drawn_worlds,
    rules.folders_alone,
    rules.private_papers,
    rules.local_imports,
]


@pytest.fixture(scope="module")
def repository():
    return Tree(ROOT)


@pytest.mark.parametrize("rule", RULES)
def test_the_repository(repository, rule):
    assert repository.papers
    assert rule(repository) == []


LOCAL = ["datasets", "golden_files", "mini", "models", "trainer", *(f"part{number}" for number in range(25))]
# a tree of two papers that breaks no rule
SOUND = {
    "Makefile": "all:\n",
    "pyproject.toml": f"[tool.ruff.lint.isort]\nknown-local-folder = {LOCAL}\n",
    "README.md": "first and second\n",
    "shared/__init__.py": "",
    "shared/files.py": "import shared\n",
    "first/paper.mk": "",
    "first/train.py": "from shared import files\nimport trainer\n",
    "first/trainer.py": "from models import net\nfrom datasets import kitti\ndef f():\n    import mini.draw\n",
    "first/models/__init__.py": "from .net import build\n",
    "first/models/net.py": "from . import layers\nfrom .layers import Norm\n",
    "first/models/layers.py": "import paddle\nfrom shared.files import write\n",
    "first/datasets/kitti.py": "from models import net\n",
    "first/mini/draw.py": "import numpy\n",
    "first/tests/test_net.py": "from models import net\nimport golden_files\n",
    "first/tests/golden_files.py": "",
    "second/paper.mk": "",
    "second/train.py": "import models\n",
    "second/models.py": "",
    "second/data/mini/made.py": "import first\n" * 500,
}
BROKEN = {
    "two that import each other": (rules.cycles, "first/models/layers.py", "def f():\n    import trainer\n"),
    "a package that imports itself": (rules.cycles, "first/models/layers.py", "from models import build\n"),
    "a cycle in shared": (rules.cycles, "shared/__init__.py", "from shared import files\n"),
    "a long file": (rules.sizes, "first/tests/test_net.py", "\n" * 401),
    "a long function": (rules.sizes, "shared/files.py", "class A:\n    def long(self):\n" + "        pass\n" * 60),
    "too much to open": (
        rules.training_modules,
        "first/trainer.py",
        "".join(f"def f():\n    import part{i}\n" for i in range(25)),
    ),
    "Paddle in a drawn world": (rules.drawn_worlds, "first/mini/draw.py", "def f():\n    import paddle.nn\n"),
    "Paddle by way of shared": (rules.drawn_worlds, "first/mini/draw.py", "from shared import net\n"),
    "the network in a drawn world": (rules.drawn_worlds, "first/mini/draw.py", "from datasets import kitti\n"),
    "one paper imports another": (rules.folders_alone, "second/models.py", "from first.models import net\n"),
    "shared names a paper": (rules.folders_alone, "shared/files.py", "if paper == 'second':\n    pass\n"),
    "the Makefile names a paper": (rules.folders_alone, "Makefile", "MINI_first := 1\ntest: first\n"),
    "a module that ruff does not know": (rules.local_imports, "first/trainer.py", "import unlisted\n"),
    "a private paper": (rules.private_papers, "first/trainer.py", "# as the fact " + "sheet says\n"),
    "the design": (rules.private_papers, "shared/files.py", '"""DESIGN' + ' says so."""\n'),
}


def draw(root: Path, files: dict) -> Tree:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return Tree(root)


def test_a_sound_tree(tmp_path):
    tree = draw(tmp_path, SOUND)
    assert [paper.name for paper in tree.papers] == ["first", "second"]
    assert all(rule(tree) == [] for rule in RULES)
    reached = {tree.name(path) for path in tree.reach(tmp_path / "first/train.py")}
    assert reached == {
        name for name in SOUND if name.startswith(("first/m", "first/d", "first/t", "shared")) and "tests" not in name
    }


@pytest.mark.parametrize("case", BROKEN)
def test_what_breaks_a_rule_is_found(tmp_path, case):
    rule, name, text = BROKEN[case]
    parts = {f"first/part{number}.py": "" for number in range(25)} | {"first/unlisted.py": ""}
    tree = draw(tmp_path, SOUND | parts | {"shared/net.py": "import paddle\n", name: text})
    assert {other for other in RULES if other(tree)} == {rule}


IMPORTS = """
import importlib, os, sys, warnings

def state():
    return dict(os.environ), list(warnings.filters)

before = state()
import shared
if state() != before:
    print("shared")
for name in sys.argv[1].split():  # what they import of other people's may do so
    importlib.import_module(name)
for name in sys.argv[2].split():
    before = state()
    importlib.import_module(name)
    if state() != before:
        print(name)
"""


def imports_that_change_the_process(root: Path) -> list[str]:
    """The modules of `shared` that change os.environ or the filters of warnings when they are imported."""
    tree = Tree(root)
    modules = [path for path in tree.modules if root / "shared" in path.parents and "tests" not in path.parts]
    names = [tree.name(path).removesuffix(".py").replace("/", ".").removesuffix(".__init__") for path in modules]
    top = [node for path in modules for node in ast.parse(path.read_text()).body]
    others = {alias.name for node in top if isinstance(node, ast.Import) for alias in node.names}
    others |= {node.module for node in top if isinstance(node, ast.ImportFrom) and not node.level}
    others = {name for name in others if name.partition(".")[0] != "shared"}
    command = [sys.executable, "-c", IMPORTS, " ".join(sorted(others)), " ".join(names)]
    found = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    return found.stdout.split()


def test_importing_shared_changes_nothing_in_the_process(tmp_path):
    assert imports_that_change_the_process(ROOT) == []
    effects = {
        "shared/quiet.py": "import warnings\nwarnings.filterwarnings('ignore', message='x')\n",
        "shared/room/__init__.py": "import os\nos.environ['SHARED'] = '1'\n",
    }
    draw(tmp_path, SOUND | effects)
    assert imports_that_change_the_process(tmp_path) == ["shared.quiet", "shared.room"]
