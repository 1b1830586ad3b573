"""The network, its losses and its training steps against the official figures, in both precisions (NOTES 9).

The bounds are those of NOTES 9.5. One test a network and dtype, which are large: what is checked of it
stands in the functions above it.
"""

from collections.abc import Iterator

import numpy as np
import paddle
import pytest

from shared.convert import plan

from golden_files import VARIANTS, close, golden, sliced, statistics
from losses import build_criterion
from models import PostProcess, build_model
from networks import formula_input, golden_batch, loaded, options_of, padded_batch, targets_of
from optimizers import build_optimizer, build_scheduler, clip_gradients, parameter_groups

DTYPES = ["float32", "float64"]
# absolute bounds of boxes and logits
BOUNDS = {
    ("base", "float32"): (2e-5, 2e-4),
    ("variant", "float32"): (1e-4, 5e-4),
    ("two_stage", "float32"): (5e-4, 2e-3),
    ("any", "float64"): (1e-6, 5e-6),
}
INNER = {"float32": 1e-4, "float64": 1e-6}  # of inner tensors, of their largest magnitude
LOSS = {"float32": 1e-4, "float64": 1e-6}
GRADIENT = {"float32": 5e-3, "float64": 1e-5}
STEPS = {"float32": (1e-5, 1e-4, 5e-4, 3e-3, 5e-3), "float64": (1e-5,) * 5}
SUMS = {"float32": (3e-2, 0.05), "float64": (1e-3, 0.01)}
LAYERS = ["aux0", "aux1", "aux2", "aux3", "aux4", "last"]
TARGETS = ["target", "more", "train", "none"]
#: the variants whose figures are at hand; the slim files lack one
HELD = ["base", *(name for name in VARIANTS if f"meta/{name}/variant" in golden("variants").files)]


def bounds_of(variant: str, dtype: str) -> dict[str, float]:
    kind = variant if variant in ("base", "two_stage") else "variant"
    if dtype == "float64":
        kind = "any"
    return dict(zip(("pred_boxes", "pred_logits"), BOUNDS[kind, dtype], strict=True))


class Run:
    """One network with golden weights and what it makes of the golden batch."""

    def __init__(self, variant: str, dtype: str):
        self.file = golden() if variant == "base" else golden("variants")
        queries = self.file[f"meta/{variant}/num_queries"] if variant != "base" else 300
        self.options = options_of(variant, "--num_queries", str(queries))
        self.variant, self.dtype = variant, dtype
        self.model = loaded(self.file, variant, self.options, dtype)
        self.names = plan(self.model)
        self.criterion = build_criterion(self.options)
        self.batch = golden_batch(self.file, dtype)
        self.seen = {}
        hooks = [
            self.model.transformer.register_forward_pre_hook(lambda _, given: self.seen.update(given=given)),
            self.model.transformer.register_forward_post_hook(lambda _, __, found: self.seen.update(found)),
            self.model.transformer.encoder.layers[0].register_forward_post_hook(
                lambda _, __, found: self.seen.update(encoder0=found)
            ),
            self.model.backbone[0].register_forward_post_hook(
                lambda _, __, found: self.seen.update(backbone=list(found))
            ),
        ]
        self.outputs = self.model(*self.batch)
        for hook in hooks:
            hook.remove()

    def key(self, kind: str, name: str) -> str:
        """The key of a figure: f"{kind}[64]/[<variant>/]{name}"."""
        wide = "64" if self.dtype == "float64" else ""
        return f"{kind}{wide}/{'' if self.variant == 'base' else self.variant + '/'}{name}"

    def targets(self, name: str) -> list[dict]:
        return targets_of(self.file, name, self.dtype)

    def layers(self) -> Iterator[tuple[str, dict]]:
        """(name, outputs) of the decoder's layers and of the proposals."""
        yield from zip(LAYERS, [*self.outputs["aux_outputs"], self.outputs], strict=True)
        if "enc_outputs" in self.outputs:
            yield "enc", self.outputs["enc_outputs"]

    def compare(self, name: str, value, bound: float, relative: bool = True) -> bool:
        """Whether there is a figure of that name; a difference above `bound` fails."""
        key = self.key("output", name)
        if key not in self.file.files:
            return False
        value = np.asarray(value)
        close(sliced(self.file, key, value), self.file[key], bound, key, relative)
        if f"{key}/stats" in self.file.files:
            close(statistics(value), self.file[f"{key}/stats"], bound, f"{key}/stats", relative)
        return True

    def gradients(self) -> dict[str, np.ndarray]:
        """{official name: gradient}, each parameter once, under its first name."""
        found = {n: p.grad for n, p in self.model.named_parameters() if p.grad is not None}
        return self.names.gradients_to_torch(found)


