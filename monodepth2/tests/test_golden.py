"""The Paddle code and its torch twin against figures of the official code (NOTES 9; bounds of 9.5, or tighter).

What a file does not hold is not asked for, so slim and held-out files can be read too; seeds, sizes and commands come
from the file.
"""

import numpy as np
import pytest
from paddle.nn import functional as F

from shared import InputError
from shared.align.formula import formula_input
from shared.weights import as_numpy

from golden_files import close, files_of, formula_weights, golden, official_shapes
from networks import PORT, SIDES, TWIN, golden_batch, golden_images, golden_network, golden_noise, golden_options
from options import parse_options
from reference import official

LOSS_PARTS = ("loss_mono", "loss_stereo", "loss_ms")
DTYPES = ("float32", "float64")


def cases(*parts: str, needs: str = "", dtypes=DTYPES) -> list:
    """(side, folder, part, dtype) of every golden file at hand that holds the figure `needs`."""
    return [
        pytest.param(side, folder, part, dtype, id=f"{part}-{folder}-{dtype}-{name}")
        for name, side in SIDES.items()
        for part in parts
        for folder in files_of(part)
        for dtype in dtypes
        if not needs or needs in golden(folder, part).files
    ]


def on(*parts: str, **settings):
    return pytest.mark.parametrize(("side", "folder", "part", "dtype"), cases(*parts, **settings))


def suffix(dtype: str) -> str:
    return "64" if dtype == "float64" else ""


