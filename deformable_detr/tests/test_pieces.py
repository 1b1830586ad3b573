"""Parts of Paddle and of the torch twin alone against the official figures (NOTES 9.4)."""

import math
from types import SimpleNamespace

import numpy as np
import paddle
import pytest
import torch
from paddle.nn import functional as F

from shared import InputError
from shared.align.formula import formula_input
from shared.convert import plan
from shared.weights import as_numpy

from golden_files import VARIANTS, close, golden, official_shapes
from losses import SetCriterion
from losses.matcher import matching_cost
from models import box_ops, build_model, layers, transformer
from models.attention import MSDeformAttn, initial_offsets
from models.deformable_detr import resize_mask
from models.position_encoding import PositionEmbeddingLearned, PositionEmbeddingSine
from networks import DTYPES, LAYERS, SIDES, compare, compare_terms, targets_of
from options import parse_options
from reference import attention, backbone, network
from reference import box_ops as reference_boxes
from reference import transformer as reference_transformer
from reference.losses import focal_loss

FILE = golden("pieces")
both = pytest.mark.parametrize("side", SIDES)


# ---------------------------------------------------------------------------------------------- the parts of each side


def _paddle_focal(logits, targets, alpha: float):
    criterion = SetCriterion(parse_options(["--num_classes", str(targets.shape[-1]), "--focal_alpha", str(alpha)]))
    rows, classes = as_numpy(targets).reshape(-1, targets.shape[-1]).nonzero()
    return criterion._class_loss(logits, rows, classes, 1.0)


def _paddle_features(memory, weights: dict):
    features = F.linear(memory, weights["enc_output.weight"].T, weights["enc_output.bias"])
    return F.layer_norm(features, [32], weights["enc_output_norm.weight"], weights["enc_output_norm.bias"])


def _torch_features(memory, weights: dict):
    features = torch.nn.functional.linear(memory, weights["enc_output.weight"], weights["enc_output.bias"])
    norm = weights["enc_output_norm.weight"], weights["enc_output_norm.bias"]
    return torch.nn.functional.layer_norm(features, [32], *norm)


def _torch_proposals(masks: list) -> tuple:
    sizes = [tuple(mask.shape[1:]) for mask in masks]
    boxes = reference_transformer.gen_encoder_output_proposals(torch.cat([mask.flatten(1) for mask in masks], 1), sizes)
    return boxes, boxes.isinf().all(-1)


PARTS = {
    "paddle": SimpleNamespace(
        boxes=box_ops,
        transformer=transformer,
        inverse_sigmoid=layers.inverse_sigmoid,
        resize_mask=resize_mask,
        sine=lambda mask: PositionEmbeddingSine(256)(mask).transpose([0, 3, 1, 2]),
        proposals=transformer.gen_encoder_output_proposals,
        proposal_features=_paddle_features,
        proposal_embedding=lambda logits: transformer.get_proposal_pos_embed(logits, 128),
        focal=_paddle_focal,
        cost=lambda criterion, logits, boxes, target: matching_cost(
            logits, boxes, target["labels"], target["boxes"], criterion.matcher.weights
        ),
        attention=MSDeformAttn,
        stack=lambda tensors: paddle.stack(tensors, 1),
        wrong=ValueError,
    ),
    "torch": SimpleNamespace(
        boxes=reference_boxes,
        transformer=reference_transformer,
        inverse_sigmoid=reference_transformer.inverse_sigmoid,
        resize_mask=backbone.level_mask,
        sine=lambda mask: backbone.PositionEmbeddingSine(256)(mask),
        proposals=_torch_proposals,
        proposal_features=_torch_features,
        proposal_embedding=lambda logits: backbone.sine_embedding(logits.sigmoid() * (2 * math.pi), 128).flatten(-2),
        focal=focal_loss,
        cost=lambda criterion, logits, boxes, target: criterion.matcher.cost(logits, boxes, target),
        attention=attention.MSDeformAttn,
        stack=lambda tensors: torch.stack(tensors, 1),
        wrong=AssertionError,
    ),
}


# ------------------------------------------------------------------------------------------------- masks and encodings


def masks_of(side: str) -> list:
    """The masks of the four levels."""
    height, width = FILE["meta/mask/size"].tolist()
    mask = np.ones((3, height, width), bool)
    for index, (h, w) in enumerate(FILE["meta/mask/valid"].tolist()):
        mask[index, :h, :w] = False
    sizes = [(math.ceil(height / stride), math.ceil(width / stride)) for stride in (8, 16, 32, 64)]
    return [PARTS[side].resize_mask(SIDES[side].tensor(mask), size) for size in sizes]


