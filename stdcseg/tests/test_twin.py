"""The torch twin against figures of the official code, within the bounds of NOTES 9.4.

`suffix` is "" for the official code's float32 run and "64" for its float64 run. What a file does not hold is not asked
for, so that slim and held-out files can be read too; seeds, shapes, slices and n_min come from the file.
"""

import re
from functools import cache

import numpy as np
import pytest
import torch

from shared import InputError
from shared.align.formula import formula_input

from golden_files import BACKBONES, files_of, formula_images, formula_weights, golden, official_shapes
from options import parse_options
from reference import official
from reference.losses import boundary_maps, build_criterion, detail_loss, detail_target, dice_loss, ohem_cross_entropy
from reference.network import InPlaceABN, build_reference, build_reference_classifier, resize
from reference.training import build_optimizer, learning_rate, parameter_groups, set_learning_rate

ALL_BOUNDARIES = [word for stride in (2, 4, 8) for word in (f"--use_boundary_{stride}", "true")]
RUN_BOUNDARIES = {"train": ["--use_boundary_8", "true"], "train_b248": ALL_BOUNDARIES}
DTYPES = [pytest.param("float32", "", id="float32"), pytest.param("float64", "64", id="float64")]
per_folder = pytest.mark.parametrize("folder", dict.fromkeys(name for part in BACKBONES for name in files_of(part)))
per_variant = pytest.mark.parametrize("variant", BACKBONES)
per_dtype = pytest.mark.parametrize(("dtype", "suffix"), DTYPES)


def options_of(variant: str, *argv: str):
    return parse_options(["--backbone", BACKBONES[variant], *argv])


def under(file, prefix: str) -> dict[str, np.ndarray]:
    """{rest of the name: array} of all keys that start with `prefix`."""
    return {key[len(prefix) :]: file[key] for key in file.files if key.startswith(prefix)}


@cache
def weights(folder: str, variant: str, classifier: bool) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(array) for name, array in formula_weights(folder, variant, classifier).items()}


def segmentation(folder: str, variant: str, dtype: str, *argv: str) -> torch.nn.Module:
    """The network with the weights that the figures were made from."""
    network = build_reference(options_of(variant, *argv))
    network.load_state_dict(weights(folder, variant, False))
    return network.to(getattr(torch, dtype))


def classifier(folder: str, variant: str, dtype: str) -> torch.nn.Module:
    network = build_reference_classifier(options_of(variant))
    network.load_state_dict(weights(folder, variant, True))
    network.dropout.p = 0.0
    return network.to(getattr(torch, dtype))


def pictures(file, case: str, dtype: str) -> torch.Tensor:
    return torch.from_numpy(formula_images(file, case).astype(dtype))


def differs(value: torch.Tensor, expected: np.ndarray) -> float:
    """Largest difference relative to the largest expected value (absolute where all are 0)."""
    expected = np.asarray(expected, np.float64)
    actual = value.detach().numpy().astype(np.float64)
    assert actual.shape == expected.shape
    return float(np.abs(actual - expected).max() / (np.abs(expected).max() or 1.0))


def check_output(file, suffix: str, name: str, value: torch.Tensor, limit: float, prefix: str = "") -> None:
    """One output against its stored slice and against the mean, deviation and maximum of the whole."""
    key = f"{prefix}{name}"
    steps = file[f"meta/slice/{key}"] if f"meta/slice/{key}" in file.files else [1] * value.dim()
    if f"meta/shape/{key}" in file.files:
        assert list(value.shape) == file[f"meta/shape/{key}"].tolist()
    part = value[tuple(slice(None, None, int(step)) for step in steps)]
    assert differs(part, file[f"output{suffix}/{key}"]) <= limit, key
    if f"output{suffix}_stats/{key}" in file.files:
        mean, deviation, maximum = file[f"output{suffix}_stats/{key}"]
        whole = value.detach().double()
        assert abs(float(whole.mean()) - mean) <= limit * maximum, key
        assert float(whole.std(correction=0)) == pytest.approx(deviation, rel=limit), key
        assert float(whole.abs().max()) == pytest.approx(maximum, rel=limit), key


