"""Numbers, spellings and defaults of options, what weights remember, and the names that all folders share."""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import pytest

from shared import InputError
from shared.running import options as shared_options
from shared.running.options import (
    Group,
    PaperOptions,
    require_files,
    whole_number,
)

ROOT = Path(__file__).resolve().parents[2]
PAPERS = sorted(file.parent.name for file in ROOT.glob("*/paper.mk"))


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
        ("whole_number", {"2": 2, "9": 9}, ["1", "10", "-2"]),
    ],
)
def test_kinds_of_numbers(kind, right, wrong):
    read = whole_number(2, 9) if kind == "whole_number" else getattr(shared_options, kind)
    assert {text: read(text) for text in right} == right
    for text in wrong:
        with pytest.raises(argparse.ArgumentTypeError, match=text or "''"):
            read(text)


def _add_size(parser: argparse.ArgumentParser) -> None:
    Group(parser, "sizes").add("-b", "--batch_size", "--n_img", type=shared_options.positive_int, default=4)


def _add_rate(parser: argparse.ArgumentParser) -> None:
    Group(parser, "rates").add("--lr", type=float, default=0.1)


def test_both_spellings_and_whose_default_wins():
    paper = PaperOptions("text", {"sizes": _add_size, "rates": _add_rate}, [], "")
    for words in (["--batch_size", "8"], ["--batch-size", "8"], ["--n-img", "8"], ["-b", "8"]):
        assert vars(paper.parse_options(words)) == {"batch_size": 8, "lr": 0.1}

    def small():  # of a script that has no rate: it gets the default
        return paper.build_parser("other text", ["sizes"])

    assert vars(paper.parse_options([], small())) == {"batch_size": 4, "lr": 0.1}
    defaults = {"batch_size": 2, "lr": 0.5}
    assert vars(paper.parse_options([], small(), defaults)) == defaults
    assert paper.parse_options(["-b", "3"], small(), defaults).batch_size == 3
    with pytest.raises(SystemExit) as stopped:
        paper.parse_options(["--batch_size", "0"])
    assert stopped.value.code == 2


def test_values_that_do_not_fit_each_other(capsys):
    def check(options, parser):
        if options.batch_size > options.lr:
            parser.error("argument --batch_size: above --lr")

    paper = PaperOptions("text", {"sizes": _add_size, "rates": _add_rate}, [], "", check=check)
    assert paper.parse_options(["--lr", "9"]).lr == 9
    with pytest.raises(SystemExit) as stopped:
        paper.parse_options([])
    assert stopped.value.code == 2 and "error: argument --batch_size: above --lr" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------------------- weights

NETWORK = {"classes": 10, "width": 0.5, "kind": "small", "head": False, "sizes": [3, 4], "name": "a", "rates": None,
           "norm": True}  # fmt: skip


def _add_network(parser: argparse.ArgumentParser) -> None:
    """An option of every form that a network's options have, and those that name checkpoints."""
    parser.add_argument("--classes", type=whole_number(1, 1000), default=19)
    parser.add_argument("--width", type=shared_options.positive_float, default=1.0)
    parser.add_argument("--kind", choices=("small", "large"), default="large")
    parser.add_argument("--head", action="store_true")
    parser.add_argument("--norm", type=shared_options.boolean, default=False)
    parser.add_argument("--sizes", type=shared_options.positive_int, nargs=2, default=[1, 2])
    parser.add_argument("--name", default="b")
    parser.add_argument("--rates", type=float, nargs="+")
    parser.add_argument("--weights"), parser.add_argument("--resume")


PAPER = PaperOptions("text", {"network": _add_network}, NETWORK, "make some")


def checkpoint(folder: Path, options: object = None, **changes) -> Path:
    folder.mkdir(exist_ok=True)
    state = {"step": 3, "options": NETWORK | changes if options is None else options}
    (folder / "state.json").write_text(json.dumps(state))
    return folder