@both
def test_masks_encodings_and_reference_points(side):
    parts, masks = PARTS[side], masks_of(side)
    shapes = [tuple(mask.shape[1:]) for mask in masks]
    np.testing.assert_array_equal(shapes, FILE["pieces/spatial_shapes"])
    for level, mask in enumerate(masks):
        np.testing.assert_array_equal(as_numpy(mask), FILE[f"pieces/mask{level}"])
        encoding = np.where(as_numpy(mask)[:, None], 0, as_numpy(parts.sine(mask)))
        assert compare(FILE, f"pieces/sine{level}", encoding, 2e-6)
    ratios = parts.stack([parts.transformer.get_valid_ratio(mask) for mask in masks])
    assert compare(FILE, "pieces/valid_ratios", ratios, 1e-6)
    assert compare(FILE, "pieces/reference_points", parts.transformer.get_reference_points(shapes, ratios), 1e-6)


def test_learned_encoding():
    """Columns first, then rows; at most 50 of each. The sine encoding stays float32."""
    layer = PositionEmbeddingLearned(64)
    for weight in (layer.row_embed.weight, layer.col_embed.weight):
        assert weight.shape == [50, 32] and 0 <= float(weight.min()) < 0.05 and 0.95 < float(weight.max()) <= 1
    encoding = layer(paddle.zeros([2, 3, 5], "bool")).numpy()
    np.testing.assert_array_equal(encoding[1, 2, 4, :32], layer.col_embed.weight[4].numpy())
    np.testing.assert_array_equal(encoding[0, 2, 4, 32:], layer.row_embed.weight[2].numpy())
    with pytest.raises(InputError, match="50 rows"):
        layer(paddle.zeros([1, 51, 5], "bool"))
    assert PositionEmbeddingSine(256).to(dtype="float64")(masks_of("paddle")[0]).dtype == paddle.float32


# ----------------------------------------------------------------------------------------------------------- proposals


@both
def test_proposals(side):
    parts, tensor = PARTS[side], SIDES[side].tensor
    boxes, invalid = parts.proposals(masks_of(side))
    np.testing.assert_array_equal(as_numpy(invalid), FILE["pieces/proposal_invalid"])
    assert np.isposinf(as_numpy(boxes)[as_numpy(invalid)]).all()
    assert compare(FILE, "pieces/proposals", np.where(np.isinf(as_numpy(boxes)), 0, as_numpy(boxes)), 1e-5)
    memory = formula_input("memory", (3, boxes.shape[1], 32), int(FILE["meta/seed"]))
    memory = tensor(memory).masked_fill(invalid[..., None], 0.0)
    weights = {
        f"{name}.{leaf}": tensor(FILE[f"input/proposal/{name}.{leaf}"])
        for name in ("enc_output", "enc_output_norm")
        for leaf in ("weight", "bias")
    }
    assert compare(FILE, "pieces/proposal_memory", parts.proposal_features(memory, weights), 1e-5)
    embedding = parts.proposal_embedding(tensor(FILE["input/proposal_logits"]))
    assert compare(FILE, "pieces/proposal_pos_embed", embedding, 1e-5)


def test_two_stages_need_refinement(capsys):
    """The reference raises a TypeError in its first forward; here the command line says so (NOTES 1.6)."""
    assert FILE["pieces/two_stage_alone"] == "TypeError"
    with pytest.raises(SystemExit):
        parse_options(["--two_stage"])
    assert "--with_box_refine" in capsys.readouterr().err


# --------------------------------------------------------------------------------------------------------------- boxes


@both
def test_boxes(side):
    parts, tensor = PARTS[side], SIDES[side].tensor
    x = tensor(FILE["input/inverse_sigmoid"], True)
    y = parts.inverse_sigmoid(x)
    assert compare(FILE, "pieces/inverse_sigmoid", y, 1e-6)
    y.sum().backward()
    assert compare(FILE, "pieces/inverse_sigmoid_grad", x.grad, 1e-6)
    corners, others = (parts.boxes.box_cxcywh_to_xyxy(tensor(FILE[f"input/boxes_{name}"])) for name in "ab")
    assert compare(FILE, "pieces/boxes_a_xyxy", corners, 1e-6)
    iou, union = parts.boxes.box_iou(corners[:, None], others[None])
    bound = 1e-5 if side == "paddle" else 1e-6
    for name, value in (("iou", iou), ("union", union)):
        assert compare(FILE, f"pieces/{name}", value, bound)
    giou = parts.boxes.generalized_box_iou(corners[:, None], others[None])
    assert compare(FILE, "pieces/giou", giou, bound)
    flat = tensor(FILE["input/degenerate"])
    giou = as_numpy(parts.boxes.generalized_box_iou(flat[:, None], flat[None]))
    np.testing.assert_array_equal(np.isnan(giou), np.isnan(FILE["pieces/nonfinite_giou_degenerate"]))
    assert FILE["pieces/giou_inverted_raises"] and FILE["pieces/giou_nan_raises"]
    for wrong in ([0.5, 0.5, 0.2, 0.6], [0.1, math.nan, 0.2, 0.3]):
        with pytest.raises(parts.wrong, match="corner"):
            parts.boxes.generalized_box_iou(tensor(np.float32([wrong])), corners[:1])


