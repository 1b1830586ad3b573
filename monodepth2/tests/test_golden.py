"""The Paddle network, losses and steps against figures of the official code (NOTES 9; bounds of 9.5)."""

import numpy as np
import paddle
import pytest
from paddle.nn import functional as F

from shared.align.formula import formula_input
from shared.convert import plan

from golden_files import close, files_of, formula_weights, golden, official_shapes
from losses import build_criterion, get_smooth_loss, ssim_loss
from models import (
    backproject_depth,
    disp_to_depth,
    first_convolution,
    get_translation_matrix,
    project_3d,
    rot_from_axisangle,
    transformation_from_parameters,
    warp,
)
from models.layers import Conv3x3, ConvBlock
from networks import batch_of, loaded, noise_of, options_of
from optimizers import build_optimizer, build_scheduler
from options import parse_options

DTYPES = ("float32", "float64")


def cases(*parts: str) -> list:
    """(folder, part, dtype) of every golden file at hand."""
    return [
        pytest.param(folder, part, dtype, id=f"{part}-{folder}-{dtype}")
        for part in parts
        for folder in files_of(part)
        for dtype in DTYPES
    ]


def suffix(dtype: str) -> str:
    return "64" if dtype == "float64" else ""


# ---------------------------------------------------------------------------------------------------------- layers


@pytest.fixture(params=[pytest.param(case.values, id=case.id) for case in cases("layers")])
def layers(request):
    """(the file's input as a tensor, its figure by name, its dtype)."""
    folder, part, dtype = request.param
    file = golden(folder, part)

    def given(name: str, needs_gradient: bool = False):
        tensor = paddle.to_tensor(file[f"input/{name}"].astype(dtype))
        tensor.stop_gradient = not needs_gradient
        return tensor

    return given, lambda name: file[f"output{suffix(dtype)}/{name}"], dtype, int(file["meta/seed"]), file


def check(actual, figure, name: str, dtype: str, float32: float = 1e-5, float64: float = 1e-10) -> None:
    close(actual.numpy(), figure(name), float64 if dtype == "float64" else float32, name)


def test_depth_of_disparity(layers):
    given, figure, dtype, *_ = layers
    scaled, depth = disp_to_depth(given("disp"), 0.1, 100.0)
    check(scaled, figure, "scaled_disp", dtype)
    check(depth, figure, "depth", dtype)


def test_motions(layers):
    given, figure, dtype, *_ = layers
    axisangle, translation = given("axisangle"), given("translation")
    check(rot_from_axisangle(axisangle), figure, "rot_from_axisangle", dtype)
    check(get_translation_matrix(translation), figure, "get_translation_matrix", dtype)
    check(transformation_from_parameters(axisangle[:1], translation[:1]), figure, "transform_batch1", dtype)


@pytest.mark.parametrize("invert", [0, 1])
def test_motion_gradients(layers, invert):
    given, figure, dtype, *_ = layers
    axisangle, translation = given("axisangle", True), given("translation", True)
    motion = transformation_from_parameters(axisangle, translation, bool(invert))
    check(motion, figure, f"transform_invert{invert}", dtype)
    (motion * given("probe")).sum().backward()
    check(axisangle.grad, figure, f"transform_invert{invert}_grad_axisangle", dtype, 1e-4, 1e-9)
    check(translation.grad, figure, f"transform_invert{invert}_grad_translation", dtype)


@pytest.mark.parametrize("align", [0, 1])
def test_warp(layers, align):
    given, figure, dtype, seed, _ = layers
    motion = transformation_from_parameters(given("pose_axisangle"), given("pose_translation"))
    check(motion, figure, "pose_T", dtype)
    disp = given("disp", True)
    _, depth = disp_to_depth(disp, 0.1, 100.0)
    depth = depth.detach()
    depth.stop_gradient = False
    points = backproject_depth(depth, given("inv_K"))
    check(points, figure, "cam_points", dtype)
    grid = project_3d(points, given("K"), motion, (6, 8))
    check(grid, figure, "pix_coords", dtype)
    grid.retain_grads()
    warped = warp(given("img"), grid, bool(align))
    check(warped, figure, f"warp_align{align}", dtype)
    probe = paddle.to_tensor(formula_input("warp_probe", (2, 3, 6, 8), seed).astype(dtype))
    (warped * probe).sum().backward()
    check(grid.grad, figure, f"warp_align{align}_grad_grid", dtype)
    if align:
        check(depth.grad, figure, "warp_align1_grad_depth", dtype)


