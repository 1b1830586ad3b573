"""Networks filled with the formula weights that golden figures were made from, and golden batches."""

from collections.abc import Mapping

import numpy as np
import paddle

from shared.align.formula import formula_input
from shared.convert import plan

from convert import STORED
from golden_files import formula_weights
from models import build_model
from options import parse_options

OFF = ("@align0", "@nonoise", "@eval")


def loaded(file, options, names: Mapping[str, str] | None = None, trained: bool = False):
    """build_model(options) with the formula weights of `file`.

    names: {sub-network: what the figure calls it}, when another. trained: take only the disparity biases among the
    overrides, as the figures of training mode do.
    """
    model = build_model(options)
    layout = plan(model)
    own, _ = layout.to_torch({name: value.numpy() for name, value in model.state_dict().items()})
    tensors = {name: own[name] for name in STORED}
    for part in {name.split(".")[0] for name in own} - set(STORED):
        prefix = f"{part}."
        shapes = {name.removeprefix(prefix): a.shape for name, a in own.items() if name.startswith(prefix)}
        state = formula_weights(file, (names or {}).get(part, part), shapes)
        if trained:
            statistics = {k: s for k, s in shapes.items() if "running_" in k}
            plain = formula_weights(_WithoutOverrides(file), (names or {}).get(part, part), statistics)
            state |= plain
        tensors |= {prefix + name: array for name, array in state.items()}
    filled, _, report = layout.to_paddle(tensors)
    report.raise_if_bad("formula")
    model.set_state_dict(filled)
    return model


class _WithoutOverrides:
    """A golden file as far as the formula itself is concerned."""

    def __init__(self, file):
        self.files = []
        self._file = file

    def __getitem__(self, key):
        return self._file[key]


def options_of(file, command: str):
    """The options of a golden command at the figures' size, without its marks (@align0, @nonoise, @eval)."""
    words = [word for word in command.split() if word not in OFF]
    size = ["--height", str(file["meta/height"]), "--width", str(file["meta/width"])]
    options = parse_options([*words, *size])
    options.align_corners = "@align0" not in command
    return options


def cameras(height: int, width: int, scale: int) -> tuple[np.ndarray, np.ndarray]:
    """K and its inverse at one scale, float32 [4, 4] (NOTES 2.6)."""
    K = np.array([[0.58, 0, 0.5, 0], [0, 1.92, 0.5, 0], [0, 0, 1, 0], [0, 0, 0, 1]], np.float32)
    K[0] *= width // 2**scale
    K[1] *= height // 2**scale
    return K, np.linalg.pinv(K)


def batch_of(file, options, dtype: str) -> dict:
    """The pictures and cameras of a loss figure as Paddle tensors."""
    batch, n = {}, int(file["meta/batch"])
    for key in file.files:
        if key.startswith("input/color"):
            kind, frame, scale = key.removeprefix("input/").rsplit("_", 2)
            name = (kind, frame if frame == "s" else int(frame), int(scale))
            batch[name] = paddle.to_tensor((file[key].astype(np.float32) / 255).astype(dtype))
    for scale in range(4):
        for name, camera in zip(("K", "inv_K"), cameras(options.height, options.width, scale), strict=True):
            batch[name, scale] = paddle.to_tensor(np.tile(camera, (n, 1, 1)).astype(dtype))
    if "input/stereo_T" in file.files:
        batch["stereo_T"] = paddle.to_tensor(file["input/stereo_T"].astype(dtype))
    return batch


def noise_of(file, options, batch: dict, dtype: str) -> list:
    """The golden noise of one pass, N(0, 1), one tensor for each scale."""
    channels = 1 if options.avg_reprojection else len([*options.frame_ids[1:], *(["s"] if options.use_stereo else [])])
    noise = []
    for index, scale in enumerate(options.scales):
        n, _, height, width = batch["color", 0, scale if options.v1_multiscale else 0].shape
        shape = (n, channels, height, width)
        drawn = formula_input(f"noise/{index}", shape, int(file["meta/seed"]))
        noise.append(paddle.to_tensor(drawn.astype(dtype)))
    return noise