def compare(file, name: str, value, dtype: str, float32: float = 1e-4, float64: float = 1e-9) -> None:
    """Against `name` of the file, or the slice of it that is stored: then its statistics must agree too."""
    key, limit = name, float64 if dtype == "float64" else float32
    if key not in file.files:
        return
    value = as_numpy(value.detach())
    if f"{key}/stats" in file.files:
        found = [value.mean(), value.std(), np.abs(value).max()]
        close(found, file[f"{key}/stats"], limit, f"{key}/stats")
        steps = [-(-full // kept) for full, kept in zip(value.shape, file[key].shape, strict=True)]
        value = value[tuple(slice(None, None, step) for step in steps)]
    close(value, file[key], limit, key)


# ------------------------------------------------------------------------------------ layers


@pytest.fixture(params=[pytest.param(case.values, id=case.id) for case in cases("layers")])
def layers(request):
    """(the side, its layers, input of the file by name, a comparison with its figures)."""
    side, folder, part, dtype = request.param
    file = golden(folder, part)

    def given(name: str, gradient: bool = False):
        return side.tensor(file[f"input/{name}"].astype(dtype), gradient)

    def check(name: str, value, float32: float = 1e-5, float64: float = 1e-10) -> None:
        key = f"output{suffix(dtype)}/{name}"
        assert key in file.files
        close(as_numpy(value.detach()), file[key], float64 if dtype == "float64" else float32, name)

    given.file, given.dtype = file, dtype
    return side, side.layers, given, check


def test_depth_of_disparity(layers):
    _, code, given, check = layers
    scaled, depth = code.disp_to_depth(given("disp"), 0.1, 100.0)
    check("scaled_disp", scaled)
    check("depth", depth)


def test_motions(layers):
    side, code, given, check = layers
    axisangle, translation = given("axisangle"), given("translation")
    check("rot_from_axisangle", code.rotation(axisangle))
    check("get_translation_matrix", code.translation_matrix(translation))
    check("transform_batch1", side.motion(axisangle[:1], translation[:1], False))
    for invert in (0, 1):
        axisangle, translation = given("axisangle", True), given("translation", True)
        motion = side.motion(axisangle, translation, bool(invert))
        check(f"transform_invert{invert}", motion)
        (motion * given("probe")).sum().backward()
        check(f"transform_invert{invert}_grad_axisangle", axisangle.grad, 1e-4, 1e-9)
        check(f"transform_invert{invert}_grad_translation", translation.grad)


@pytest.mark.parametrize("align", [0, 1])
def test_warp(layers, align):
    side, code, given, check = layers
    motion = side.motion(given("pose_axisangle"), given("pose_translation"), False)
    check("pose_T", motion)
    _, depth = code.disp_to_depth(given("disp"), 0.1, 100.0)
    depth = side.tensor(as_numpy(depth), gradient=True)
    points = code.back_project(depth, given("inv_K"))
    grid = code.project(points, given("K"), motion, (6, 8))
    check("cam_points", points)
    check("pix_coords", grid)
    probe = formula_input("warp_probe", (2, 3, 6, 8), int(given.file["meta/seed"])).astype(given.dtype)
    leaf = side.tensor(as_numpy(grid.detach()), gradient=True)
    for sampled in (leaf, grid):
        warped = code.warp(given("img"), sampled, bool(align))
        check(f"warp_align{align}", warped)
        (warped * side.tensor(probe)).sum().backward()
    check(f"warp_align{align}_grad_grid", leaf.grad)
    key = f"output{suffix(given.dtype)}/warp_align{align}_grad_depth"
    compare(given.file, key, depth.grad, given.dtype, 1e-5, 1e-10)


def test_photometric_terms(layers):
    side, code, given, check = layers
    image = given("img", True)
    ssim = code.ssim(image, given("img2"))
    check("ssim", ssim)
    ssim.sum().backward()
    check("ssim_grad_x", image.grad, 1e-5, 1e-7 if side is PORT else 1e-10)  # NOTES 8.7
    same = code.ssim(given("img"), given("img"))
    figure = given.file[f"output{suffix(given.dtype)}/ssim_same"]
    assert float(same.abs().max()) <= np.abs(figure).max() + (1e-6 if side is PORT else 0)


def test_smoothness(layers):
    side, code, given, check = layers
    disp = given("disp", True)
    mean = disp.mean([2, 3], keepdim=True) + 1e-7
    loss = code.smooth(disp / mean, given("img"))
    check("smooth_loss", loss)
    loss.backward()
    check("smooth_loss_grad_disp", disp.grad)


def test_convolution_block(layers):
    side, code, given, check = layers
    block, shapes = code.conv_block(5, 4), {"conv.conv.weight": (4, 5, 3, 3), "conv.conv.bias": (4,)}
    state = formula_weights(given.file, "convblock", shapes)
    side.fill(block, state)
    check("convblock", side.cast(block, given.dtype)(given("feat")))
    if side is PORT:
        check("upsample", F.interpolate(given("feat"), scale_factor=2, mode="nearest"))
        resized = F.interpolate(given("disp"), (19, 19), mode="bilinear", align_corners=False)
        check("bilinear", resized, 1e-5, 1e-6)


# ------------------------------------------------------------------------------------ networks


@pytest.mark.parametrize("side", SIDES.values(), ids=SIDES)
@pytest.mark.parametrize(
    ("command", "listings"),
    [
        ("", ["encoder", "depth", "pose_encoder", "pose"]),
        ("--num_layers 50", ["encoder", "depth", "pose_encoder", "pose"]),
        ("--num_layers 34 --pose_model_type shared", ["encoder", "depth", "pose=pose_shared"]),
        ("--pose_model_type posecnn", ["encoder", "depth", "pose=posecnn2"]),
        (
            "--pose_model_type posecnn --pose_model_input all --predictive_mask --disable_automasking",
            ["encoder", "depth", "pose=posecnn3", "predictive_mask"],
        ),
        ("--frame_ids 0 --use_stereo", ["encoder", "depth"]),
    ],
)
def test_tensors_are_the_official_ones(side, command, listings):
    options = parse_options(command.split())
    expected = [
        (f"{listing.split('=')[0]}.{name}", shape)
        for listing in listings
        for name, shape in official_shapes(listing.split("=")[-1], options.num_layers).items()
    ]
    assert list(side.shapes(side.build(options)).items()) == expected


@on("net18", "net34", "net50")
def test_networks(side, folder, part, dtype):
    file, out = golden(folder, part), f"output{suffix(dtype)}"
    images = golden_images(side, file, dtype)
    pairs = part != "net34"  # the reference has no ResNet-34 of two images
    kind = "separate_resnet" if pairs else "posecnn"
    options = golden_options(file, f"--num_layers {file['meta/num_layers']} --pose_model_type {kind}")
    model = golden_network(side, file, options, dtype)
    model.eval()
    with side.no_grad():
        features, disparities = model.encoder(images[:, :3]), model.predict_disparity(images[:, :3])
        assert len(features) == 5 and len(disparities) == 4
        for level, feature in enumerate(features):
            compare(file, f"{out}/depth/feature{level}", feature, dtype)
        for (_, scale), disp in disparities.items():
            assert f"{out}/disp{scale}" in file.files
            compare(file, f"{out}/disp{scale}", disp, dtype)
        if pairs:
            for level, feature in enumerate(model.pose_encoder(images[:, :6])):
                compare(file, f"{out}/pose/feature{level}", feature, dtype)
            check_motions(file, f"{out}/pose", model.predict_pose(images[:, :6]), dtype)


def check_motions(file, prefix: str, motions: tuple, dtype: str) -> None:
    for name, value in zip(("axisangle", "translation"), motions, strict=True):
        compare(file, f"{prefix}/{name}", value, dtype)


POSE_NETWORKS = {  # figure: (options, what the figure calls the sub-networks, channels of the images)
    "pose_all": ("--pose_model_input all", {"pose_encoder": "pose_encoder3", "pose": "pose_all"}, 9),
    "pose_shared": ("--pose_model_type shared", {"pose": "pose_shared"}, 6),
    "posecnn2": ("--pose_model_type posecnn", {"pose": "posecnn2"}, 6),
    "posecnn3": ("--pose_model_type posecnn --pose_model_input all", {"pose": "posecnn3"}, 9),
}


@pytest.mark.parametrize("figure", POSE_NETWORKS)
@on("net18")
def test_other_pose_networks(side, folder, part, dtype, figure):
    file = golden(folder, part)
    command, names, channels = POSE_NETWORKS[figure]
    model = golden_network(side, file, golden_options(file, command), dtype, names)
    model.eval()
    for size in ("", "_large"):
        prefix = f"output{suffix(dtype)}/{figure}{size}"
        assert size or f"{prefix}/axisangle" in file.files
        if f"{prefix}/axisangle" in file.files:
            images = golden_images(side, file, dtype, f"images{size}")[:, :channels]
            with side.no_grad():
                check_motions(file, prefix, model.predict_pose(images), dtype)
                for level, feature in enumerate(model.pose_encoder(images) if figure == "pose_all" else ()):
                    compare(file, f"{prefix}/feature{level}", feature, dtype)


@on("net18")
def test_predictive_mask(side, folder, part, dtype):
    file = golden(folder, part)
    model = golden_network(side, file, golden_options(file, "--predictive_mask --disable_automasking"), dtype)
    model.eval()
    with side.no_grad():
        masks = model.predictive_mask(model.encoder(golden_images(side, file, dtype)[:, :3]))
    for (_, scale), mask in masks.items():
        compare(file, f"output{suffix(dtype)}/predictive_mask/disp{scale}", mask, dtype)


@on("net18", dtypes=["float32"])
def test_first_convolution_of_two_images(side, folder, part, dtype):
    file = golden(folder, part)
    found = side.first_convolution(formula_weights(file, "encoder", official_shapes("encoder")))[::8, :, ::3, ::3]
    close(found, file["output/pretrained_conv1_2images"], 1e-7, "conv1")


# ------------------------------------------------------------------------------------ losses and gradients


def one_pass(side, file, command: str, dtype: str) -> tuple:
    """(model, outputs and details of a golden command after its backward pass)."""
    options = golden_options(file, command)
    model = golden_network(side, file, options, dtype)
    model.eval() if "@eval" in command else model.train()
    batch = golden_batch(side, file, options, dtype)
    outputs = model(batch)
    details = side.details(outputs, batch, options, golden_noise(side, file, options, dtype, command))
    details["loss"].backward()
    return model, {**outputs, **details}


def norm(gradient) -> float:
    return float(np.linalg.norm(as_numpy(gradient).astype(np.float64)))


def check_norm(side, value: float, expected, limit: float, key: str) -> None:
    least = 0 if side is PORT else 1e-12
    assert abs(value - float(expected)) <= max(limit * abs(float(expected)), least), key


@on(*LOSS_PARTS, needs="loss/loss")
def test_losses_and_gradients(side, folder, part, dtype):
    file, high, end = golden(folder, part), dtype == "float64", suffix(dtype)
    model, found = one_pass(side, file, str(file["meta/command"]), dtype)
    terms = [key for key in file.files if key.startswith(f"loss{end}/")]
    assert {f"loss{end}/{name}" for name in ("loss", "loss_0", "loss_1", "loss_2", "loss_3")} <= set(terms)
    for key in terms:
        compare(file, key, found[key.split("/")[1].replace("_", "/")], dtype, 1e-5, 1e-10)
    for scale in range(4):
        compare(file, f"output{end}/disp{scale}", found["disp", scale], dtype)
        key = f"output{end}/identity_selection{scale}"
        if key in file.files:
            selection = as_numpy(found[f"identity_selection/{scale}"]).reshape(file[key].shape)
            assert (selection != file[key]).mean() <= (0 if high else 1e-3), key
    for scale in (0, 3):
        compare(file, f"output{end}/depth{scale}", found["depth", 0, scale], dtype)
    for f in file["meta/frame_ids"].tolist()[1:]:
        frame = f if f == "s" else int(f)
        for kind in ("axisangle", "translation", "cam_T_cam") if frame != "s" else ():
            compare(file, f"output{end}/{kind}_{f}", found[kind, 0, frame], dtype)
        compare(file, f"output{end}/sample_{f}_0", found["sample", frame, 0][:, ::4, ::4], dtype)
        for kind in ("color", "reprojection", "identity"):
            compare(file, f"output{end}/{kind}_{f}_0", found[kind, frame, 0], dtype)
    gradients = side.gradients(model)
    norms = [key for key in file.files if key.startswith(f"grad{end}_norm/")]
    assert norms
    for key in norms:
        check_norm(side, norm(gradients[key.split("/")[1]]), file[key], 1e-7 if high else 2e-2, key)
    without = [name for name in side.parameters(model) if name not in gradients]
    assert without == file["meta/params_without_gradient"].tolist()


ABLATIONS = [
    pytest.param(*case.values, str(variant), id=f"{case.id}-{variant}")
    for case in cases("loss_ablations")
    for variant in golden(*case.values[1:3])["meta/variants"]
]


@pytest.mark.parametrize(("side", "folder", "part", "dtype", "variant"), ABLATIONS)
def test_ablations(side, folder, part, dtype, variant):
    file, high, end = golden(folder, part), dtype == "float64", suffix(dtype)
    model, found = one_pass(side, file, str(file[f"meta/command/{variant}"]), dtype)
    scales = golden_options(file, str(file[f"meta/command/{variant}"])).scales
    terms = [found["loss"], *(found[f"loss/{scale}"] for scale in scales)]
    close([float(term) for term in terms], file[f"loss{end}/{variant}"], 1e-10 if high else 1e-5, "loss")
    for key in (key for key in file.files if key.startswith(f"output{end}/{variant}/cam_T_cam_")):
        compare(file, key, found["cam_T_cam", 0, int(key.rsplit("_", 1)[1])], dtype)
    gradients = side.gradients(model)
    for key in (key for key in file.files if key.startswith(f"grad{end}_norm/{variant}/")):
        submodel = key.rsplit("/", 1)[1]
        norms = [norm(gradient) for name, gradient in gradients.items() if name.startswith(f"{submodel}.")]
        close(np.linalg.norm(norms), file[key], 1e-7 if high else 2e-2, key)


# ------------------------------------------------------------------------------------ steps


def step_cases() -> list:
    """The twin's in float64 alone: rounding decides the signs of tiny gradients, Adam's first step (NOTES 8.9)."""
    ports = cases(*LOSS_PARTS, needs="train/loss")
    twins = cases(*LOSS_PARTS[1:], needs="train64/loss", dtypes=["float64"])  # loss_mono has no more than loss_ms
    return [case for case in ports if case.values[0] is PORT] + [case for case in twins if case.values[0] is TWIN]


@pytest.mark.parametrize(("side", "folder", "part", "dtype"), step_cases())
def test_five_steps(side, folder, part, dtype):
    """By the training step that the trainer calls."""
    file, high, end = golden(folder, part), dtype == "float64", suffix(dtype)
    options = golden_options(file, str(file["meta/command"]))
    training = side.training(golden_network(side, file, options, dtype), options)
    batch, noise = golden_batch(side, file, options, dtype), golden_noise(side, file, options, dtype)
    limits = [1e-10, 1e-8, 1e-4, 1e-4, 1e-4] if high else [1e-5, 2e-3, 3e-2, 3e-2, 3e-2]
    for step, (expected, limit) in enumerate(zip(file[f"train{end}/loss"], limits, strict=True)):
        loss = side.train_step(training, batch, options, step, noise)["loss"]
        close(loss, expected, limit, f"step {step}")
    state = side.state(training[0])
    for key in (key for key in file.files if key.startswith(f"train{end}/param_l2/")):
        name = key.split("/")[2]
        limit = 1e-5 if high else 1e-3 if name.endswith("running_var") else 2e-3
        close(norm(state[name]), file[key], limit, key)
    for key in (key for key in file.files if high and key.startswith("train64/param_sum/")):
        expected = float(file[key])
        assert abs(float(state[key.split("/")[2]].sum()) - expected) <= max(2e-3 * abs(expected), 2e-3), key


@on(*LOSS_PARTS, needs="schedule/lr", dtypes=["float64"])
@pytest.mark.parametrize(("at", "key"), [("end", "schedule/lr"), ("start", "schedule/lr_current_torch")])
def test_schedule(side, folder, part, dtype, at, key):
    options = parse_options(["--scheduler_step_at", at, "--frame_ids", "0", "--use_stereo"])
    rates = side.rates(side.training(side.build(options), options), options)
    np.testing.assert_allclose(rates, golden(folder, part)[key], rtol=1e-12 if side is PORT else 0)


# ------------------------------------------------------------------------------------ the official code


def test_official_code_must_be_there(tmp_path):
    with pytest.raises(InputError, match="no such folder; git clone"):
        official.load(tmp_path / "missing")
    with pytest.raises(InputError, match="not a checkout of monodepth2, trainer.py is missing; git clone"):
        official.load(tmp_path)
