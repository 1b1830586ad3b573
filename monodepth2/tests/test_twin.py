"""The torch twin against figures of the official code (NOTES 9). Bounds are those of 9.5, or tighter.

`suffix` is "" for the official code's float32 run and "64" for its float64 run. What a file does not hold is not asked
for, so that slim and held-out files can be read too; seeds, sizes and commands come from the file.
"""

from functools import cache

import numpy as np
import pytest
import torch

from shared import InputError
from shared.align.formula import formula_input, formula_tensor

from golden_files import close, files_of, golden, official_shapes
from options import parse_options, sources
from reference import evaluation, geometry, losses, network, official, training

LOSS_PARTS = ("loss_mono", "loss_stereo", "loss_ms")
drawn = cache(formula_tensor)
DTYPES = [pytest.param("float32", "", id="float32"), pytest.param("float64", "64", id="float64")]
per_dtype = pytest.mark.parametrize(("dtype", "suffix"), DTYPES)


def holding(key: str, *parts: str) -> list[tuple[str, str]]:
    """(folder, part) of every file that holds a figure of this name."""
    return [(folder, part) for part in parts for folder in files_of(part) if key in golden(folder, part).files]


def per_file(key: str, *parts: str):
    return pytest.mark.parametrize(("folder", "part"), holding(key, *parts))


def per_folder(part: str):
    return pytest.mark.parametrize("folder", files_of(part))


def under(file, prefix: str) -> dict[str, np.ndarray]:
    """{rest of the name: array} of all keys that start with `prefix`."""
    return {key[len(prefix) :]: file[key] for key in file.files if key.startswith(prefix)}


def as_input(array: np.ndarray, dtype: str) -> torch.Tensor:
    """uint8 pictures are brought to [0, 1] in float32 first, as the figures' inputs were."""
    scaled = array.astype(np.float32) / np.float32(255) if array.dtype == np.uint8 else array
    return torch.from_numpy(scaled.astype(dtype))


def weights(file, name: str, shapes: dict[str, tuple]) -> dict[str, torch.Tensor]:
    """The state dict of the sub-network `name` that the figures of `file` were made from (NOTES 9.1).

    As golden_files.formula_weights, with the draws kept, and without statistics of another depth's ResNet: the
    ablation of ResNet-50 is stored beside ResNet-18's statistics and was made in train mode, which asks for none.
    """
    found = {}
    for leaf, shape in shapes.items():
        key = f"{name}.{leaf}"
        array = file[f"override/{key}"] if f"override/{key}" in file.files else None
        if array is None or array.shape != shape:
            array = drawn(key, shape, int(file["meta/seed"]), float(file["meta/gain"]))
        found[leaf] = torch.tensor(array)
    return found


def twin(folder: str, part: str, dtype: str, options, **names: str) -> torch.nn.Module:
    """The network with the weights that the figures were made from; `names` where the figure calls a part otherwise."""
    with torch.device("meta"):  # without drawing weights first
        model = network.build_reference(options)
    for part_name, child in model.named_children():
        shapes = {name: tuple(value.shape) for name, value in child.state_dict().items()}
        child.load_state_dict(weights(golden(folder, part), names.get(part_name, part_name), shapes), assign=True)
    return model.to(getattr(torch, dtype))


def check(file, key: str, value: torch.Tensor, limit: float, step: tuple = ()) -> int:
    """Compare with the stored slice and the whole's statistics, if stored; returns how many figures were compared."""
    value = value.detach().double()
    if f"{key}/stats" in file.files:
        mean, deviation, largest = file[f"{key}/stats"]
        assert float(value.mean()) == pytest.approx(mean, abs=limit * largest), key
        assert float(value.std(correction=0)) == pytest.approx(deviation, abs=limit * largest), key
        assert float(value.abs().max()) == pytest.approx(largest, rel=limit), key
    if key not in file.files:
        return 0
    close(value[step].numpy(), file[key], limit, key)
    return 1


# -- structure --


