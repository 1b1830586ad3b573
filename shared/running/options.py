"""What every options.py is made of: kinds of numbers, groups whose options have two spellings, what weights remember.

Which options there are, and their defaults, is each paper's own.
"""

import argparse
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from shared import HelpFormatter, InputError

# ------------------------------------------------------------------------------------ types of add_argument


def boolean(text: str) -> bool:
    """yes/true/t/y/1 or no/false/f/n/0 in any case."""
    word = text.lower()
    if word in ("yes", "true", "t", "y", "1"):
        return True
    if word in ("no", "false", "f", "n", "0"):
        return False
    raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")


def positive_int(text: str) -> int:
    """A whole number from 1 on."""
    return _checked(text, int(text), lambda value: value >= 1, "not a positive whole number")


def count(text: str) -> int:
    """A whole number from 0 on."""
    return _checked(text, int(text), lambda value: value >= 0, "negative")


def finite(text: str) -> float:
    """A finite number."""
    return _checked(text, float(text), lambda value: abs(value) < float("inf"), "not a finite number")


def positive_float(text: str) -> float:
    """A finite number above 0."""
    return _checked(text, float(text), lambda value: 0 < value < float("inf"), "not a positive number")


def not_negative(text: str) -> float:
    """A finite number from 0 on."""
    return _checked(text, float(text), lambda value: 0 <= value < float("inf"), "not a number from 0 on")


def probability(text: str) -> float:
    """A number from 0 to 1."""
    return _checked(text, float(text), lambda value: 0 <= value <= 1, "not between 0 and 1")


def fraction(text: str) -> float:
    """A number from 0 to below 1."""
    return _checked(text, float(text), lambda value: 0 <= value < 1, "not a number from 0 to below 1")


def open_share(text: str) -> float:
    """A number above 0 and below 1."""
    return _checked(text, float(text), lambda value: 0 < value < 1, "not between 0 and 1")


def _checked(text: str, value, right: Callable[..., bool], what: str):
    if not right(value):
        raise argparse.ArgumentTypeError(f"{text} is {what}")
    return value


# ------------------------------------------------------------------------------------ parsers


class Group:
    """An argparse group whose options answer to both spellings, `--data-path` and `--data_path`."""

    def __init__(self, parser: argparse.ArgumentParser, title: str):
        self._group = parser.add_argument_group(title)

    def add(self, *names: str, **settings) -> None:
        """As `add_argument`; the first long name gives the attribute."""
        spellings = []
        for name in names:
            spellings.append(name)
            dashed = "--" + name[2:].replace("_", "-")
            if name.startswith("--") and dashed != name:
                spellings.append(dashed)
        self._group.add_argument(*spellings, **settings)


def grouped_parser(description: str, groups: Iterable[Callable]) -> argparse.ArgumentParser:
    """A parser with the options that each of `groups`, called with it, adds."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=HelpFormatter, usage="%(prog)s [options]", allow_abbrev=False
    )
    for add in groups:
        add(parser)
    return parser


def parse_with_defaults(
    everything: argparse.ArgumentParser,
    argv: Sequence[str] | None,
    parser: argparse.ArgumentParser | None = None,
    defaults: Mapping | None = None,
) -> argparse.Namespace:
    """Parse `argv` (the command line when None) with `parser`; what it lacks has the defaults of `everything`.

    `defaults` takes the place of the defaults of both (the options a checkpoint was trained with, say); what stands in
    `argv` wins. Wrong values end the process with exit status 2, as argparse does.
    """
    parser = parser or everything
    if defaults:
        parser.set_defaults(**defaults)
        everything.set_defaults(**defaults)
    return argparse.Namespace(**vars(everything.parse_args([])) | vars(parser.parse_args(argv)))


# ------------------------------------------------------------------------------------ weights


def remembered_state(weights: str | None, names: Iterable[str], *others: str) -> dict:
    """What the training checkpoint behind `weights` says: {"options": {name: value}} and the state's `others`.

    `weights` is a checkpoint folder or a file in one; {} for any other file. InputError where its state cannot be
    understood.
    """
    if not weights:
        return {}
    path = Path(weights)
    state_file = (path if path.is_dir() else path.parent) / "state.json"
    if not state_file.is_file():
        return {}
    try:
        state = json.loads(state_file.read_text(encoding="utf-8"))
        return {"options": {name: state["options"][name] for name in names}} | {name: state[name] for name in others}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{state_file}: not a checkpoint's state ({type(error).__name__}); train again") from error


def require_files(options: argparse.Namespace, names: Iterable[str], hint: str, needed: str | None = None) -> None:
    """InputError where an option of `names` names nothing that is there, or where `needed` is not given."""
    if needed and not getattr(options, needed):
        raise InputError(f"--{needed} is missing: {hint}")
    for name in names:
        path = getattr(options, name)
        if path and not Path(path).exists():
            raise InputError(f"--{name} {path}: no such file or folder; {hint}")
