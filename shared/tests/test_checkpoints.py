"""Training checkpoints: whatever interrupts a save, and whenever, the link leads to a whole one."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from shared import InputError
from shared.running.options import read_state
from shared.tests.refusals import refusal
from shared.weights import load_checkpoint, read_weights, save_checkpoint


def test_checkpoints(tmp_path):
    def save(label, step, **more):
        files = {"model.pdparams": {"step": np.array(step)}, "optimizer.pdopt": {"rate": {"last": 0.5}}}
        return save_checkpoint(tmp_path, label, files, {"step": step, **more})

    stale = tmp_path / "checkpoints" / f".tmp-{os.uname().nodename}-{2**22 + 1}-00000000"  # no process has this number
    stale.mkdir(parents=True)
    mine = tmp_path / "checkpoints" / f".tmp-{os.uname().nodename}-{os.getpid()}-00000000"
    mine.mkdir()
    save("best", 3, score=np.float32(0.5))
    for step in (10, 20, 20, 20, 30):
        folder = save("latest", step, history=[1.5, None])
        checkpoint = load_checkpoint(tmp_path / "latest")
        assert checkpoint.state == {"step": step, "history": [1.5, None]}
        assert checkpoint.arrays["model.pdparams"].tensors["step"] == step
        assert checkpoint.arrays["optimizer.pdopt"].meta == {"rate": {"last": 0.5}}
        assert folder == (tmp_path / "latest").resolve() and folder.name.startswith(f"latest-{step:08d}")
    assert load_checkpoint(tmp_path / "best").state == {"step": 3, "score": 0.5}
    assert {p.name for p in (tmp_path / "checkpoints").iterdir()} == {"best-00000003", "latest-00000030", mine.name}
    assert read_weights(tmp_path / "latest").tensors["step"] == 30
    assert not Path(os.readlink(tmp_path / "latest")).is_absolute()
    tmp_path.rename(tmp_path.parent / "moved")
    assert load_checkpoint(tmp_path.parent / "moved" / "latest").state["step"] == 30


def test_after_every_step_on_disk_the_link_is_whole(tmp_path, monkeypatch):
    def save(step):
        save_checkpoint(tmp_path, "latest", {"model.pdparams": {"w": np.full(3, step)}}, {"step": step})

    def watched(function):
        def call(*arguments, **options):
            result = function(*arguments, **options)
            checkpoint = load_checkpoint(tmp_path / "latest")
            assert (checkpoint.arrays["model.pdparams"].tensors["w"] == checkpoint.state["step"]).all()
            seen.append(checkpoint.state["step"])
            return result

        return call

    save(1)
    seen = []
    steps = [(Path, "replace"), (Path, "symlink_to"), (Path, "unlink"), (os, "replace"), (shutil, "rmtree")]
    for owner, name in steps:
        monkeypatch.setattr(owner, name, watched(getattr(owner, name)))
    for step in (1, 1, 2, 2, 1):
        save(step)
    assert len(seen) >= 5 * 4 and seen[-1] == 1 and 2 in seen


def test_folders_that_are_no_checkpoint(tmp_path):
    files = {"model.pdparams": {"w": np.ones(9)}, "ema.pdparams": {"w": np.ones(9)}}
    folder = save_checkpoint(tmp_path, "latest", files, {"step": 1})
    assert "latest?" in refusal(tmp_path, load_checkpoint)
    assert "no such" in refusal(tmp_path / "none", load_checkpoint)
    assert "model.pdparams" in refusal(tmp_path)
    (folder / "ema.pdparams").unlink()
    assert "without ema.pdparams" in refusal(tmp_path / "latest", load_checkpoint)
    (folder / "ema.pdparams").write_bytes((folder / "model.pdparams").read_bytes()[:-40])
    refusal(folder, load_checkpoint)
    for text in ("", "[1]", "{}", '{"step": 1}', "[" * 100_000, "\xff"):
        (folder / "state.json").write_text(text, encoding="latin1")
        refusal(folder, load_checkpoint)
    for names in (["../x"], ["a" * 300], ["a\nb"], [7], [str(number) for number in range(999)], ["ema.pdparams"] * 2):
        (folder / "state.json").write_text(json.dumps({"step": 1, "checkpoint_files": names}))
        refusal(folder, load_checkpoint)
    os.truncate(folder / "state.json", 2**40)
    for read in (load_checkpoint, read_state):
        assert "larger than" in refusal(folder, read)
    (tmp_path / "best").mkdir()
    with pytest.raises(InputError, match="in the way"):
        save_checkpoint(tmp_path, "best", files, {"step": 1})
    with pytest.raises(TypeError):
        save_checkpoint(tmp_path / "new", "latest", {"model.pdparams": {"w": object()}}, {"step": 1})
    assert os.listdir(tmp_path / "new" / "checkpoints") == []


SAVER = """
import sys, numpy as np
from shared.weights import save_checkpoint
step = int(sys.argv[2])
while True:
    step += 1
    arrays = {"model.pdparams": {"w": np.full(100_000, step)}, "optimizer.pdopt": {"m": np.full(50_000, step)}}
    save_checkpoint(sys.argv[1], "latest", arrays, {"step": step})
    print(step, flush=True)
"""


def test_killed_at_any_moment_the_last_checkpoint_is_whole(tmp_path):
    rng, last = random.Random(), 0
    for _ in range(8):
        child = subprocess.Popen(
            [sys.executable, "-c", SAVER, str(tmp_path), str(last)], stdout=subprocess.PIPE, text=True
        )
        first = int(child.stdout.readline())
        time.sleep(rng.uniform(0, 0.05))
        child.send_signal(signal.SIGKILL)
        told = [first, *map(int, child.communicate()[0].split())]
        checkpoint = load_checkpoint(tmp_path / "latest")
        step = checkpoint.state["step"]
        assert step in (told[-1], told[-1] + 1) and step > last
        assert (checkpoint.arrays["model.pdparams"].tensors["w"] == step).all()
        assert (checkpoint.arrays["optimizer.pdopt"].tensors["m"] == step).all()
        last = step
    save_checkpoint(tmp_path, "latest", {"model.pdparams": {}}, {"step": last})  # clears what the killed ones left
    assert len(os.listdir(tmp_path / "checkpoints")) == 1 and len(os.listdir(tmp_path)) == 2
