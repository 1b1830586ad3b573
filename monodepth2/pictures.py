"""The images that a training logs to VisualDL: frames, warped sources, disparities and masks (NOTES 6.3)."""

import argparse

import numpy as np
from visualdl import LogWriter

from options import sources

MAX_ITEMS = 4  # of a batch


def to_pixels(image: np.ndarray) -> np.ndarray:
    """float [3, h, w] or [1, h, w] in [0, 1] -> uint8 [h, w, 3]."""
    rgb = np.repeat(image, 3, axis=0) if image.shape[0] == 1 else image
    return (np.clip(rgb, 0, 1) * 255).round().astype(np.uint8).transpose(1, 2, 0)


def normalise_image(values: np.ndarray) -> np.ndarray:
    """The values stretched from minimum to maximum, to [0, 1]; zeros where all are equal."""
    low, high = float(values.min()), float(values.max())
    return (values - low) / (high - low) if high > low else np.zeros_like(values)


def log_images(writer: LogWriter, part: str, options: argparse.Namespace, batch: dict, outputs: dict, step: int):
    """Write the first items of a batch under the reference's names with the prefix `part` ("train", "val")."""

    def log(name: str, image: np.ndarray) -> None:
        writer.add_image(f"{part}/{name}", to_pixels(image), step)

    for j in range(min(MAX_ITEMS, batch["color", 0, 0].shape[0])):
        for scale in options.scales:
            for f in [0, *sources(options)]:
                if ("color", f, scale) in batch:
                    log(f"color_{f}_{scale}/{j}", batch["color", f, scale][j].numpy())
                if f != 0 and scale == 0:
                    log(f"color_pred_{f}_{scale}/{j}", outputs["color", f, scale][j].numpy())
            log(f"disp_{scale}/{j}", normalise_image(outputs["disp", scale][j].numpy()))
            if f"identity_selection/{scale}" in outputs:
                log(f"automask_{scale}/{j}", outputs[f"identity_selection/{scale}"][j].numpy())
            if ("predictive_mask", scale) in outputs:
                masks = outputs["predictive_mask", scale][j].numpy()
                for f, mask in zip(sources(options), masks, strict=True):
                    log(f"predictive_mask_{f}_{scale}/{j}", mask[None])