def remembered(path) -> dict:
    return PAPER.remembered_options(path and str(path))


def test_what_a_checkpoint_remembers(tmp_path):
    folder = checkpoint(tmp_path / "a", lr=0.1)
    for path in (folder, folder / "model.pdparams"):
        assert remembered(path) == NETWORK
    assert remembered(None) == remembered(tmp_path / "sub/w.pth") == {}
    several = {"rates": [0.5, 1], "sizes": [7, 7], "width": 2}
    assert remembered(checkpoint(folder, **several)) == NETWORK | several


@pytest.mark.parametrize("text", ["", "[]", "{}", "\x00", "[" * 10**5, '{"options": ' * 10**5, '{"options": [1]}'])
def test_states_that_remember_nothing(tmp_path, text):
    (tmp_path / "state.json").write_text(text)
    with pytest.raises(InputError, match="state.json: .*give another checkpoint") as caught:
        remembered(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [{"classes": value} for value in (-1, 0, 2 * 10**9, 10**400, 1.5, True, "10", [10], None)]
    + [{"width": value} for value in (-1, 0, "0.5", float("inf"), True, None, {"a": 1})]
    + [{"kind": value} for value in ("other", 3, None, ["small"], {})]
    + [{name: value} for name in ("head", "norm") for value in (1, 0, "yes", None, [])]
    + [{"sizes": value} for value in ([3], [3, 4, 5], [3, -4], [3, "4"], 3, [[3], 4], None)]
    + [{"name": value} for value in (3, ["a"], None)]
    + [{"rates": value} for value in (0.5, ["x"], [None], [])],
)
def test_values_that_the_command_line_would_refuse(tmp_path, change):
    [name] = change
    with pytest.raises(InputError, match=f"state.json: {name} is .*, which --{name} does not take; give") as caught:
        remembered(checkpoint(tmp_path / "a", **change))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < len(str(tmp_path)) + 150


@pytest.mark.parametrize("name", NETWORK)
def test_an_option_that_is_missing(tmp_path, name):
    options = {key: value for key, value in NETWORK.items() if key != name}
    with pytest.raises(InputError, match=f"state.json: lacks the option {name}; give another"):
        remembered(checkpoint(tmp_path / "a", options))


def test_whose_options_a_script_takes(tmp_path):
    """Those of --resume, or else of --weights; what stands on the command line wins over both."""
    first, second = checkpoint(tmp_path / "first", classes=3), checkpoint(tmp_path / "second", classes=5, width=2)

    def parse(*words, files=(), **settings):
        paper = PaperOptions("text", {"network": _add_network}, NETWORK, "make some", files)
        return paper.parse_options_for_weights([str(word) for word in words], paper.build_parser(), **settings)

    both = ["--weights", first, "--resume", second]
    assert (parse(*both).classes, parse(*both).width, parse(*both).kind) == (5, 2, "small")
    assert (parse(*both[:2]).classes, parse(*both[2:], needed=False).classes) == (3, 5)
    assert parse(*both, "--classes", 7).classes == 7
    assert parse(needed=False).classes == 19
    assert parse(*both, remember=lambda path: {"classes": len(str(path))}).classes == len(str(second))
    for words, says in (
        ([], "--weights is missing: make some"),
        (["--weights", tmp_path / "gone"], "--weights .*gone: no such file or folder; make some"),
        ([*both[:2], "--resume", tmp_path / "gone"], "--resume .*gone: no such file or folder; make some"),
    ):
        with pytest.raises(InputError, match=says):
            parse(*words)
    with pytest.raises(InputError, match="--name gone: no such file or folder"):
        parse(*both, "--name", "gone", files=("name",))


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
    expected = [*_EVERYWHERE, *([] if "--max_iter" in names else ["epochs"])]  # one paper counts iterations
    spellings = {f"--{name}" for name in expected} | {f"--{name.replace('_', '-')}" for name in expected}
    assert spellings - names == set()
