import math

from shared.tables import text_table


def test_text_table_aligns():
    table = text_table(("name", "n", "x", ""), [("a", 7, 1.23456e-6, "end"), ("long name", 12345, math.nan, "")])
    assert table.splitlines() == [
        "name           n          x",
        "a              7  1.235e-06  end",
        "long name  12345          -",
    ]
    assert text_table(("a", "b"), []).split() == ["a", "b"]
    assert text_table(("x",), [(12345.67,), (0.0,)]).split() == ["x", "12346", "0"]
