"""What every options.py is made of: kinds of numbers, groups whose options have two spellings, what weights remember.

Which options there are, and their defaults, is each paper's own.
"""

import argparse
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from shared import HelpFormatter, InputError
from shared.files import LARGEST_STATE, one_line, read_json


def boolean(text: str) -> bool:
    """yes/true/t/y/1 or no/false/f/n/0 in any case."""
    word = text.lower()
    if word in ("yes", "true", "t", "y", "1"):
        return True
    if word in ("no", "false", "f", "n", "0"):
        return False
    raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")


def _number(kind: type, fits: Callable[[Any], bool], otherwise: str) -> Callable[[str], Any]:
    """The type of a number that `fits`; its error says what it is `otherwise`."""

    def parse(text: str) -> Any:
        value = kind(text)
        if not fits(value):
            raise argparse.ArgumentTypeError(f"{text} is {otherwise}")
        return value

    parse.__name__ = kind.__name__  # argparse names it where the text is no number
    return parse


def whole_number(least: int, most: int) -> Callable[[str], int]:
    """The type of a whole number from `least` to `most`."""
    return _number(int, lambda value: least <= value <= most, f"not from {least} to {most}")


positive_int = _number(int, lambda value: value >= 1, "not a positive whole number")
count = _number(int, lambda value: value >= 0, "negative")
finite = _number(float, math.isfinite, "not a finite number")
positive_float = _number(float, lambda value: 0 < value < math.inf, "not a positive number")
not_negative = _number(float, lambda value: 0 <= value < math.inf, "not a number from 0 on")
probability = _number(float, lambda value: 0 <= value <= 1, "not between 0 and 1")
fraction = _number(float, lambda value: 0 <= value < 1, "not a number from 0 to below 1")
open_share = _number(float, lambda value: 0 < value < 1, "not between 0 and 1")


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


class PaperOptions:
    """The options of a paper, and how a command line becomes a namespace.

    `groups` are functions by name, each of which adds options to a parser. `network` names the options that a
    checkpoint remembers of its network. `hint` says what weights to give, and `files` names further options of files.
    `check(options, parser)` may end in `parser.error` where values do not fit each other.
    """

    def __init__(
        self,
        title: str,
        groups: Mapping[str, Callable[[argparse.ArgumentParser], None]],
        network: Iterable[str],
        hint: str,
        files: Sequence[str] = (),
        check: Callable[[argparse.Namespace, argparse.ArgumentParser], None] = lambda options, parser: None,
    ):
        self.title, self.groups, self.network, self.hint = title, groups, network, hint
        self.files, self.check = files, check

    def build_parser(
        self, description: str | None = None, groups: Iterable[str] | None = None
    ) -> argparse.ArgumentParser:
        """A parser with these groups of options, or all; scripts add their own few."""
        parser = argparse.ArgumentParser(
            description=description or self.title,
            formatter_class=HelpFormatter,
            usage="%(prog)s [options]",
            allow_abbrev=False,
        )
        for name in self.groups if groups is None else groups:
            self.groups[name](parser)
        return parser

    def parse_options(
        self,
        argv: Sequence[str] | None = None,
        parser: argparse.ArgumentParser | None = None,
        defaults: Mapping | None = None,
    ) -> argparse.Namespace:
        """Parse `argv` (the command line when None). Options that `parser` lacks have the reference's defaults.

        `defaults` replaces the reference's defaults (by the options that a checkpoint was trained with, say); what
        stands in `argv` wins over both. Wrong values end the process with exit status 2, as argparse does.
        """
        everything = self.build_parser()
        parser = parser or everything
        for filled in (everything, parser):
            filled.set_defaults(**(defaults or {}))
        options = argparse.Namespace(**vars(everything.parse_args([])) | vars(parser.parse_args(argv)))
        self.check(options, parser)
        return options

    def remembered_options(self, weights: str | None) -> dict[str, Any]:
        """{name: value} of the network's options that the training checkpoint behind `weights` was made with.

        `weights` is a checkpoint folder or a file in one; {} for any other file. Every value is checked as the command
        line's would be. InputError where the state cannot be read or a value is missing or unfit.
        """
        file, state = read_state(weights)
        if file is None:
            return {}
        options = state.get("options")
        if not isinstance(options, dict):
            raise InputError(f"{file}: holds no options; give another checkpoint")
        actions = {action.dest: action for action in self.build_parser()._actions}
        return {name: _checked_value(actions[name], name, options, file) for name in self.network}

    def parse_options_for_weights(
        self,
        argv: Sequence[str] | None,
        parser: argparse.ArgumentParser,
        needed: bool = True,
        remember: Callable[[str | None], dict] | None = None,
    ) -> argparse.Namespace:
        """`parse_options`, where the defaults of the network's options are those of --resume, or else of --weights.

        `remember(path)` gives {name: value} of weights; by default `remembered_options`. InputError where --weights is
        `needed` and not given, where an option names a file that is not there, and for weights that cannot be read.
        """
        known = {action.dest for action in parser._actions}
        names = [name for name in ("resume", "weights", *self.files) if name in known]
        first = parser.parse_args(argv)
        require_files(first, names, self.hint, needed="weights" if needed else None)
        given = [getattr(first, name) for name in ("resume", "weights") if name in names]
        source = next(filter(None, given), None)
        return self.parse_options(argv, parser, (remember or self.remembered_options)(source))


