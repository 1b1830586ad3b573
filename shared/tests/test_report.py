"""The report of several folders: what it tells of real verdicts, and what it does without any."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from shared import InputError
from shared.diff import Tolerance, compare
from shared.files import write_json
from shared.report import COMMITTED, HERE, main, page, read_paper, summary
from shared.stages import verdict

MACHINE = {"python": "3.11", "cores": 2}


def write_alignment(folder, offset: float, place: str = "result") -> None:
    """An alignment of two tensors, one of which differs by `offset`, as align.py leaves it."""
    reference = {"net/weight": np.ones((2, 3), np.float32), "net/<b>": np.arange(4, dtype=np.float32)}
    port = reference | {"net/weight": reference["net/weight"] + np.float32(offset)}
    diff = compare(port, reference, Tolerance(1e-5))
    stage = verdict("forward", "float32", diff, {"paddle": 0.5, "torch": float("nan")})
    (folder / place / "log").mkdir(parents=True)
    report = {"paper": folder.name, "passed": diff.passed, "stages": [stage], "environment": MACHINE}
    write_json(folder / place / "align.json", report)
    write_json(folder / place / "log" / "forward_diff.json", diff.as_dict())


@pytest.fixture
def folders(tmp_path):
    for name in ("first", "second"):
        (tmp_path / name / "logs").mkdir(parents=True)
    return tmp_path / "first", tmp_path / "second"


def test_the_table_passes_only_when_every_stage_of_every_folder_passed(folders, capsys):
    first, second = folders
    write_alignment(first, 0)
    assert main(["--table", str(first)]) == 0
    assert "all 1 stages passed" in capsys.readouterr().out
    assert main(["--table", str(first), str(second)]) == 1
    assert "not run: second" in capsys.readouterr().out
    write_alignment(second, 1e-3)
    assert main(["--table", str(first), str(second)]) == 1
    text = capsys.readouterr().out
    assert "1 of 2 stages FAILED" in text
    assert re.search(r"^FAIL  second +forward +float32 +2 .* net/weight: ", text, re.MULTILINE)
    assert re.search(r"^pass  first +forward +float32 +2 ", text, re.MULTILINE)


def test_a_committed_log_stands_in_for_the_page_but_not_for_the_table(folders):
    first, _ = folders
    write_alignment(first, 0, "logs")
    assert read_paper(first).origin == COMMITTED
    assert summary([read_paper(first)]) == "all 1 stages passed; from committed logs: first"
    assert not read_paper(first).tensors
    assert main(["--table", str(first)]) == 1
    write_alignment(first, 0)
    paper = read_paper(first)
    assert paper.origin == HERE
    assert [tensor["name"] for tensor in paper.tensors["forward"]] == ["net/weight", "net/<b>"]


class Links(HTMLParser):
    """What a page would fetch, and the text of its scripts by id."""

    def __init__(self):
        super().__init__()
        self.outside, self.scripts, self._id = [], {}, None

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self._id = values.get("id") if tag == "script" else None
        self.outside += [v for k, v in attributes if k in ("src", "href") and not v.startswith(("data:image/", "#"))]

    def handle_endtag(self, tag):
        self._id = None

    def handle_data(self, data):
        if self._id:
            self.scripts[self._id] = data


def test_the_page_holds_everything_itself(folders, tmp_path):
    first, second = folders
    write_alignment(first, 1e-3)
    Image.new("RGB", (2000, 10), "red").save(first / "logs" / "demo_mini.png")
    sides = [{"name": "torch", "median_s": 0.5, "speed": 1.0}, {"name": "Paddle", "median_s": 0.25, "speed": 2.0}]
    sides[1]["peak_bytes"] = 3 * 2**20
    (first / "logs" / "benchmark.json").write_text(json.dumps({"environment": MACHINE, "step <1>": sides, "net": "n"}))
    assert main([str(first), str(second), "--output_dir", str(tmp_path / "build")]) == 0
    text = (tmp_path / "build" / "report.html").read_text()
    links = Links()
    links.feed(text)
    assert links.outside == []
    figures = json.loads(links.scripts["first-forward"])
    assert [row[:3] for row in figures] == [["FAIL", "net/weight", "2x3"], ["pass", "net/<b>", "4"]]
    assert figures[0][4] == f"{np.float32(1 + 1e-3) - 1:.4g}"
    assert "step &lt;1&gt;" in text and "step <1>" not in text
    assert "make align-second" in text
    markdown = (tmp_path / "build" / "report.md").read_text()
    assert re.search(r"step <1> +Paddle +250 +2 +3\n", markdown)


def test_a_name_cannot_leave_its_script(folders):
    first, _ = folders
    write_alignment(first, 0)
    path = first / "result" / "log" / "forward_diff.json"
    path.write_text(path.read_text().replace("net/<b>", "</script><img src=x>"))
    links = Links()
    links.feed(page([read_paper(first)]))
    assert links.outside == []
    assert json.loads(links.scripts["first-forward"])[1][1] == "</script><img src=x>"


@pytest.mark.parametrize("content", ["", "[1]", "{}", '{"stages": [{}], "environment": {}}'])
def test_a_damaged_report_is_named(folders, content):
    first, _ = folders
    (first / "result").mkdir()
    (first / "result" / "align.json").write_text(content)
    with pytest.raises(InputError, match=r"first/result/align\.json: .*run"):
        read_paper(first)


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        main([str(tmp_path / "none")])
