"""What every file of the repository keeps, read from its source: imports, sizes, names. Papers are found by paper.mk.

Each rule is a function of a `Tree` that returns what breaks it, a line for each.
"""

import ast
import re
import tomllib
from collections.abc import Iterator
from functools import cache, cached_property
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

NOT_OURS = {".git", ".venv", ".hypothesis", "__pycache__", "build", "data", "output", "result"}
MOST_LINES, MOST_FUNCTION_LINES, MOST_MODULES = 400, 60, 24
SOURCES = {".py", ".cc", ".h", ".jinja", ".mk"}
# in brackets, so that this file does not hold what it forbids
PRIVATE = re.compile("fact[ ]sheet|the[ ]sheet|DESIGN[ ]says|DESIGN[.]md", re.IGNORECASE)


class Tree:
    """The files under `root`, parsed when they are first asked for."""

    def __init__(self, root: Path):
        self.root = root
        self.papers = sorted(path.parent for path in root.glob("*/paper.mk"))

    @cached_property
    def files(self) -> list[Path]:
        """All files but those that are made on demand."""
        found, folders = [], [self.root]
        while folders:
            for path in sorted(folders.pop().iterdir()):
                if path.is_dir():
                    folders += (
                        [path] if path.name not in NOT_OURS and not path.name.endswith(("_cache", "-info")) else []
                    )
                else:
                    found.append(path)
        return found

    @property
    def modules(self) -> list[Path]:
        return [path for path in self.files if path.suffix == ".py"]

    @cache  # noqa: B019 - a tree lives as long as the process that checks it
    def nodes(self, module: Path) -> list[ast.AST]:
        """Its imports and functions, nested ones included."""
        kinds = ast.Import | ast.ImportFrom | ast.FunctionDef | ast.AsyncFunctionDef
        return [node for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))) if isinstance(node, kinds)]

    def name(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()

    def paper_of(self, path: Path) -> Path | None:
        return next((paper for paper in self.papers if paper in path.parents), None)

    def imports(self, module: Path) -> Iterator[tuple[str, list[str]]]:
        """(module, names taken from it) of every import, lazy ones included; a relative one is given as it is found."""
        for node in self.nodes(module):
            if isinstance(node, ast.Import):
                yield from ((alias.name, []) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                yield "." * node.level + (node.module or ""), [alias.name for alias in node.names]

    @cache  # noqa: B019
    def targets(self, module: Path) -> set[Path]:
        """The files that the imports of `module` name: of a package the parts that are taken from it, or itself."""
        found = set()
        for name, taken in self.imports(module):
            parts = [self.find(module, f"{name}{'' if name.endswith('.') else '.'}{part}") for part in taken]
            found |= {part for part in parts if part}
            if not parts or None in parts:
                found |= {path for path in [self.find(module, name)] if path}
        return found

    def find(self, module: Path, name: str) -> Path | None:
        """The file that `module` gets for a dotted name: beside it for a script or test, in its paper, in the root."""
        dots = len(name) - len(name.lstrip("."))
        paper = self.paper_of(module)
        places = [module.parents[dots - 1]] if dots else [*([paper, paper / "tests"] if paper else []), self.root]
        for place in places:
            base = place.joinpath(*name[dots:].split(".")) if name[dots:] else place
            for path in (base.with_name(base.name + ".py"), base / "__init__.py"):
                if path.is_file():
                    return path
        return None

    def reach(self, start: Path) -> set[Path]:
        """All files of the tree that importing `start` may run: packages above what is imported included."""
        seen, ahead = set(), [start]
        while ahead:
            module = ahead.pop()
            if module not in seen:
                seen.add(module)
                packages = [folder / "__init__.py" for folder in module.parents if self.root in folder.parents]
                ahead += [*self.targets(module), *(package for package in packages if package.is_file())]
        return seen


def cycles(tree: Tree) -> list[str]:
    """No module imports itself by way of others, not even lazily."""
    graph = {module: tree.targets(module) for module in tree.modules}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return [" imports ".join(tree.name(path) for path in reversed(error.args[1]))]
    return []


def sizes(tree: Tree) -> list[str]:
    """A file can be read in one go, and so can a function."""
    found = []
    for path in tree.files:
        lines = len(path.read_text(encoding="utf-8").splitlines()) if path.suffix in SOURCES else 0
        if lines > MOST_LINES:
            found.append(f"{tree.name(path)}: {lines} lines")
    for module in tree.modules:
        for node in tree.nodes(module):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = node.end_lineno - node.lineno + 1
                if lines > MOST_FUNCTION_LINES:
                    found.append(f"{tree.name(module)}: {node.name} has {lines} lines")
    return found


def training_modules(tree: Tree) -> list[str]:
    """Whoever reads one training step opens few files: those of the paper that train.py reaches."""
    found = []
    for paper in tree.papers:
        reached = [path for path in tree.reach(paper / "train.py") if paper in path.parents]
        count = sum(path.name not in ("__init__.py", "train.py") for path in reached)
        if count > MOST_MODULES:
            found.append(f"{paper.name}: train.py reaches {count} modules")
    return found


def drawn_worlds(tree: Tree) -> list[str]:
    """The mini data are drawn without Paddle and without anything of the paper's network or data sets."""
    found = []
    for paper in tree.papers:
        starts = [path for path in tree.modules if paper / "mini" in path.parents or path == paper / "draw_mini.py"]
        for module in sorted(set().union(*map(tree.reach, starts))):
            rooms = {"models", "datasets", "losses"} & set(module.relative_to(tree.root).parts)
            names = {name.partition(".")[0] for name, _ in tree.imports(module)} & {"paddle", "torch"}
            found += [f"{paper.name}: mini/ reaches {tree.name(module)}"] * bool(rooms)
            found += [f"{paper.name}: mini/ imports {name} in {tree.name(module)}" for name in names]
    return found


def folders_alone(tree: Tree) -> list[str]:
    """No paper imports another, and nothing outside a paper names it but what people read first."""
    found = []
    names = [paper.name for paper in tree.papers]
    for module in tree.modules:
        own = tree.paper_of(module)
        for name, _ in tree.imports(module) if own else ():
            if name.partition(".")[0] in set(names) - {own.name}:
                found.append(f"{tree.name(module)}: imports {name}")
    for path in tree.files:
        if tree.paper_of(path) or path.suffix == ".md" or not names:
            continue
        for number, line in enumerate(_lines(path), start=1):
            found += [
                f"{tree.name(path)}:{number}: names {name}" for name in re.findall(rf"\b({'|'.join(names)})\b", line)
            ]
    return found


def private_papers(tree: Tree) -> list[str]:
    """Nothing is cited that a clone does not hold."""
    return [
        f"{tree.name(path)}:{number}: cites {match[0]}"
        for path in tree.files
        for number, line in enumerate(_lines(path), start=1)
        for match in PRIVATE.finditer(line)
    ]


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        return []


def local_imports(tree: Tree) -> list[str]:
    """Ruff sorts a paper's own modules into a block of their own when pyproject.toml lists them."""
    listed = set(
        tomllib.loads((tree.root / "pyproject.toml").read_text())["tool"]["ruff"]["lint"]["isort"]["known-local-folder"]
    )
    found = set()
    for module in tree.modules:
        own = tree.paper_of(module)
        for name in {name.partition(".")[0] for name, _ in tree.imports(module)} - {""} if own else ():
            target = tree.find(module, name)
            if target and own in target.parents and name not in listed:
                found.add(f"pyproject.toml: known-local-folder lacks {name}")
    return sorted(found)
