"""The torch twin against figures of the official code (NOTES 9). Bounds are those of NOTES 9.5, or tighter.

`suffix` is "" for the official code's float32 run and "64" for its float64 run. What a file does not hold is not asked
for, so that slim and held-out files can be read too; seeds, sizes and weights come from the file.
"""

import json
import random
from functools import cache

import numpy as np
import pytest
import torch
from torch import nn

from shared import InputError
from shared.align.formula import formula_input

from golden_files import DATA, VARIANTS, close, formula_weights, golden, official_shapes, sliced, statistics
from options import parse_options
from reference import box_ops, data, evaluation, losses, network, official, training, transformer
from reference.attention import MSDeformAttn, initial_offsets
from reference.backbone import PositionEmbeddingSine, level_mask, sine_embedding
from reference.operator import ms_deform_attn_torch

DTYPES = [pytest.param("float32", "", id="float32"), pytest.param("float64", "64", id="float64")]
per_dtype = pytest.mark.parametrize(("dtype", "suffix"), DTYPES)
per_variant = pytest.mark.parametrize("variant", VARIANTS)


def under(file, prefix: str) -> dict[str, np.ndarray]:
    """{rest of the name: array} of all keys that start with `prefix`."""
    return {key[len(prefix) :]: file[key] for key in file.files if key.startswith(prefix)}


def tensors(file, prefix: str, dtype: str) -> dict[str, torch.Tensor]:
    """As `under`, floats in that dtype."""
    found = {name: torch.from_numpy(array) for name, array in under(file, prefix).items()}
    return {name: x.to(getattr(torch, dtype)) if x.is_floating_point() else x for name, x in found.items()}


def check(file, key: str, value: torch.Tensor, bound: float) -> int:
    """Compare with the stored slice, and the whole with the stored statistics; returns how many were compared."""
    value, compared = value.detach().numpy(), 0
    if key in file.files:
        close(sliced(file, key, value), file[key], bound, key)
        compared += 1
    if f"{key}/stats" in file.files:
        close(statistics(value), file[f"{key}/stats"], bound, f"{key}/stats")
    return compared


def file_of(variant: str):
    """The golden file of a variant, and what stands before its names there."""
    return (golden(), "") if variant == "base" else (golden("variants"), f"{variant}/")


def options_of(variant: str):
    file, prefix = file_of(variant)
    argv = [*VARIANTS[variant][1].split(), "--dropout", "0"]
    if f"meta/{prefix}num_queries" in file.files:
        argv += ["--num_queries", str(int(file[f"meta/{prefix}num_queries"]))]
    return parse_options(argv)


def twin(variant: str, dtype: str) -> nn.Module:
    """The network with the weights that the figures were made from."""
    with torch.device("meta"):  # without drawing weights first
        model = network.build_reference(options_of(variant))
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    state = formula_weights(file_of(variant)[0], variant, shapes)
    model.to_empty(device="cpu").load_state_dict({name: torch.tensor(array) for name, array in state.items()})
    return model.to(getattr(torch, dtype))


@cache
def batch_of(variant: str, dtype: str) -> tuple[torch.Tensor, torch.Tensor]:
    file, _ = file_of(variant)
    names, shapes = file["meta/image_names"], file["meta/image_shapes"]
    drawn = [formula_input(str(n), tuple(s), int(file["meta/seed"])) for n, s in zip(names, shapes, strict=True)]
    images, mask, _ = data.batch([(one, {}) for one in drawn])
    return torch.from_numpy(images).to(getattr(torch, dtype)), torch.from_numpy(mask)


def targets_of(file, name: str, dtype: str) -> list[dict]:
    return [
        tensors(file, f"input/{name}{index}/", dtype)
        or {"labels": torch.zeros(0, dtype=torch.int64), "boxes": torch.zeros(0, 4)}
        for index in range(2)
    ]


def layer_name(suffix: str) -> str:
    """As the figures call what has that suffix."""
    return {"": "last", "_enc": "enc"}.get(suffix, f"aux{suffix[1:]}")


# -- structure --


