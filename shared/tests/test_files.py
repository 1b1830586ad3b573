"""Files are written whole or not at all."""

import os
import subprocess
import sys

import pytest

from shared import InputError, run
from shared.files import atomic_write, atomic_write_text


def test_atomic_write(tmp_path):
    path = tmp_path / "deep" / "er" / "a.txt"
    atomic_write_text(path, "eins")
    with pytest.raises(ZeroDivisionError):
        atomic_write(path, lambda file: file.write(b"zwei") and 1 / 0)
    assert path.read_text() == "eins" and os.listdir(path.parent) == ["a.txt"]
    for bad in (path / "below", path.parent):
        with pytest.raises(InputError) as caught:
            atomic_write_text(bad, "x")
        assert str(caught.value).startswith(f"{bad}: not written: ") and "choose another" in str(caught.value)
    assert path.read_text() == "eins" and os.listdir(path.parent) == ["a.txt"]


def test_a_reader_never_sees_half_a_file(tmp_path):
    path = tmp_path / "a.bin"
    code = "import sys; from shared.files import atomic_write as w\n"
    code += "for i in range(60): w(sys.argv[1], lambda file: [file.write(bytes([i]) * 1000) for _ in range(1000)])"
    child = subprocess.Popen([sys.executable, "-c", code, str(path)])
    seen = set()
    while child.poll() is None:
        if path.exists() or seen:
            content = path.read_bytes()
            assert content == content[:1] * 1_000_000
            seen.add(content[0])
    assert child.returncode == 0 and len(seen) > 1


def test_a_path_that_the_system_refuses_is_one_line(tmp_path, capsys):
    (tmp_path / "loop").symlink_to("loop")
    for path in (tmp_path / ("a" * 300), tmp_path / "loop/a"):
        with pytest.raises(SystemExit, match="2"):
            run(lambda path=path: int(path.stat().st_size))
        line = capsys.readouterr().err
        assert line.startswith(f"error: '{path}"[:200]) and line.endswith("; give another path\n")
        assert line.count("\n") == 1
    with pytest.raises(FileNotFoundError):
        run(lambda: (tmp_path / "absent").stat().st_size)