# ------------------------------------------------------------------------------------------------------------ forward


def check_predictions(this: Run) -> None:
    bounds, compared = bounds_of(this.variant, this.dtype), 0
    for layer, outputs in this.layers():
        for name, bound in bounds.items():
            assert str(outputs[name].dtype) == f"paddle.{this.dtype}"
            key = name if layer == "last" else f"{layer}/{name}"
            compared += this.compare(key, outputs[name], bound, relative=False)
    assert compared >= 4


def check_inner_tensors(this: Run) -> None:
    """Backbone, projections, masks, encodings, encoder, decoder: the first that differs says where to look."""
    bound = INNER[this.dtype] * (5 if this.variant == "two_stage" else 1)
    seen, compared = this.seen, 0
    sources, paddings, positions, *_ = seen["given"]
    if this.compare("mask0", paddings[0], 0):
        for level, padding in enumerate(paddings):
            np.testing.assert_array_equal(padding.numpy(), this.file[f"output/mask{level}"])
            outside = padding.numpy()[..., None]
            encoding = np.where(outside, 0, positions[level].numpy()).transpose(0, 3, 1, 2)
            assert this.compare(f"pos{level}", encoding, 2e-6)
        shapes = np.array([source.shape[2:] for source in sources])
        np.testing.assert_array_equal(shapes, this.file["output/spatial_shapes"])
        starts = np.concatenate([[0], np.cumsum(shapes.prod(1))[:-1]])
        np.testing.assert_array_equal(starts, this.file["output/level_start_index"])
        assert this.compare("valid_ratios", seen["valid_ratios"], 1e-7)
    for level, feature in enumerate(seen["backbone"]):
        compared += this.compare(f"backbone{level}", feature, bound)
    for level, source in enumerate(sources):
        compared += this.compare(f"proj{level}", source, bound)
    outside = np.concatenate([padding.numpy().reshape(2, -1) for padding in paddings], 1)[..., None]
    for name in ("encoder0", "memory"):
        compared += this.compare(name, np.where(outside, 0, seen[name].numpy()), bound)
    states = np.stack([state.numpy() for state in seen["states"]])
    compared += this.compare("decoder0", states[0], bound)
    compared += this.compare("hs", states, bound)
    compared += this.compare("init_reference", seen["init_reference"], bound)
    references = np.stack([reference.numpy() for reference in seen["references"]])
    compared += this.compare("inter_references", references, bound)
    assert compared >= (2 if this.dtype == "float32" else 4)


def check_proposals(this: Run) -> None:
    """The tokens that become queries, and those that cannot."""
    chosen = this.seen["topk_index"].numpy()
    np.testing.assert_array_equal(chosen, this.file["output/two_stage/topk_index"])
    invalid = np.isinf(this.seen["enc_boxes"].numpy()).all(-1)
    np.testing.assert_array_equal(invalid, this.file["output/two_stage/invalid"])
    assert np.isfinite(this.outputs["enc_outputs"]["pred_boxes"].numpy()).all()


def pictures_of(file) -> list[np.ndarray]:
    shapes, seed = file["meta/image_shapes"], int(file["meta/seed"])
    return [formula_input(f"image{index}", tuple(shape), seed) for index, shape in enumerate(shapes)]