@per_variant
def test_tensors_are_the_official_ones(variant):
    with torch.device("meta"):
        model = network.build_reference(parse_options(VARIANTS[variant][1].split()))
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    assert list(shapes.items()) == list(official_shapes(variant).items())
    trained = [p.numel() for p in model.parameters() if p.requires_grad]
    counts = {
        "base": (298, 39_847_265, 40_069_665),
        "refine": (338, 40_627_260, 40_849_660),
        "two_stage": (351, 40_959_129, 41_181_529),
    }
    everything = sum(p.numel() for p in model.parameters())
    assert (len(trained), sum(trained), everything) == counts.get(variant, (286, 33_844_193, 34_066_593))
    assert sum(buffer.numel() for buffer in model.buffers()) == 106_240


def test_parameter_groups_and_schedule():
    options = parse_options([])
    with torch.device("meta"):
        model = network.build_reference(options)
    for index, group in enumerate(training.parameter_groups(model, options)):
        assert group["names"] == golden()[f"meta/group{index}"].tolist()
    optimizer = training.build_optimizer(model, options)
    scheduler, rates = training.build_scheduler(optimizer, options), []
    for _ in range(options.epochs):
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    np.testing.assert_allclose(rates, golden()["schedule/lr"], rtol=1e-12)


@pytest.mark.parametrize("variant", ["base", "refine", "two_stage"])
def test_fresh_weights(variant):
    """Statistics of every tensor, as those of the official network are; equal where nothing is drawn."""
    stored = under(golden("pieces"), f"init/{variant}/")
    if not stored:
        pytest.fail(f"the figures hold no fresh weights of {variant}")
    torch.manual_seed(0)
    state = network.build_reference(parse_options(VARIANTS[variant][1].split())).state_dict()
    for name, (mean, deviation, least, most) in stored.items():
        if ".body." in name:  # torchvision's draws, not the paper's
            continue
        value = state[name].double()
        spread = deviation / value.numel() ** 0.5
        assert float(value.mean()) == pytest.approx(mean, abs=7 * spread + 1e-6), name
        assert float(value.std(correction=0)) == pytest.approx(deviation, rel=5 / value.numel() ** 0.5, abs=1e-6), name
        assert float(value.min()) == pytest.approx(least, rel=0.5, abs=1e-6), name
        assert float(value.max()) == pytest.approx(most, rel=0.5, abs=1e-6), name


def test_first_offsets():
    for name, shape in (("attention", (4, 3, 2)), ("attention256", (8, 4, 4))):
        key = f"init/{name}/sampling_offsets.bias"
        if key in golden("pieces").files:
            close(initial_offsets(*shape).flatten(), golden("pieces")[key], 1e-7, key)


# -- operator and pieces --


@pytest.mark.parametrize(
    ("case", "dtype", "suffix"),
    [
        (case, dtype, suffix)
        for case in [*golden("op")["meta/cases"].tolist(), "exact"]
        for dtype, suffix in (("float32", ""), ("float64", "64"))
        if f"output{suffix}/{case}/output" in golden("op").files
    ],
)
def test_operator(case, dtype, suffix):
    file, bound = golden("op"), 1e-12 if suffix else 1e-5
    given = tensors(file, f"input/{case}/", dtype)
    names = ("value", "sampling_locations", "attention_weights")
    floats = {name: given[name].requires_grad_() for name in names}
    shapes = given["spatial_shapes"]
    output = ms_deform_attn_torch(floats["value"], shapes, *(floats[name] for name in names[1:]))
    compared = check(file, f"output{suffix}/{case}/output", output, bound)
    if "grad_output" in given:
        output.backward(given["grad_output"])
        for name in names:
            compared += check(file, f"output{suffix}/{case}/grad_{name}", floats[name].grad, bound)
    assert compared


@cache
def piece_masks() -> list[torch.Tensor]:
    file = golden("pieces")
    mask = torch.ones(3, *file["meta/mask/size"].tolist(), dtype=torch.bool)
    for one, (h, w) in zip(mask, file["meta/mask/valid"], strict=True):
        one[:h, :w] = False
    return [level_mask(mask, tuple(size)) for size in file["pieces/spatial_shapes"].tolist()]


