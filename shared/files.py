"""Files written whole or not at all, and errors about files that are one line each."""

import contextlib
import errno
import json
import math
import os
import re
import secrets
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from shared import InputError

LARGEST_STATE = 2**27  # bytes of a checkpoint's state.json


class Refused(Exception):
    """A file holds what it must not. The text follows the file's name in the error that `reading` makes of it."""


def one_line(text: Any) -> str:
    """A text, which may come from a hostile file, as one printable line."""
    return "".join(c if c.isprintable() else " " for c in " ".join(str(text).split()))


# ---------------------------------------------------------------- writing


def atomic_write(path: str | Path, write: Callable[[BinaryIO], None]) -> None:
    """Write a file whole or not at all: `write` fills a temporary file beside it, which then takes its name.

    Missing parent folders are made. Raises InputError (no space, no permission, size limit, a folder in the way); the
    old file is then untouched. What else `write` raises goes through, with the old file untouched too.
    """
    path = Path(path)
    temporary = path.parent / temporary_name()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("xb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
    except OSError as error:
        raise write_error(path, error) from error
    sync_folder(path.parent)


def atomic_write_text(path: str | Path, text: str) -> None:
    """`atomic_write` of a text in UTF-8."""
    atomic_write(path, lambda file: file.write(text.encode()))


def write_json(path: str | Path, value: Any) -> None:
    """`atomic_write` of a JSON value, indented; NaN and infinities, which JSON has no form for, become null."""
    text = json.dumps(finite(value), indent=1, allow_nan=False, default=lambda scalar: finite(scalar.item()))
    atomic_write_text(path, text + "\n")


def finite(value: Any) -> Any:
    """A JSON value with None in place of NaN and infinities."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_error(path: Path, error: OSError) -> InputError:
    """The error that says why `path` could not be written, and what to do."""
    reason = {
        errno.ENOSPC: "no space left on the disk; free some or choose another place",
        errno.EDQUOT: "the disk quota is used up; free some or choose another place",
        errno.EFBIG: "larger than this process may write; raise `ulimit -f`",
        errno.EROFS: "the file system is read-only; choose another place",
        errno.EACCES: "no permission to write there; choose another place",
        errno.EPERM: "no permission to write there; choose another place",
        errno.EEXIST: "a file stands where a folder is needed; choose another place",
        errno.ENOTDIR: "a file stands where a folder is needed; choose another place",
        errno.EISDIR: "a folder of that name is in the way; choose another name",
    }.get(error.errno or 0, f"{error.strerror or error}; choose another place")
    return InputError(one_line(f"{path}: not written: {reason}"))


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk: a rename counts only then."""
    # Some network file systems refuse to sync a folder; the files in it are synced and renamed all the same.
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def temporary_name() -> str:
    """A new name that says which process of which machine is writing."""
    return f".tmp-{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"


def remove_stale(folder: Path) -> None:
    """Remove what writers of this machine that no longer run have left half done."""
    for path in folder.glob(".tmp-*"):
        match = re.fullmatch(rf"\.tmp-{re.escape(socket.gethostname())}-(\d+)-[0-9a-f]{{8}}", path.name)
        if not match:
            continue
        try:
            os.kill(int(match[1]), 0)
        except ProcessLookupError:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        except OSError:
            continue  # it runs, under another user


# ---------------------------------------------------------------- reading


@contextlib.contextmanager
def reading(path: Path, trouble: str) -> Iterator[None]:
    """Whatever goes wrong inside becomes an InputError of one line about this file."""
    try:
        yield
    except Refused as error:
        raise InputError(one_line(f"{path}: {error}")) from error
    except Exception as error:
        raise InputError(one_line(f"{path}: {trouble} ({type(error).__name__}: {str(error)[:120]})")) from error


def read_json(path: str | Path, what: str, remedy: str = "make it anew", largest: float = math.inf) -> Any:
    """The JSON value in a file of at most `largest` bytes; InputError of one line, which calls it `what`, otherwise."""
    path = Path(path)
    with reading(path, f"cannot be read as {what}; {remedy}"):
        return parsed_json(path, largest)


def parsed_json(path: Path, largest: float = math.inf) -> Any:
    """The JSON value in a file; Refused for a file of more than `largest` bytes, which would fill the memory."""
    if path.stat().st_size > largest:
        raise Refused(f"larger than {largest:,} bytes, which no such file is")
    return json.loads(path.read_bytes())


def head(path: Path) -> bytes:
    """The first 16 bytes of a file that is there, is a file, and is not empty; Refused otherwise."""
    if not path.exists():
        raise Refused("no such file")
    if not path.is_file():
        raise Refused("a folder, not a weight file" if path.is_dir() else "not a regular file")
    with path.open("rb") as stream:
        first = stream.read(16)
    if not first:
        raise Refused("an empty file; fetch or save it again")
    return first
