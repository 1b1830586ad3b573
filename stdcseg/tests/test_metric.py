"""Metrics and prediction of whole images, port and twin, against figures of the official code (NOTES 7, 9)."""

import json
from functools import cache

import numpy as np
import paddle
import pytest
import torch

from shared import InputError
from shared.align.formula import formula_input, formula_tensor
from shared.convert import plan
from shared.files import write_json
from shared.weights import as_numpy

from constants import CLASS_NAMES
from datasets import normalise
from engine import dygraph_segment
from golden_files import cases, formula_weights, golden, per_dtype
from metrics import (
    ConfusionMatrix,
    Protocol,
    crop_eval,
    eval_chip,
    predict_scaled,
    scale_crop_eval,
    scaled_probabilities,
)
from models import build_model, resize_bilinear
from options import parse_options
from reference import evaluation as twin
from reference.network import build_reference

CLASSES = 19


def changed(file, case: str) -> tuple[np.ndarray, np.ndarray]:
    """(labels, predictions) of one case: the stored ones, changed as the case's name says."""
    labels, predictions = file["input/labels"].copy(), file["input/preds"].copy()
    if case in ("absent_everywhere", "absent_from_labels"):
        labels[labels == 16] = 13
    if case in ("absent_everywhere", "absent_from_preds"):
        predictions[predictions == 16] = 13
    if case == "all_ignored":
        labels[:] = 255
    return labels, predictions


def seed(file) -> int:
    return int(file["meta/seed"].item())


def strided(array, file, key: str) -> np.ndarray:
    assert list(array.shape) == file[f"meta/shape/{key}"].tolist()
    return as_numpy(array)[tuple(slice(None, None, step) for step in file[f"meta/slice/{key}"])]


# ------------------------------------------------------------------------------------------------------------ figures


@cases("metric", r"metric/(a[a-z_]+)/hist", "folder, case")
def test_histogram_and_iou(folder, case):
    file = golden(folder, "metric")
    labels, predictions = changed(file, case)
    port, histogram = ConfusionMatrix(CLASSES), torch.zeros(CLASSES, CLASSES, dtype=torch.int64)
    for batch_labels, batch_predictions in zip(labels, predictions, strict=True):
        port.update(batch_predictions, batch_labels)
        histogram += twin.histogram(torch.from_numpy(batch_predictions), torch.from_numpy(batch_labels), CLASSES)
    np.testing.assert_array_equal(port.matrix, file[f"metric/{case}/hist"])
    np.testing.assert_array_equal(histogram.numpy(), file[f"metric/{case}/hist"])
    for iou in (port.iou(), twin.iou(histogram).numpy()):
        assert iou.dtype == np.float64
        np.testing.assert_allclose(iou, file[f"metric/{case}/iou"], rtol=0, atol=1e-6)  # the reference's are float32
    for miou in (port.miou(), twin.mean_iou(histogram)):
        np.testing.assert_allclose(miou, file[f"metric/{case}/miou"], rtol=0, atol=1e-6)


def test_classes_that_occur_nowhere():
    labels, predictions = changed(golden("committed", "metric"), "absent_everywhere")
    port = ConfusionMatrix(CLASSES)
    port.update(predictions, labels)
    assert np.isnan(port.miou()) and np.flatnonzero(np.isnan(port.iou())).tolist() == [16]
    assert port.miou_present() == pytest.approx(np.nanmean(port.iou()))
    kept = labels != 255
    assert port.pixel_accuracy() == pytest.approx((labels == predictions)[kept].mean())
    table = port.table(CLASS_NAMES).splitlines()
    assert next(line for line in table if line.startswith("train ")).split() == ["train", "-", "0", "0"]
    assert "18 of 19 classes" in table[-1] and f"{100 * port.miou_present():.2f}" in table[-1]


def test_nothing_counted():
    port = ConfusionMatrix(3)
    port.update(np.zeros((2, 4), np.int64), np.full((2, 4), 255))
    assert port.matrix.sum() == 0
    assert np.isnan([port.miou(), port.miou_present(), port.pixel_accuracy(), *port.iou()]).all()
    assert "0 of 3 classes" in port.table(["a", "b", "c"])


def test_counts_above_float32s_integers():
    port = ConfusionMatrix(2)
    port.matrix[0, 0] = 2**24
    port.update(np.array([0]), np.array([0]))
    assert port.matrix[0, 0] == 2**24 + 1
    assert np.float32(2**24) + np.float32(1) == 2**24  # what the reference's float32 matrix makes of it
    port.update(np.array([1, 0]), np.array([0, 1]))
    np.testing.assert_array_equal(port.matrix, [[2**24 + 1, 1], [1, 0]])


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64])
def test_dtypes_of_labels_and_predictions(dtype):
    labels, predictions = np.array([[18, 255, 17]], dtype), np.array([[18, 3, 16]], dtype)
    port = ConfusionMatrix(CLASSES)
    port.update(predictions, labels)
    assert port.matrix[18, 18] == port.matrix[17, 16] == 1 and port.matrix.sum() == 2


