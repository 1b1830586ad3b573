"""The stages of align.py that need no weights: both sides agree, and a slip in either is found."""

import pytest

from shared.tests.sides import judge

from alignment import feeds
from mini.draw import ensure_mini
from options import parse_options
from reference import data, losses


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_losses_agree(dtype, tmp_path):
    diff = judge("loss", dtype, tmp_path)
    assert diff.passed, diff.summary()
    assert len(diff.tensors) > 700


def test_another_constant_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr(losses, "MATCHER_ALPHA", 0.3)
    monkeypatch.setattr(losses, "GAMMA", 2.001)
    failed = {tensor.name for tensor in judge("loss", "float32", tmp_path).failures}
    assert {"plain/loss_ce", "plain/loss", "two_stage/loss_ce_enc"} <= failed
    assert "one_target/loss_ce" in failed
    assert "no_targets/loss_bbox" not in failed


@pytest.fixture(scope="module")
def small_set(tmp_path_factory):
    return ensure_mini(tmp_path_factory.mktemp("stages") / "mini", seed=3, train=4, val=30)


def test_samples_and_numbers_agree(small_set, tmp_path, monkeypatch):
    monkeypatch.setattr(feeds, "DATA_CASES", [case for case in feeds.DATA_CASES if case[0].endswith("small")])
    for name in ("data", "metric"):
        diff = judge(name, "float32", tmp_path, small_set)
        assert diff.passed, f"{name}: {diff.summary()}"
    monkeypatch.setattr(data, "STD", data.STD * 1.0001)
    failed = {tensor.name.split("/")[-1] for tensor in judge("data", "float32", tmp_path, small_set).failures}
    assert failed == {"image", "images"}


def test_every_network_is_one_that_options_allow():
    """And the reference knows all but the one that trains from scratch."""
    known = {name: feeds.official_knows(parse_options(argv.split())) for name, argv in feeds.NETWORKS.items()}
    assert [name for name in known if not known[name]] == ["small"]
