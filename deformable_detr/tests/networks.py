"""Networks filled with the formula weights that golden figures were made from, and the golden batches."""

import argparse

import numpy as np
import paddle

from shared.align.formula import formula_input
from shared.convert import plan

from golden_files import VARIANTS, formula_weights
from models import build_model
from options import parse_options


def options_of(variant: str, *more: str) -> argparse.Namespace:
    """The options of one of the official configurations, without dropout."""
    return parse_options([*VARIANTS[variant][1].split(), "--dropout", "0", *more])


def loaded(file, variant: str, options: argparse.Namespace, dtype: str = "float32"):
    """build_model(options) with the formula weights of `file`, in training mode."""
    model = build_model(options)
    layout = plan(model)
    filled, _, report = layout.to_paddle(formula_weights(file, variant, layout.torch_shapes()))
    report.raise_if_bad("formula")
    model.set_state_dict(filled)
    if dtype == "float64":
        model.to(dtype=dtype)
    return model


def golden_batch(file, dtype: str = "float32") -> tuple[paddle.Tensor, paddle.Tensor]:
    """(images [2, 3, H, W], mask) of a golden file, padded as a batch is (NOTES 2.10)."""
    return padded_batch(
        [
            formula_input(str(name), tuple(shape), int(file["meta/seed"]))
            for name, shape in zip(file["meta/image_names"], file["meta/image_shapes"], strict=True)
        ],
        dtype,
    )


def padded_batch(pictures: list[np.ndarray], dtype: str = "float32", size=None) -> tuple[paddle.Tensor, paddle.Tensor]:
    """(images, mask) of pictures [3, h, w], zero-padded to the largest height and width, or to `size`."""
    height, width = size or (max(p.shape[1] for p in pictures), max(p.shape[2] for p in pictures))
    images = np.zeros((len(pictures), 3, height, width), dtype)
    mask = np.ones((len(pictures), height, width), bool)
    for index, picture in enumerate(pictures):
        images[index, :, : picture.shape[1], : picture.shape[2]] = picture
        mask[index, : picture.shape[1], : picture.shape[2]] = False
    return paddle.to_tensor(images), paddle.to_tensor(mask)


def targets_of(file, name: str, dtype: str = "float32") -> list[dict]:
    """Two golden targets (NOTES 9.3), or two without a box for "none"."""
    targets = []
    for index in range(2):
        if name == "none":
            boxes, labels = np.zeros((0, 4), np.float32), np.zeros(0, np.int64)
        else:
            boxes, labels = (file[f"input/{name}{index}/{what}"] for what in ("boxes", "labels"))
        targets.append({"boxes": paddle.to_tensor(boxes.astype(dtype)), "labels": paddle.to_tensor(labels)})
    return targets