# -------------------------------------------------------------------------------------------------------------- losses


@both
def test_focal_loss(side):
    logits = SIDES[side].tensor(FILE["input/focal_logits"], True)
    targets = SIDES[side].tensor(FILE["input/focal_targets"])
    # the reference's function takes the mean over the queries, which its caller undoes (NOTES 5.4)
    loss = PARTS[side].focal(logits, targets, 0.25) / targets.shape[1] / 4
    assert compare(FILE, "pieces/focal", loss, 1e-6)
    loss.backward()
    assert compare(FILE, "pieces/focal_grad", logits.grad, 1e-5)


@both
@pytest.mark.parametrize("dtype", DTYPES)
def test_criterion(side, dtype):
    """Terms, gradients, matches and costs; and with 12 boxes in another process: 9.5 in the mean."""
    wide, bound = ("64", 1e-7) if dtype == "float64" else ("", 1e-6 if side == "paddle" else 1e-5)
    names = [*LAYERS, "enc"]
    given = {
        f"{layer}/{key}": SIDES[side].tensor(FILE[f"input/criterion/{layer}/{key}"].astype(dtype), True)
        for layer in names
        for key in ("pred_logits", "pred_boxes")
    }
    *aux, outputs, enc = ({key: given[f"{layer}/{key}"] for key in ("pred_logits", "pred_boxes")} for layer in names)
    outputs |= {"aux_outputs": aux, "enc_outputs": enc}
    targets, criterion = targets_of(side, FILE, "criterion_target", dtype), SIDES[side].criterion(parse_options([]))
    terms = criterion(outputs, targets)
    compare_terms(FILE, f"loss{wide}/criterion/", terms, bound, 1e-9)
    terms["loss"].backward()
    for name, tensor in given.items():
        gradient = as_numpy(tensor.grad)
        assert np.linalg.norm(gradient) == pytest.approx(float(FILE[f"grad_norm/criterion/{name}"]), rel=1e-5)
    stored = [key.split("/", 2)[2] for key in FILE.files if key.startswith("pieces/criterion_grad/")]
    compared = [name for name in given if name in stored]
    assert len(compared) >= 4
    for name in compared:
        assert compare(FILE, f"pieces/criterion_grad/{name}", given[name].grad, 1e-5)
    for image, (query, target) in enumerate(criterion.matcher(outputs, targets)):
        logits, boxes = outputs["pred_logits"][image], outputs["pred_boxes"][image]
        cost = PARTS[side].cost(criterion, logits, boxes, targets[image])
        assert compare(FILE, f"match/criterion/{image}/cost", cost, 1e-5)
        for what, index in (("query", query), ("target", target)):
            np.testing.assert_array_equal(as_numpy(index), FILE[f"match/criterion/{image}/{what}"])
            assert as_numpy(index).dtype == np.int64
    if dtype == "float32":
        compare_terms(FILE, "loss/criterion_two_processes/", criterion(outputs, targets, (12,)), bound, 1e-9)


@both
def test_post_process(side):
    seed, (scale, shift) = int(FILE["meta/seed"]), np.float32(FILE["meta/post/logit_scale_shift"])
    logits = scale * formula_input("post/logits", (2, 300, 91), seed) + shift
    boxes = 1 / (1 + np.exp(-formula_input("post/boxes", (2, 300, 4), seed).astype(np.float64)))
    outputs = {"pred_logits": SIDES[side].tensor(logits), "pred_boxes": SIDES[side].tensor(boxes.astype(np.float32))}
    sizes = SIDES[side].tensor(FILE["input/post/orig_sizes"])
    for index, detections in enumerate(SIDES[side].post_process(outputs, sizes)):
        arrays = {name: as_numpy(value) for name, value in detections.items()}
        assert arrays["labels"].dtype == np.int64
        np.testing.assert_array_equal(arrays["labels"], FILE[f"post/{index}/labels"])
        for name in ("scores", "boxes"):
            assert compare(FILE, f"post/{index}/{name}", arrays[name], 1e-5)


# ----------------------------------------------------------------------------------------------------------- attention


