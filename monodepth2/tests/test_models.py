"""The networks in every combination of options: shapes, the torch twin's outputs, initialisation, the warp, a step."""

import itertools
import subprocess
import sys

import numpy as np
import paddle
import pytest
import torch

from shared.align.formula import formula_state

from datasets.transforms import intrinsics
from engine import build_training, tie_breaking_noise, train_step
from golden_files import close
from losses import build_criterion
from models import build_model
from models.geometry import warp
from networks import PORT, TWIN
from options import parse_options, sources
from reference.losses import build_criterion as build_reference_criterion
from reference.network import ResnetEncoder as ReferenceEncoder
from reference.network import build_reference

HEIGHT, WIDTH, BATCH = 64, 64, 2
SIZE = ["--height", str(HEIGHT), "--width", str(WIDTH)]


def options_of(command: str):
    return parse_options([*command.split(), *SIZE])


# ------------------------------------------------------------------------------------ structure


def test_parameter_counts():
    """NOTES 3.10."""
    model = build_model(options_of(""))
    trained = [p for p in model.parameters() if not p.stop_gradient]  # Paddle counts statistics as parameters, too
    assert sum(p.size for p in trained) == 27_855_728 and len(trained) == 160
    assert sum(len(layer.parameters()) for layer in model.idle_layers()) == 4
    with torch.device("meta"):
        twin = build_reference(options_of(""))
        deeper = {layers: ReferenceEncoder(layers) for layers in (34, 50, 101, 152)}
    assert sum(p.numel() for p in twin.parameters()) == 27_855_728 and len(list(twin.parameters())) == 160
    counts = {layers: sum(p.numel() for p in encoder.parameters()) for layers, encoder in deeper.items()}
    assert counts == {34: 21_797_672, 50: 25_557_032, 101: 44_549_160, 152: 60_192_808}  # as torchvision's


# ------------------------------------------------------------------------------------ against the twin

# combinations without a golden figure
COMBINATIONS = [
    "--pose_model_type posecnn --use_stereo",
    "--num_layers 34 --frame_ids 0 -1 --use_stereo --scales 0",
    "--pose_model_type shared --predictive_mask --disable_automasking",
    "--pose_model_type shared --pose_model_input all --use_stereo --frame_ids 0 1 -1",
    "--pose_model_input all --frame_ids 0 -2 -1 1 2",
    "--pose_model_type posecnn --pose_model_input all --frame_ids 0 -2 -1 1 2 --v1_multiscale",
    "--frame_ids 0 2 --scales 3 1 --v1_multiscale --avg_reprojection --no_ssim",
    "--frame_ids 0 --use_stereo --predictive_mask --disable_automasking --v1_multiscale --scales 2",
]


def twins(options):
    """The two networks with the same weights, in float64 and train mode."""
    model, twin = build_model(options), build_reference(options)
    shapes = {name: tuple(value.shape) for name, value in twin.state_dict().items()}
    state = formula_state(shapes, seed=5)
    for name in state:  # so that depths are about 1
        if name.startswith("depth.decoder.1") and name.endswith("conv.bias") and state[name].size == 1:
            state[name] -= 3
    for side, network in ((PORT, model), (TWIN, twin)):
        side.fill(network, state)
        side.cast(network, "float64").train()
    return model, twin


def batch_of(options) -> tuple[dict, list[np.ndarray]]:
    """(inputs, noise), float64 arrays: pictures that differ a little from frame to frame."""
    generator = np.random.default_rng(1)
    batch = {"stereo_T": np.tile(np.eye(4), (BATCH, 1, 1))}
    batch["stereo_T"][:, 0, 3] = [0.1, -0.1]
    base = generator.random((BATCH, 3, HEIGHT, WIDTH))
    for frame, scale in itertools.product([0, *sources(options)], range(4)):
        if scale == 0:
            picture = np.clip(base + 0.1 * generator.standard_normal(base.shape), 0, 1)
            batch["color_aug", frame, 0] = np.clip(picture * 1.1, 0, 1)
        else:
            picture = (picture[..., ::2, ::2] + picture[..., 1::2, 1::2]) / 2
        batch["color", frame, scale] = picture
    for scale in range(4):
        for name, camera in zip(("K", "inv_K"), intrinsics(HEIGHT, WIDTH, scale), strict=True):
            batch[name, scale] = np.tile(camera.astype(np.float64), (BATCH, 1, 1))
    channels = 1 if options.avg_reprojection else len(sources(options))
    noise = []
    for scale in options.scales:
        at = scale if options.v1_multiscale else 0
        noise.append(generator.standard_normal((BATCH, channels, HEIGHT >> at, WIDTH >> at)))
    return batch, noise


