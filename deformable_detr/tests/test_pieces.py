"""The parts alone against the official figures: masks, encodings, proposals, boxes, losses, attention, first values
(NOTES 9.4)."""

import math

import numpy as np
import paddle
import paddle.distributed as dist
import pytest
from paddle.nn import functional as F

from shared import InputError
from shared.align.formula import formula_input
from shared.convert import plan

from golden_files import VARIANTS, close, golden, official_shapes, sliced, statistics
from losses import SetCriterion, build_criterion
from losses.matcher import matching_cost
from models import PostProcess, build_model
from models.attention import MSDeformAttn, initial_offsets
from models.box_ops import box_cxcywh_to_xyxy, box_iou, box_xyxy_to_cxcywh, generalized_box_iou
from models.deformable_detr import resize_mask
from models.layers import inverse_sigmoid
from models.position_encoding import PositionEmbeddingLearned, PositionEmbeddingSine
from models.transformer import (
    gen_encoder_output_proposals,
    get_proposal_pos_embed,
    get_reference_points,
    get_valid_ratio,
)
from options import parse_options

DTYPES = ["float32", "float64"]
STRIDES = (8, 16, 32, 64)
LAYERS = ["aux0", "aux1", "aux2", "aux3", "aux4", "last", "enc"]


@pytest.fixture(scope="module")
def file():
    return golden("pieces")


def compare(file, key: str, value, bound: float) -> None:
    value = np.asarray(value)
    close(sliced(file, key, value), file[key], bound, key)
    if f"{key}/stats" in file.files:
        close(statistics(value), file[f"{key}/stats"], bound, f"{key}/stats")


# ------------------------------------------------------------------------------------------------- masks and encodings


@pytest.fixture(scope="module")
def paddings(file) -> list:
    """The masks of the four levels."""
    height, width = file["meta/mask/size"].tolist()
    mask = np.ones((3, height, width), bool)
    for index, (h, w) in enumerate(file["meta/mask/valid"].tolist()):
        mask[index, :h, :w] = False
    sizes = [(math.ceil(height / stride), math.ceil(width / stride)) for stride in STRIDES]
    return [resize_mask(paddle.to_tensor(mask), size) for size in sizes]


def test_masks_and_places(file, paddings):
    shapes = [tuple(padding.shape[1:]) for padding in paddings]
    np.testing.assert_array_equal(shapes, file["pieces/spatial_shapes"])
    for level, padding in enumerate(paddings):
        np.testing.assert_array_equal(padding.numpy(), file[f"pieces/mask{level}"])
        encoding = PositionEmbeddingSine(256)(padding).numpy()
        encoding = np.where(padding.numpy()[..., None], 0, encoding).transpose(0, 3, 1, 2)
        compare(file, f"pieces/sine{level}", encoding, 2e-6)
    ratios = paddle.stack([get_valid_ratio(padding) for padding in paddings], 1)
    compare(file, "pieces/valid_ratios", ratios, 1e-6)
    compare(file, "pieces/reference_points", get_reference_points(shapes, ratios), 1e-6)


def test_encodings_stay_float32(paddings):
    assert PositionEmbeddingSine(256).to(dtype="float64")(paddings[0]).dtype == paddle.float32


def test_learned_encoding():
    """Columns first, then rows; at most 50 of each."""
    layer = PositionEmbeddingLearned(64)
    for weight in (layer.row_embed.weight, layer.col_embed.weight):
        assert weight.shape == [50, 32] and 0 <= float(weight.min()) < 0.05 and 0.95 < float(weight.max()) <= 1
    found = layer(paddle.zeros([2, 3, 5], "bool")).numpy()
    np.testing.assert_array_equal(found[1, 2, 4, :32], layer.col_embed.weight[4].numpy())
    np.testing.assert_array_equal(found[0, 2, 4, 32:], layer.row_embed.weight[2].numpy())
    with pytest.raises(InputError, match="50 rows"):
        layer(paddle.zeros([1, 51, 5], "bool"))


# ----------------------------------------------------------------------------------------------------------- proposals


