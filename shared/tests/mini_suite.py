"""What every mini data set promises, whatever is drawn in it: each folder's test_mini.py runs it on its world."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest
from PIL import Image

from shared import InputError

CALL = """
import json, sys
from mini import draw
draw.WORTH_PROCESSES = int(sys.argv[2])
draw.ensure_mini(sys.argv[1], **json.loads(sys.argv[3]))
assert "paddle" not in sys.modules
"""


class World(NamedTuple):
    """A folder's drawing, and options of its `ensure_mini`."""

    draw: ModuleType  # mini.draw
    small: dict  # for a few files
    files: list[str]  # which, beside mini.json
    size: tuple[int, int] | None  # of all pictures, if it is one
    fewer: dict  # for some of those pictures
    large: dict  # for a drawing that takes long
    wrong: list[tuple[dict, str]]  # what is refused beside a negative seed, and words of the error
    copies: int = 0  # pictures of `small` that equal another one
    command: list[str] | None = None  # options of draw_mini.py for a small data set, if it has any
    says: tuple[str, ...] = ()  # what that prints

    def start(self, root: Path, options: dict, processes_from: int = 10**6, largest_file: int = -1) -> subprocess.Popen:
        """A process of its own that makes a data set and imports no Paddle; `largest_file` in bytes."""

        def prepare() -> None:
            # started in the background by a script, this process ignores SIGINT, and its children would too
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))

        command = [sys.executable, "-B", "-c", CALL, str(root), str(processes_from), json.dumps(options)]
        folder = Path(self.draw.__file__).parents[1]
        return subprocess.Popen(command, cwd=folder, stderr=subprocess.DEVNULL, preexec_fn=prepare)


def contents(root: Path) -> dict[str, bytes]:
    """Every file under a folder, by its path."""
    return {str(file.relative_to(root)): file.read_bytes() for file in sorted(root.rglob("*")) if file.is_file()}


def pictures(root: Path) -> dict[str, bytes]:
    """The same of pictures alone."""
    return {name: data for name, data in contents(root).items() if name.endswith((".jpg", ".png"))}


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