def documented_shapes(options) -> dict:
    """{output: shape} as models/monodepth2.py says."""
    shapes = {("disp", s): (1, HEIGHT >> s, WIDTH >> s) for s in options.scales}
    if options.predictive_mask:
        count = len(sources(options))
        shapes |= {("predictive_mask", s): (count, HEIGHT >> s, WIDTH >> s) for s in options.scales}
    frames = len(options.frame_ids) if options.pose_model_input == "all" else 2
    motions = max(2, frames - 1) if options.pose_model_type == "separate_resnet" else frames - 1
    for f in options.frame_ids[1:]:
        shapes |= {("axisangle", 0, f): (motions, 1, 3), ("translation", 0, f): (motions, 1, 3)}
        shapes["cam_T_cam", 0, f] = (4, 4)
    return {name: [BATCH, *shape] for name, shape in shapes.items()}


@pytest.mark.parametrize("command", COMBINATIONS)
def test_outputs_losses_and_gradients_are_the_twins(command):
    options = options_of(command)
    model, twin = twins(options)
    batch, noise = batch_of(options)
    ours = {name: paddle.to_tensor(value) for name, value in batch.items()}
    theirs = {name: torch.from_numpy(value) for name, value in batch.items()}
    outputs, expected = model(ours), twin(theirs)
    assert {name: value.shape for name, value in outputs.items()} == documented_shapes(options)
    for name, value in expected.items():
        close(outputs[name].numpy(), value.detach().numpy(), 1e-7, str(name))

    terms = build_criterion(options)(outputs, ours, [paddle.to_tensor(drawn) for drawn in noise])
    wanted = build_reference_criterion(options)(expected, theirs, [torch.from_numpy(drawn) for drawn in noise])
    assert terms.keys() == wanted.keys() == {"loss", *(f"loss/{scale}" for scale in options.scales)}
    for name, value in wanted.items():
        close(terms[name].numpy(), value.detach().numpy(), 1e-8, name)

    terms["loss"].backward(), wanted["loss"].backward()
    found, gradients = PORT.gradients(model), TWIN.gradients(twin)
    assert found.keys() == gradients.keys()
    for name, gradient in gradients.items():
        gradient = gradient.numpy()
        difference = np.linalg.norm(found[name] - gradient)
        assert difference <= 1e-6 * max(np.linalg.norm(gradient), 1e-7), name


# ------------------------------------------------------------------------------------ initialisation


def test_fresh_weights():
    """Kaiming normal (fan out) in the ResNets, uniform in +-1 / sqrt(fan in) elsewhere (NOTES 3.3)."""
    paddle.seed(0)
    model = build_model(options_of("--predictive_mask --disable_automasking"))
    posecnn = build_model(options_of("--pose_model_type posecnn")).pose
    normal, uniform = [], []
    for part in (model.encoder, model.pose_encoder):
        for name, layer in part.named_sublayers():
            if isinstance(layer, paddle.nn.Conv2D):
                normal.append(layer)
                assert layer.bias is None, name
            elif name.endswith("fc"):
                uniform.append((name, layer.weight, layer.weight.shape[0]))
                uniform.append((name, layer.bias, layer.weight.shape[0]))
            elif hasattr(layer, "_variance"):
                assert float(layer.weight.min()) == float(layer.weight.max()) == 1 and not layer.bias.numpy().any()
                assert (layer._variance.numpy() == 1).all() and not layer._mean.numpy().any()
    for layer in normal:
        outputs, _, height, width = layer.weight.shape
        weight = layer.weight.numpy().ravel() / np.sqrt(2 / (outputs * height * width))
        assert abs(weight.std() - 1) < 4 / np.sqrt(2 * weight.size) and abs(weight.mean()) < 4 / np.sqrt(weight.size)
        assert np.abs(weight).max() > 3  # a uniform one of this deviation ends at 1.73
    for part in (model.depth, model.pose, model.predictive_mask, posecnn):
        for name, layer in part.named_sublayers():
            if isinstance(layer, paddle.nn.Conv2D):
                fan_in = int(np.prod(layer.weight.shape[1:]))
                uniform += [(name, layer.weight, fan_in), (name, layer.bias, fan_in)]
    assert len(normal) == 40 and len(uniform) == 2 * (2 + 14 + 4 + 14 + 8)
    torch.manual_seed(0)
    twin = build_reference(options_of(""))
    for encoder in (twin.encoder, twin.pose_encoder):
        spread = float(encoder.encoder.conv1.weight.detach().std())
        assert spread == pytest.approx((2 / (64 * 49)) ** 0.5, rel=0.05)
    bound = float(twin.depth.decoder[0].conv.conv.weight.detach().abs().max())
    assert bound == pytest.approx(4608**-0.5, rel=1e-3)
    for name, tensor, fan_in in uniform:
        values = tensor.numpy().ravel() * np.sqrt(fan_in)
        assert np.abs(values).max() <= 1 + 1e-6, name
        if values.size >= 500:
            assert np.abs(values).max() > 0.98 and abs(values.std() - 3**-0.5) < 2 / np.sqrt(values.size), name