def test_proposals(file, paddings):
    boxes, invalid = gen_encoder_output_proposals(paddings)
    np.testing.assert_array_equal(invalid.numpy(), file["pieces/proposal_invalid"])
    assert np.isposinf(boxes.numpy()[invalid.numpy()]).all()
    compare(file, "pieces/proposals", np.where(np.isinf(boxes.numpy()), 0, boxes.numpy()), 1e-5)
    weights = {name: paddle.to_tensor(file[f"input/proposal/{name}"]) for name in _PROPOSAL_WEIGHTS}
    memory = formula_input("memory", (3, boxes.shape[1], 32), int(file["meta/seed"]))
    memory = paddle.to_tensor(memory).masked_fill(invalid.unsqueeze(-1), 0.0)
    features = F.linear(memory, weights["enc_output.weight"].T, weights["enc_output.bias"])
    features = F.layer_norm(features, [32], weights["enc_output_norm.weight"], weights["enc_output_norm.bias"])
    compare(file, "pieces/proposal_memory", features, 1e-5)
    embedding = get_proposal_pos_embed(paddle.to_tensor(file["input/proposal_logits"]), 128)
    compare(file, "pieces/proposal_pos_embed", embedding, 1e-5)


_PROPOSAL_WEIGHTS = ("enc_output.weight", "enc_output.bias", "enc_output_norm.weight", "enc_output_norm.bias")


def test_two_stages_need_refinement(capsys):
    """The reference meets a TypeError in its first forward; here the command line says so."""
    assert golden("pieces")["pieces/two_stage_alone"] == "TypeError"
    with pytest.raises(SystemExit):
        parse_options(["--two_stage"])
    assert "--with_box_refine" in capsys.readouterr().err


# --------------------------------------------------------------------------------------------------------------- boxes


def test_inverse_sigmoid(file):
    x = paddle.to_tensor(file["input/inverse_sigmoid"], stop_gradient=False)
    y = inverse_sigmoid(x)
    compare(file, "pieces/inverse_sigmoid", y, 1e-6)
    y.sum().backward()
    compare(file, "pieces/inverse_sigmoid_grad", x.grad, 1e-6)


def test_boxes(file):
    a, b = (paddle.to_tensor(file[f"input/boxes_{name}"]) for name in "ab")
    corners, others = box_cxcywh_to_xyxy(a), box_cxcywh_to_xyxy(b)
    compare(file, "pieces/boxes_a_xyxy", corners, 1e-6)
    compare(file, "pieces/boxes_a_back", box_xyxy_to_cxcywh(corners), 1e-6)
    iou, union = box_iou(corners.unsqueeze(1), others.unsqueeze(0))
    compare(file, "pieces/iou", iou, 1e-5)
    compare(file, "pieces/union", union, 1e-5)
    compare(file, "pieces/giou", generalized_box_iou(corners.unsqueeze(1), others.unsqueeze(0)), 1e-5)
    degenerate = paddle.to_tensor(file["input/degenerate"])
    found = generalized_box_iou(degenerate.unsqueeze(1), degenerate.unsqueeze(0)).numpy()
    np.testing.assert_array_equal(np.isnan(found), np.isnan(file["pieces/nonfinite_giou_degenerate"]))
    assert file["pieces/giou_inverted_raises"] and file["pieces/giou_nan_raises"]
    for wrong in ([0.5, 0.5, 0.2, 0.6], [0.1, float("nan"), 0.2, 0.3]):
        with pytest.raises(ValueError, match="corner"):
            generalized_box_iou(paddle.to_tensor([wrong]), corners[:1])


# -------------------------------------------------------------------------------------------------------------- losses


def test_focal_loss(file):
    logits = paddle.to_tensor(file["input/focal_logits"], stop_gradient=False)
    targets = file["input/focal_targets"]
    criterion = SetCriterion(parse_options(["--num_classes", str(targets.shape[-1])]))
    rows, classes = targets.reshape(-1, targets.shape[-1]).nonzero()
    # the reference's function takes the mean over the queries, which its caller undoes
    loss = criterion._class_loss(logits, rows, classes, 4.0) / targets.shape[1]
    compare(file, "pieces/focal", loss, 1e-6)
    loss.backward()
    compare(file, "pieces/focal_grad", logits.grad, 1e-5)