def check_the_second_picture_alone(this: Run) -> None:
    """Unpadded it is seen a little differently, by design (NOTES 7.4): the figures hold that too."""
    with paddle.no_grad():
        outputs = this.model(*padded_batch(pictures_of(this.file)[1:]))
    for name, bound in bounds_of("base", "float32").items():
        assert this.compare(f"alone1/{name}", outputs[name], bound, relative=False)
        apart = np.abs(outputs[name][0].numpy() - this.outputs[name][1].numpy()).max()
        assert apart > 0.05


def check_any_batch_of_one_canvas(this: Run) -> None:
    """Padded to the batch's size, each picture alone, and both in the other order, are detected as in the batch."""
    size, pictures, sizes = this.batch[0].shape[2:], pictures_of(this.file), this.file["input/orig_sizes"]
    together = PostProcess()(this.outputs, sizes)
    with paddle.no_grad():
        for chosen in ([0], [1], [1, 0]):
            outputs = this.model(*padded_batch([pictures[index] for index in chosen], size=size))
            for index, found in zip(chosen, PostProcess()(outputs, sizes[chosen]), strict=True):
                close(found["scores"], together[index]["scores"], 1e-4)
                close(found["boxes"], together[index]["boxes"], 1e-4)
                np.testing.assert_array_equal(found["labels"], together[index]["labels"])


def check_detections(this: Run) -> None:
    for index, found in enumerate(PostProcess()(this.outputs, this.file["input/orig_sizes"])):
        close(found["scores"], this.file[f"post/{index}/scores"], 1e-5)
        np.testing.assert_array_equal(found["labels"], this.file[f"post/{index}/labels"])
        close(found["boxes"], this.file[f"post/{index}/boxes"], 1e-5)


# ------------------------------------------------------------------------------------------------------------- losses


def check_losses(this: Run, name: str, prefix: str) -> None:
    terms = this.criterion(this.outputs, this.targets(name))
    names = [key.removeprefix(prefix) for key in this.file.files if key.startswith(prefix)]
    assert set(names) == set(terms) - {"loss"} | {"total"}
    for term in names:
        value, wanted = float(terms["loss" if term == "total" else term]), float(this.file[prefix + term])
        assert abs(value - wanted) <= LOSS[this.dtype] * max(abs(wanted), 1e-3), (term, value, wanted)
    if name == "none":
        assert float(terms["loss_bbox"]) == float(terms["loss_giou_4"]) == 0


def check_matches(this: Run, names: list[str]) -> None:
    compared = 0
    for name in names:
        for layer, outputs in this.layers():
            targets = this.targets(name)
            if layer == "enc":
                targets = [target | {"labels": paddle.zeros_like(target["labels"])} for target in targets]
            pairs = this.criterion.matcher(outputs, targets)
            for index, (queries, chosen) in enumerate(pairs):
                key = f"match/{name if this.variant == 'base' else this.variant}/{layer}/{index}"
                if f"{key}/query" in this.file.files:
                    np.testing.assert_array_equal(queries, this.file[f"{key}/query"])
                    np.testing.assert_array_equal(chosen, this.file[f"{key}/target"])
                    compared += 1
    assert compared >= 2


# ------------------------------------------------------------------------------------------- gradients and five steps


def check_gradients(this: Run, name: str) -> None:
    terms = this.criterion(this.outputs, this.targets(name))
    terms["loss"].backward()
    prefix, gradients = this.key("grad", "").replace("/", "_norm/", 1), this.gradients()
    names = [key.removeprefix(prefix) for key in this.file.files if key.startswith(prefix)]
    assert len(names) >= 20 and set(names) <= set(gradients)
    for parameter in names:
        norm, wanted = np.linalg.norm(gradients[parameter].astype(np.float64)), float(this.file[prefix + parameter])
        assert abs(norm - wanted) <= GRADIENT[this.dtype] * wanted + 1e-9, (parameter, norm, wanted)
    total = this.key("grad", "").replace("/", "_total/", 1)
    norm = np.sqrt(sum(np.square(gradient.astype(np.float64)).sum() for gradient in gradients.values()))
    assert norm == pytest.approx(float(this.file[f"{total}norm"]), rel=GRADIENT[this.dtype])
    assert float(terms["loss"]) == pytest.approx(float(this.file[f"{total}loss"]), rel=LOSS[this.dtype])
    this.model.clear_gradients()


