"""JSON values as annotated types."""

import json
from dataclasses import dataclass
from typing import Any

import pytest

from shared import InputError
from shared.checked_json import read_as


@dataclass
class Inner:
    count: int
    note: str | None


@dataclass
class Outer:
    inner: Inner
    rates: dict[str, float]
    rows: list[Inner]
    anything: Any


GOOD = {
    "inner": {"count": 3, "note": None},
    "rates": {"a": 1, "b": 0.5},
    "rows": [{"count": 0, "note": "x", "more": 1}],
    "anything": [1, {}],
    "more": 2,
}


def test_right_values(tmp_path):
    found = read_as(Outer, GOOD, tmp_path / "a.json")
    assert found == Outer(Inner(3, None), {"a": 1.0, "b": 0.5}, [Inner(0, "x")], [1, {}])
    assert isinstance(found.rates["a"], float)
    for kind, value in (
        (bool, True),
        (float, 3),
        (int | None, None),
        (float | None, 0.5),
        (list[int], []),
        (Any, None),
    ):
        assert read_as(kind, value, tmp_path / "a.json") == value


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"inner": 3}, "inner is 3, where Inner is expected"),
        ({"inner": {"note": "x"}}, "lacks inner.count"),
        ({"inner": {"count": 3.0, "note": None}}, "inner.count is 3.0, where int"),
        ({"inner": {"count": True, "note": None}}, "inner.count is True"),
        ({"inner": {"count": 3, "note": 4}}, "inner.note is 4"),
        ({"inner": {"count": 10**16, "note": ""}}, "inner.count is 10"),
        ({"inner": {"count": -(10**400), "note": ""}}, "inner.count is -10"),
        ({"anything": json.loads("[" * 99 + "]" * 99)}, "anything is nested too deeply"),
        ({"anything": {"a": json.loads('{"b": ' * 99 + "1" + "}" * 99)}}, "anything is nested too deeply"),
        ({"rates": {"a": "b"}}, "rates.a is str"),
        ({"rates": {"a\nb": None}}, "rates.a b is None"),
        ({"rates": {"a": float("nan")}}, "rates.a is nan"),
        ({"rates": {"a": True}}, "rates.a is True"),
        ({"rates": []}, "rates is list"),
        ({"rows": {}}, "rows is dict"),
        ({"rows": [{"count": 1, "note": ""}, 7]}, r"rows\[1\] is 7"),
        ({"rows": [{"count": [1], "note": ""}]}, r"rows\[0\].count is list"),
    ],
)
def test_wrong_values(tmp_path, change, says):
    with pytest.raises(InputError, match=f"a.json: {says}") as caught:
        read_as(Outer, GOOD | change, tmp_path / "a.json")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < len(str(tmp_path)) + 150


@pytest.mark.parametrize("name", ["inner", "rates", "rows", "anything"])
def test_a_value_that_is_missing(tmp_path, name):
    with pytest.raises(InputError, match=f"a.json: lacks {name}; resume from another"):
        read_as(Outer, {key: value for key, value in GOOD.items() if key != name}, tmp_path / "a.json")