def stored_outputs(file, suffix: str, prefix: str = "") -> dict[str, list[str]]:
    """{case: names of outputs} of `output<suffix>/<prefix><case>/<name>`."""
    cases: dict[str, list[str]] = {}
    for key in under(file, f"output{suffix}/{prefix}"):
        case, _, name = key.rpartition("/")
        cases.setdefault(case, []).append(name)
    return cases


@per_variant
def test_tensors_are_the_official_ones(variant):
    for whole, build in ((False, build_reference), (True, build_reference_classifier)):
        shapes = {name: tuple(tensor.shape) for name, tensor in build(options_of(variant)).state_dict().items()}
        assert list(shapes.items()) == list(official_shapes(variant, whole).items())
    network = build_reference(options_of(variant))
    assert sum(p.numel() for p in network.parameters()) == golden("committed", variant)["meta/parameters"]


# -- backbone --

CLASSIFIERS = [
    pytest.param(folder, variant, id=f"{folder}-{variant}")
    for folder in files_of("backbone")
    for variant in BACKBONES
    if under(golden(folder, "backbone"), f"output/{variant}/")
]
per_classifier = pytest.mark.parametrize(("folder", "variant"), CLASSIFIERS)


@per_dtype
@per_classifier
def test_classifier(folder, variant, dtype, suffix):
    file = golden(folder, "backbone")
    network = classifier(folder, variant, dtype).eval()
    cases = stored_outputs(file, suffix, f"{variant}/")
    assert any(case.startswith("eval") for case in cases)
    for case in cases:
        if case == "train":
            continue
        images = pictures(file, case, dtype)
        with torch.no_grad():
            outputs = network.features_at(images) | {"logits": network(images)}
        for name in cases[case]:
            check_output(file, suffix, name, outputs[name], 1e-9 if suffix else 1e-4, f"{variant}/{case}/")


@per_dtype
@per_classifier
def test_classifier_gradients(folder, variant, dtype, suffix):
    file = golden(folder, "backbone")
    network = classifier(folder, variant, dtype).train()
    logits = network(pictures(file, "train", dtype))
    if f"output{suffix}/{variant}/train/logits" in file.files:
        check_output(file, suffix, "logits", logits, 1e-9 if suffix else 1e-4, f"{variant}/train/")
    loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(file["input/train_target"].astype(np.int64)))
    assert loss.item() == pytest.approx(float(file[f"loss{suffix}/{variant}/train_ce"]), rel=1e-9 if suffix else 1e-5)
    loss.backward()
    gradients = {n: float(p.grad.norm()) for n, p in network.named_parameters() if p.grad is not None}
    check_norms(gradients, under(file, f"grad{suffix}_norm/{variant}/"), 1e-6 if suffix else 5e-3)


def check_norms(actual: dict[str, float], expected: dict[str, np.ndarray], limit: float) -> None:
    assert expected.keys() <= actual.keys()
    for name, value in expected.items():
        assert actual[name] == pytest.approx(float(value), rel=limit), name


# -- segmentation network --


@per_dtype
@per_variant
@per_folder
def test_forward(folder, variant, dtype, suffix):
    file = golden(folder, variant)
    cases = {c: names for c, names in stored_outputs(file, suffix).items() if re.fullmatch(r"eval_\w+", c)}
    assert cases
    networks = {}
    for case, names in cases.items():
        conv_last = case.endswith("_conv_last")
        if conv_last not in networks:
            argv = [*ALL_BOUNDARIES, "--use_conv_last", str(conv_last)]
            networks[conv_last] = segmentation(folder, variant, dtype, *argv).eval()
        images = pictures(file, case.removesuffix("_conv_last"), dtype)
        with torch.no_grad():
            outputs = networks[conv_last].parts(images)
            assert all(torch.equal(value, outputs[name]) for name, value in networks[conv_last](images).items())
        for name in names:
            check_output(file, suffix, name, outputs[name], 1e-9 if suffix else 1e-4, f"{case}/")


