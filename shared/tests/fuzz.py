"""Seeded fuzzing of whatever reads a file: damaged copies of a good one are read right or refused with one line.

Tests of the folders use it; each brings its own readers and good files.
"""

import re
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from shared import InputError

#: what breaks parsers of text: numbers at the limits, words for no numbers, separators, quotes, other encodings
TOKENS = tuple(
    b"nan inf -inf 1e309 -1 0 99999999999999999999 0x10 1e 1_0 .. ../../x / \\ \" ' , ; : { } [ ] null true".split()
) + (b"", b"\n", b"\r\n", b"\t", b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"\xc3\xa9", b"\xd9\xa1", b"%s", b"9" * 400)
#: audit events of a process that starts programs, opens connections or removes files
FORBIDDEN = re.compile(
    r"os\.(system|exec|posix_spawn|spawn|fork|remove|rmdir|rename|truncate)|subprocess\.Popen|socket\."
)
SECONDS = 20  # a reader that takes longer on a small file hangs


def mutations(content: bytes, count: int, seed: int) -> Iterator[bytes]:
    """`count` damaged copies of `content`, the same for equal seeds: one to three changes each.

    Changes: bits flipped, bytes replaced, a span cut, doubled or moved, the end cut off, a word or number replaced by
    one of TOKENS, a line cut, doubled or swapped.
    """
    rng = np.random.default_rng(seed)
    changes = (_flip, _replace, _cut, _double, _truncate, _word, _word, _line, _swap_lines)
    for _ in range(count):
        damaged = content
        for _ in range(rng.integers(1, 4)):
            damaged = changes[rng.integers(len(changes))](damaged, rng)
        yield damaged


def fuzz_reader(read: Callable[[Path], Any], path: Path, content: bytes, count: int, seed: int = 0) -> int:
    """Let `read` read `count` damaged copies of `content` at `path`; returns how many it refused.

    AssertionError when it raises anything but an InputError of one short line that names the file, takes more than
    SECONDS, or meanwhile starts a program, opens a connection, or removes a file.
    """
    refused = 0
    before = signal.signal(signal.SIGALRM, _too_long)
    try:
        for number, damaged in enumerate(mutations(content, count, seed)):
            path.write_bytes(damaged)
            signal.alarm(SECONDS)
            try:
                _watch.events.clear()
                _watch.active = True
                read(path)
            except InputError as error:
                refused += 1
                line = str(error)
                named = path.name in line or str(path.parent) in line
                assert named and "\n" not in line and len(line) < len(str(path)) + 400, f"copy {number}: {line!r}"
            except Exception as error:
                raise AssertionError(f"copy {number} of seed {seed}: {type(error).__name__}: {error}") from error
            finally:
                _watch.active = False
                signal.alarm(0)
            assert not _watch.events, f"copy {number} of seed {seed}: {_watch.events}"
    finally:
        signal.signal(signal.SIGALRM, before)
    return refused


class _Watch:
    """Notes forbidden audit events while it is active; a hook cannot be taken away again, so there is one for good."""

    def __init__(self) -> None:
        self.active, self.events = False, []
        sys.addaudithook(self)

    def __call__(self, event: str, arguments: tuple) -> None:
        if self.active and FORBIDDEN.match(event):
            self.events.append(event)


_watch = _Watch()


def _too_long(number: int, frame: Any) -> None:
    raise TimeoutError(f"the reader took more than {SECONDS} s")


# ------------------------------------------------------------------------------------------------------- the changes


def _span(content: bytes, rng: np.random.Generator) -> tuple[int, int]:
    start = int(rng.integers(len(content) + 1))
    return start, min(len(content), start + int(rng.integers(1, 33)))


def _flip(content: bytes, rng: np.random.Generator) -> bytes:
    damaged = bytearray(content)
    for place in rng.integers(len(content), size=rng.integers(1, 5)) if content else ():
        damaged[place] ^= 1 << int(rng.integers(8))
    return bytes(damaged)


def _replace(content: bytes, rng: np.random.Generator) -> bytes:
    start, end = _span(content, rng)
    return content[:start] + rng.bytes(end - start) + content[end:]


def _cut(content: bytes, rng: np.random.Generator) -> bytes:
    start, end = _span(content, rng)
    return content[:start] + content[end:]


def _double(content: bytes, rng: np.random.Generator) -> bytes:
    start, end = _span(content, rng)
    return content[:end] + content[start:end] * int(rng.integers(1, 4)) + content[end:]


def _truncate(content: bytes, rng: np.random.Generator) -> bytes:
    return content[: rng.integers(len(content) + 1)]


def _word(content: bytes, rng: np.random.Generator) -> bytes:
    words = list(re.finditer(rb"[^\s,:\[\]{}\"]+", content[: 1 << 16]))
    if not words:
        return content + TOKENS[rng.integers(len(TOKENS))]
    word = words[rng.integers(len(words))]
    return content[: word.start()] + TOKENS[rng.integers(len(TOKENS))] + content[word.end() :]


def _line(content: bytes, rng: np.random.Generator) -> bytes:
    lines = content.splitlines(keepends=True) or [b""]
    place = int(rng.integers(len(lines)))
    return b"".join(lines[:place] + lines[place : place + 1] * int(rng.integers(0, 3)) + lines[place + 1 :])


def _swap_lines(content: bytes, rng: np.random.Generator) -> bytes:
    lines = content.splitlines(keepends=True) or [b""]
    a, b = rng.integers(len(lines), size=2)
    lines[a], lines[b] = lines[b], lines[a]
    return b"".join(lines)