# ------------------------------------------------------------------------------------ warp

PICTURE = np.random.default_rng(0).random((2, 3, 8, 12))
GRID = np.random.default_rng(1).uniform(-1.6, 1.6, (2, 5, 7, 2))


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("wanted", ["grid", "picture", "both"])
def test_the_warp_has_torchs_gradients(wanted, dtype, align_corners):
    """Also where only the grid needs one: there Paddle's own operator dies."""
    picture, grid = (paddle.to_tensor(array.astype(dtype)) for array in (PICTURE, GRID))
    picture.stop_gradient, grid.stop_gradient = wanted == "grid", wanted == "picture"
    twins = [torch.tensor(array.astype(dtype), requires_grad=True) for array in (PICTURE, GRID)]
    warped = warp(picture, grid, align_corners)
    expected = torch.nn.functional.grid_sample(*twins, padding_mode="border", align_corners=align_corners)
    limit = 1e-5 if dtype == "float32" else 1e-12
    close(warped.numpy(), expected.detach().numpy(), limit)
    (warped**2).sum().backward(), (expected**2).sum().backward()
    assert (picture.grad is None, grid.grad is None) == (wanted == "grid", wanted == "picture")
    for tensor, theirs in ((picture, twins[0]), (grid, twins[1])):
        if tensor.grad is not None:
            close(tensor.grad.numpy(), theirs.grad.numpy(), limit)


PLAIN = """
import paddle
image, grid = paddle.rand([1, 3, 8, 8]), paddle.zeros([1, 8, 8, 2])
grid.stop_gradient = False
paddle.nn.functional.grid_sample(image, grid, padding_mode="border").sum().backward()
"""


def test_the_warp_still_needs_its_guard():
    """Plain grid_sample ends in SIGSEGV when only the grid needs a gradient; once it does not, `warp` can be plain."""
    finished = subprocess.run([sys.executable, "-c", PLAIN], capture_output=True, text=True, timeout=120)
    assert finished.returncode == -11, finished.stderr


# ------------------------------------------------------------------------------------ a step


def test_frozen_norms_stay_frozen_under_data_parallel():
    """paddle.DataParallel's own train() would unfreeze them."""
    options = options_of("--pose_model_type posecnn --frame_ids 0 1 --scales 0 --freeze_bn")
    model = build_model(options)
    before = {name: value.numpy().copy() for name, value in model.state_dict().items()}
    training = build_training(model, options)._replace(model=paddle.DataParallel(model))
    batch, noise = batch_of(options)
    batch = {name: paddle.to_tensor(value.astype("float32")) for name, value in batch.items()}
    train_step(training, batch, options, 0, [paddle.to_tensor(drawn.astype("float32")) for drawn in noise])
    moved = {name for name, value in model.state_dict().items() if not np.array_equal(value.numpy(), before[name])}
    assert "depth.decoder.0.conv.conv.weight" in moved and not any(n.endswith(("_mean", "_variance")) for n in moved)


@pytest.mark.parametrize("argv", ["", "--disable_automasking", "--avg_reprojection --use_stereo --v1_multiscale"])
def test_an_item_has_the_same_noise_in_any_process(argv, monkeypatch):
    """Process `rank` of `world` has every world-th item."""
    options = options_of(argv)
    whole, _ = batch_of(options)
    noise = tie_breaking_noise(whole, options, 3)
    if options.disable_automasking:
        assert noise is None
        return
    channels = 1 if options.avg_reprojection else len(sources(options))
    assert [drawn.shape[:2] for drawn in noise] == [[BATCH, channels]] * 4
    assert not np.array_equal(noise[0].numpy(), tie_breaking_noise(whole, options, 4)[0].numpy())
    monkeypatch.setattr("paddle.distributed.get_world_size", lambda: BATCH)
    for rank in range(BATCH):
        monkeypatch.setattr("paddle.distributed.get_rank", lambda rank=rank: rank)
        own = {key: value[rank::BATCH] for key, value in whole.items()}
        for drawn, part in zip(noise, tie_breaking_noise(own, options, 3), strict=True):
            np.testing.assert_array_equal(part[0].numpy(), drawn[rank].numpy())