@pytest.mark.parametrize(
    ("argv", "listings"),
    [
        ("", {"encoder": "encoder", "depth": "depth", "pose_encoder": "pose_encoder", "pose": "pose"}),
        ("--num_layers 50", {"encoder": "encoder", "depth": "depth", "pose_encoder": "pose_encoder", "pose": "pose"}),
        ("--num_layers 34 --pose_model_type shared", {"encoder": "encoder", "depth": "depth", "pose": "pose_shared"}),
        ("--pose_model_type posecnn", {"encoder": "encoder", "depth": "depth", "pose": "posecnn2"}),
        (
            "--pose_model_type posecnn --pose_model_input all --predictive_mask --disable_automasking",
            {"encoder": "encoder", "depth": "depth", "pose": "posecnn3", "predictive_mask": "predictive_mask"},
        ),
        ("--frame_ids 0 --use_stereo", {"encoder": "encoder", "depth": "depth"}),
    ],
)
def test_tensors_are_the_official_ones(argv, listings):
    options = parse_options(argv.split())
    with torch.device("meta"):
        model = network.build_reference(options)
    assert [name for name, _ in model.named_children()] == list(listings)
    for name, child in model.named_children():
        shapes = {name: tuple(tensor.shape) for name, tensor in child.state_dict().items()}
        assert list(shapes.items()) == list(official_shapes(listings[name], options.num_layers).items())


def test_parameter_counts():
    with torch.device("meta"):
        model = network.build_reference(parse_options([]))
        deeper = {layers: network.ResnetEncoder(layers) for layers in (34, 50, 101, 152)}
    assert sum(p.numel() for p in model.parameters()) == 27_855_728
    assert len(list(model.parameters())) == 160
    counts = {layers: sum(p.numel() for p in encoder.parameters()) for layers, encoder in deeper.items()}
    assert counts == {34: 21_797_672, 50: 25_557_032, 101: 44_549_160, 152: 60_192_808}  # as torchvision's


def test_fresh_weights():
    """Kaiming normal (fan out) in the ResNets, torch's uniform default in the decoders (NOTES 3.3)."""
    torch.manual_seed(0)
    model = network.build_reference(parse_options([]))
    for encoder in (model.encoder, model.pose_encoder):
        assert float(encoder.encoder.conv1.weight.detach().std()) == pytest.approx((2 / (64 * 49)) ** 0.5, rel=0.05)
    bound = float(model.depth.decoder[0].conv.conv.weight.detach().abs().max())
    assert bound == pytest.approx(4608**-0.5, rel=1e-3)


# -- layers --