def read_state(weights: str | None) -> tuple[Path | None, dict[str, Any]]:
    """The state file of the checkpoint behind `weights` and what it holds; (None, {}) where there is none."""
    if not weights:
        return None, {}
    path = Path(weights)
    file = (path if path.is_dir() else path.parent) / "state.json"
    if not file.is_file():
        return None, {}
    state = read_json(file, "a checkpoint's state", "give another checkpoint", LARGEST_STATE)
    if not isinstance(state, dict):
        raise InputError(f"{file}: not a checkpoint's state; give another checkpoint")
    return file, state


def _checked_value(action: argparse.Action, name: str, options: Mapping[str, Any], file: Path) -> Any:
    """The value of an option as the command line would take it; InputError for one that it would not."""
    value = options.get(name)
    if name not in options:
        raise InputError(f"{file}: lacks the option {name}; give another checkpoint")
    if value is None and action.default is None:
        return None
    several = action.nargs in ("+", "*") or isinstance(action.nargs, int) and action.nargs > 0
    try:
        if action.nargs == 0:
            right = isinstance(value, bool)
        elif several:
            right = isinstance(value, list) and action.nargs in ("+" if value else "*", "*", len(value))
            right = right and all(_is_fit(action, item) for item in value)
        else:
            right = _is_fit(action, value)
    except (argparse.ArgumentTypeError, ValueError, TypeError, OverflowError):
        right = False
    if not right:
        raise InputError(f"{file}: {name} is {_told(value)}, which --{name} does not take; give another checkpoint")
    return value


def _told(value: Any) -> str:
    try:
        return one_line(f"{value!r:.60}")
    except ValueError:  # Python writes no number of more than 4,300 digits
        return "a number too large"


def _is_fit(action: argparse.Action, value: Any) -> bool:
    if action.choices is not None and value not in action.choices:
        return False
    if action.type is None:
        return isinstance(value, str)
    if isinstance(value, list | dict):
        return False
    parsed = action.type(str(value))
    return parsed == value and isinstance(parsed, bool) == isinstance(value, bool)  # 1 == True in Python


def require_files(options: argparse.Namespace, names: Iterable[str], hint: str, needed: str | None = None) -> None:
    """InputError where an option of `names` names nothing that is there, or where `needed` is not given."""
    if needed and not getattr(options, needed):
        raise InputError(f"--{needed} is missing: {hint}")
    for name in names:
        path = getattr(options, name)
        if path and not Path(path).exists():
            raise InputError(f"--{name} {path}: no such file or folder; {hint}")
