"""Both sides under test, called alike: this folder's Paddle code, and its torch twin."""

from collections.abc import Mapping
from types import SimpleNamespace

import numpy as np
import paddle
import torch

from shared.align.formula import formula_input
from shared.convert import plan

from alignment.paddle_side import PaddleSide
from alignment.torch_side import TWIN_CODE, TorchSide
from convert import STORED
from datasets.transforms import intrinsics
from golden_files import network_weights
from losses import photometric
from models import geometry as port_geometry
from models.layers import ConvBlock
from models.resnet_encoder import first_convolution
from options import parse_options, sources
from reference import geometry, losses, network

MARKS = ("@align0", "@nonoise", "@eval")  # of stored commands (NOTES 9.4)


class Port(PaddleSide):
    """This folder's Paddle code."""

    layers = SimpleNamespace(
        **vars(port_geometry),
        rotation=port_geometry.rot_from_axisangle,
        translation_matrix=port_geometry.get_translation_matrix,
        back_project=port_geometry.backproject_depth,
        project=port_geometry.project_3d,
        ssim=lambda x, y: photometric.ssim_loss(x, y, photometric.local_mean(y), photometric.local_mean(y * y)),
        smooth=photometric.get_smooth_loss,
        conv_block=ConvBlock,
    )

    def fill(self, model, state: Mapping[str, np.ndarray]) -> None:
        """Official tensors {name: array}, without STORED, into `model`."""
        stored = {name: getattr(model, name).numpy() for name in STORED if hasattr(model, name)}
        filled, _, report = plan(model).to_paddle({**state, **stored})
        report.raise_if_bad("formula")
        assert model.set_state_dict(filled) == ([], [])

    def cast(self, model, dtype: str):
        model.to(dtype=dtype)
        return model

    def state(self, model) -> dict[str, np.ndarray]:
        return plan(model).to_torch({name: value.numpy() for name, value in model.state_dict().items()})[0]

    def parameters(self, model) -> list[str]:
        own = {name for name, p in model.named_parameters() if not p.stop_gradient}
        return [entry.torch for entry in plan(model).entries if entry.paddle and entry.paddle[0] in own]

    def details(self, outputs: dict, batch: dict, options, noise: list) -> dict:
        return self.criterion(options).details(outputs, batch, noise)

    def first_convolution(self, state: Mapping[str, np.ndarray]) -> np.ndarray:
        return first_convolution(paddle.to_tensor(state["encoder.conv1.weight"]), 2).numpy()


class Twin(TorchSide):
    """The torch twin."""

    layers = SimpleNamespace(
        **vars(geometry), ssim=losses.ssim_error, smooth=losses.smoothness, conv_block=network.ConvBlock
    )

    def __init__(self):
        super().__init__(TWIN_CODE)

    def fill(self, model, state: Mapping[str, np.ndarray]) -> None:
        model.load_state_dict({name: torch.tensor(array) for name, array in state.items()})

    def cast(self, model, dtype: str):
        return model.to(getattr(torch, dtype))

    def state(self, model) -> dict[str, np.ndarray]:
        return {name: value.numpy() for name, value in model.state_dict().items()}

    def parameters(self, model) -> list[str]:
        return [name for name, _ in model.named_parameters()]

    def details(self, outputs: dict, batch: dict, options, noise: list) -> dict:
        """Those of the twin, and further ones that the port has by itself."""
        details = self.criterion(options).details(outputs, batch, noise)
        target = batch["color", 0, 0]
        for f in sources(options):
            for kind, images in (("reprojection", details), ("identity", batch)):
                details[kind, f, 0] = losses.photometric_error(images["color", f, 0], target, True)
        for s in options.scales:
            smooth = losses.smoothness(losses.normalised(outputs["disp", s]), batch["color", 0, s])
            details[f"smooth/{s}"] = smooth
        return details

    def first_convolution(self, state: Mapping[str, np.ndarray]) -> np.ndarray:
        encoder = network.ResnetEncoder(18, 2)
        encoder.load_imagenet({name.removeprefix("encoder."): torch.tensor(value) for name, value in state.items()})
        kept = encoder.encoder.layer4[1].conv2.weight.detach().numpy()
        np.testing.assert_array_equal(kept, state["encoder.layer4.1.conv2.weight"])
        return encoder.encoder.conv1.weight.detach().numpy()


PORT, TWIN = Port(), Twin()
SIDES = {"port": PORT, "twin": TWIN}


# ------------------------------------------------------------------------------------ inputs of the golden figures


def golden_network(side, file, options, dtype: str, names: Mapping[str, str] | None = None):
    """The network of `options` with the formula weights of `file`; `names` as `network_weights` takes them."""
    model = side.build(options)
    side.fill(model, network_weights(file, side.shapes(model), names or {}))
    return side.cast(model, dtype)


def golden_options(file, command: str):
    """The options of a golden command at the figures' size, without its marks."""
    words = [word for word in command.split() if word not in MARKS]
    options = parse_options([*words, "--height", str(file["meta/height"]), "--width", str(file["meta/width"])])
    options.align_corners = "@align0" not in command
    return options


def golden_images(side, file, dtype: str, key: str = "images"):
    """Stored uint8 images, brought to [0, 1] in float32 first, as the figures' inputs were."""
    return side.tensor((file[f"input/{key}"].astype(np.float32) / 255).astype(dtype))


def golden_batch(side, file, options, dtype: str) -> dict:
    """The images and cameras of a loss figure."""
    batch, n = {}, int(file["meta/batch"])
    for key in file.files:
        if key.startswith("input/color"):
            kind, frame, scale = key.removeprefix("input/").rsplit("_", 2)
            name = (kind, frame if frame == "s" else int(frame), int(scale))
            batch[name] = golden_images(side, file, dtype, key.removeprefix("input/"))
    for scale in range(4):
        for name, camera in zip(("K", "inv_K"), intrinsics(options.height, options.width, scale), strict=True):
            batch[name, scale] = side.tensor(np.tile(camera, (n, 1, 1)).astype(dtype))
    if "input/stereo_T" in file.files:
        batch["stereo_T"] = side.tensor(file["input/stereo_T"].astype(dtype))
    return batch


def golden_noise(side, file, options, dtype: str, command: str = "") -> list:
    """The golden noise of one pass, one tensor for each scale (NOTES 9.3)."""
    n, channels = int(file["meta/batch"]), 1 if options.avg_reprojection else len(sources(options))
    noise = []
    for index, scale in enumerate(options.scales):
        at = scale if options.v1_multiscale else 0
        shape = (n, channels, options.height >> at, options.width >> at)
        drawn = formula_input(f"noise/{index}", shape, int(file["meta/seed"])).astype(dtype)
        noise.append(side.tensor(np.zeros_like(drawn) if "@nonoise" in command else drawn))
    return noise
