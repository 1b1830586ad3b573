"""The torch twin against figures of the official code (NOTES 9). Limits are those of NOTES 9.2 to 9.6, or tighter.

`suffix` is "" for the official code's float32 run and "64" for its float64 run.
"""

from functools import cache, partial

import numpy as np
import pytest
import torch

from shared import InputError

from golden_files import (
    SHAPES,
    below,
    check_parts,
    close,
    formula_weights,
    golden,
    image_of,
    near,
)
from options import parse_options
from reference import dla, evaluation, losses, network, official, roi, training
from reference.losses import TERMS

per_dtype = pytest.mark.parametrize(
    ("dtype", "suffix"), [pytest.param("float32", "", id="float32"), pytest.param("float64", "64", id="float64")]
)


state = cache(partial(formula_weights, "model"))


def tensors(arrays: dict[str, np.ndarray], dtype: str) -> dict[str, torch.Tensor]:
    """Floats in `dtype`, the rest as it is; without text."""
    return {
        name: torch.from_numpy(array.astype(dtype) if array.dtype.kind == "f" else array)
        for name, array in arrays.items()
        if array.dtype.kind != "U"
    }


def twin(dtype: str) -> torch.nn.Module:
    """The network that the figures of "model" were made with."""
    with torch.device("meta"):  # without drawing weights first
        model = network.build_reference(parse_options([]))
    model.load_state_dict({name: torch.tensor(array) for name, array in state().items()}, assign=True)
    model.mean_size.requires_grad_(False)
    return model.to(getattr(torch, dtype))


def inputs(dtype: str, part: str = "model", image: str | None = None, prefix: str = "input/") -> dict:
    given = tensors(below(part, prefix), dtype)
    wanted = {name.removeprefix("targets/"): value for name, value in given.items() if name.startswith("targets/")}
    images = torch.from_numpy(image_of(part, image).astype(dtype))
    return {name: given[name] for name in ("calibs", "coord_ranges")} | {"images": images, "targets": wanted}


def check_outputs(prefix: str, suffix: str, found: dict, limit: float, depth_limit: float) -> None:
    wanted = {name: f"output{suffix}/{prefix}_{name}" for name in found}
    for name, key in wanted.items():
        if key in golden("model"):
            value = found[name].detach().numpy()
            assert value.dtype == golden("model")[key].dtype, key
            near(value, golden("model")[key], depth_limit if name == "depth" else limit, key)
    assert sum(key in golden("model") for key in wanted.values()) >= 6


def parts_of(model, images: torch.Tensor, regions: torch.Tensor) -> dict[str, np.ndarray]:
    """Levels, the neck's features, and the features of the RoIs."""
    with torch.no_grad():
        levels = model.backbone(images)
        features = model.feat_up(levels[2:])
    return {f"level{i}": v.numpy() for i, v in enumerate(levels)} | {"feat": features.numpy(), "roi": regions.numpy()}


# -- structure --


def test_tensors_are_the_official_ones():
    model = network.build_reference(parse_options([]))
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    assert list(shapes.items()) == list(SHAPES.items())
    assert sum(p.numel() for p in model.parameters()) == 20_871_368
    assert len(list(model.parameters())) == 198


def test_fresh_weights():
    """Fan-out normal, bilinear, 0.001, torch's default and Xavier (NOTES 4.7, 4.8)."""
    torch.manual_seed(0)
    model = network.build_reference(parse_options([]))
    for weight in (model.backbone.level3.tree1.tree1.conv1.weight, model.feat_up.ida_1.node_2.conv.weight):
        assert float(weight.detach().std()) == pytest.approx((2 / (9 * weight.shape[0])) ** 0.5, rel=0.02)
    for name, module in model.feat_up.named_modules():
        if name.rpartition(".")[2].startswith("up_"):
            expected = torch.from_numpy(golden("units")["output/up_kernel/2"][:1])
            assert torch.equal(module.weight, expected.expand_as(module.weight)), name
    assert float(model.size_2d[0].weight.detach().std()) == pytest.approx(0.001, rel=0.02)
    assert float(model.heatmap[0].bias.detach().abs().max()) == pytest.approx(576**-0.5, rel=0.02)
    assert model.heatmap[2].bias.tolist() == pytest.approx([-2.19] * 3)
    bound = (6 / (9 * 69 + 9 * 256)) ** 0.5
    assert float(model.depth[0].weight.detach().abs().max()) == pytest.approx(bound, rel=1e-3)
    assert not model.depth[4].bias.any()


# -- network, losses, gradients --


@per_dtype
def test_mode_test(dtype, suffix):
    model, given = twin(dtype).eval(), inputs(dtype)
    regions = []
    model.depth[0].register_forward_pre_hook(lambda layer, fed: regions.append(fed[0]))
    with torch.no_grad():
        found = model(**given, mode="test")
    score, cells, classes = dla.peaks(network.probabilities(found["heatmap"]), 50)
    found |= {"peak_score": score, "peak_index": cells, "peak_class": classes.int()}
    check_outputs("test", suffix, found, 1e-9 if suffix else 5e-4, 1e-9 if suffix else 2e-3)
    check_parts(parts_of(model, given["images"], regions[0]), "test", suffix, 1e-9 if suffix else 5e-4)
    near(evaluation.extract(found), golden("model")[f"post{suffix}/dets"], 1e-9 if suffix else 2e-3, "rows")
    with torch.no_grad():
        again = model(**given, mode="val")
    assert torch.equal(again["depth"], found["depth"])


