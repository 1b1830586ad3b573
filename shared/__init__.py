"""What the papers share: weight files, the alignment of two networks, the plumbing of a run; no policy of a paper.

`InputError` and `run` are the one rule for bad input: a script that meets something only its user can mend raises
`InputError`; `run` prints it as one line and ends with exit status 2. Importing this package changes nothing in the
process: scripts call `set_up` before they import Paddle.
"""

import argparse
import contextlib
import errno
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path


def set_up() -> None:
    """Prepare the process for Paddle; every script calls it once, before Paddle is imported.

    It silences Paddle's note about ccache, which it prints at every import. And it lets the MKL in Paddle 3.3 use AVX2
    on processors that are not Intel's, where MKL would run without, at half speed: MKL reads the variable when it first
    computes. A value that the user set stays (0: MKL's own choice).
    """
    warnings.filterwarnings("ignore", message="No ccache found")
    with contextlib.suppress(OSError):
        processor = Path("/proc/cpuinfo").read_text()
        if "AuthenticAMD" in processor and " avx2 " in processor and " fma " in processor:
            os.environ.setdefault("MKL_DEBUG_CPU_TYPE", "5")


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """The look of every --help: the description as it is written, and the defaults that say something."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default is None or action.default is False or isinstance(action.default, list):
            return action.help
        return super()._get_help_string(action)


class InputError(ValueError):
    """Bad input. The message is one line: the file or option, what is wrong, and what to do."""


def run(main: Callable[[], int | None]) -> None:
    """Run a script's `main` and leave the process with its exit status.

    0 or what `main` returns; 2 with one line on stderr for an `InputError`, or for a path that the system does not let
    anyone, or this user, open; 130 for Ctrl-C.
    """
    try:
        status = main() or 0
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        status = 2
    except OSError as error:
        if error.errno not in (errno.ENAMETOOLONG, errno.ELOOP, errno.EACCES) or not error.filename:
            raise
        print(f"error: {str(error.filename)!r:.200}: {error.strerror}; give another path", file=sys.stderr)
        status = 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        status = 130
    sys.exit(status)
