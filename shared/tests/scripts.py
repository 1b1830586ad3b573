"""For tests: a folder's scripts as their users run them, but for the seconds that every start spends on imports.

Each call is a process of its own, forked from one that has imported Paddle and other slow packages already
(multiprocessing's fork server).
"""

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

GRACE = 10.0  # seconds that what a script has forked may outlive it
_CONTEXT = multiprocessing.get_context("forkserver")
_SLOW = ["paddle", "visualdl", "scipy.optimize", "matplotlib.pyplot", "pycocotools.cocoeval", "shared.weights"]
_CONTEXT.set_forkserver_preload(_SLOW)


def _run(script: str, argv: list[str], files: list[str]) -> None:
    for number, file in enumerate(files, start=1):
        os.dup2(os.open(file, os.O_WRONLY), number)
    sys.stdout.reconfigure(line_buffering=True)
    sys.argv = [script, *argv]
    sys.path.insert(0, str(Path(script).parent))
    runpy.run_path(script, run_name="__main__")


class Script:
    """`python script argv...` as it runs; `process` is a multiprocessing.Process."""

    def __init__(self, script: Path, *argv):
        self.words = [str(script), *map(str, argv)]
        self._folder = tempfile.TemporaryDirectory()
        self._files = [Path(self._folder.name).resolve() / name for name in ("stdout", "stderr")]
        for file in self._files:
            file.touch()
        files = [str(file) for file in self._files]
        self.process = _CONTEXT.Process(target=_run, args=(self.words[0], self.words[1:], files))
        self.process.start()

    def lines(self) -> Iterator[str]:
        """The lines on stdout as they come, until the script has ended."""
        with self._files[0].open() as file:
            text = ""
            while True:
                ended = self.process.exitcode is not None
                text += file.read()
                *whole, text = text.split("\n")
                yield from whole
                if ended:
                    return
                time.sleep(0.01)

    def processes(self) -> list[int]:
        """The processes that have its stdout: the script's own and those that it has forked."""
        found = []
        for file in Path("/proc").glob("[0-9]*/fd/1"):
            try:
                if file.readlink() == self._files[0]:
                    found.append(int(file.parts[2]))
            except OSError:  # it has ended meanwhile
                continue
        return found

    def wait(self, timeout: float = 300) -> subprocess.CompletedProcess:
        """Its exit status, and what it wrote; subprocess.TimeoutExpired after `timeout` seconds, which end it.

        AssertionError where it leaves a process behind that does not end by itself within GRACE seconds.
        """
        self.process.join(timeout)
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()
            raise subprocess.TimeoutExpired(self.words, timeout)
        deadline = time.monotonic() + GRACE
        while self.processes():
            assert time.monotonic() < deadline, f"{self.words}: processes {self.processes()} are left"
            time.sleep(0.05)
        out, err = (file.read_text() for file in self._files)
        self._folder.cleanup()
        return subprocess.CompletedProcess(self.words, self.process.exitcode, out, err)


def call_script(script: Path, *argv, timeout: float = 300) -> subprocess.CompletedProcess:
    """`python script argv...` from beginning to end; see `Script.wait`."""
    return Script(script, *argv).wait(timeout)