@per_dtype
def test_mode_train(dtype, suffix):
    figures, model, given = golden("model"), twin(dtype).train(), inputs(dtype)
    regions = []
    model.depth[0].register_forward_pre_hook(lambda layer, fed: regions.append(fed[0]))
    found = model(**given)
    logits = found["heatmap"].detach().clone()
    terms = losses.build_criterion(parse_options([]))(found, given["targets"])
    assert torch.equal(found["heatmap"], logits)  # the losses leave them as they are
    check_outputs("train", suffix, found, 1e-9 if suffix else 5e-4, 1e-9 if suffix else 5e-4)
    for term in TERMS:
        close(terms[term].detach(), figures[f"loss{suffix}/{term}"], 1e-10 if suffix else 1e-4, term)
    close(terms["loss"].detach(), figures[f"loss{suffix}/total"], 1e-10 if suffix else 1e-4, "total")

    terms["loss"].backward()
    named = list(model.named_parameters())
    assert sorted(name for name, p in named if p.grad is None) == sorted(figures["meta/no_grad"].tolist())
    norms = {name: float(p.grad.double().norm()) for name, p in named if p.grad is not None}
    for name, value in below("model", f"grad{suffix}_norm/").items():
        # a bias before a norm has none but rounding
        assert norms[name] == pytest.approx(float(value), rel=1e-9 if suffix else 2e-2, abs=1e-12 if suffix else 1e-4)
    check_parts(parts_of(model, given["images"], regions[0].detach()), "train", suffix, 1e-9 if suffix else 5e-4)


@per_dtype
def test_one_object_and_none(dtype, suffix):
    model, given = twin(dtype).train(), inputs(dtype)
    criterion, (limit, relative) = losses.build_criterion(parse_options([])), (1e-9, 1e-10) if suffix else (5e-4, 1e-4)
    mask = given["targets"]["mask_2d"]
    only = torch.zeros_like(mask)
    only[-1, mask[-1].nonzero()[0]] = 1
    one = given["targets"] | {"mask_2d": only}
    with torch.no_grad():
        found = model(**given | {"targets": one})
    check_outputs("one", suffix, found, limit, limit)
    for term, value in criterion(found, one).items():
        if term != "loss":
            close(value, golden("model")[f"loss{suffix}/one_{term}"], relative, term)

    none = given["targets"] | {"mask_2d": mask * 0, "heatmap": given["targets"]["heatmap"].clamp(max=0.9)}
    model = twin(dtype).train()
    with torch.no_grad():
        found = model(**given | {"targets": none})
    check_outputs("none", suffix, found, 0, 0)
    terms = criterion(found, none)
    close(terms["seg_loss"], golden("model")[f"loss{suffix}/none_seg_loss"], relative)
    assert {term for term in TERMS if terms[term].isnan()} == set(golden("model")["meta/none_nan_terms"].tolist())


@pytest.mark.parametrize("run", ["train", "train_peak"])
def test_five_steps(run):
    """In float64: in float32 rounding decides the signs that Adam's first step consists of (NOTES 9.3)."""
    model, figures = twin("float64").train(), golden("model")
    recipe = parse_options(["--lr", repr(float(figures[f"{run}64/lr"]))])
    count = 5 if run == "train" else 2
    parts = model, losses.build_criterion(recipe), training.build_optimizer(model, recipe)
    found = [training.train_step(*parts, inputs("float64")) for _ in range(count)]
    for term in ("loss", *TERMS):
        close([terms[term] for terms in found], figures[f"{run}64/{term}"][:count], 1e-9, term)
    if run == "train":
        after = model.state_dict()
        for name, value in below("model", f"{run}64/param_sum/").items():
            assert float(after[name].sum()) == pytest.approx(float(value), rel=1e-8, abs=1e-8), name
        for name, value in below("model", f"{run}64/param_abs_sum/").items():
            assert float(after[name].abs().sum()) == pytest.approx(float(value), rel=1e-9), name


def test_first_epochs_of_the_official_trainer():
    """The pass before the first epoch, then two epochs of two batches, in float64."""
    figures, options = golden("trainer"), parse_options([])
    model = twin("float64").train()
    parts = model, losses.build_criterion(options), training.build_optimizer(model, options)
    tasks = training.HierarchicalTaskLearning()
    batches = [inputs("float64", "trainer", f"image{number}", f"input/{number}/") for number in (0, 1)]
    means = []
    for epoch in range(-1, 2):
        weights = None
        if epoch >= 0:
            weights = tasks.compute_weight(dict(zip(TERMS, means[-1], strict=True)), epoch)
            close([weights[term] for term in TERMS], figures["train64/weight"][epoch], 1e-9, "weights")
            rate = training.set_learning_rate(parts[-1], epoch, options)
            close([rate, rate], figures["train64/lr"][epoch], 1e-12, "rate")
        found = [training.train_step(*parts, given, weights, update=epoch >= 0) for given in batches]
        values = [[terms[term] for term in TERMS] for terms in found]
        means.append(np.mean(values, 0))
        close(means[-1], figures["train64/loss"][epoch + 1], 1e-8, f"losses before epoch {epoch + 1}")
    assert figures["meta/terms"].tolist() == list(TERMS)


# -- pieces --


def test_roi_align_gives_no_gradient_to_boxes():
    maps, boxes = golden("units")["input/roi_maps"], golden("units")["input/rois"]
    maps, boxes = torch.from_numpy(maps).requires_grad_(), torch.from_numpy(boxes).requires_grad_()
    roi.roi_align(maps, boxes).sum().backward()
    assert boxes.grad is None
    assert maps.grad.any()


# -- the official code in the twin's place --


def test_official_code_must_be_there(tmp_path):
    with pytest.raises(InputError, match="no such folder; git clone"):
        official.load(tmp_path / "missing")
    with pytest.raises(InputError, match="not a checkout of GUPNet, lib/models/gupnet.py is missing; git clone"):
        official.load(tmp_path)