@both
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("numbers", [2, 4])
def test_attention_module(side, numbers, dtype):
    layer, tensor = PARTS[side].attention(32, 3, 4, 2), SIDES[side].tensor
    prefix = "input/attention/"
    weights = {key.removeprefix(prefix): FILE[key] for key in FILE.files if key.startswith(prefix)}
    query, points, tokens = (
        tensor(FILE[f"input/attention_{key}"].astype(dtype), True) for key in ("query", f"points{numbers}", "source")
    )
    shapes, padding = FILE["input/attention_shapes"], tensor(FILE["input/attention_padding"])
    if side == "paddle":
        layer.set_state_dict(plan(layer).to_paddle(weights)[0])
        layer.to(dtype=dtype)
        starts = tensor(np.cumsum([0, *shapes.prod(1)])[:-1])
        output = layer(query, points, tokens, tensor(shapes), starts, padding)
    else:
        layer.load_state_dict({name: torch.from_numpy(array) for name, array in weights.items()})
        output = layer.to(getattr(torch, dtype))(query, points, tokens, tensor(shapes), padding)
    wide, bound = ("64", 1e-9 if side == "paddle" else 1e-10) if dtype == "float64" else ("", 1e-5)
    key = f"output{wide}/attention{numbers}"
    assert compare(FILE, key, output, bound)
    (output * tensor(FILE["input/attention_grad"].astype(dtype))).sum().backward()
    for name, value in (("query", query), ("points", points), ("source", tokens)):
        assert compare(FILE, f"{key}_grad_{name}", value.grad, 10 * bound if side == "paddle" else bound)
    for name, gradient in SIDES[side].gradients(layer).items():
        norm = float(FILE[f"grad{wide}_norm/attention{numbers}/{name}"])
        assert np.linalg.norm(as_numpy(gradient)) == pytest.approx(norm, rel=10 * bound), name


def test_initial_offsets():
    for name, shape in (("attention", (4, 3, 2)), ("attention256", (8, 4, 4))):
        expected = FILE[f"init/{name}/sampling_offsets.bias"]
        close(initial_offsets(*shape), expected, 1e-6)
        close(as_numpy(attention.initial_offsets(*shape)).ravel(), expected, 1e-6)
    layer = MSDeformAttn(256, 4, 8, 4)
    np.testing.assert_array_equal(layer.sampling_offsets.bias.numpy(), initial_offsets(8, 4, 4))


# -------------------------------------------------------------------------------------------------------- start values


@both
@pytest.mark.parametrize("variant", ["base", "refine", "two_stage"])
def test_start_values(side, variant):
    """Mean, standard deviation, smallest and largest of every tensor of a fresh network are a fresh official one's."""
    options = parse_options(VARIANTS[variant][1].split())
    if side == "torch":
        torch.manual_seed(0)
        tensors = {name: as_numpy(value) for name, value in network.build_reference(options).state_dict().items()}
    else:
        model = build_model(options)
        tensors, report = plan(model).to_torch({name: as_numpy(value) for name, value in model.state_dict().items()})
        assert report.ok and {n: a.shape for n, a in tensors.items()} == official_shapes(variant)
        assert list(tensors) == list(official_shapes(variant))
    compared = 0
    for name, array in tensors.items():
        # the twin's ResNet is torchvision's, whose own draws are not the paper's
        if f"init/{variant}/{name}" not in FILE.files or (side == "torch" and ".body." in name):
            continue
        mean, std, low, high = FILE[f"init/{variant}/{name}"]
        array, compared = array.astype(np.float64), compared + 1
        if std == 0 or "sampling_offsets" in name or name.endswith("layers.2.bias"):
            ends = [array.mean(), array.std(), array.min(), array.max()]
            np.testing.assert_allclose(ends, [mean, std, low, high], atol=1e-6)
            continue
        noise = 6 * std / math.sqrt(array.size)
        assert abs(array.mean() - mean) <= 2 * noise, name
        assert abs(array.std() - std) <= 2 * noise, name
        assert [array.min(), array.max()] == pytest.approx([low, high], rel=0.5, abs=1e-6), name
        if "query_embed" not in name and "level_embed" not in name:  # uniform: the ends are the bound
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


@pytest.mark.parametrize("words", ["", "--with_box_refine --two_stage"])
def test_another_default_dtype(words):
    """The whole forward runs in the network's dtype, whatever Paddle's default is then."""
    small = (
        "--backbone resnet18 --hidden_dim 32 --nheads 4 --enc_layers 1 --dec_layers 2 --num_queries 20 --num_classes 5"
    )
    batch, outputs = SIDES["paddle"].tensor(np.zeros((1, 64, 96), bool)), []
    model = build_model(parse_options([*small.split(), *words.split()]))
    model.to(dtype="float64")
    model.eval()
    images = paddle.rand([1, 3, 64, 96], "float64")
    for default in ("float32", "float64"):
        paddle.set_default_dtype(default)
        try:
            with paddle.no_grad():
                outputs.append(model(images, batch))
        finally:
            paddle.set_default_dtype("float32")
    for name in ("pred_logits", "pred_boxes"):
        assert outputs[1][name].dtype == paddle.float64
        np.testing.assert_array_equal(outputs[0][name].numpy(), outputs[1][name].numpy())