@per_dtype
@per_folder("layers")
def test_layers(folder, dtype, suffix):
    file = golden(folder, "layers")
    given = {name: torch.from_numpy(array.astype(dtype)) for name, array in under(file, "input/").items()}
    limit = 1e-10 if suffix else 1e-5
    compared = 0

    def compare(name, value, allowed=limit):
        nonlocal compared
        compared += check(file, f"output{suffix}/{name}", value, allowed)

    disp = given["disp"].clone().requires_grad_()
    scaled, depth = geometry.disp_to_depth(disp, 0.1, 100.0)
    compare("scaled_disp", scaled)
    compare("depth", depth)

    compare("rot_from_axisangle", geometry.rotation(given["axisangle"]))
    compare("get_translation_matrix", geometry.translation_matrix(given["translation"]))
    for invert in (0, 1):
        axisangle, translation = (given[name].clone().requires_grad_() for name in ("axisangle", "translation"))
        matrix = geometry.transformation_from_parameters(axisangle, translation, bool(invert))
        (matrix * given["probe"]).sum().backward()
        compare(f"transform_invert{invert}", matrix)
        compare(f"transform_invert{invert}_grad_axisangle", axisangle.grad, 1e-9 if suffix else 1e-4)
        compare(f"transform_invert{invert}_grad_translation", translation.grad)
    first = (given["axisangle"][:1], given["translation"][:1])
    compare("transform_batch1", geometry.transformation_from_parameters(*first))
    pose = geometry.transformation_from_parameters(given["pose_axisangle"], given["pose_translation"])
    compare("pose_T", pose)

    points = geometry.back_project(depth, given["inv_K"])
    grid = geometry.project(points, given["K"], pose, tuple(depth.shape[2:]))
    compare("cam_points", points)
    compare("pix_coords", grid)
    probe = torch.from_numpy(
        formula_input("warp_probe", tuple(given["img"].shape), int(file["meta/seed"])).astype(dtype)
    )
    for aligned in (1, 0):
        warped = geometry.warp(given["img"], grid, bool(aligned))
        to_grid, to_depth = torch.autograd.grad((warped * probe).sum(), (grid, depth), retain_graph=True)
        compare(f"warp_align{aligned}", warped)
        compare(f"warp_align{aligned}_grad_grid", to_grid)
        compare(f"warp_align{aligned}_grad_depth", to_depth)

    image = given["img"].clone().requires_grad_()
    ssim = losses.ssim_error(image, given["img2"])
    ssim.sum().backward()
    compare("ssim", ssim)
    compare("ssim_grad_x", image.grad)
    compare("ssim_same", losses.ssim_error(given["img"], given["img"]))
    smooth = losses.smoothness(losses.normalised(disp), given["img"])
    compare("smooth_loss", smooth)
    compare("smooth_loss_grad_disp", torch.autograd.grad(smooth, disp)[0])

    block = network.ConvBlock(5, 4)
    for name, parameter in block.named_parameters():
        array = formula_tensor(f"convblock.{name}", tuple(parameter.shape), int(file["meta/seed"]), 2.0)
        parameter.data = torch.from_numpy(array)
    compare("convblock", block.to(getattr(torch, dtype))(given["feat"]))
    assert compared >= 20

    if f"metric{suffix}/compute_depth_errors" in file.files:
        errors = evaluation.depth_errors(given["gt"], given["pred"])
        expected = file[f"metric{suffix}/compute_depth_errors"]
        close(errors[:4], expected[:4], 1e-12 if suffix else 1e-6, "errors")
        close(errors[4:], expected[4:], 1e-7, "accuracies, which the official code has in float32")


# -- networks --

FEATURE_STEPS = [(8, 4), (None, 2), (None, 2), (None, 2), (None, 1)]  # of channels and pixels; None: eight channels