def test_photometric_terms(layers):
    given, figure, dtype, *_ = layers
    image = given("img", True)
    ssim = ssim_loss(image, given("img2"))
    check(ssim, figure, "ssim", dtype)
    ssim.sum().backward()
    check(image.grad, figure, "ssim_grad_x", dtype, 1e-5, 1e-7)
    assert float(ssim_loss(given("img"), given("img")).abs().max()) <= np.abs(figure("ssim_same")).max() + 1e-6


def test_smoothness(layers):
    given, figure, dtype, *_ = layers
    disp = given("disp", True)
    mean = disp.mean([2, 3], keepdim=True) + 1e-7
    loss = get_smooth_loss(disp / mean, given("img"))
    check(loss, figure, "smooth_loss", dtype)
    loss.backward()
    check(disp.grad, figure, "smooth_loss_grad_disp", dtype)


def test_convolutions_and_resizing(layers):
    given, figure, dtype, _, file = layers
    block = ConvBlock(5, 4)
    plain = Conv3x3(5, 4, use_reflection=False)
    state = formula_weights(file, "convblock", {"conv.conv.weight": (4, 5, 3, 3), "conv.conv.bias": (4,)})
    block.set_state_dict(state)
    plain.set_state_dict({name.removeprefix("conv."): array for name, array in state.items()})
    block.to(dtype=dtype), plain.to(dtype=dtype)
    check(block(given("feat")), figure, "convblock", dtype)
    check(plain(given("feat")), figure, "conv3x3_zero_pad", dtype)
    check(F.interpolate(given("feat"), scale_factor=2, mode="nearest"), figure, "upsample", dtype)
    resized = F.interpolate(given("disp"), (19, 19), mode="bilinear", align_corners=False)
    check(resized, figure, "bilinear", dtype, 1e-5, 1e-6)


# -------------------------------------------------------------------------------------------------------- networks


def images_of(file, dtype: str, key: str = "images"):
    return paddle.to_tensor((file[f"input/{key}"].astype(np.float32) / 255).astype(dtype))


