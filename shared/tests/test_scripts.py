"""A script that is called in a forked process acts as one that is started."""

import subprocess
import sys

import pytest

from shared.tests.scripts import call_script

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