def check_features(file, prefix: str, features: list[torch.Tensor], limit: float) -> int:
    assert len(features) == 5
    compared = 0
    for index, (feature, (channels, pixels)) in enumerate(zip(features, FEATURE_STEPS, strict=True)):
        step = (slice(None), slice(None, None, channels or feature.shape[1] // 8), *[slice(None, None, pixels)] * 2)
        compared += check(file, f"{prefix}/feature{index}", feature, limit, step)
    return compared


def check_motion(file, prefix: str, motion: tuple[torch.Tensor, torch.Tensor], limit: float) -> int:
    return sum(
        check(file, f"{prefix}/{name}", value, limit)
        for name, value in zip(("axisangle", "translation"), motion, strict=True)
    )


NETS = [(folder, layers) for layers in (18, 34, 50) for folder in files_of(f"net{layers}")]


@per_dtype
@pytest.mark.parametrize(("folder", "layers"), NETS)
def test_networks(folder, layers, dtype, suffix):
    part = f"net{layers}"
    file = golden(folder, part)
    images = as_input(file["input/images"], dtype)
    pose_type = [] if images.shape[1] > 3 else ["--pose_model_type", "posecnn"]
    options = parse_options(["--num_layers", str(layers), *pose_type])
    limit, out = (1e-9, "output64") if suffix else (1e-4, "output")
    model = twin(folder, part, dtype, options).eval()
    with torch.no_grad():
        features = model.encoder(images[:, :3])
        disparities = model.predict_disparity(images[:, :3])
        compared = check_features(file, f"{out}/depth", features, limit)
        compared += sum(check(file, f"{out}/disp{s}", disparities["disp", s], limit) for s in range(4))
        if images.shape[1] > 3:
            pair = images[:, :6]
            compared += check_features(file, f"{out}/pose", model.pose_encoder(pair), limit)
            compared += check_motion(file, f"{out}/pose", model.predict_pose(pair), limit)
    assert compared >= 4


VARIANTS = {
    "pose_all": ("--pose_model_input all", {"pose_encoder": "pose_encoder3", "pose": "pose_all"}, 3),
    "pose_shared": ("--pose_model_type shared", {"pose": "pose_shared"}, 2),
    "posecnn2": ("--pose_model_type posecnn", {"pose": "posecnn2"}, 2),
    "posecnn3": ("--pose_model_type posecnn --pose_model_input all", {"pose": "posecnn3"}, 3),
}


@per_dtype
@pytest.mark.parametrize("variant", VARIANTS)
@per_folder("net18")
def test_pose_networks(folder, variant, dtype, suffix):
    file = golden(folder, "net18")
    argv, names, frames = VARIANTS[variant]
    model = twin(folder, "net18", dtype, parse_options(argv.split()), **names).eval()
    limit = 1e-9 if suffix else 1e-4
    for size in ("", "_large"):
        prefix = f"output{suffix}/{variant}{size}"
        if f"{prefix}/axisangle" in file.files:
            images = as_input(file[f"input/images{size}"], dtype)[:, : 3 * frames]
            with torch.no_grad():
                check_motion(file, prefix, model.predict_pose(images), limit)
                if variant == "pose_all":
                    check_features(file, prefix, model.pose_encoder(images), limit)


@per_dtype
@per_folder("net18")
def test_predictive_mask(folder, dtype, suffix):
    file = golden(folder, "net18")
    options = parse_options(["--predictive_mask", "--disable_automasking"])
    model = twin(folder, "net18", dtype, options).eval()
    with torch.no_grad():
        masks = model.predictive_mask(model.encoder(as_input(file["input/images"], dtype)[:, :3]))
    step = (..., slice(None, None, 2), slice(None, None, 2))
    for s in range(4):
        key = f"output{suffix}/predictive_mask/disp{s}"
        check(file, key, masks["disp", s], 1e-9 if suffix else 1e-4, step)


@per_folder("net18")
def test_first_convolution_of_two_pictures(folder):
    file = golden(folder, "net18")
    encoder = network.ResnetEncoder(18, 2)
    state = weights(file, "encoder", official_shapes("encoder"))
    encoder.load_imagenet({name.removeprefix("encoder."): value for name, value in state.items()})
    step = (slice(None, None, 8), slice(None), slice(None, None, 3), slice(None, None, 3))
    check(file, "output/pretrained_conv1_2images", encoder.encoder.conv1.weight, 1e-7, step)
    assert torch.equal(encoder.encoder.layer4[1].conv2.weight, state["encoder.layer4.1.conv2.weight"])


@pytest.mark.parametrize(
    "argv",
    [
        "--pose_model_type posecnn --use_stereo",
        "--pose_model_type shared --predictive_mask --disable_automasking",
        "--num_layers 34 --scales 3 1",
        "--frame_ids 0 -2 -1 1 --pose_model_input all",
    ],
)
def test_combinations_that_the_reference_refuses(argv):
    options = parse_options(["--height", "64", "--width", "64", *argv.split()])
    inputs = formula_batch(options)
    outputs = network.build_reference(options)(inputs)
    found = losses.build_criterion(options)(outputs, inputs)
    assert list(found) == ["loss", *(f"loss/{s}" for s in options.scales)]
    found["loss"].backward()
    assert float(found["loss"].detach()) > 0


def formula_batch(options) -> dict:
    """A batch of two made-up items."""
    h, w = options.height, options.width
    inputs = intrinsics(h, w, "float32") | {"stereo_T": torch.eye(4).repeat(2, 1, 1)}
    for f in (0, *sources(options)):
        for s in range(4):
            noise = formula_input(f"{f}/{s}", (2, 3, h >> s, w >> s), 0)
            inputs["color", f, s] = inputs["color_aug", f, s] = torch.from_numpy(noise).sigmoid()
    return inputs


def intrinsics(h: int, w: int, dtype: str) -> dict:
    """K and its inverse of each scale for a batch of two, as in 3.3."""
    found = {}
    for s in range(4):
        k = np.array([[0.58, 0, 0.5, 0], [0, 1.92, 0.5, 0], [0, 0, 1, 0], [0, 0, 0, 1]], np.float32)
        k[0] *= w // 2**s
        k[1] *= h // 2**s
        for name, matrix in (("K", k), ("inv_K", np.linalg.pinv(k))):
            found[name, s] = torch.from_numpy(matrix.astype(dtype)).repeat(2, 1, 1)
    return found


# -- losses, gradients and steps of the whole --


def batch_of(file, dtype: str) -> dict:
    inputs = intrinsics(int(file["meta/height"]), int(file["meta/width"]), dtype)
    for key, array in under(file, "input/color_").items():
        kind, *(frame, scale) = ["color", *key.split("_")] if key[0] != "a" else ["color_aug", *key.split("_")[1:]]
        inputs[kind, frame if frame == "s" else int(frame), int(scale)] = as_input(array, dtype)
    inputs["stereo_T"] = as_input(file["input/stereo_T"], dtype)
    return inputs


def noise_of(file, options, dtype: str) -> list[torch.Tensor]:
    b, h, w = (int(file[f"meta/{name}"]) for name in ("batch", "height", "width"))
    channels = 1 if options.avg_reprojection else len(sources(options))
    shapes = [(b, channels, *((h >> s, w >> s) if options.v1_multiscale else (h, w))) for s in options.scales]
    names = [f"noise/{n}" for n in range(len(shapes))]
    draws = [formula_input(name, shape, int(file["meta/seed"])) for name, shape in zip(names, shapes, strict=True)]
    return [torch.from_numpy(draw.astype(dtype)) for draw in draws]


def options_of(file, key: str = "meta/command"):
    """The options of a stored command, whose own marks @align0, @nonoise and @eval come after them."""
    words = str(file[key]).split()
    marks = {word for word in words if word.startswith("@")}
    argv = [word for word in words if word not in marks]
    argv += ["--height", str(int(file["meta/height"])), "--width", str(int(file["meta/width"]))]
    return parse_options([*argv, *(["--align_corners", "no"] if "@align0" in marks else [])]), marks


QUARTER = (..., slice(None, None, 4), slice(None, None, 4))


@per_dtype
@per_file("loss/loss", *LOSS_PARTS)
def test_losses_and_gradients(folder, part, dtype, suffix):
    file = golden(folder, part)
    options, _ = options_of(file)
    inputs, noise = batch_of(file, dtype), noise_of(file, options, dtype)
    model = twin(folder, part, dtype, options).train()
    outputs = model(inputs)
    found = losses.build_criterion(options).details(outputs, inputs, noise)
    out, limit = (f"output{suffix}", 1e-9 if suffix else 1e-4)
    target = inputs["color", 0, 0]
    for s in options.scales:
        check(file, f"{out}/disp{s}", outputs["disp", s], limit)
        smooth = losses.smoothness(losses.normalised(outputs["disp", s]), inputs["color", 0, s])
        check(file, f"loss{suffix}/smooth_{s}", smooth, 1e-10 if suffix else 1e-5)
        check(file, f"{out}/depth{s}", found["depth", 0, s], limit, QUARTER)
        key = f"{out}/identity_selection{s}"
        if key in file.files:
            part_off = np.mean(found[f"identity_selection/{s}"].numpy() != file[key])
            assert part_off <= (0 if suffix else 1e-3), key
    for f in sources(options):
        for name in ("axisangle", "translation", "cam_T_cam"):
            if f != "s":
                check(file, f"{out}/{name}_{f}", outputs[name, 0, f], limit)
        step = (slice(None), slice(None, None, 4), slice(None, None, 4))
        check(file, f"{out}/sample_{f}_0", found["sample", f, 0], limit, step)
        check(file, f"{out}/color_{f}_0", found["color", f, 0], limit, QUARTER)
        error = losses.photometric_error(found["color", f, 0], target, True)
        check(file, f"{out}/reprojection_{f}_0", error, limit, QUARTER)
        error = losses.photometric_error(inputs["color", f, 0], target, True)
        check(file, f"{out}/identity_{f}_0", error, limit, QUARTER)
    for name in ("loss", "loss/0", "loss/1", "loss/2", "loss/3"):
        assert check(file, f"loss{suffix}/{name.replace('/', '_')}", found[name], 1e-10 if suffix else 1e-5)

    found["loss"].backward()
    named = list(model.named_parameters())
    if "meta/params_without_gradient" in file.files:
        assert [name for name, p in named if p.grad is None] == file["meta/params_without_gradient"].tolist()
    norms = {name: float(p.grad.double().norm()) for name, p in named if p.grad is not None}
    for name, value in under(file, f"grad{suffix}_norm/").items():
        assert norms[name] == pytest.approx(float(value), rel=1e-7 if suffix else 2e-2, abs=1e-12), name


@per_file("train64/loss", "loss_stereo", "loss_ms")  # loss_mono has no more networks or terms than loss_ms
def test_five_steps(folder, part):
    """In float64: Adam's first step is the gradients' signs, which rounding decides where they are tiny (NOTES 8.9)."""
    file = golden(folder, part)
    options, _ = options_of(file)
    inputs, noise = batch_of(file, "float64"), noise_of(file, options, "float64")
    model = twin(folder, part, "float64", options).train()
    criterion, optimizer = losses.build_criterion(options), training.build_optimizer(model, options)
    values = []
    for _ in file["train64/loss"]:
        loss = criterion(model(inputs), inputs, noise)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(float(loss.detach()))
    differences = np.abs(values / file["train64/loss"] - 1)
    assert np.all(differences <= [1e-10, 1e-8, *[1e-4] * (len(values) - 2)]), differences
    state = model.state_dict()
    for name, value in under(file, "train64/param_l2/").items():
        assert float(state[name].norm()) == pytest.approx(float(value), rel=1e-5), name
    for name, value in under(file, "train64/param_sum/").items():
        assert float(state[name].sum()) == pytest.approx(float(value), rel=2e-3, abs=2e-3), name


ABLATIONS = [
    pytest.param(folder, variant, id=f"{folder}-{variant}")
    for folder in files_of("loss_ablations")
    for variant in under(golden(folder, "loss_ablations"), "meta/command/")
]


@per_dtype
@pytest.mark.parametrize(("folder", "variant"), ABLATIONS)
def test_ablations(folder, variant, dtype, suffix):
    """float32's gradients are left out: at a limit of 2e-2 they tell nothing that float64's do not."""
    file = golden(folder, "loss_ablations")
    options, marks = options_of(file, f"meta/command/{variant}")
    inputs, noise = batch_of(file, dtype), noise_of(file, options, dtype)
    if "@nonoise" in marks:
        noise = [torch.zeros_like(draw) for draw in noise]
    model = twin(folder, "loss_ablations", dtype, options).train("@eval" not in marks)
    with torch.set_grad_enabled(bool(suffix)):
        outputs = model(inputs)
        terms = losses.build_criterion(options)(outputs, inputs, noise)
    assert list(terms) == ["loss", *(f"loss/{scale}" for scale in options.scales)]
    values = [float(term.detach()) for term in terms.values()]
    close(values, file[f"loss{suffix}/{variant}"], 1e-10 if suffix else 1e-5)
    for frame, expected in under(file, f"output{suffix}/{variant}/cam_T_cam_").items():
        close(outputs["cam_T_cam", 0, int(frame)].detach(), expected, 1e-9 if suffix else 1e-4, frame)
    if suffix:
        terms["loss"].backward()
        for name, value in under(file, f"grad64_norm/{variant}/").items():
            gradients = [p.grad for p in getattr(model, name).parameters() if p.grad is not None]
            norm = float(torch.stack([gradient.norm() for gradient in gradients]).norm())
            assert norm == pytest.approx(float(value), rel=1e-7), name


# -- schedule, metrics --


@pytest.mark.parametrize(("at", "key"), [("end", "schedule/lr"), ("start", "schedule/lr_current_torch")])
@per_file("schedule/lr", *LOSS_PARTS)
def test_schedule(folder, part, at, key):
    options = parse_options(["--scheduler_step_at", at])
    rates = [training.learning_rate(epoch, options) for epoch in range(options.num_epochs)]
    assert rates == golden(folder, part)[key].tolist()


@per_dtype
@per_file("metric/monitor", *LOSS_PARTS)
def test_monitor(folder, part, dtype, suffix):
    file = golden(folder, part)
    b, h, w, seed = (int(file[f"meta/{name}"]) for name in ("batch", "height", "width", "seed"))

    def noise(name, *size):
        return torch.from_numpy(formula_input(name, (b, 1, *size), seed))

    truth = torch.where(noise("monitor_keep", 375, 1242) > 1.3, 5 + 75 * noise("monitor_gt", 375, 1242).sigmoid(), 0)
    depth = 2 + 60 * noise("monitor_depth", h, w).sigmoid()
    errors = evaluation.monitor(depth.to(getattr(torch, dtype)), truth.to(getattr(torch, dtype)))
    assert list(errors) == ["de/abs_rel", "de/sq_rel", "de/rms", "de/log_rms", "da/a1", "da/a2", "da/a3"]
    close(list(errors.values()), file[f"metric{suffix}/monitor"], 1e-6 if suffix else 1e-5)


MODES = {
    "eigen_mono": {},
    "eigen_stereo": {"factor": 5.4, "median_scaling": False},
    "eigen_benchmark_mono": {"split": "eigen_benchmark"},
    "eigen_mono_unscaled": {"factor": 2.5, "median_scaling": False},
    "eigen_mono_factor": {"factor": 2.5},
}


@pytest.mark.parametrize(
    ("folder", "mode"),
    [(folder, mode) for mode in MODES for folder, _ in holding(f"metric/{mode}/per_image", "eval")],
)
def test_evaluation(folder, mode):
    file = golden(folder, "eval")
    settings = {"split": "eigen", "factor": 1.0, "median_scaling": True} | MODES[mode]
    pairs = zip(file["input/pred_disps"], file["input/gt_depths"], strict=True)
    errors = [evaluation.score(disparity, truth, **settings)[0] for disparity, truth in pairs]
    expected = file[f"metric/{mode}/per_image"][:, :7]
    np.testing.assert_allclose(torch.stack(errors), expected, rtol=1e-6)
    np.testing.assert_allclose(torch.stack(errors).mean(0), file[f"metric/{mode}/mean"], rtol=1e-6)


@per_folder("eval")
def test_flip_post_processing(folder):
    file = golden(folder, "eval")
    left, right = (
        torch.from_numpy(formula_input(name, (2, 5, 60), int(file["meta/seed"]))).sigmoid() for name in ("pp_l", "pp_r")
    )
    check(file, "post/batch_post_process_disparity", evaluation.flip_mean(left, right), 1e-6)


# -- the official code in the twin's place --


def test_official_code_must_be_there(tmp_path):
    with pytest.raises(InputError, match="no such folder; git clone"):
        official.load(tmp_path / "missing")
    with pytest.raises(InputError, match="not a checkout of monodepth2, trainer.py is missing; git clone"):
        official.load(tmp_path)
