"""An official checkout in a torch twin's place (`align.py --reference DIR`): what every reference/official.py needs.

Which modules of a checkout are called, and what takes the place of those that cannot be had, is each paper's own.
"""

import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from shared import InputError


def require_checkout(directory: Path, files: Iterable[str], name: str, where: str) -> None:
    """InputError, which says `where` the checkout is to be had, unless `directory` has all of these files."""
    if not directory.is_dir():
        raise InputError(f"--reference {directory}: no such folder; {where}")
    for file in files:
        if not (directory / file).is_file():
            raise InputError(f"--reference {directory}: not a checkout of {name}, {file} is missing; {where}")


def stand_ins(modules: Mapping[str, Mapping[str, Any]]) -> dict[str, ModuleType]:
    """Modules with these attributes by their full names, each also an attribute of its parent, which comes first."""
    made: dict[str, ModuleType] = {}
    for name, attributes in modules.items():
        made[name] = ModuleType(name)
        made[name].__dict__.update(attributes)
        parent, _, child = name.rpartition(".")
        if parent in made:
            setattr(made[parent], child, made[name])
    return made


@contextmanager
def replaced(owner: Any, **attributes: Any) -> Iterator[None]:
    """`owner` has other attributes meanwhile."""
    kept = {name: getattr(owner, name) for name in attributes}
    for name, value in attributes.items():
        setattr(owner, name, value)
    try:
        yield
    finally:
        for name, value in kept.items():
            setattr(owner, name, value)


@contextmanager
def imports_from(directory: Path, names: Iterable[str], modules: Mapping[str, ModuleType]) -> Iterator[None]:
    """Imports of `names` find the checkout first, those of `modules` their stand-ins; nothing is written there.

    Neither stays in sys.modules: some have the names of a paper folder's own modules, which come back.
    """
    theirs = {name.partition(".")[0] for name in (*names, *modules)}
    ours = {name: module for name, module in sys.modules.items() if name.partition(".")[0] in theirs}
    for name in ours:
        del sys.modules[name]
    sys.modules.update(modules)
    sys.path.insert(0, str(directory))
    try:
        with replaced(sys, dont_write_bytecode=True):
            yield
    finally:
        sys.path.remove(str(directory))
        for name in [name for name in sys.modules if name.partition(".")[0] in theirs]:
            del sys.modules[name]
        sys.modules.update(ours)
