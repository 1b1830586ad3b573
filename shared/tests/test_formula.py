"""Weights by formula are the same numbers everywhere."""

import json

import numpy as np
import pytest

from shared import InputError
from shared.align.formula import formula_state, read_shapes


def test_formula(tmp_path):
    (tmp_path / "a.tsv").write_text(
        "c.weight\t2,3\tfloat32\nb.num_batches_tracked\t\tint64\nb.running_var\t4\tfloat32\n"
    )
    shapes = read_shapes(tmp_path / "a.tsv")
    assert shapes == {"c.weight": (2, 3), "b.num_batches_tracked": (), "b.running_var": (4,)}
    state = formula_state(shapes, seed=7, overrides={"extra": np.ones(1)})
    assert {k: v.dtype.name for k, v in state.items()} == {
        "c.weight": "float32", "b.num_batches_tracked": "int64", "b.running_var": "float32", "extra": "float64",
    }  # fmt: skip
    assert json.dumps(state["c.weight"].ravel().tolist()[:2]) == "[-0.18217486143112183, -0.7832104563713074]"
    for text in ("a\t1\n", "a\tx\tfloat32\n"):
        (tmp_path / "a.tsv").write_text(text)
        with pytest.raises(InputError, match="line 1"):
            read_shapes(tmp_path / "a.tsv")
