"""What a training says: lines, files, scalars, and nothing from the other processes."""

import argparse
import json
import re

import pytest
from visualdl import LogReader

from shared import InputError
from shared.running.log import RunLog, batch_line, clock


def say(log: RunLog) -> None:
    log.line("epoch 0")
    log.append("log.txt", '{"epoch": 0}\n')
    log.append("log.txt", '{"epoch": 1}\n')
    log.options(argparse.Namespace(lr=0.1, size=[3, 4], best=float("inf")))
    log.options({"frame_ids": [0, "s"]}, "models/opt.json")
    log.scalars("train", {"loss": 0.5, "lr": 0.25}, 3)
    with log.bar(total=5, initial=2) as bar:
        bar.update()
        assert bar.disable  # no terminal here


def test_files_lines_and_scalars(tmp_path, capsys):
    for _ in range(2):  # a training that goes on adds to its log
        with RunLog(tmp_path / "o", 0) as log:
            say(log)
        assert log.writer is None
    assert capsys.readouterr().out == "epoch 0\n" * 2
    written = (tmp_path / "o/train.log").read_text().splitlines()
    assert len(written) == 2 and all(re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d epoch 0", line) for line in written)
    assert (tmp_path / "o/log.txt").read_text() == '{"epoch": 0}\n{"epoch": 1}\n' * 2
    assert json.loads((tmp_path / "o/options.json").read_text()) == {"lr": 0.1, "size": [3, 4], "best": None}
    assert json.loads((tmp_path / "o/models/opt.json").read_text()) == {"frame_ids": [0, "s"]}
    for file in (tmp_path / "o/visualdl").glob("vdlrecords*"):
        rates = LogReader(file_path=str(file)).get_data("scalar", "train/lr")
        assert {(record.id, record.value) for record in rates} == {(3, 0.25)}


def test_other_processes_are_silent(tmp_path, capsys):
    with RunLog(tmp_path / "o", 1) as log:
        say(log)
    assert capsys.readouterr() == ("", "") and not (tmp_path / "o").exists()


def test_an_output_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with (
        pytest.raises(InputError, match="file: not written: a file stands where a folder is needed"),
        RunLog(tmp_path / "file", 0),
    ):
        pass
    with RunLog(tmp_path / "o", 0) as log:
        (tmp_path / "o/train.log").mkdir()
        with pytest.raises(InputError, match="train.log: not written: a folder of that name is in the way"):
            log.line("epoch 0")


def test_the_line_of_a_batch():
    line = batch_line(2, 30, 4.04, 0.0125, "loss: 0.50000", 3725.9, 59.99)
    assert line == (
        "epoch   2 | batch     30 | examples/s:   4.0 | lr: 1.250e-02 | loss: 0.50000 | "
        "time elapsed: 01h02m05s | time left: 00h00m59s"
    )
    assert clock(360000) == "100h00m00s"
