"""What the tests of the network share: it with the golden files' weights, their inputs, and what its layers saw."""

import numpy as np
import paddle

from shared import convert

import golden_files
from datasets import Batch
from golden_files import golden
from models import GUPNet, build_model

#: suffix of the keys of each dtype's figures
SUFFIX = {"float32": "", "float64": "64"}


def network(part: str, dtype: str) -> GUPNet:
    """The network with the weights that the figures of `part` were made from."""
    model = build_model()
    tensors, _, report = convert.plan(model).to_paddle(golden_files.formula_weights(part))
    report.raise_if_bad(part)
    model.set_state_dict(tensors)
    if dtype == "float64":
        model.to(dtype="float64")
    return model


def batch_of(part: str, dtype: str, prefix: str = "input/", image: str | None = None) -> Batch:
    """A batch of the figures of `part`: the image by its formula, everything else from the file."""
    figures = golden(part)
    arrays = [golden_files.image_of(part, image), figures[f"{prefix}calibs"], figures[f"{prefix}coord_ranges"]]
    targets = golden_files.below(part, f"{prefix}targets/")
    targets = {name: paddle.to_tensor(value) for name, value in targets.items()}
    return Batch(*(paddle.to_tensor(array.astype(dtype)) for array in arrays), targets, {})


def run(model: GUPNet, batch: Batch, mode: str) -> dict[str, paddle.Tensor]:
    return model(batch.images, batch.coord_ranges, batch.calibs, batch.targets, mode=mode)


def run_recorded(model: GUPNet, batch: Batch, mode: str) -> tuple[dict, dict[str, np.ndarray]]:
    """(the outputs, {level0.., feat, roi: what went from part to part})."""
    seen: dict[str, np.ndarray] = {}

    def levels(layer, inputs, outputs):
        seen.update({f"level{i}": level.numpy() for i, level in enumerate(outputs)})

    hooks = [
        model.backbone.register_forward_post_hook(levels),
        model.feat_up.register_forward_post_hook(lambda layer, inputs, output: seen.update(feat=output.numpy())),
        model.depth.register_forward_pre_hook(lambda layer, inputs: seen.update(roi=inputs[0].numpy())),
    ]
    try:
        return run(model, batch, mode), seen
    finally:
        for hook in hooks:
            hook.remove()


def gradients(model: GUPNet) -> dict[str, np.ndarray]:
    """{official name: gradient} of the parameters that have one."""
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return convert.plan(model).gradients_to_torch(found)


def official_state(model: GUPNet) -> dict[str, np.ndarray]:
    """{official name: float64 array} of the network."""
    state, _ = convert.plan(model).to_torch({name: value.numpy() for name, value in model.state_dict().items()})
    return {name: array.astype(np.float64) for name, array in state.items()}
