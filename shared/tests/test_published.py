"""Published files by their names, in the order of the names; what is missing is said in one line."""

import pytest

from shared import InputError
from shared.weights.published import published_file

NAMES = {"pretrained": ("new.pth", "old.pth"), "other": ("third.pth",)}


def test_files_by_name_path_and_scratch(tmp_path):
    def find(value: str):
        return published_file("init", value, NAMES, tmp_path / "pretrained", "torchvision's")

    assert find("scratch") is None
    with pytest.raises(InputError, match=r"pretrained/new\.pth: no such file; put torchvision's .* --init scratch or"):
        find("pretrained")
    (tmp_path / "pretrained").mkdir()
    for name in ("old.pth", "new.pth"):
        (tmp_path / "pretrained" / name).write_text("")
        assert find("pretrained").name == name
    with pytest.raises(InputError, match=r"third\.pth"):
        find("other")
    assert find(str(tmp_path / "pretrained/old.pth")) == tmp_path / "pretrained/old.pth"
    with pytest.raises(InputError, match="--init nowhere: no such file; give pretrained, other, scratch or a file"):
        find("nowhere")