@pytest.mark.parametrize(
    ("predictions", "labels", "said"),
    [
        ([[0, 19]], [[0, 0]], "predictions hold 19"),
        ([[0, -1]], [[0, 0]], "predictions hold -1"),
        ([[0, 0]], [[0, 34]], "labels hold 34"),
        ([[0, 0]], [[0, -1]], "labels hold -1"),
        ([[0, 0]], [[0]], "shape"),
        ([[0.5, 0.0]], [[0, 0]], "float64"),
    ],
)
def test_what_is_no_class_is_refused(predictions, labels, said):
    port = ConfusionMatrix(CLASSES)
    with pytest.raises(InputError, match=said):
        port.update(np.array(predictions), np.array(labels))
    assert port.matrix.sum() == 0


# ------------------------------------------------------------------------------------------- one scale -- (NOTES 7.1)


@per_dtype
@cases("metric", r"metric/linear_([\d.]+)/hist", "folder, scale")
def test_linear_network(folder, scale, dtype, suffix):
    file = golden(folder, "metric")
    images = formula_input("metric_image", tuple(file["meta/linear_input"]), seed(file)).astype(dtype)
    mix = formula_tensor("metric.mix", (CLASSES, 3), seed(file), 3.0).astype(dtype)
    labels = file["input/linear_labels"]
    seen = []

    def port_network(x):
        seen.append(x.numpy())
        return paddle.einsum("kc,nchw->nkhw", paddle.to_tensor(mix), x)

    def twin_network(x):
        seen.append(x.numpy())
        return torch.einsum("kc,nchw->nkhw", torch.from_numpy(mix), x)

    port = ConfusionMatrix(CLASSES)
    port.update(predict_scaled(port_network, paddle.to_tensor(images), float(scale), labels.shape[1:]), labels)
    labels = torch.from_numpy(labels)
    predictions = twin.predict_at(twin_network, torch.from_numpy(images), float(scale), labels.shape[1:])
    histogram = twin.histogram(predictions, labels, CLASSES)
    key = f"metric/linear_{scale}"
    np.testing.assert_array_equal(port.matrix, file[f"{key}/hist"])
    np.testing.assert_array_equal(histogram.numpy(), file[f"{key}/hist"])
    np.testing.assert_allclose([port.miou(), twin.mean_iou(histogram)], file[f"{key}/miou"], rtol=0, atol=1e-7)
    for resized in seen:
        assert resized.dtype == dtype
        got = strided(resized, file, f"linear_{scale}/resized")
        np.testing.assert_allclose(got, file[f"{key}/resized"], rtol=0, atol=1e-5)


def test_the_class_by_class_argmax_is_the_argmax_of_the_logits():
    images = paddle.to_tensor(formula_input("argmax", (2, 3, 21, 34), 1))
    network = convolution(1, "float32")[0]
    logits = resize_bilinear(network(resize_bilinear(images, (14, 23))), (40, 50))
    np.testing.assert_array_equal(predict_scaled(network, images, 0.7, (40, 50)), logits.numpy().argmax(1), strict=True)


@cache
def stdc1(folder: str, dtype: str):
    """(port's, twin's) logits functions of the stdc1 network with the figures' weights."""
    model, reference = build_model(parse_options([])), build_reference(parse_options([]))
    weights = formula_weights(folder, "stdc1")
    names = reference.state_dict().keys()
    reference.load_state_dict({name: torch.from_numpy(np.array(weights[name])) for name in names})
    reference = reference.to(getattr(torch, dtype)).eval()
    tensors, _, report = plan(model).to_paddle(weights)
    report.raise_if_bad("golden")
    model.set_state_dict(tensors)
    model.to(dtype=dtype)
    return dygraph_segment(model), torch.no_grad()(lambda images: reference(images)["out"])


def frame(file, dtype: str) -> np.ndarray:
    """The stored picture, [1, 3, H, W]."""
    return normalise(file["input/frame"])[None].astype(dtype)


