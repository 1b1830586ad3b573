"""Numbers, spellings and defaults of options, what weights remember, and the names that all five folders share."""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import pytest

from shared import InputError
from shared.running import options as shared_options
from shared.running.options import Group, grouped_parser, parse_with_defaults, remembered_state, require_files

ROOT = Path(__file__).resolve().parents[2]
PAPERS = ("mobilenetv3", "stdcseg", "monodepth2", "gupnet", "deformable_detr")


@pytest.mark.parametrize(
    ("kind", "right", "wrong"),
    [
        ("boolean", {"Yes": True, "t": True, "1": True, "FALSE": False, "n": False}, ["", "2", "maybe"]),
        ("positive_int", {"1": 1, "007": 7}, ["0", "-1"]),
        ("count", {"0": 0, "3": 3}, ["-1"]),
        ("finite", {"-1.5": -1.5, "1e3": 1000.0}, ["inf", "-inf", "nan"]),
        ("positive_float", {"1e-5": 1e-5}, ["0", "-1", "inf", "nan"]),
        ("not_negative", {"0": 0.0, "2.5": 2.5}, ["-1e-9", "inf", "nan"]),
        ("probability", {"0": 0.0, "1": 1.0}, ["-0.1", "1.1", "nan"]),
        ("fraction", {"0": 0.0, "0.99": 0.99}, ["1", "-0.1", "nan"]),
        ("open_share", {"0.5": 0.5}, ["0", "1", "nan"]),
    ],
)
def test_kinds_of_numbers(kind, right, wrong):
    read = getattr(shared_options, kind)
    assert {text: read(text) for text in right} == right
    for text in wrong:
        with pytest.raises(argparse.ArgumentTypeError, match=text or "''"):
            read(text)


def _add_size(parser: argparse.ArgumentParser) -> None:
    Group(parser, "sizes").add("-b", "--batch_size", "--n_img", type=shared_options.positive_int, default=4)


def _add_rate(parser: argparse.ArgumentParser) -> None:
    Group(parser, "rates").add("--lr", type=float, default=0.1)


def test_both_spellings_and_whose_default_wins():
    def parser():
        return grouped_parser("text", [_add_size, _add_rate])

    for words in (["--batch_size", "8"], ["--batch-size", "8"], ["--n-img", "8"], ["-b", "8"]):
        assert vars(parse_with_defaults(parser(), words)) == {"batch_size": 8, "lr": 0.1}
    small = grouped_parser("text", [_add_size])  # of a script that has no rate: it gets the default
    assert vars(parse_with_defaults(parser(), [], small)) == {"batch_size": 4, "lr": 0.1}
    small, defaults = grouped_parser("text", [_add_size]), {"batch_size": 2, "lr": 0.5}
    assert vars(parse_with_defaults(parser(), [], small, defaults)) == defaults
    small = grouped_parser("text", [_add_size])
    assert parse_with_defaults(parser(), ["-b", "3"], small, defaults).batch_size == 3
    with pytest.raises(SystemExit) as stopped:
        parse_with_defaults(parser(), ["--batch_size", "0"])
    assert stopped.value.code == 2


def test_what_a_checkpoint_remembers(tmp_path):
    state = {"options": {"model": "small", "lr": 0.1}, "classes": ["cat"], "step": 3}
    (tmp_path / "state.json").write_text(json.dumps(state))
    found = {"options": {"model": "small"}, "classes": ["cat"]}
    for place in (tmp_path, tmp_path / "model.pdparams"):
        assert remembered_state(str(place), ["model"], "classes") == found
    assert remembered_state(None, ["model"]) == remembered_state(str(tmp_path / "sub" / "w.pth"), ["model"]) == {}
    for broken in ("", "[]", "{}", '{"options": {}}', "\x00"):
        (tmp_path / "state.json").write_text(broken)
        with pytest.raises(InputError, match="state.json: not a checkpoint's state"):
            remembered_state(str(tmp_path), ["model"])


def test_files_that_are_not_there(tmp_path):
    options = argparse.Namespace(weights=str(tmp_path), resume=None)
    require_files(options, ["weights", "resume"], "make some", needed="weights")
    options.resume = str(tmp_path / "gone")
    with pytest.raises(InputError, match=r"--resume .*gone: no such file or folder; make some"):
        require_files(options, ["weights", "resume"], "make some")
    options.weights = None
    with pytest.raises(InputError, match="--weights is missing: make some"):
        require_files(options, [], "make some", needed="weights")


_LIST = """
import json
from options import build_parser
print(json.dumps([string for action in build_parser()._actions for string in action.option_strings]))
"""
_EVERYWHERE = (
    "amp batch_size checkpoint_steps data_path device log_frequency lr max_steps num_workers output_dir resume seed "
    "weights"
).split()


@pytest.mark.parametrize("paper", PAPERS)
def test_the_same_option_has_the_same_name_in_every_folder(paper):
    """Beside the reference's own name for it, which stays."""
    command = [sys.executable, "-c", _LIST]
    finished = subprocess.run(command, cwd=ROOT / paper, capture_output=True, text=True, check=True)
    names = set(json.loads(finished.stdout))
    expected = [*_EVERYWHERE, *([] if paper == "stdcseg" else ["epochs"])]  # STDC-Seg counts iterations
    spellings = {f"--{name}" for name in expected} | {f"--{name.replace('_', '-')}" for name in expected}
    assert spellings - names == set()