def test_masks_encodings_and_places():
    file, masks = golden("pieces"), piece_masks()
    sizes = [tuple(mask.shape[1:]) for mask in masks]
    for level, mask in enumerate(masks):
        check(file, f"pieces/mask{level}", mask, 0)
        encoding = PositionEmbeddingSine(256)(mask).masked_fill(mask[:, None], 0)
        assert check(file, f"pieces/sine{level}", encoding, 1e-6)
    ratios = torch.stack([transformer.get_valid_ratio(mask) for mask in masks], 1)
    assert check(file, "pieces/valid_ratios", ratios, 1e-7)
    assert check(file, "pieces/reference_points", transformer.get_reference_points(sizes, ratios), 1e-7)
    padding = torch.cat([mask.flatten(1) for mask in masks], 1)
    boxes = transformer.gen_encoder_output_proposals(padding, sizes)
    invalid = boxes.isinf().all(-1)
    assert check(file, "pieces/proposal_invalid", invalid, 0)
    assert check(file, "pieces/proposals", boxes.masked_fill(boxes.isinf(), 0), 1e-6)
    weights = tensors(file, "input/proposal/", "float32")
    memory = torch.from_numpy(formula_input("memory", (*padding.shape, 32), int(file["meta/seed"])))
    linear, norm = nn.Linear(32, 32), nn.LayerNorm(32)
    for name, layer in (("enc_output", linear), ("enc_output_norm", norm)):
        layer.load_state_dict({leaf: weights[f"{name}.{leaf}"] for leaf in ("weight", "bias")})
    assert check(file, "pieces/proposal_memory", norm(linear(memory.masked_fill(invalid[..., None], 0))), 1e-5)
    logits = tensors(file, "input/", "float32")["proposal_logits"]
    waved = sine_embedding(logits.sigmoid() * (2 * np.pi), 128).flatten(-2)
    assert check(file, "pieces/proposal_pos_embed", waved, 1e-6)


def test_box_functions():
    file = golden("pieces")
    given = tensors(file, "input/", "float32")
    x = given["inverse_sigmoid"].requires_grad_()
    transformer.inverse_sigmoid(x).sum().backward()
    assert check(file, "pieces/inverse_sigmoid", transformer.inverse_sigmoid(x), 1e-6)
    assert check(file, "pieces/inverse_sigmoid_grad", x.grad, 1e-6)
    a, b = (box_ops.box_cxcywh_to_xyxy(given[name]) for name in ("boxes_a", "boxes_b"))
    assert check(file, "pieces/boxes_a_xyxy", a, 1e-6)
    assert check(file, "pieces/boxes_a_back", box_ops.box_xyxy_to_cxcywh(a), 1e-6)
    iou, union = box_ops.box_iou(a[:, None], b)
    assert check(file, "pieces/iou", iou, 1e-6)
    assert check(file, "pieces/union", union, 1e-6)
    assert check(file, "pieces/giou", box_ops.generalized_box_iou(a[:, None], b), 1e-6)
    flat = given["degenerate"]
    found = box_ops.generalized_box_iou(flat[:, None], flat).numpy()
    np.testing.assert_array_equal(np.isnan(found), np.isnan(file["pieces/nonfinite_giou_degenerate"]))
    for wrong in ([[0.5, 0.5, 0.2, 0.7]], [[0.1, 0.1, np.nan, 0.7]]):  # ends before it begins; not a number
        with pytest.raises(AssertionError):
            box_ops.generalized_box_iou(torch.tensor(wrong), a[:1])


def test_focal_loss():
    file = golden("pieces")
    given = tensors(file, "input/", "float32")
    logits = given["focal_logits"].requires_grad_()
    loss = losses.focal_loss(logits, given["focal_targets"], 0.25)
    rows = logits.shape[1]  # the official function takes the mean over the queries
    (loss / rows / 4).backward()
    assert check(file, "pieces/focal", loss / rows / 4, 1e-6)
    assert check(file, "pieces/focal_grad", logits.grad, 1e-6)


def compare_losses(file, prefix: str, terms: dict, bound: float) -> None:
    stored = under(file, prefix)
    assert {"total" if name == "loss" else name for name in terms} == stored.keys()
    for name, expected in stored.items():
        found = terms["loss" if name == "total" else name].item()
        assert found == pytest.approx(float(expected), rel=bound, abs=bound), f"{prefix}{name}"


