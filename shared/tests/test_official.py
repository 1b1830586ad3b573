"""A checkout's modules are found, stand-ins serve them, and nothing of either stays."""

import importlib
import sys

import pytest

from shared import InputError
from shared.align.official import imports_from, replaced, require_checkout, stand_ins


@pytest.fixture
def checkout(tmp_path):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "__init__.py").write_text("WHOSE = 'theirs'\n")
    (tmp_path / "models" / "net.py").write_text(
        "import lacking.ops\nfrom lacking.ops import answer\nANSWER = answer()\nSAME = lacking.ops.answer is answer\n"
    )
    return tmp_path


def test_imports_come_from_the_checkout_and_do_not_stay(checkout):
    ours = stand_ins({"models": {"WHOSE": "ours"}})["models"]
    made = stand_ins({"lacking": {}, "lacking.ops": {"answer": lambda: 42}})
    path = list(sys.path)
    sys.modules["models"] = ours
    try:
        with imports_from(checkout, ["models.net"], made):
            net = importlib.import_module("models.net")
            assert sys.modules["models"].WHOSE == "theirs"
        assert (net.ANSWER, net.SAME) == (42, True)
        assert sys.modules["models"] is ours and sys.path == path
        assert not {"models.net", "lacking", "lacking.ops"} & set(sys.modules)
        with pytest.raises(ImportError), imports_from(checkout, ["models.net"], {}):
            importlib.import_module("models.net")
        assert sys.modules["models"] is ours and sys.path == path
    finally:
        del sys.modules["models"]
    assert not list(checkout.rglob("*.pyc"))


def test_a_stand_in_without_its_parent_stands_alone():
    made = stand_ins({"lib.functions": {"ACT": 1}})
    assert list(made) == ["lib.functions"] and made["lib.functions"].ACT == 1


def test_attributes_come_back_after_an_error():
    class Owner:
        name = "own"

    with pytest.raises(KeyError), replaced(Owner, name="other"):
        assert Owner.name == "other"
        raise KeyError
    assert Owner.name == "own"


def test_what_is_no_checkout_is_refused(checkout):
    require_checkout(checkout, ["models/net.py"], "Net", "git clone URL")
    with pytest.raises(InputError, match=r"not a checkout of Net, models/other.py is missing; git clone URL"):
        require_checkout(checkout, ["models/net.py", "models/other.py"], "Net", "git clone URL")
    with pytest.raises(InputError, match=r"no such folder; git clone URL"):
        require_checkout(checkout / "gone", [], "Net", "git clone URL")
