"""Both sides of the golden figures: the Paddle network and the torch twin, with the weights that the figures were made
from, on the golden batches. What a test needs of a framework stands here or in the alignment's `Side`."""

import argparse
from typing import Any

import numpy as np
import paddle
import torch

from shared.align.formula import formula_input
from shared.convert import plan
from shared.weights import as_numpy

from alignment import paddle_side, torch_side
from datasets import pad_images
from golden_files import VARIANTS, close, formula_weights, golden, sliced, statistics
from models import build_model
from options import parse_options
from reference.network import build_reference

SIDES = {"paddle": paddle_side.SIDE, "torch": torch_side.TWIN}
DTYPES = ["float32", "float64"]
LAYERS = ["aux0", "aux1", "aux2", "aux3", "aux4", "last"]


def file_of(variant: str):
    """The golden file of a variant."""
    return golden() if variant == "base" else golden("variants")


def options_of(variant: str, *more: str) -> argparse.Namespace:
    """The options of the network that the figures of a variant were made with, without dropout."""
    file, key = file_of(variant), f"meta/{variant}/num_queries"
    queries = ["--num_queries", str(int(file[key]))] if key in file.files else []
    return parse_options([*VARIANTS[variant][1].split(), "--dropout", "0", *queries, *more])


def loaded(side: str, variant: str, dtype: str = "float32") -> Any:
    """The network of a side with the formula weights, in training mode."""
    if side == "torch":
        with torch.device("meta"):  # without drawing weights first
            model = build_reference(options_of(variant))
        shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
        state = formula_weights(file_of(variant), variant, shapes)
        model.to_empty(device="cpu").load_state_dict({name: torch.tensor(array) for name, array in state.items()})
        return model.to(getattr(torch, dtype))
    model = build_model(options_of(variant))
    layout = plan(model)
    tensors, _, report = layout.to_paddle(formula_weights(file_of(variant), variant, layout.torch_shapes()))
    report.raise_if_bad("formula")
    model.set_state_dict(tensors)
    model.to(dtype=dtype)
    return model


def golden_images(file) -> list[np.ndarray]:
    shapes, names = file["meta/image_shapes"], file["meta/image_names"]
    return [formula_input(str(n), tuple(s), int(file["meta/seed"])) for n, s in zip(names, shapes, strict=True)]


def batch_of(side: str, images: list[np.ndarray], dtype: str = "float32", size=None) -> tuple:
    """(images, mask), zero-padded to the largest height and width, or to `size`."""
    batch, mask = pad_images([*images, np.zeros((3, *size), np.float32)] if size else images)
    tensor = SIDES[side].tensor
    return tensor(batch[: len(images)].astype(dtype)), tensor(mask[: len(images)])


def targets_of(side: str, file, name: str, dtype: str = "float32") -> list[dict]:
    """Two golden targets (NOTES 9.3), without a box for "none"."""
    targets, tensor = [], SIDES[side].tensor
    for index in range(2):
        boxes, labels = np.zeros((0, 4), np.float32), np.zeros(0, np.int64)
        if f"input/{name}{index}/boxes" in file.files:
            boxes, labels = (file[f"input/{name}{index}/{what}"] for what in ("boxes", "labels"))
        targets.append({"boxes": tensor(boxes.astype(dtype)), "labels": tensor(labels)})
    return targets


def outputs_and_parts(side: str, model, batch: tuple) -> tuple[dict, dict[str, np.ndarray]]:
    """(outputs, every part that a figure may hold by its name there; padded positions are 0 (NOTES 9.3))."""
    raw = model.parts(*batch) if side == "torch" else _paddle_parts(model, batch)
    outputs, masks = raw.pop("outputs"), [as_numpy(mask) for mask in raw.pop("masks")]
    sources = [as_numpy(source) for source in raw["proj"]]
    shapes = np.array([source.shape[2:] for source in sources])
    parts = {"spatial_shapes": shapes, "level_start_index": np.cumsum([0, *shapes.prod(1)])[:-1]}
    for name in ("backbone", "proj"):
        parts |= {f"{name}{level}": as_numpy(value) for level, value in enumerate(raw[name])}
    for level, (mask, position) in enumerate(zip(masks, raw["pos"], strict=True)):
        parts |= {f"mask{level}": mask, f"pos{level}": np.where(mask[:, None], 0, as_numpy(position))}
    padding = np.concatenate([mask.reshape(len(mask), -1) for mask in masks], 1)[..., None]
    parts |= {name: np.where(padding, 0, as_numpy(raw[name])) for name in ("encoder0", "memory")}
    for name in ("hs", "init_reference", "inter_references", "valid_ratios", "topk_index", "invalid"):
        if name in raw:
            parts[name] = as_numpy(raw[name])
    return outputs, parts | {"decoder0": parts["hs"][0]}


def _paddle_parts(model, batch: tuple) -> dict:
    raw: dict[str, Any] = {}
    transformer = model.transformer
    hooks = [
        transformer.register_forward_pre_hook(lambda _, given: raw.update(given=given)),
        transformer.register_forward_post_hook(lambda _, __, parts: raw.update(parts)),
        transformer.encoder.layers[0].register_forward_post_hook(lambda _, __, x: raw.update(encoder0=x)),
        model.backbone[0].register_forward_post_hook(lambda _, __, features: raw.update(backbone=list(features))),
    ]
    outputs = model(*batch)
    for hook in hooks:
        hook.remove()
    sources, paddings, positions, *_ = raw.pop("given")
    raw |= {"outputs": outputs, "proj": sources, "masks": paddings}
    raw["pos"] = [position.transpose([0, 3, 1, 2]) for position in positions]
    raw["hs"], raw["inter_references"] = paddle.stack(raw.pop("states")), paddle.stack(raw.pop("references"))
    if "enc_boxes" in raw:
        raw["invalid"] = paddle.isinf(raw["enc_boxes"]).all(-1)
    return raw


def compare(file, key: str, value, bound: float, relative: bool = True) -> int:
    """Compare with a stored slice, and the whole with its stored statistics; whether there was a slice."""
    value, stored = as_numpy(value), key in file.files
    if stored:
        close(sliced(file, key, value), file[key], bound, key, relative)
    if f"{key}/stats" in file.files:
        close(statistics(value), file[f"{key}/stats"], bound, f"{key}/stats", relative)
    return int(stored)


def compare_terms(file, prefix: str, terms: dict, relative: float, absolute: float) -> None:
    """Every term of a loss with the stored one, by names that must be the same."""
    names = [key.removeprefix(prefix) for key in file.files if key.startswith(prefix)]
    assert set(names) == {"total" if name == "loss" else name for name in terms}
    for name in names:
        value, expected = float(terms["loss" if name == "total" else name]), float(file[prefix + name])
        assert abs(value - expected) <= max(relative * abs(expected), absolute), (prefix + name, value, expected)