@per_dtype
def test_criterion(dtype, suffix):
    file, bound = golden("pieces"), 1e-10 if suffix else 1e-5
    given = tensors(file, "input/criterion/", dtype)
    for name in given:
        given[name].requires_grad_()
    layers = {
        name: {what: given[f"{name}/{what}"] for what in ("pred_logits", "pred_boxes")}
        for name in ("last", *(f"aux{index}" for index in range(5)), "enc")
    }
    outputs = layers["last"] | {
        "aux_outputs": [layers[f"aux{index}"] for index in range(5)],
        "enc_outputs": layers["enc"],
    }
    targets = targets_of(file, "criterion_target", dtype)
    criterion = losses.build_criterion(parse_options([]))
    terms = criterion(outputs, targets)
    compare_losses(file, f"loss{suffix}/criterion/", terms, bound)
    if suffix:
        return
    for image, (query, target) in enumerate(criterion.matcher(outputs, targets)):
        for what, index in (("query", query), ("target", target)):
            np.testing.assert_array_equal(index, file[f"match/criterion/{image}/{what}"])
        cost = criterion.matcher.cost(outputs["pred_logits"][image], outputs["pred_boxes"][image], targets[image])
        check(file, f"match/criterion/{image}/cost", cost, 1e-5)
    terms["loss"].backward()
    for key in under(file, "pieces/criterion_grad/"):
        if not key.endswith("/stats"):
            check(file, f"pieces/criterion_grad/{key}", given[key].grad, 1e-5)
    for key, norm in under(file, "grad_norm/criterion/").items():
        assert float(given[key].grad.norm()) == pytest.approx(float(norm), rel=1e-5)
    compare_losses(file, "loss/criterion_two_processes/", criterion(outputs, targets, [12]), bound)


def test_post_processing():
    file = golden("pieces")
    logits, boxes = (formula_input(f"post/{name}", (2, 300, n), 2026) for name, n in (("logits", 91), ("boxes", 4)))
    scale, shift = (np.float32(value) for value in file["meta/post/logit_scale_shift"])
    boxes = (1 / (1 + np.exp(-boxes.astype(np.float64)))).astype(np.float32)
    outputs = {"pred_logits": torch.from_numpy(scale * logits + shift), "pred_boxes": torch.from_numpy(boxes)}
    found = losses.post_process(outputs, torch.from_numpy(file["input/post/orig_sizes"]))
    for image, one in enumerate(found):
        np.testing.assert_array_equal(one["labels"], file[f"post/{image}/labels"])
        for name in ("scores", "boxes"):
            assert check(file, f"post/{image}/{name}", one[name], 1e-5)


@per_dtype
@pytest.mark.parametrize("numbers", [2, 4])
def test_attention_module(numbers, dtype, suffix):
    file, bound = golden("pieces"), 1e-10 if suffix else 1e-5
    given = tensors(file, "input/attention_", dtype)
    module = MSDeformAttn(32, 3, 4, 2).to(getattr(torch, dtype))
    module.load_state_dict(tensors(file, "input/attention/", dtype))
    query, points, source = (given[name].requires_grad_() for name in ("query", f"points{numbers}", "source"))
    output = module(query, points, source, given["shapes"], given["padding"])
    output.backward(given["grad"])
    key = f"output{suffix}/attention{numbers}"
    assert check(file, key, output, bound)
    for name, value in (("query", query), ("points", points), ("source", source)):
        assert check(file, f"{key}_grad_{name}", value.grad, bound)
    for name, norm in under(file, f"grad{suffix}_norm/attention{numbers}/").items():
        assert float(module.get_parameter(name).grad.norm()) == pytest.approx(float(norm), rel=bound), name


# -- whole networks --


