"""What the five paper folders share: weight files and conversion, records and diffing. Nothing else.

`InputError` and `run` are the one rule for bad input: a script that meets something only its user can mend raises
`InputError`; `run` prints it as one line and ends with exit status 2.
"""

import sys
from collections.abc import Callable


class InputError(ValueError):
    """Bad input. The message is one line: the file or option, what is wrong, and what to do."""


def run(main: Callable[[], int | None]) -> None:
    """Run a script's `main` and leave the process with its exit status.

    0 or what `main` returns; 2 with one line on stderr for an `InputError`; 130 for Ctrl-C.
    """
    try:
        status = main() or 0
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        status = 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        status = 130
    sys.exit(status)