@per_dtype
@cases("metric", r"metric/frame_([\d.]+)/hist", "folder, scale")
def test_frame(folder, scale, dtype, suffix):
    """A real picture through the whole network: histogram, IoU, mIoU."""
    file = golden(folder, "metric")
    key = f"metric/frame{suffix}_{scale}"
    labels, images = file["input/frame_labels"], frame(file, dtype)
    port, reference = stdc1(folder, dtype)
    matrix = ConfusionMatrix(CLASSES)
    matrix.update(predict_scaled(port, paddle.to_tensor(images), float(scale), labels.shape[1:]), labels)
    predictions = twin.predict_at(reference, torch.from_numpy(images), float(scale), labels.shape[1:])
    histogram = twin.histogram(predictions, torch.from_numpy(labels), CLASSES)
    for counts, iou in ((matrix.matrix, matrix.iou()), (histogram.numpy(), twin.iou(histogram).numpy())):
        flips = np.abs(counts - file[f"{key}/hist"]).sum() // 2  # a pixel that flips leaves one cell for another
        assert flips <= 1, f"{flips} pixels"
        if not flips:
            np.testing.assert_allclose(iou, file[f"{key}/iou"], rtol=0, atol=1e-7)
            np.testing.assert_allclose(iou.mean(), file[f"{key}/miou"], rtol=0, atol=1e-7)


@per_dtype
@cases("metric", r"post/frame_([\d.]+)/logits", "folder, scale")
def test_frame_logits(folder, scale, dtype, suffix):
    file = golden(folder, "metric")
    limit = 1e-9 if suffix else 1e-4
    size, images = file["input/frame_labels"].shape[1:], paddle.to_tensor(frame(file, dtype))
    port, _ = stdc1(folder, dtype)
    small = resize_bilinear(images, [int(side * float(scale)) for side in images.shape[2:]])
    logits = resize_bilinear(port(small), size)
    key = f"frame_{scale}"
    got = strided(logits, file, f"{key}/logits")
    np.testing.assert_allclose(got, file[f"post{suffix}/{key}/logits"], rtol=0, atol=limit)
    stats = [logits.numpy().mean(dtype=np.float64), logits.numpy().std(dtype=np.float64), np.abs(logits.numpy()).max()]
    np.testing.assert_allclose(stats, file[f"post{suffix}_stats/{key}/logits"], rtol=0, atol=limit)
    predictions = predict_scaled(port, images, float(scale), size)
    assert (predictions[:, ::2, ::2] != file[f"post{suffix}/{key}/preds"]).sum() <= 1
    best = np.sort(logits.numpy(), axis=1)
    close = ((best[:, -1] - best[:, -2]) < 1e-3).sum()
    assert abs(close - file[f"post{suffix}/{key}/margin_below_1e-3"]) <= 1


# ------------------------------------------------------------------------------------ windows, flips -- (NOTES 7.3)


def convolution(number: int, dtype: str):
    """(Paddle, torch) network of the window figures: one 3x3 convolution."""
    weight = formula_tensor("metric.msc", (CLASSES, 3, 3, 3), number, 6.0).astype(dtype)
    kernel, other = paddle.to_tensor(weight), torch.from_numpy(weight)
    return (
        lambda images: paddle.nn.functional.conv2d(images, kernel, padding=1),
        lambda images: torch.nn.functional.conv2d(images, other, padding=1),
    )


@per_dtype
@cases("metric", r"meta/(msc_.*)/cropsize", "folder, case")
def test_windows(folder, case, dtype, suffix):
    file = golden(folder, "metric")
    images = formula_input("msc_image", tuple(file["meta/msc_input"]), seed(file)).astype(dtype)
    crop, flip = int(file[f"meta/{case}/cropsize"].item()), bool(file[f"meta/{case}/flip"].item())
    port, other = convolution(seed(file), dtype)
    x, y = paddle.to_tensor(images), torch.from_numpy(images)
    sides = {
        "chip": (eval_chip(port, x, flip), twin.chip_scores(other, y, flip)),
        "crop_eval": (crop_eval(port, x, crop, flip), twin.window_scores(other, y, crop, flip)),
        "scaled_0.75": (
            scale_crop_eval(port, x, 0.75, crop, flip),
            twin.scaled_window_scores(other, y, 0.75, crop, flip),
        ),
    }
    for name, both in sides.items():
        key = f"{case}/{name}"
        for scores in both:
            assert as_numpy(scores).dtype == dtype
            np.testing.assert_allclose(strided(scores, file, key), file[f"metric/{key}"], rtol=1e-5)
            scores = as_numpy(scores).astype(np.float64)
            stats = [scores.mean(), scores.std(), np.abs(scores).max()]
            np.testing.assert_allclose(stats, file[f"metric_stats/{key}"], rtol=1e-5)
        np.testing.assert_allclose(*map(as_numpy, both), rtol=0, atol=1e-12 if suffix else 1e-5)