def compared_parts(variant: str, parts: dict) -> dict[str, torch.Tensor]:
    """Everything that a figure may hold, by its name there; padded positions are 0 (NOTES 9.3)."""
    padding = torch.cat([mask.flatten(1) for mask in parts["masks"]], 1)[..., None]
    outputs = parts["outputs"]
    found = {name: parts[name] for name in ("hs", "init_reference", "inter_references", "valid_ratios")}
    found |= {name: parts[name].masked_fill(padding, 0) for name in ("encoder0", "memory")}
    found |= {"decoder0": parts["hs"][0], "spatial_shapes": parts["spatial_shapes"]}
    for name in ("backbone", "proj"):
        found |= {f"{name}{level}": value for level, value in enumerate(parts[name])}
    for level, (mask, encoding) in enumerate(zip(parts["masks"], parts["pos"], strict=True)):
        found |= {f"mask{level}": mask, f"pos{level}": encoding.masked_fill(mask[:, None], 0)}
    answers = {"": outputs, **{f"aux{i}/": one for i, one in enumerate(outputs["aux_outputs"])}}
    if "enc_outputs" in outputs:
        answers["enc/"] = outputs["enc_outputs"]
        found |= {name: parts[name] for name in ("topk_index", "invalid")}
    for prefix, one in answers.items():
        found |= {f"{prefix}{name}": one[name] for name in ("pred_logits", "pred_boxes")}
    return found


def stored_networks() -> list[tuple[str, str, str]]:
    """(variant, dtype, suffix) of what the figures hold; of float32 the base variant is enough."""
    found = []
    for variant in VARIANTS:
        file, prefix = file_of(variant)
        for dtype, suffix in (("float32", ""), ("float64", "64")):
            if f"output{suffix}/{prefix}pred_boxes" in file.files and (suffix or variant == "base"):
                found.append((variant, dtype, suffix))
    return found


@pytest.mark.parametrize(("variant", "dtype", "suffix"), stored_networks())
def test_network(variant, dtype, suffix):
    """Outputs, losses, matches and the norms of all gradients, for every set of targets that is stored."""
    file, prefix = file_of(variant)
    model, (images, mask) = twin(variant, dtype), batch_of(variant, dtype)
    parts = model.train().parts(images, mask)
    # the f32 encodings of two_stage's proposals go through a logarithm whose last bit depends on the processor
    exact = 1e-6 if variant == "two_stage" else 1e-9
    bound = exact if suffix else 5e-5
    compared = sum(
        check(file, f"output{suffix}/{prefix}{name}", value, bound)
        for name, value in compared_parts(variant, parts).items()
    )
    assert compared >= 4
    criterion, outputs = losses.build_criterion(options_of(variant)), parts["outputs"]
    stored = {key.split("/")[1] for key in file.files if key.startswith(f"loss{suffix}/")}
    chosen = [("target", variant)] if prefix else [(name, name) for name in sorted(stored)]
    bound = 10 * exact if suffix else 1e-4
    for name, key in chosen:
        targets = targets_of(file, name, dtype)
        compare_losses(file, f"loss{suffix}/{key}/", criterion(outputs, targets), bound)
        for ending, answers, wanted in criterion.layers(outputs, targets):
            for image, match in enumerate(criterion.matcher(answers, wanted)):
                for what, index in zip(("query", "target"), match, strict=True):
                    where = f"match/{key}/{layer_name(ending)}/{image}/{what}"
                    if where in file.files:
                        np.testing.assert_array_equal(index, file[where], where)
    norms = under(file, f"grad{suffix}_norm/{prefix}")
    criterion(outputs, targets_of(file, "target" if prefix else "train", dtype))["loss"].backward()
    trained = {name for name, p in model.named_parameters() if p.grad is not None}
    assert norms.keys() <= trained
    bound = 10 * exact if suffix else 5e-3
    for name, norm in norms.items():
        found = float(model.get_parameter(name).grad.norm())
        assert found == pytest.approx(float(norm), rel=bound, abs=1e-9), name