@per_variant
@per_folder
def test_plain_batch_norm(folder, variant):
    """What stands in the place of the in-place norm: batch norm with |weight| + eps, not with the weight itself."""
    file = golden(folder, variant)
    for key in [key for key in file.files if key.startswith("output64/plain_bn_")]:
        how, case, name = key.split("/")[1:]
        network = segmentation(folder, variant, "float64")
        for module in list(network.modules()):
            for child, norm in list(module.named_children()):
                if isinstance(norm, InPlaceABN):
                    plain = torch.nn.BatchNorm2d(len(norm.weight)).double()
                    plain.load_state_dict(norm.state_dict(), strict=False)
                    if how == "plain_bn_folded":
                        plain.weight.data = norm.weight.data.abs() + 1e-5
                    setattr(module, child, plain)
        with torch.no_grad():
            value = network.eval().parts(pictures(file, case, "float64"))[name]
        check_output(file, "64", name, value, 1e-9, f"{how}/{case}/")


@pytest.mark.parametrize("flags", range(8))
def test_outputs_follow_the_boundary_options(flags):
    wanted = {f"detail{stride}": bool(flags & bit) for stride, bit in ((2, 1), (4, 2), (8, 4))}
    argv = [word for name, on in wanted.items() for word in (f"--use_boundary_{name[6:]}", str(on))]
    network = build_reference(parse_options(["--base", "8", "--num_classes", "5", *argv]))
    images = torch.from_numpy(formula_input("flags", (2, 3, 70, 52), 0))
    for training in (True, False):
        outputs = network.train(training)(images)
        assert list(outputs) == ["out", "out16", "out32", *(name for name, on in wanted.items() if on)]
        assert {tuple(outputs[name].shape) for name in ("out", "out16", "out32")} == {(2, 5, 70, 52)}
    norms = [module for name, module in network.named_modules() if name.endswith("conv.bn") and "conv_out" in name]
    assert len(norms) == 7
    assert all(norm.running_mean.abs().sum() > 0 for norm in norms)  # dropped heads were computed too


# -- losses, gradients and steps of the whole --


def criterion_of(file, variant: str, *argv: str):
    return build_criterion(options_of(variant, "--n_min", str(int(file["meta/n_min"])), *argv))


def labels_of(file) -> torch.Tensor:
    return torch.from_numpy(file["input/train_labels"].astype(np.int64))


@per_dtype
@pytest.mark.parametrize("run", RUN_BOUNDARIES)
@per_variant
@per_folder
def test_losses_and_gradients(folder, variant, run, dtype, suffix):
    file = golden(folder, variant)
    network = segmentation(folder, variant, dtype, *RUN_BOUNDARIES[run]).train()
    criterion = criterion_of(file, variant, *RUN_BOUNDARIES[run])
    gates = {}
    for stride, arm in ((16, network.cp.arm16), (32, network.cp.arm32)):
        arm.bn_atten.register_forward_hook(lambda layer, inputs, out, s=stride: gates.update({f"bn_atten{s}": out}))
    parts = network.parts(pictures(file, "train", dtype)) | gates
    terms = criterion({name: parts[name] for name in network.outputs}, labels_of(file))
    for name in stored_outputs(file, suffix).get(run, []):
        check_output(file, suffix, name, parts[name], 1e-8 if suffix else 1e-4, f"{run}/")
    state = network.state_dict()
    for name, value in under(file, f"output{suffix}/{run}_running/").items():
        assert differs(state[name], value) <= 1e-6, name

    expected = under(file, f"loss{suffix}/{run}/")
    assert terms.keys() == {"loss" if name == "total" else name for name in expected}
    for name, value in expected.items():
        term = terms["loss" if name == "total" else name]
        assert term.dtype == getattr(torch, dtype)
        assert term.item() == pytest.approx(float(value), rel=1e-6 if suffix else 1e-5), name
    terms["loss"].backward()
    named = list(network.named_parameters())
    short = {"train": "", "train_b248": "_b248"}[run]
    if f"meta/no_grad{short or '_b8'}" in file.files:
        assert [n for n, p in named if p.grad is None] == file[f"meta/no_grad{short or '_b8'}"].tolist()
    gradients = {n: float(p.grad.norm()) for n, p in named if p.grad is not None}
    check_norms(gradients, under(file, f"grad{suffix}_norm{short}/"), 2e-6 if suffix else 1e-2)
    assert criterion.fuse_kernel.grad.shape == criterion.fuse_kernel.shape
    np.testing.assert_array_equal(criterion.fuse_kernel.grad, np.zeros((1, 3, 1, 1)))


