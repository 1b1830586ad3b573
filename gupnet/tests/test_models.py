"""How the network begins, what it takes, and what decoding leaves out: closed forms, no figures."""

import math

import numpy as np
import paddle
import pytest

from constants import MEAN_SIZES
from decoding import decode_detections, result_lines, write_results
from golden_files import golden
from losses import LOSS_GRAPH, TERMS, HierarchicalTaskLearning, build_criterion
from models import build_model, find_peaks
from models.dla_up import bilinear_kernel, upsampling
from networks import batch_of, run
from options import parse_options


@pytest.fixture(scope="module")
def fresh() -> dict[str, np.ndarray]:
    paddle.seed(7)
    return {name: value.numpy().astype(np.float64) for name, value in build_model().state_dict().items()}


# ---------------------------------------------------------------------------------------------------------- start


def weights_of(fresh: dict, *prefixes: str) -> dict[str, np.ndarray]:
    return {n: v for n, v in fresh.items() if n.startswith(prefixes) and v.ndim == 4 and ".up_" not in n}


def uniform(values: np.ndarray, bound: float) -> None:
    """U(-bound, bound), by its limits, its mean and its deviation (bound / sqrt 3)."""
    assert np.abs(values).max() <= bound * (1 + 1e-6)
    assert abs(values.mean()) < 4 * bound / math.sqrt(3 * values.size)
    assert values.std() == pytest.approx(bound / math.sqrt(3), rel=4 / math.sqrt(values.size))


def normal(values: np.ndarray, deviation: float, name: str) -> None:
    assert abs(values.mean()) < 4.5 * deviation / math.sqrt(values.size), name
    assert values.std() == pytest.approx(deviation, rel=4.5 / math.sqrt(2 * values.size)), name


def test_backbone_and_neck_begin_by_their_fan_out(fresh):
    weights = weights_of(fresh, "backbone.", "feat_up.")
    assert len(weights) == 40 + 12  # of them 39 with a norm in the backbone, and fc
    for name, value in weights.items():
        outputs, _, k, _ = value.shape
        normal(value, math.sqrt(2 / (k * k * outputs)), name)
    uniform(fresh["backbone.fc.bias"], 1 / math.sqrt(512))


def test_upsampling_begins_bilinear(fresh):
    names = [name for name in fresh if ".up_" in name]
    assert len(names) == 6
    profile = np.array([0.25, 0.75, 0.75, 0.25])
    np.testing.assert_allclose(bilinear_kernel(4), np.outer(profile, profile), atol=1e-15)
    for name in names:
        np.testing.assert_array_equal(fresh[name], np.broadcast_to(bilinear_kernel(4), fresh[name].shape))


@pytest.mark.parametrize("factor", [1, 2, 4, 8])
def test_bilinear_kernels(factor):
    expected = golden("units")[f"output/up_kernel/{factor}"]
    np.testing.assert_array_equal(upsampling(3, factor).weight.numpy(), expected)
    np.testing.assert_allclose(bilinear_kernel(2 * factor), expected[0, 0], rtol=1e-7)


def test_norms_and_mean_sizes_begin_as_they_should(fresh):
    for name, value in fresh.items():
        if name.endswith(("._mean", "._variance")):
            assert (value == (1 if name.endswith("._variance") else 0)).all()
            head = name.rpartition(".")[0]
            assert (fresh[f"{head}.weight"] == 1).all() and (fresh[f"{head}.bias"] == 0).all()
    np.testing.assert_array_equal(fresh["mean_size"], MEAN_SIZES.astype(np.float32))


def test_heads_begin_as_they_should(fresh):
    for name in ("offset_2d", "size_2d"):
        for part in ("0", "2"):
            normal(fresh[f"{name}.{part}.weight"], 1e-3, name)
            assert (fresh[f"{name}.{part}.bias"] == 0).all()
    for part, bound in (("0", 1 / math.sqrt(576)), ("2", 1 / math.sqrt(256))):
        uniform(fresh[f"heatmap.{part}.weight"], bound)
    uniform(fresh["heatmap.0.bias"], 1 / math.sqrt(576))
    np.testing.assert_allclose(fresh["heatmap.2.bias"], -2.19, rtol=1e-6)
    for name, outputs in (("depth", 2), ("offset_3d", 2), ("size_3d", 4), ("heading", 24)):
        uniform(fresh[f"{name}.0.weight"], math.sqrt(6 / (9 * (69 + 256))))
        uniform(fresh[f"{name}.4.weight"], math.sqrt(6 / (256 + outputs)))
        assert (fresh[f"{name}.0.bias"] == 0).all() and (fresh[f"{name}.4.bias"] == 0).all()


def test_counts_of_tensors(fresh):
    assert sum(value.size for name, value in fresh.items()) + 55 == 20_892_543  # and 55 counters in torch
    parameters = [value for name, value in fresh.items() if not name.endswith(("._mean", "._variance"))]
    assert (len(parameters), sum(value.size for value in parameters)) == (198, 20_871_368)


# ------------------------------------------------------------------------------------------------------ its calls


def test_inputs_are_left_as_they_are_and_any_size_fits():
    model = build_model()
    model.eval()
    images = paddle.randn([3, 3, 64, 96])
    calibs = paddle.tile(paddle.to_tensor([[[700.0, 0, 600, 40], [0, 700, 180, 0.3], [0, 0, 1, 0]]]), [3, 1, 1])
    ranges = paddle.tile(paddle.to_tensor([[[0.0, 0.0], [1242.0, 375.0]]]), [3, 1, 1])
    with paddle.no_grad():
        outputs = model(images, ranges, calibs, K=7, mode="val")
    assert list(outputs["heatmap"].shape) == [3, 3, 16, 24] and list(outputs["depth"].shape) == [21, 2]
    assert float(outputs["heatmap"].min()) < 0  # logits still
    with pytest.raises(ValueError, match="mode 'eval'"):
        model(images, ranges, calibs, mode="eval")