class MiniSuite:
    """Subclasses set WORLD, or give a fixture `world` of their own."""

    WORLD: World

    @pytest.fixture(scope="class")
    def world(self) -> World:
        return self.WORLD

    @pytest.fixture(scope="class")
    def root(self, world, tmp_path_factory) -> Path:
        """The small data set, drawn by this process."""
        return world.draw.ensure_mini(tmp_path_factory.mktemp("data") / "deep" / "mini", **world.small)

    def test_layout(self, world, root):
        assert sorted(contents(root)) == sorted([*world.files, "mini.json"])
        for name in pictures(root):
            with Image.open(root / name) as picture:
                assert picture.format == ("PNG" if name.endswith("png") else "JPEG")
                assert picture.mode == ("L" if "label" in name else "RGB")
                assert picture.size == (world.size or picture.size)

    def test_processes_do_not_change_files(self, world, root, tmp_path):
        """Equal bytes from one process without Paddle, from one a core, and from two that start at once."""
        starts = [("one", 10**6), ("many", 1), ("together", 10**6), ("together", 10**6)]
        children = [world.start(tmp_path / name, world.small, processes_from=n) for name, n in starts]
        assert [child.wait(240) for child in children] == [0] * 4
        assert all(contents(tmp_path / name) == contents(root) for name, _ in starts)

    def test_the_seed_decides(self, world, root, tmp_path):
        other = world.draw.ensure_mini(tmp_path / "mini", **world.small, seed=1)
        for seed, folder in enumerate((root, other)):
            record = json.loads((folder / "mini.json").read_text())
            assert (record["made_by"], record["version"], record["seed"]) == (
                world.draw.MAKER,
                world.draw.VERSION,
                seed,
            )
        first, second = pictures(root), pictures(other)
        assert second.keys() == first.keys() and not any(second[name] == first[name] for name in first)
        assert len(set(first.values())) == len(first) - world.copies

    def test_only_what_is_missing_is_drawn(self, world, root, tmp_path, monkeypatch):
        """An empty folder is filled; equal options draw nothing; another count, seed or version draws anew."""
        folder = tmp_path / "mini"
        folder.mkdir()
        assert world.draw.ensure_mini(folder, **world.fewer) == folder
        before = {file: file.stat().st_mtime_ns for file in folder.rglob("*")}
        few, all_of_them = pictures(folder), pictures(root)
        assert 0 < len(few) < len(all_of_them) and all(all_of_them[name] == data for name, data in few.items())
        world.draw.ensure_mini(folder, **world.fewer)
        assert {file: file.stat().st_mtime_ns for file in folder.rglob("*")} == before
        world.draw.ensure_mini(folder, **world.small)
        assert contents(folder) == contents(root)
        world.draw.ensure_mini(folder, **world.fewer, seed=1)
        assert pictures(folder).keys() == few.keys() and pictures(folder) != few
        monkeypatch.setattr(world.draw, "VERSION", world.draw.VERSION + 1)
        world.draw.ensure_mini(folder, **world.fewer, seed=1)
        assert json.loads((folder / "mini.json").read_text())["version"] == world.draw.VERSION
        assert left_in(tmp_path) == [".mini.lock", "mini"]

    @pytest.mark.parametrize("record", [None, "{", "[]", '{"made_by": "someone else"}', "[" * 10**5])
    def test_a_foreign_folder_is_left_alone(self, world, tmp_path, record):
        (tmp_path / "photo.png").write_bytes(b"mine")
        if record is not None:
            (tmp_path / "mini.json").write_text(record)
        before = contents(tmp_path)
        with pytest.raises(InputError, match="name another folder") as caught:
            world.draw.ensure_mini(tmp_path, **world.small)
        assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)
        assert contents(tmp_path) == before

    def test_a_file_in_its_place_is_left_alone(self, world, tmp_path):
        (tmp_path / "mini").write_text("mine")
        with pytest.raises(InputError):
            world.draw.ensure_mini(tmp_path / "mini", **world.small)
        with pytest.raises(InputError, match="cannot be made"):
            world.draw.ensure_mini(tmp_path / "mini" / "below", **world.small)
        assert (tmp_path / "mini").read_text() == "mine"

    def test_wrong_options(self, world, tmp_path):
        for wrong, words in [({"seed": -1}, "seed -1"), *world.wrong]:
            with pytest.raises(InputError, match=words) as caught:
                world.draw.ensure_mini(tmp_path / "mini", **(world.small | wrong))
            assert "\n" not in str(caught.value) and not left_in(tmp_path), wrong

    @pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
    def test_a_drawing_broken_off_leaves_no_data_set(self, world, tmp_path, how):
        child = world.start(tmp_path / "mini", world.large, processes_from=1)
        deadline = time.monotonic() + 120
        while not pictures(tmp_path) and child.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        assert pictures(tmp_path), "the child never drew"
        os.kill(child.pid, how)
        assert child.wait(30) != 0 and not (tmp_path / "mini").exists()
        world.draw.ensure_mini(tmp_path / "mini", **world.fewer)
        assert left_in(tmp_path) == [".mini.lock", "mini"]

    def test_a_failed_redrawing_keeps_the_old_data_set(self, world, tmp_path):
        """No file may be larger than 100 bytes, as if the disk were full."""
        folder = world.draw.ensure_mini(tmp_path / "mini", **world.fewer)
        before = contents(folder)
        assert world.start(folder, world.small, largest_file=100).wait(120) == 1
        assert contents(folder) == before
        assert left_in(tmp_path) == [".mini.lock", "mini"]

    def test_command_line_from_anywhere(self, world, tmp_path):
        folder, script = tmp_path / "mini", Path(world.draw.__file__).parents[1] / "draw_mini.py"
        command = [sys.executable, str(script), "--output_dir", folder.name, *(world.command or [])]
        call = partial(subprocess.run, command, cwd=tmp_path, capture_output=True, text=True)
        folder.mkdir()
        (folder / "mine.txt").write_text("mine")
        done = call()
        assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
        if world.command is not None:
            (folder / "mine.txt").unlink()
            done = call()
            assert done.returncode == 0, done.stderr
            assert all(words in done.stdout for words in (str(folder), *world.says))