@per_variant
@per_folder
def test_parameter_groups(folder, variant):
    file = golden(folder, variant)
    options = options_of(variant)
    network, criterion = build_reference(options), build_criterion(options)
    groups = parameter_groups(network, criterion, options)
    assert len(groups) == 5
    for index, group in enumerate(groups):
        if f"meta/group{index}/names" in file.files:
            assert group["names"] == file[f"meta/group{index}/names"].tolist()
            assert group["weight_decay"] == float(file[f"meta/group{index}/weight_decay"])
            assert group["lr_mul"] == (10 if file[f"meta/group{index}/lr_mul"] else 1)
    if "meta/group_none/names" in file.files:
        grouped = {name for group in groups for name in group["names"]}
        rest = [name for name, _ in network.named_parameters() if name not in grouped]
        assert rest == file["meta/group_none/names"].tolist()


def test_parameter_groups_follow_the_options():
    options = parse_options(["--base", "8", "--train_backbone_norms", "--fuse_kernel", "fixed"])
    network, criterion = build_reference(options), build_criterion(options)
    groups = parameter_groups(network, criterion, options)
    names = [name for group in groups for name in group["names"]]
    rest = {name for name, _ in network.named_parameters()} - set(names)
    assert rest == {"cp.backbone.bn.weight", "cp.backbone.bn.bias"}  # registered, never applied
    assert "cp.backbone.features.0.bn.weight" in groups[1]["names"]
    assert not criterion.fuse_kernel.requires_grad


@per_dtype
@pytest.mark.parametrize("run", ["train", "train_fast"])
@per_variant
@per_folder
def test_five_steps(folder, variant, run, dtype, suffix):
    file = golden(folder, variant)
    key = run.replace("train", f"train{suffix}", 1)
    schedule = {
        "warmup_steps": "warmup_steps",
        "warmup_start_lr": "warmup_start_lr",
        "max_iter": "max_iter",
        "lr": "lr0",
    }
    argv = [word for name, stored in schedule.items() for word in (f"--{name}", str(file[f"meta/{run}/{stored}"]))]
    argv += ["--n_min", str(int(file["meta/n_min"])), "--use_boundary_8", "true"]
    options = options_of(variant, *argv)
    network = segmentation(folder, variant, dtype, *argv).train()
    criterion = build_criterion(options)
    optimizer = build_optimizer(network, criterion, options)
    images, labels = pictures(file, "train", dtype), labels_of(file)
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    losses, rates = [], []
    for iteration in range(len(file[f"{key}/loss"])):
        base_rate = set_learning_rate(optimizer, iteration, options)
        optimizer.zero_grad()
        loss = criterion(network(images), labels)["loss"]
        loss.backward()
        optimizer.step()
        assert base_rate == optimizer.param_groups[0]["lr"]
        losses.append(loss.item())
        rates.append([group["lr"] for group in optimizer.param_groups])
    np.testing.assert_allclose(losses, file[f"{key}/loss"], rtol=1e-6 if suffix else 1e-4)
    np.testing.assert_allclose(rates, file[f"{key}/lr"], rtol=1e-12)
    if f"{key}/fuse_kernel" in file.files:
        assert differs(criterion.fuse_kernel, file[f"{key}/fuse_kernel"].reshape(1, 3, 1, 1)) <= 1e-6
    if f"meta/{key}/moved" in file.files:
        moved = [name for name, p in network.named_parameters() if not torch.equal(p, before[name])]
        assert moved == file[f"meta/{key}/moved"].tolist()
    if f"{key}/running_var_sum" in file.files:
        state = network.state_dict()
        sums = [float(state[name].double().sum()) for name in file[f"meta/{key}/running_var_names"]]
        np.testing.assert_allclose(sums, file[f"{key}/running_var_sum"], rtol=1e-6 if suffix else 1e-4)
    if run == "train" and not suffix:
        return  # these moves are near float32's resolution; float64 is the proof
    after = dict(network.named_parameters())
    for name, value in under(file, f"{key}/param_move/").items():
        move = float((after[name] - before[name]).detach().norm())
        assert move == pytest.approx(float(value), rel=1e-5 if suffix else 2e-2), name
    for name, value in under(file, f"{key}/param_sum/").items():
        now = after[name].detach().double()
        assert abs(float(now.sum()) - value) <= (1e-8 if suffix else 1e-5) * float(now.abs().sum()), name


