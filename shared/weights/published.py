"""Published weight files that people fetch themselves, found by the names that they are published under."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from shared import InputError


def published_file(
    option: str, value: str, names: Mapping[str, Sequence[str]], folder: Path, whose: str
) -> Path | None:
    """The file of first weights that `--OPTION VALUE` asks for; None for "scratch".

    `names` gives, for each word that the option knows, the names that the file may have in `folder`; any other value is
    a path. InputError where the file is not there; `whose` says in it which weights are wanted.
    """
    if value == "scratch":
        return None
    if value not in names:
        if not Path(value).is_file():
            words = ", ".join([*names, "scratch"])
            raise InputError(f"--{option} {value}: no such file; give {words} or a file")
        return Path(value)
    paths = [folder / name for name in names[value]]
    for path in paths:
        if path.is_file():
            return path
    raise InputError(
        f"{paths[0]}: no such file; put {whose} ImageNet weights there, or give --{option} scratch or a file"
    )