@pytest.mark.parametrize("dtype, default", [("float64", "float32"), ("float32", "float64")])
def test_the_dtype_is_the_networks_not_the_default(dtype, default):
    model, batch = build_model(), batch_of("model", dtype)
    model.to(dtype=dtype)
    paddle.set_default_dtype(default)
    try:
        outputs = run(model, batch, "train") | {f"test_{k}": v for k, v in run(model, batch, "test").items()}
        terms = build_criterion()(outputs, batch.targets)
    finally:
        paddle.set_default_dtype("float32")
    floats = [value.dtype for value in (outputs | terms).values() if value.is_floating_point()]
    assert set(floats) == {getattr(paddle, dtype)} and len(floats) > 20


def test_no_gradient_through_the_pooled_box_but_through_the_rest():
    """A box's size reaches the depth through its height and the coordinate maps, though RoIAlign passes nothing."""
    batch, model = batch_of("model", "float32"), build_model()
    outputs = run(model, batch, "train")
    outputs["depth"][:, 0].sum().backward()
    assert float(model.size_2d[2].weight.grad.abs().max()) > 0
    assert model.heatmap[2].weight.grad is None


def test_peaks_are_local_maxima_over_all_classes():
    logits = np.full((1, 3, 16, 16), -8.0, np.float32)
    logits[0, 2, 3, 4], logits[0, 2, 3, 5], logits[0, 0, 9, 9], logits[0, 1, 9, 9] = 3, 2, 1, 4
    peaks = find_peaks(paddle.to_tensor(logits), 3)
    assert peaks.classes.tolist() == [[1, 2, 0]] and peaks.cells.tolist() == [[9 * 16 + 9, 3 * 16 + 4, 9 * 16 + 9]]
    np.testing.assert_allclose(peaks.scores.numpy(), [1 / (1 + np.exp(-np.array([4.0, 3, 1])))], rtol=1e-6)


# --------------------------------------------------------------------------------------------------- its training


def test_a_weight_scales_its_term():
    batch, model = batch_of("model", "float64"), build_model()
    model.to(dtype="float64")
    outputs, criterion = run(model, batch, "train"), build_criterion()
    weights = {"depth_loss": 0.25, "heading_loss": 0.0}
    terms = criterion(outputs, batch.targets, weights)
    wanted = sum(float(terms[term]) * weights.get(term, 1) for term in TERMS)
    assert float(terms["loss"]) == pytest.approx(wanted, rel=1e-12)


def test_tasks_wait_for_those_before_them():
    """Steady falls: nothing is learnt, so the weights stay 0 to the power of 1; falls that end: everything is."""
    tasks, steady = HierarchicalTaskLearning(), []
    for epoch in range(12):
        losses = dict.fromkeys(LOSS_GRAPH, 10.0 - min(epoch, 8))
        steady.append(tasks.compute_weight(losses, epoch, 20)["depth_loss"])
    assert steady[:6] == [0] * 6
    assert steady[8] == pytest.approx(3 / 15) and steady[11] > (6 / 15) ** 0.9
    flat = HierarchicalTaskLearning()
    weights = [flat.compute_weight(dict.fromkeys(LOSS_GRAPH, 1.0), epoch, 20)["heading_loss"] for epoch in range(7)]
    assert weights[:5] == [0] * 5 and np.isnan(weights[6])  # a first fall of 0, as in the reference
    faster = HierarchicalTaskLearning()  # falls thousands of times as fast as at first: a power too large for a float
    falls = [9.0, 9.0, 9.0, 9.0, 8.998, 5.0, 1.0, 1.0]
    weights = [
        faster.compute_weight(dict.fromkeys(LOSS_GRAPH, 1e3 * fall), epoch, 20) for epoch, fall in enumerate(falls)
    ]
    assert weights[7]["heading_loss"] == np.inf


# ------------------------------------------------------------------------------------------------------- decoding


def test_rows_that_cannot_be_results_are_left_out(tmp_path):
    rows = np.zeros((1, 5, 36), np.float32)
    rows[0, :, 0], rows[0, :, 1], rows[0, :, 2:7] = 1, 0.5, [10, 10, 4, 4, 20]
    rows[0, 1, 1], rows[0, 2, 31], rows[0, 3, 6] = 0.1, -9, np.nan  # a low score, a negative height, no depth
    info = {"img_id": np.array([5]), "bbox_downsample_ratio": np.array([[4.0, 4.0]])}
    P2 = np.array([[700, 0, 600, 0], [0, 700, 180, 0], [0, 0, 1, 0]], np.float32)
    found = decode_detections(rows, info, [P2], 0.2)
    assert found[5].shape == (2, 14)
    np.testing.assert_allclose(found[5][0, 2:6], [32, 32, 48, 48])
    (tmp_path / "000009.txt").write_text("of another run\n")
    write_results(tmp_path, found)
    assert [path.name for path in tmp_path.iterdir()] == ["000005.txt"]
    assert (tmp_path / "000005.txt").read_text() == result_lines(found[5])
    assert result_lines(found[5]).startswith("Car 0.0 0 0.00 32.00 32.00 48.00 48.00 1.53 1.63 3.88 ")


def test_options_have_the_configuration_of_the_reference():
    options = parse_options([])
    assert (options.batch_size, options.lr, options.weight_decay, options.max_epoch) == (32, 0.00125, 0.00001, 140)
    assert (options.input_size, options.decay_list, options.threshold) == ([1280, 384], [90, 120], 0.2)
    assert parse_options(["--max-epoch", "3", "--warmup", "false"]).warmup is False