@per_dtype
@cases("metric", r"metric/(msc)/hist", "folder, case")
def test_multi_scale_figure(folder, case, dtype, suffix):
    """The reference adds the unscaled picture's scores once per scale, so its mIoU is that of one chip.

    Its histogram has row = prediction, and the golden one was counted without flip, though the mIoU is with it.
    """
    file = golden(folder, "metric")
    images = formula_input("msc_image", tuple(file["meta/msc_input"]), seed(file)).astype(dtype)
    labels = file["input/msc_labels"]
    port, other = convolution(seed(file), dtype)
    matrices, histograms = [], []
    for flip in (False, True):
        matrices.append(ConfusionMatrix(CLASSES))
        matrices[-1].update(eval_chip(port, paddle.to_tensor(images), flip).numpy().argmax(1), labels)
        predictions = twin.chip_scores(other, torch.from_numpy(images), flip).argmax(1)
        histograms.append(twin.histogram(predictions, torch.from_numpy(labels), CLASSES))
    np.testing.assert_array_equal(matrices[0].matrix.T, file[f"metric/{case}/hist"])
    np.testing.assert_array_equal(histograms[0].numpy().T, file[f"metric/{case}/hist"])
    mious = [matrices[1].miou(), twin.mean_iou(histograms[1])]
    np.testing.assert_allclose(mious, file[f"metric/{case}/miou"], rtol=0, atol=1e-7)


@pytest.mark.parametrize("size", [(40, 70), (70, 40), (33, 33), (20, 90)])
@pytest.mark.parametrize("crop", [32, 33, 64])
def test_windows_of_any_shape(size, crop):
    images = formula_input("any", (2, 3, *size), 3).astype("float64")
    port, other = convolution(3, "float64")
    scores = crop_eval(port, paddle.to_tensor(images), crop, True).numpy()
    np.testing.assert_allclose(
        scores, twin.window_scores(other, torch.from_numpy(images), crop, True).numpy(), rtol=0, atol=1e-12
    )


def test_figures_are_json_with_null_for_nan(tmp_path):
    matrix = ConfusionMatrix(3)
    matrix.update(np.array([[0, 1]]), np.array([[0, 0]]))
    write_json(tmp_path / "m.json", matrix.figures(["a", "b", "c"]))
    figures = json.loads((tmp_path / "m.json").read_text())
    assert figures["iou"] == {"a": 0.5, "b": 0.0, "c": None} and figures["miou"] is None
    assert figures["miou_present"] == 0.25 and figures["pixel_accuracy"] == 0.5


def test_sums_over_scales_and_flips():
    images = paddle.to_tensor(formula_input("sum", (1, 3, 30, 44), 5).astype("float64"))
    port, other = convolution(5, "float64")
    protocol = Protocol((0.5, 1.0, 1.5), flip=True)
    softmax = paddle.nn.functional.softmax
    expected = 0
    for scale in (0.5, 1.0, 1.5):
        small = resize_bilinear(images, (int(30 * scale), int(44 * scale)))
        expected += softmax(resize_bilinear(port(small), (30, 44)), 1)
        mirrored = resize_bilinear(port(small.flip(3)), (30, 44))
        expected += softmax(mirrored, 1).flip(3)
    summed = sum(scaled_probabilities(port, images, scale, (30, 44), True) for scale in protocol.scales)
    np.testing.assert_allclose(summed.numpy(), expected.numpy(), rtol=0, atol=1e-12)
    np.testing.assert_array_equal(protocol.predict(port, images, (30, 44)), expected.numpy().argmax(1))
    twins = twin.predict_summed(other, torch.from_numpy(images.numpy()), (0.5, 1.0, 1.5), (30, 44), flip=True)
    np.testing.assert_array_equal(protocol.predict(port, images, (30, 44)), twins.numpy())

    windows = Protocol((0.75, 1.0), flip=True, crop=24)
    summed = sum(scale_crop_eval(port, images, scale, 24, True) for scale in windows.scales)
    np.testing.assert_array_equal(windows.predict(port, images, (30, 44)), summed.numpy().argmax(1))


def test_names_of_protocols():
    assert Protocol((0.5,)).name == "scale_0.5"
    assert Protocol((1.0,), flip=True).name == "scale_1_flip"
    assert Protocol((0.5, 1.5), crop=512).name == "scales_0.5_1.5_crop_512"


def test_a_scale_that_leaves_nothing_is_refused():
    with pytest.raises(InputError, match="0.01.*40x30"):
        predict_scaled(lambda images: images, paddle.zeros([1, 3, 30, 40]), 0.01, (30, 40))
