"""A script that is called in a forked process acts as one that is started."""

import os
import signal
import subprocess
import sys

import pytest

from shared.tests import scripts
from shared.tests.scripts import Script, call_script

SCRIPT = """
import os, sys
from pathlib import Path
import neighbour
print(neighbour.NAME, *sys.argv[1:], Path(sys.argv[0]).name, __name__)
os.write(1, b"from below\\n")
print("trouble", file=sys.stderr)
if sys.argv[1] == "fail":
    raise ValueError("no good")
sys.exit(int(sys.argv[1]))
"""


@pytest.fixture
def script(tmp_path):
    (tmp_path / "neighbour.py").write_text("NAME = 'near'\n")
    (tmp_path / "script.py").write_text(SCRIPT)
    return tmp_path / "script.py"


@pytest.mark.parametrize("argv", [["0", "a b"], ["3"], ["fail"]])
def test_as_if_started(script, argv):
    found = call_script(script, *argv)
    command = [sys.executable, "-u", str(script), *argv]
    wanted = subprocess.run(command, capture_output=True, text=True)
    assert (found.returncode, sorted(found.stdout.split())) == (wanted.returncode, sorted(wanted.stdout.split()))
    assert found.stderr.strip().splitlines()[-1] == wanted.stderr.strip().splitlines()[-1]


def test_a_script_that_does_not_end(script):
    script.write_text("import time\ntime.sleep(60)\n")
    with pytest.raises(subprocess.TimeoutExpired):
        call_script(script, timeout=1)


def test_lines_come_while_it_runs(script):
    script.write_text("import time\nfor n in range(3):\n    print(n)\n    time.sleep(0.2)\n")
    running, seen = Script(script), []
    for line in running.lines():
        seen.append((line, running.process.exitcode))
    assert [line for line, _ in seen] == ["0", "1", "2"] and seen[0][1] is None
    assert running.wait().returncode == 0


FORKING = """
import os, time
if os.fork():
    print("parent")
    time.sleep(60)
else:
    time.sleep(0.5)
    os._exit(0)
"""


def test_what_is_left_behind_is_waited_for(script, monkeypatch):
    monkeypatch.setattr(scripts, "GRACE", 2)
    script.write_text(FORKING)
    running = Script(script)
    assert next(running.lines()) == "parent" and len(running.processes()) == 2
    os.kill(running.process.pid, signal.SIGKILL)
    assert running.wait().returncode == -signal.SIGKILL and not running.processes()
    script.write_text(FORKING.replace("0.5", "60"))
    running = Script(script)
    next(running.lines())
    os.kill(running.process.pid, signal.SIGKILL)
    with pytest.raises(AssertionError, match="are left"):
        running.wait()
    for process in running.processes():
        os.kill(process, signal.SIGKILL)
