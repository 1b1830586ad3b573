"""What a training shows of itself: pictures, views of the sources, disparities and masks (fact sheet 6.3)."""

import argparse

import numpy as np
from visualdl import LogWriter

from options import sources

MOST = 4  # items of a batch that are shown


def _picture(image: np.ndarray) -> np.ndarray:
    """float [3, h, w] or [1, h, w] in [0, 1] -> uint8 [h, w, 3]."""
    grey_or_colour = np.repeat(image, 3, axis=0) if image.shape[0] == 1 else image
    return (np.clip(grey_or_colour, 0, 1) * 255).round().astype(np.uint8).transpose(1, 2, 0)


def stretched(values: np.ndarray) -> np.ndarray:
    """The values from their smallest at 0 to their largest at 1; zeros where all are equal."""
    low, high = float(values.min()), float(values.max())
    return (values - low) / (high - low) if high > low else np.zeros_like(values)


def log_pictures(writer: LogWriter, part: str, options: argparse.Namespace, batch: dict, outputs: dict, step: int):
    """Write the first items of a batch under the reference's names, `part` ("train", "val") before each."""

    def show(name: str, image) -> None:
        writer.add_image(f"{part}/{name}", _picture(image), step)

    for j in range(min(MOST, batch["color", 0, 0].shape[0])):
        for scale in options.scales:
            for f in [0, *sources(options)]:
                if ("color", f, scale) in batch:
                    show(f"color_{f}_{scale}/{j}", batch["color", f, scale][j].numpy())
                if f != 0 and scale == 0:
                    show(f"color_pred_{f}_{scale}/{j}", outputs["color", f, scale][j].numpy())
            show(f"disp_{scale}/{j}", stretched(outputs["disp", scale][j].numpy()))
            if f"identity_selection/{scale}" in outputs:
                show(f"automask_{scale}/{j}", outputs[f"identity_selection/{scale}"][j].numpy())
            if ("predictive_mask", scale) in outputs:
                masks = outputs["predictive_mask", scale][j].numpy()
                for f, mask in zip(sources(options), masks, strict=True):
                    show(f"predictive_mask_{f}_{scale}/{j}", mask[None])
