"""Training checkpoints: folders of Paddle weight files and a state, replaced as a whole or not at all."""

import contextlib
import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared import InputError
from shared.files import (
    LARGEST_STATE,
    Refused,
    atomic_write_text,
    parsed_json,
    reading,
    remove_stale,
    sync_folder,
    temporary_name,
    write_error,
)
from shared.weights.contents import WeightFile
from shared.weights.pdparams import read_pdparams, write_pdparams

STATE_FILE = "state.json"
STATE_FILES_KEY = "checkpoint_files"
_NAME = r"\w[\w.-]{0,79}"  # of a listed file


@dataclass
class Checkpoint:
    """A training checkpoint: its weight files by name (`model.pdparams`, ...), its state, and its folder."""

    arrays: dict[str, WeightFile]
    state: dict[str, Any]
    path: Path


def save_checkpoint(output_dir: str | Path, label: str, arrays: dict[str, dict[str, Any]], state: dict) -> Path:
    """Save a training checkpoint and let `output_dir/label` point at it; returns its folder.

    arrays: file name (`model.pdparams`, `optimizer.pdopt`) -> what `write_pdparams` takes. state: JSON values, with
    the global step under `step` (as ever in JSON, keys come back as text). Whatever interrupts it, and whenever,
    `output_dir/label` stays or becomes a whole checkpoint; the one that it pointed to before goes last.
    Raises InputError when it cannot be written.
    """
    output = Path(output_dir)
    store, link = output / "checkpoints", output / label
    if link.exists() and not link.is_symlink():
        raise InputError(f"{link}: in the way of a checkpoint link of that name; move it away")
    content = {**state, STATE_FILES_KEY: list(arrays)}
    text = json.dumps(content, indent=1, default=lambda value: value.item())  # item: numpy's scalars
    temporary, pointer = store / temporary_name(), output / temporary_name()
    previous = store / link.readlink().name if link.is_symlink() else None
    final = store / f"{label}-{int(state['step']):08d}"
    if final == previous:  # the same step again: it must not replace what the link still needs
        final = final.with_name(final.name + ".1")
    try:
        temporary.mkdir(parents=True)
        for name, tensors in arrays.items():
            write_pdparams(temporary / name, tensors)
        atomic_write_text(temporary / STATE_FILE, text)
        shutil.rmtree(final, ignore_errors=True)  # left by a save that was killed before its link was set
        temporary.replace(final)
        sync_folder(store)
        pointer.symlink_to(Path("checkpoints") / final.name)
        pointer.replace(link)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        with contextlib.suppress(OSError):
            pointer.unlink()
        if isinstance(error, OSError):
            raise write_error(final, error) from error
        if isinstance(error, InputError):  # it names a temporary folder that is no more
            raise InputError(str(error).replace(temporary.name, final.name)) from error
        raise
    sync_folder(output)
    for folder in store.iterdir():  # the previous one, and any that a killed save could no longer remove
        if folder != final and re.fullmatch(re.escape(label) + r"-\d{8,}(\.1)?", folder.name):
            shutil.rmtree(folder, ignore_errors=True)
    remove_stale(store)
    remove_stale(output)
    return final


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint folder, or a link such as `output/latest`. Raises InputError when it is none or not whole."""
    path = Path(path)
    folder = path.resolve()
    try:
        return _load_checkpoint(path, folder)
    except InputError:
        if path.resolve() == folder:
            raise
        # A running training moved the link while its old folder was being read.
        return _load_checkpoint(path, path.resolve())


def _load_checkpoint(path: Path, folder: Path) -> Checkpoint:
    if not folder.exists():
        raise InputError(f"{path}: no such checkpoint; training writes one to OUTPUT_DIR/latest")
    if not (folder / STATE_FILE).is_file():
        hint = "; did you mean its latest?" if (folder / "latest" / STATE_FILE).is_file() else ""
        raise InputError(f"{path}: not a training checkpoint (it has no {STATE_FILE}){hint}")
    with reading(folder / STATE_FILE, "cannot be read; the checkpoint is damaged, resume from another"):
        state = parsed_json(folder / STATE_FILE, LARGEST_STATE)
        names = state.pop(STATE_FILES_KEY, None) if isinstance(state, dict) else None
        if not isinstance(names, list) or "step" not in state or not all(re.fullmatch(_NAME, name) for name in names):
            raise Refused("not the state of a checkpoint of these projects")
        if len(set(names)) != len(names):
            raise Refused("lists a file twice; the checkpoint is damaged, resume from another")
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise InputError(f"{path}: an incomplete checkpoint, without {', '.join(missing[:4])}; resume from another")
    return Checkpoint({name: read_pdparams(folder / name) for name in names}, state, path)