def test_training_and_a_picture_alone():
    """Five optimiser steps in float64; and detections of a picture without its neighbour in float32."""
    file, options = golden(), options_of("base")
    model, (images, mask) = twin("base", "float64").train(), batch_of("base", "float64")
    criterion, optimizer = losses.build_criterion(options), training.build_optimizer(model, options)
    targets = targets_of(file, "train", "float64")
    before = {name: p.detach().clone() for name, p in model.named_parameters() if not p.requires_grad}
    for loss, norm in zip(file["train64/loss"], file["train64/grad_total_norm"], strict=True):
        value = criterion(model(images, mask), targets)["loss"]
        assert value.item() == pytest.approx(float(loss), rel=1e-9)
        assert training.step(model, optimizer, value, options) == pytest.approx(float(norm), rel=1e-8)
    for name, total in under(file, "train64/param_sum/").items():
        assert float(model.get_parameter(name).detach().sum()) == pytest.approx(float(total), abs=1e-8), name
    assert all(torch.equal(p, model.get_parameter(name)) for name, p in before.items())

    model, (images, mask) = twin("base", "float32"), batch_of("base", "float32")
    with torch.no_grad():
        found = losses.post_process(model(images, mask), torch.from_numpy(file["input/orig_sizes"]))
        h, w = file["meta/image_shapes"][1, 1:]
        alone = model(images[1:, :, :h, :w], mask[1:, :h, :w])
    for name in ("pred_logits", "pred_boxes"):
        check(file, f"output/alone1/{name}", alone[name], 1e-5)
    for image, one in enumerate(found):
        np.testing.assert_array_equal(one["labels"], file[f"post/{image}/labels"])
        for name in ("scores", "boxes"):
            assert check(file, f"post/{image}/{name}", one[name], 1e-5)


# -- data and metric --


def test_resized_sizes():
    for width, height, short, limit, *size in golden("data")["data/resize_sizes"].tolist():
        assert data.resized_size(width, height, short, limit or None) == tuple(size)


def official_folder(folder):
    """A COCO folder of the three real pictures and the figures' annotations, the same for both splits."""
    file = golden("data")
    (folder / "annotations").mkdir()
    for split in ("train", "val"):
        (folder / f"{split}2017").symlink_to(DATA / "coco")
        text = bytes(file["input/annotations_json"])
        (folder / "annotations" / f"instances_{split}2017.json").write_bytes(text)
    return parse_options(["--data_path", str(folder)])


if DATA:

    def compare_item(key: str, item: tuple) -> None:
        file, (image, target) = golden("data"), item
        assert image.shape == tuple(file[f"meta/shape/{key}image"])
        # another JPEG decoder may differ by a grey level
        close(sliced(file, f"{key}image", image), file[f"{key}image"], 0.02, key, relative=False)
        for name, value in target.items():
            assert value.dtype == file[f"{key}{name}"].dtype, f"{key}{name}"
            close(value, file[f"{key}{name}"], 1e-6, f"{key}{name}")

    def test_reading_in_validation(tmp_path):
        reading = data.Reading(official_folder(tmp_path), "val")
        assert [entry["id"] for entry in reading.images] == golden("data")["data/ids"].tolist()
        items = [reading.item(index) for index in range(len(reading))]
        for index, item in enumerate(items):
            compare_item(f"data/val/{index}/", item)
        images, mask, _ = data.batch([(image[:, ::4, ::4], target) for image, target in items[:3]])
        close(sliced(golden("data"), "data/collate/tensors", images), golden("data")["data/collate/tensors"], 0.02)
        np.testing.assert_array_equal((~mask).sum((1, 2)), golden("data")["data/collate/valid"])

    @pytest.mark.parametrize("kind", ["python", "torch"])
    def test_reading_in_training(tmp_path, kind):
        reading = data.Reading(official_folder(tmp_path), "train")
        for k, seed in enumerate(golden("data")["meta/train_seeds"].tolist()):
            draws, generator = random.Random(seed), torch.Generator().manual_seed(seed)

            def corner(*most, generator=generator):
                return [int(torch.randint(0, one + 1, (1,), generator=generator)) for one in most]

            for index in range(len(reading)):
                item = reading.item(index, draws, corner if kind == "torch" else None)
                compare_item(f"data/train_{kind}/{k}/{index}/", item)


def test_coco_numbers():
    file = golden("pieces")
    truth, found = (json.loads(bytes(file[f"metric/{name}_json"])) for name in ("ground_truth", "detections"))
    np.testing.assert_allclose(evaluation.coco_numbers(truth, found), file["metric/stats"], atol=1e-12)


# -- official checkout --


def test_official_checkout_is_asked_for(tmp_path):
    with pytest.raises(InputError, match="git clone"):
        official.load(tmp_path / "nowhere")
    with pytest.raises(InputError, match="is missing"):
        official.load(tmp_path)