def check_five_steps(this: Run) -> None:
    """AdamW of the official groups, one clip over all gradients, the batch always the same."""
    optimizer = build_optimizer(this.model, this.options, this.options.lr)
    before = state_of(this)
    losses, norms, figures = [], [], this.key("train", "")
    for _ in range(5):
        terms = this.criterion(this.model(*this.batch), this.targets("train"))
        losses.append(float(terms["loss"]))
        terms["loss"].backward()
        norms.append(clip_gradients(this.model, this.options.clip_max_norm))
        optimizer.step()
        optimizer.clear_grad()
    for loss, norm, wanted, norm_wanted, bound in zip(
        losses,
        norms,
        this.file[f"{figures}loss"],
        this.file[f"{figures}grad_total_norm"],
        STEPS[this.dtype],
        strict=True,
    ):
        assert loss == pytest.approx(wanted, rel=bound)
        assert norm == pytest.approx(norm_wanted, rel=max(bound * 10, 1e-3 if this.dtype == "float32" else 1e-5))
    absolute, share = SUMS[this.dtype]
    after = state_of(this)
    for name, array in before.items():
        key = f"{figures}param_sum/{name}"
        if key in this.file.files:
            first = float(this.file[f"train/param_sum_before/{name}"])
            change = float(this.file[key]) - first
            assert array.sum() == pytest.approx(first, abs=1e-6 * max(np.abs(array).sum(), 1))
            assert abs(after[name].sum() - float(this.file[key])) <= absolute + share * abs(change), name
        if name.startswith(("backbone.0.body.conv1", "backbone.0.body.layer1")) or "bn" in name:
            np.testing.assert_array_equal(after[name], array)


def state_of(this: Run) -> dict[str, np.ndarray]:
    """{official name: float64 array} of all parameters and constants."""
    own = {name: value.numpy() for name, value in this.model.state_dict().items()}
    return {name: array.astype(np.float64) for name, array in this.names.to_torch(own)[0].items()}


# --------------------------------------------------------------------------------------------------- one run, one test


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("variant", HELD[1:])
def test_variant(variant, dtype):
    this = Run(variant, dtype)
    check_inner_tensors(this)
    check_predictions(this)
    if variant == "two_stage":
        check_proposals(this)
    check_losses(this, "target", this.key("loss", ""))
    check_matches(this, ["target"])
    check_gradients(this, "target")


@pytest.mark.parametrize("dtype", DTYPES)
def test_base_variant(dtype):
    this = Run("base", dtype)
    check_inner_tensors(this)
    check_predictions(this)
    if dtype == "float32":
        check_the_second_picture_alone(this)
        check_any_batch_of_one_canvas(this)
        check_detections(this)
    for name in TARGETS:
        check_losses(this, name, this.key("loss", f"{name}/"))
    check_matches(this, TARGETS[:3])
    check_gradients(this, "train")
    check_five_steps(this)


def test_groups_of_parameters_and_schedule():
    options, file = options_of("base"), golden()
    model = build_model(options)
    for index, group in enumerate(parameter_groups(model, options)):
        found = []
        for name, _ in group:
            for part in ("q_proj", "k_proj", "v_proj"):
                name = name.replace(f"self_attn.{part}.", "self_attn.in_proj_")
            found.append(name)
        assert set(found) == set(file[f"meta/group{index}"].tolist())
    scheduler = build_scheduler(options)
    optimizer = build_optimizer(model, options, scheduler)
    factors = [group["learning_rate"] for group in optimizer._param_groups]
    for rates in file["schedule/lr"]:
        np.testing.assert_allclose([optimizer.get_lr() * factor for factor in factors], rates, rtol=1e-12)
        scheduler.step()