# -- pieces of the loss --


def cases_of(kind: str) -> list:
    """(folder, case) of the stored cases `input/<kind>_<case>/`."""
    pairs = []
    for folder in files_of("loss"):
        keys = under(golden(folder, "loss"), f"input/{kind}_")
        pairs += [(folder, case) for case in dict.fromkeys(key.split("/")[0] for key in keys)]
    return [pytest.param(*pair, id="-".join(pair)) for pair in pairs]


def loss_inputs(folder: str, case: str, dtype: str):
    file = golden(folder, "loss")
    logits = torch.from_numpy(file[f"input/{case}/logits"].astype(dtype)).requires_grad_()
    return file, logits, torch.from_numpy(file[f"input/{case}/labels"].astype(np.int64))


@per_dtype
@pytest.mark.parametrize(("folder", "case"), cases_of("ohem"))
def test_ohem(folder, case, dtype, suffix):
    file, logits, labels = loss_inputs(folder, f"ohem_{case}", dtype)
    limit = 1e-12 if suffix else 1e-6
    thresh, n_min = float(file[f"meta/ohem_{case}/thresh"]), int(file[f"meta/ohem_{case}/n_min"])
    loss = ohem_cross_entropy(logits, labels, thresh, n_min)
    assert loss.item() == pytest.approx(float(file[f"loss{suffix}/ohem_{case}"]), rel=limit, abs=0)
    loss.backward()
    if f"grad{suffix}/ohem_{case}" in file.files:
        assert differs(logits.grad[::1, ::3, ::2, ::2], file[f"grad{suffix}/ohem_{case}"]) <= limit
    norm = float(logits.grad.double().norm())
    assert norm == pytest.approx(float(file[f"grad{suffix}_norm/ohem_{case}"]), rel=limit, abs=0)


def test_ohem_needs_more_pixels_than_n_min():
    logits, labels = torch.zeros(1, 3, 2, 2), torch.zeros(1, 2, 2, dtype=torch.int64)
    assert ohem_cross_entropy(logits, labels, 0.7, 3).item() == pytest.approx(np.log(3))
    with pytest.raises(IndexError):
        ohem_cross_entropy(logits, labels, 0.7, 4)