def criterion_case(file, dtype: str = "float32") -> tuple[dict, list[dict]]:
    """(outputs with gradients, targets) of the criterion's figures."""

    def layer(name: str) -> dict:
        return {
            key: paddle.to_tensor(file[f"input/criterion/{name}/{key}"].astype(dtype), stop_gradient=False)
            for key in ("pred_logits", "pred_boxes")
        }

    outputs = layer("last") | {"aux_outputs": [layer(f"aux{k}") for k in range(5)], "enc_outputs": layer("enc")}
    targets = [
        {key: paddle.to_tensor(file[f"input/criterion_target{k}/{key}"]) for key in ("boxes", "labels")}
        for k in range(2)
    ]
    return outputs, targets


def compare_terms(file, prefix: str, terms: dict, bound: float) -> None:
    names = [key.removeprefix(prefix) for key in file.files if key.startswith(prefix)]
    assert set(names) == set(terms) - {"loss"} | {"total"}
    for name in names:
        found = float(terms["loss" if name == "total" else name])
        assert found == pytest.approx(float(file[prefix + name]), rel=bound, abs=1e-9), name


@pytest.mark.parametrize("dtype", DTYPES)
def test_criterion(file, dtype):
    outputs, targets = criterion_case(file, dtype)
    terms = build_criterion(parse_options([]))(outputs, targets)
    prefix = "loss64/criterion/" if dtype == "float64" else "loss/criterion/"
    compare_terms(file, prefix, terms, 1e-6 if dtype == "float32" else 1e-7)
    terms["loss"].backward()
    layers = dict(zip(LAYERS, [*outputs["aux_outputs"], outputs, outputs["enc_outputs"]], strict=True))
    compared = 0
    for name, layer in layers.items():
        for key in ("pred_logits", "pred_boxes"):
            gradient = layer[key].grad.numpy()
            norm = float(file[f"grad_norm/criterion/{name}/{key}"])
            assert np.linalg.norm(gradient) == pytest.approx(norm, rel=1e-5)
            if f"pieces/criterion_grad/{name}/{key}" in file.files:
                compare(file, f"pieces/criterion_grad/{name}/{key}", gradient, 1e-5)
                compared += 1
    assert compared >= 4


def test_matcher(file):
    outputs, targets = criterion_case(file)
    matcher = build_criterion(parse_options([])).matcher
    pairs = matcher(outputs, targets)
    for index, (target, (queries, chosen)) in enumerate(zip(targets, pairs, strict=True)):
        logits, boxes = outputs["pred_logits"][index], outputs["pred_boxes"][index]
        cost = matching_cost(logits, boxes, target["labels"], target["boxes"], matcher.weights)
        compare(file, f"match/criterion/{index}/cost", cost, 1e-5)
        np.testing.assert_array_equal(queries, file[f"match/criterion/{index}/query"])
        np.testing.assert_array_equal(chosen, file[f"match/criterion/{index}/target"])
        assert queries.dtype == chosen.dtype == np.int64


def test_boxes_are_counted_over_all_processes(file, monkeypatch):
    """The other process holds 12 boxes: 9.5 in the mean. (tests/two_processes.py has two real ones.)"""
    outputs, targets = criterion_case(file)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(dist, "all_reduce", lambda count: count.add_(paddle.to_tensor([12.0], "float64")))
    terms = build_criterion(parse_options([]))(outputs, targets)
    compare_terms(file, "loss/criterion_two_processes/", terms, 1e-6)


def test_detections(file):
    seed = int(file["meta/seed"])
    logits = 2 * formula_input("post/logits", (2, 300, 91), seed) - 3
    boxes = formula_input("post/boxes", (2, 300, 4), seed).astype(np.float64)
    boxes = (1 / (1 + np.exp(-boxes))).astype(np.float32)
    outputs = {"pred_logits": paddle.to_tensor(logits), "pred_boxes": paddle.to_tensor(boxes)}
    for index, found in enumerate(PostProcess()(outputs, file["input/post/orig_sizes"])):
        assert found["labels"].dtype == np.int64
        compare(file, f"post/{index}/scores", found["scores"], 1e-5)
        np.testing.assert_array_equal(found["labels"], file[f"post/{index}/labels"])
        compare(file, f"post/{index}/boxes", found["boxes"], 1e-5)