def compare(file, name: str, value, dtype: str) -> None:
    """Against `name`, or the slice of it that is stored, in which case its statistics must agree too."""
    key, limit = f"output{suffix(dtype)}/{name}", 1e-9 if dtype == "float64" else 1e-4
    if key not in file.files:
        return
    value = value.numpy()
    if f"{key}/stats" in file.files:
        found = [value.mean(), value.std(), np.abs(value).max()]
        close(found, file[f"{key}/stats"], limit, f"{key}/stats")
        steps = [-(-full // kept) for full, kept in zip(value.shape, file[key].shape, strict=True)]
        value = value[tuple(slice(None, None, step) for step in steps)]
    close(value, file[key], limit, key)


@pytest.mark.parametrize(("folder", "part", "dtype"), cases("net18", "net34", "net50"))
def test_networks(folder, part, dtype):
    file = golden(folder, part)
    kind = "posecnn" if part == "net34" else "separate_resnet"  # the reference has no ResNet-34 of two pictures
    options = options_of(file, f"--num_layers {file['meta/num_layers']} --pose_model_type {kind}")
    model = loaded(file, options)
    model.to(dtype=dtype)
    model.eval()
    images = images_of(file, dtype)
    features = model.encoder(images[:, :3])
    for level, feature in enumerate(features):
        compare(file, f"depth/feature{level}", feature, dtype)
    for (_, scale), disp in model.predict_disparity(images[:, :3]).items():
        compare(file, f"disp{scale}", disp, dtype)
    if part != "net34":
        for level, feature in enumerate(model.pose_encoder(images[:, :6])):
            compare(file, f"pose/feature{level}", feature, dtype)
        for name, value in zip(("axisangle", "translation"), model.predict_pose(images[:, :6]), strict=True):
            compare(file, f"pose/{name}", value, dtype)


POSE_NETWORKS = {  # figure: (options, what the figure calls the sub-networks, channels of the picture)
    "pose_all": ("--pose_model_input all", {"pose_encoder": "pose_encoder3", "pose": "pose_all"}, "images", 9),
    "pose_shared": ("--pose_model_type shared", {"pose": "pose_shared"}, "images", 6),
    "posecnn2": ("--pose_model_type posecnn", {"pose": "posecnn2"}, "images", 6),
    "posecnn2_large": ("--pose_model_type posecnn", {"pose": "posecnn2"}, "images_large", 6),
    "posecnn3": ("--pose_model_type posecnn --pose_model_input all", {"pose": "posecnn3"}, "images", 9),
    "posecnn3_large": ("--pose_model_type posecnn --pose_model_input all", {"pose": "posecnn3"}, "images_large", 9),
}


@pytest.mark.parametrize("figure", POSE_NETWORKS)
@pytest.mark.parametrize(("folder", "part", "dtype"), cases("net18"))
def test_other_pose_networks(folder, part, dtype, figure):
    file = golden(folder, part)
    command, names, key, channels = POSE_NETWORKS[figure]
    model = loaded(file, options_of(file, command), names)
    model.to(dtype=dtype)
    model.eval()
    found = model.predict_pose(images_of(file, dtype, key)[:, :channels])
    for name, value in zip(("axisangle", "translation"), found, strict=True):
        assert f"output{suffix(dtype)}/{figure}/{name}" in file.files
        compare(file, f"{figure}/{name}", value, dtype)


@pytest.mark.parametrize(("folder", "part", "dtype"), cases("net18"))
def test_predictive_mask(folder, part, dtype):
    file = golden(folder, part)
    model = loaded(file, options_of(file, "--predictive_mask --disable_automasking"))
    model.to(dtype=dtype)
    model.eval()
    masks = model.predictive_mask(model.encoder(images_of(file, dtype)[:, :3]))
    for (_, scale), mask in masks.items():
        compare(file, f"predictive_mask/disp{scale}", mask, dtype)


@pytest.mark.parametrize("folder", files_of("net18"))
def test_first_convolution_of_two_pictures(folder):
    file = golden(folder, "net18")
    weight = formula_weights(file, "encoder", official_shapes("encoder"))["encoder.conv1.weight"]
    found = first_convolution(paddle.to_tensor(weight), 2).numpy()[::8, :, ::3, ::3]
    close(found, file["output/pretrained_conv1_2images"], 1e-7, "conv1")


# ---------------------------------------------------------------------------------------------------------- losses


def one_pass(file, command: str, dtype: str):
    """(model, details of the loss, gradients {official name: array}) of a golden command."""
    options = options_of(file, command)
    model = loaded(file, options, trained="@eval" not in command)
    model.to(dtype=dtype)
    model.eval() if "@eval" in command else model.train()
    batch = batch_of(file, options, dtype)
    noise = noise_of(file, options, batch, dtype)
    if "@nonoise" in command:
        noise = [paddle.zeros_like(drawn) for drawn in noise]
    outputs = model(batch)
    details = build_criterion(options).details(outputs, batch, noise)
    details["loss"].backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return outputs | details, plan(model).gradients_to_torch(gradients)


@pytest.mark.parametrize(("folder", "part", "dtype"), cases("loss_mono", "loss_stereo", "loss_ms"))
def test_losses(folder, part, dtype):
    file, high = golden(folder, part), dtype == "float64"
    found, gradients = one_pass(file, str(file["meta/command"]), dtype)
    end = suffix(dtype)
    for key in (key for key in file.files if key.startswith(f"loss{end}/")):
        name = key.split("/")[1].replace("_", "/")
        close(found[name].numpy(), file[key], 1e-10 if high else 1e-5, key)
    for scale in range(4):
        compare(file, f"disp{scale}", found["disp", scale], dtype)
        key = f"output{end}/identity_selection{scale}"
        if key in file.files:
            differ = (found[f"identity_selection/{scale}"].numpy()[:, 0] != file[key]).mean()
            assert differ <= (0 if high else 1e-3), key
    for scale in (0, 3):
        compare(file, f"depth{scale}", found["depth", 0, scale], dtype)
    for f in str(file["meta/frame_ids"].tolist()[1:]).strip("[]").replace("'", "").split(", "):
        frame = f if f == "s" else int(f)
        for kind in ("axisangle", "translation", "cam_T_cam"):
            if frame != "s":
                compare(file, f"{kind}_{f}", found[kind, 0, frame], dtype)
        sample = found["sample", frame, 0][:, ::4, ::4]
        compare(file, f"sample_{f}_0", sample, dtype)
        for kind in ("color", "reprojection", "identity"):
            compare(file, f"{kind}_{f}_0", found[kind, frame, 0], dtype)
    norms = [key for key in file.files if key.startswith(f"grad{end}_norm/")]
    assert norms
    for key in norms:
        norm = np.linalg.norm(gradients[key.split("/")[1]].astype(np.float64))
        close(norm, file[key], 1e-7 if high else 2e-2, key)
    without = {name for name in plan_names(file) if name not in gradients}
    assert without == set(file["meta/params_without_gradient"].tolist())


def plan_names(file) -> list[str]:
    """The parameters of the golden command's network, by their official names."""
    from models import build_model

    model = build_model(options_of(file, str(file["meta/command"])))
    own = {name for name, p in model.named_parameters() if not p.stop_gradient}
    return [entry.torch for entry in plan(model).entries if entry.paddle and entry.paddle[0] in own]


VARIANTS = [
    pytest.param(*case.values, str(variant), id=f"{case.id}-{variant}")
    for case in cases("loss_ablations")
    for variant in golden(*case.values[:2])["meta/variants"]
]


@pytest.mark.parametrize(("folder", "part", "dtype", "variant"), VARIANTS)
def test_ablations(folder, part, dtype, variant):
    file, high, end = golden(folder, part), dtype == "float64", suffix(dtype)
    command = str(file[f"meta/command/{variant}"])
    found, gradients = one_pass(file, command, dtype)
    scales = options_of(file, command).scales
    terms = [found["loss"], *(found[f"loss/{scale}"] for scale in scales)]
    close([float(term) for term in terms], file[f"loss{end}/{variant}"], 1e-10 if high else 1e-5, "loss")
    for key in (key for key in file.files if key.startswith(f"output{end}/{variant}/cam_T_cam_")):
        value = found["cam_T_cam", 0, int(key.rsplit("_", 1)[1])]
        close(value.numpy(), file[key], 1e-9 if high else 1e-4, key)
    for key in (key for key in file.files if key.startswith(f"grad{end}_norm/{variant}/")):
        part = key.rsplit("/", 1)[1]
        squares = [np.sum(g.astype(np.float64) ** 2) for name, g in gradients.items() if name.startswith(f"{part}.")]
        close(np.sqrt(np.sum(squares)), file[key], 1e-7 if high else 2e-2, key)


# ----------------------------------------------------------------------------------------------------------- steps


@pytest.mark.parametrize(("folder", "part", "dtype"), cases("loss_mono", "loss_stereo", "loss_ms"))
def test_five_steps(folder, part, dtype):
    file, high, end = golden(folder, part), dtype == "float64", suffix(dtype)
    options = options_of(file, str(file["meta/command"]))
    model = loaded(file, options, trained=True)
    model.to(dtype=dtype)
    model.train()
    batch = batch_of(file, options, dtype)
    noise = noise_of(file, options, batch, dtype)
    criterion, optimizer = build_criterion(options), build_optimizer(model, options, options.learning_rate)
    losses = []
    for _ in range(5):
        loss = criterion(model(batch), batch, noise)["loss"]
        losses.append(float(loss))
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()
    expected = file[f"train{end}/loss"]
    for step, limit in enumerate([1e-10, 1e-8, 1e-4, 1e-4, 1e-4] if high else [1e-5, 2e-3, 3e-2, 3e-2, 3e-2]):
        close(losses[step], expected[step], limit, f"step {step}")
    state, _ = plan(model).to_torch({name: value.numpy() for name, value in model.state_dict().items()})
    for key in (key for key in file.files if key.startswith(f"train{end}/param_l2/")):
        name = key.split("/")[2]
        limit = 1e-5 if high else 1e-3 if name.endswith("running_var") else 2e-3
        close(np.linalg.norm(state[name].astype(np.float64)), file[key], limit, key)


@pytest.mark.parametrize("folder", files_of("loss_ms"))
@pytest.mark.parametrize(("at", "key"), [("end", "schedule/lr"), ("start", "schedule/lr_current_torch")])
def test_schedule(folder, at, key):
    options = parse_options(["--scheduler_step_at", at])
    scheduler, rates = build_scheduler(options), []
    for _ in range(options.num_epochs):
        rates.append(scheduler())
        scheduler.step()
    np.testing.assert_allclose(rates, golden(folder, "loss_ms")[key], rtol=1e-12)
