"""For tests: a folder's scripts as their users run them, but for the seconds that every start spends on imports.

Each call is a process of its own, forked from one that has imported Paddle already (multiprocessing's fork server).
"""

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["paddle", "visualdl", "shared.weights"])


def _run(script: str, argv: list[str], files: list[str]) -> None:
    for number, file in enumerate(files, start=1):
        os.dup2(os.open(file, os.O_WRONLY), number)
    sys.argv = [script, *argv]
    sys.path.insert(0, str(Path(script).parent))
    runpy.run_path(script, run_name="__main__")


def call_script(script: Path, *argv, timeout: float = 300) -> subprocess.CompletedProcess:
    """`python script argv...`: its exit status, and what it wrote on stdout and stderr.

    Raises subprocess.TimeoutExpired after `timeout` seconds.
    """
    words = [str(word) for word in argv]
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / "stdout", Path(folder) / "stderr"]
        for file in files:
            file.touch()
        process = _CONTEXT.Process(target=_run, args=(str(script), words, [str(file) for file in files]))
        process.start()
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired([str(script), *words], timeout)
        out, err = (file.read_text() for file in files)
    return subprocess.CompletedProcess([str(script), *words], process.exitcode, out, err)