# ----------------------------------------------------------------------------------------------------------- attention


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("numbers", [2, 4])
def test_attention_module(file, numbers, dtype):
    layer = MSDeformAttn(32, levels=3, heads=4, points=2)
    names = plan(layer)
    weights = {name: file[f"input/attention/{name}"] for name in names.torch_shapes()}
    layer.set_state_dict(names.to_paddle(weights)[0])
    layer.to(dtype=dtype)
    inputs = {
        name: paddle.to_tensor(file[f"input/attention_{key}"].astype(dtype), stop_gradient=False)
        for name, key in (("query", "query"), ("points", f"points{numbers}"), ("source", "source"))
    }
    shapes = file["input/attention_shapes"]
    starts = np.concatenate([[0], np.cumsum(shapes.prod(1))[:-1]])
    layout = [paddle.to_tensor(shapes), paddle.to_tensor(starts), paddle.to_tensor(file["input/attention_padding"])]
    output = layer(inputs["query"], inputs["points"], inputs["source"], *layout)
    wide, bound = ("64", 1e-9) if dtype == "float64" else ("", 1e-5)
    key = f"output{wide}/attention{numbers}"
    close(output, file[key], bound, key)
    (output * paddle.to_tensor(file["input/attention_grad"].astype(dtype))).sum().backward()
    for name, tensor in inputs.items():
        key = f"output{wide}/attention{numbers}_grad_{name}"
        close(tensor.grad, file[key], 10 * bound, key)
    gradients = names.gradients_to_torch({name: p.grad for name, p in layer.named_parameters()})
    for name, gradient in gradients.items():
        norm = float(file[f"grad{wide}_norm/attention{numbers}/{name}"])
        assert np.linalg.norm(gradient) == pytest.approx(norm, rel=1e-4 if dtype == "float32" else 1e-8), name


def test_first_offsets(file):
    close(initial_offsets(4, 3, 2), file["init/attention/sampling_offsets.bias"], 1e-6)
    close(initial_offsets(8, 4, 4), file["init/attention256/sampling_offsets.bias"], 1e-6)
    layer = MSDeformAttn(256, 4, 8, 4)
    np.testing.assert_array_equal(layer.sampling_offsets.bias.numpy(), initial_offsets(8, 4, 4))


# -------------------------------------------------------------------------------------------------------- first values


@pytest.mark.parametrize("variant", ["base", "refine", "two_stage"])
def test_first_values(file, variant):
    """Mean, spread and ends of every tensor of a fresh network are those of a fresh official one."""
    model = build_model(parse_options(VARIANTS[variant][1].split()))
    own = {name: value.numpy() for name, value in model.state_dict().items()}
    tensors, report = plan(model).to_torch(own)
    assert report.ok and {n: a.shape for n, a in tensors.items()} == official_shapes(variant)
    assert list(tensors) == list(official_shapes(variant))
    compared = 0
    for name, array in tensors.items():
        if f"init/{variant}/{name}" not in file.files:
            continue
        mean, std, low, high = file[f"init/{variant}/{name}"]
        array, compared = array.astype(np.float64), compared + 1
        if std == 0 or "sampling_offsets" in name or name.endswith("layers.2.bias"):
            np.testing.assert_allclose(
                [array.mean(), array.std(), array.min(), array.max()], [mean, std, low, high], atol=1e-6
            )
            continue
        noise = 6 * std / math.sqrt(array.size)
        assert abs(array.mean() - mean) <= 2 * noise, name
        assert abs(array.std() - std) <= 2 * noise, name
        if "query_embed" not in name and "level_embed" not in name:  # uniform: the ends say the bound
            assert array.min() >= low - 0.1 * abs(low) and array.max() <= high + 0.1 * high, name
    assert compared >= 20
    for part in ("encoder", "decoder"):
        biases = [tensors[f"transformer.{part}.layers.{k}.linear1.bias"] for k in range(6)]
        assert all(np.array_equal(bias, biases[0]) for bias in biases)
        weights = [tensors[f"transformer.{part}.layers.{k}.linear1.weight"] for k in range(2)]
        assert not np.array_equal(*weights)


def test_a_fresh_network_predicts_small_boxes_and_few_classes():
    model = build_model(parse_options([]))
    model.eval()
    with paddle.no_grad():
        outputs = model(paddle.rand([1, 3, 64, 96]), paddle.zeros([1, 64, 96], "bool"))
    np.testing.assert_allclose(outputs["pred_boxes"][..., 2:].numpy(), 1 / (1 + math.exp(2)), rtol=1e-5)
    assert 0.003 < float(F.sigmoid(outputs["pred_logits"]).mean()) < 0.03
