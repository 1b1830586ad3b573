"""The stages of align.py that need no network: both sides agree, and a slip in either is found."""

import argparse

import pytest
import torch

from shared.align.record import Record
from shared.files import atomic_write_text
from shared.stages import Context
from shared.tests.sides import judge

import alignment
from alignment import feeds, torch_side
from reference import losses

DTYPES = ("float32", "float64")
STAGES = {stage.name: stage for stage in alignment.STAGES}


@pytest.mark.parametrize("dtype", DTYPES)
def test_losses_agree(dtype, tmp_path):
    diff = judge("loss", dtype, tmp_path)
    assert diff.passed, diff.summary()
    assert len(diff.tensors) > 150


@pytest.mark.parametrize("constant", [2**0.5, 1.41421])
def test_another_constant_is_found(constant, tmp_path, monkeypatch):
    def laplace(value, target, log_variance):
        return (constant * (-0.5 * log_variance).exp() * (value - target).abs() + 0.5 * log_variance).mean()

    monkeypatch.setattr(losses, "laplace", laplace)
    failed = {tensor.name.split("/")[-1] for tensor in judge("loss", "float32", tmp_path).failures}
    assert {"depth_loss", "size3d_loss", "loss"} <= failed
    assert not failed & {"seg_loss", "offset2d_loss", "size2d_loss", "heading_loss"}


@pytest.mark.parametrize("dtype", DTYPES)
def test_metrics_agree(dtype, tmp_path):
    folders = feeds.result_folders(Context(dtype, tmp_path, argparse.Namespace()))
    for name, *texts in feeds.result_files():
        for folder, text in zip(folders, texts, strict=True):
            atomic_write_text(folder / name, text)
    diff = judge("metric", dtype, tmp_path)
    assert diff.passed, diff.summary()
    figures = Record(torch_side.metric(Context(dtype, tmp_path, argparse.Namespace(reference=None))))
    assert all(0 < figures[f"ap/{kind}/2d/AP40"].max() < 100 for kind in ("Car", "Pedestrian", "Cyclist"))


def test_samples_agree(mini, tmp_path):
    diff = judge("data", "float32", tmp_path, mini)
    assert diff.passed, diff.summary()
    assert all(tensor.max_abs == 0 for tensor in diff.tensors)


def test_plot_and_verdict_of_the_training(tmp_path):
    falling = torch.linspace(8, 2, 9)[:, None].repeat(1, 7).numpy()
    weights = [dict.fromkeys(feeds.TERMS, 1.0)] * 8
    curve = [{"recall": 0.1 * point, "depth_error": 9.0 - point} for point in range(9)]
    found = feeds.training_record(falling, weights, curve)
    assert found["mini/learns"]
    assert not feeds.training_record(falling[::-1], weights, curve)["mini/learns"]
    assert not feeds.training_record(falling, weights, curve[::-1])["mini/learns"]
    record = {f"float32/{name}": value for name, value in Record(found).items()}
    STAGES["train"].plot(record, record, tmp_path)
    assert (tmp_path / "train_curves.png").read_bytes().startswith(b"\x89PNG")