@per_dtype
@pytest.mark.parametrize(("folder", "case"), cases_of("detail"))
def test_detail_loss(folder, case, dtype, suffix):
    file, logits, labels = loss_inputs(folder, f"detail_{case}", dtype)
    criterion = build_criterion(parse_options([]))
    kernel = criterion.fuse_kernel.detach() * np.float32(file[f"meta/detail_{case}/fuse_scale"])
    kernel.requires_grad_()
    target = detail_target(labels, kernel)
    assert target.dtype == torch.float32
    np.testing.assert_array_equal(target.detach(), file[f"output/detail_{case}/target"])
    if f"output/detail_{case}/single_scale" in file.files:
        np.testing.assert_array_equal(boundary_maps(labels)[:, :1], file[f"output/detail_{case}/single_scale"])
    if f"output{suffix}/detail_{case}/upsampled" in file.files:
        resized = resize(logits, labels.shape[1:])
        check_output(file, suffix, "upsampled", resized, 1e-12 if suffix else 1e-6, f"detail_{case}/")
    terms = dict(zip(("bce", "dice"), detail_loss(logits, labels, kernel), strict=True))
    for name, term in terms.items():
        expected = file[f"loss{suffix}/detail_{case}/{name}"]
        # the official cross-entropy of float64 logits comes out in float32, because the targets are float32
        limit = 1e-12 if suffix and expected.dtype == np.float64 else 1e-6
        assert term.item() == pytest.approx(float(expected), rel=limit), name
        logits.grad = kernel.grad = None
        term.backward(retain_graph=True)
        if f"grad{suffix}/detail_{case}/{name}" in file.files:
            assert differs(logits.grad, file[f"grad{suffix}/detail_{case}/{name}"]) <= limit, name
        np.testing.assert_array_equal(kernel.grad, np.zeros((1, 3, 1, 1)))


@per_folder
def test_dice(folder):
    file = golden(folder, "loss")
    p, t = torch.from_numpy(file["input/dice/p"]), torch.from_numpy(file["input/dice/t"])
    assert dice_loss(p, t).item() == pytest.approx(float(file["loss64/dice"]), rel=1e-12)


@per_dtype
@per_folder
def test_in_place_norm(folder, dtype, suffix):
    file = golden(folder, "loss")
    limit = 1e-12 if suffix else 1e-5
    given = {name: torch.from_numpy(array.astype(dtype)) for name, array in under(file, "input/abn/").items()}
    norm = InPlaceABN(given["x"].shape[1])
    norm.load_state_dict({name: given[name] for name in norm.state_dict()})
    norm.to(getattr(torch, dtype))
    x = given["x"].requires_grad_()
    with torch.no_grad():
        assert differs(norm.eval()(x), file[f"output{suffix}/abn/eval"]) <= limit
    out = norm.train()(x)
    assert differs(out, file[f"output{suffix}/abn/train"]) <= limit
    out.backward(given["up"])
    for name, tensor in (("x", x), ("weight", norm.weight), ("bias", norm.bias)):
        assert differs(tensor.grad, file[f"grad{suffix}/abn/{name}"]) <= limit, name
    for name in ("running_mean", "running_var"):
        assert differs(getattr(norm, name), file[f"output{suffix}/abn/{name}"]) <= limit, name


# -- schedule --


def schedule_options(meta: np.ndarray):
    names = ("lr", "warmup_steps", "warmup_start_lr", "max_iter", "power", "momentum", "weight_decay")
    whole = ("warmup_steps", "max_iter")
    pairs = zip(names, meta.tolist(), strict=True)
    return parse_options([w for n, v in pairs for w in (f"--{n}", str(int(v) if n in whole else v))])


@per_folder
def test_learning_rate(folder):
    file = golden(folder, "schedule")
    options = schedule_options(file["meta/first"])
    rates = np.array([learning_rate(iteration, options) for iteration in range(options.max_iter)])
    index = file["meta/lr_index"] if "meta/lr_index" in file.files else slice(None)
    np.testing.assert_allclose(rates[index], file["schedule/lr"], rtol=1e-12)
    np.testing.assert_allclose(10 * rates[::100], file["schedule/lr_heads_every_100"], rtol=1e-12)
    options = schedule_options(file["meta/second"])
    rates = [learning_rate(iteration, options) for iteration in range(0, options.max_iter, 10)]
    np.testing.assert_allclose(rates, file["schedule/lr_second_every_10"], rtol=1e-12)


@per_folder
def test_learning_rate_of_the_earlier_reproduction(folder):
    file = golden(folder, "schedule")
    iterations, warmup, rate = file["meta/repro"].tolist()
    argv = ["--lr_scheduler", "Warmup_PolyDecay", "--max_iter", str(int(iterations)), "--lr", str(rate)]
    options = parse_options([*argv, "--warmup_steps", str(int(warmup))])
    rates = np.array([learning_rate(iteration, options) for iteration in range(options.max_iter)])
    np.testing.assert_allclose(rates[: len(file["schedule/repro_lr_head"])], file["schedule/repro_lr_head"], rtol=1e-12)
    np.testing.assert_allclose(rates[::10], file["schedule/repro_lr_every_10"], rtol=1e-12)
    np.testing.assert_allclose(
        rates[-len(file["schedule/repro_lr_tail"]) :], file["schedule/repro_lr_tail"], rtol=1e-12
    )


@cache
def kernel_over_time(meta: tuple[float, ...]) -> np.ndarray:
    """fuse_kernel after each step of a whole training by the real optimiser, float32 [max_iter, 3]."""
    options = schedule_options(np.array(meta))
    network, criterion = torch.nn.Module(), build_criterion(options)
    optimizer = build_optimizer(network, criterion, options)
    kernel = criterion.fuse_kernel
    kernel.grad = torch.zeros_like(kernel)
    values = np.empty((options.max_iter, 3), np.float32)
    for iteration in range(options.max_iter):
        set_learning_rate(optimizer, iteration, options)
        optimizer.step()
        values[iteration] = kernel.detach().flatten()
    return values


@pytest.mark.parametrize(("meta", "which"), [("first", ""), ("second", "_second")])
@per_folder
def test_fuse_kernel_over_time(folder, meta, which):
    file = golden(folder, "schedule")
    values = kernel_over_time(tuple(file[f"meta/{meta}"].tolist()))
    np.testing.assert_allclose(values[::500], file[f"schedule/fuse_kernel{which}_every_500"], rtol=0, atol=1e-6)
    np.testing.assert_allclose(values[-1], file[f"schedule/fuse_kernel{which}_last"], rtol=0, atol=1e-6)
    for bits, expected in file[f"schedule/fuse_off_at{which}"]:
        boundary = np.array([bits >> index & 1 for index in range(3)], np.float32)
        off = (values * boundary).sum(1, dtype=np.float32) <= np.float32(0.1)
        assert (int(off.argmax()) if off.any() else -1) == expected, bits


# -- initialisation, and the official checkout's place --


def test_initialisation():
    torch.manual_seed(0)
    network = build_reference(parse_options([]))
    checked = 0
    for name, tensor in network.state_dict().items():
        if tensor.dim() == 4:
            inside = name.startswith("cp.backbone.")
            fan = tensor.shape[0] * tensor[0, 0].numel() if inside else tensor[0].numel()
            std = np.sqrt((2 if inside else 1) / fan)
        elif tensor.dim() == 2:
            std = 0.001
        else:
            value = 1.0 if name.endswith((".weight", "running_var")) else 0.0
            assert bool((tensor == value).all()), name
            continue
        assert float(tensor.std()) == pytest.approx(std, rel=5 / np.sqrt(2 * tensor.numel())), name
        checked += 1
    assert checked > 50


BUILDERS = ["build_reference", "build_reference_classifier", "build_criterion"]


@pytest.mark.parametrize("build", BUILDERS)
def test_reference_folder_must_be_the_official_checkout(tmp_path, build):
    build = getattr(official, build)
    with pytest.raises(InputError, match=r"no such folder.*git clone https://github.com/MichaelFan01/STDC-Seg"):
        build(parse_options([]), tmp_path / "absent")
    with pytest.raises(InputError, match=r"models/model_stages.py.*git clone https://github.com/MichaelFan01/STDC-Seg"):
        build(parse_options([]), tmp_path)


@pytest.mark.parametrize("build", BUILDERS[:2])
def test_official_network_has_one_width(tmp_path, build):
    with pytest.raises(InputError, match="--base 32"):
        getattr(official, build)(parse_options(["--base", "32"]), tmp_path)
