"""Samples of different sizes together in one batch (fact sheet 3.5)."""

from collections.abc import Sequence

import numpy as np


def collate(images: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """(images float32 [N, 3, H, W], mask bool [N, H, W]) of images [3, h, w], with zeros at their right and bottom.

    H and W are the largest height and width; the mask is True where an image is padded.
    """
    height, width = (max(image.shape[side] for image in images) for side in (1, 2))
    batch = np.zeros((len(images), 3, height, width), np.float32)
    mask = np.ones((len(images), height, width), bool)
    for number, image in enumerate(images):
        batch[number, :, : image.shape[1], : image.shape[2]] = image
        mask[number, : image.shape[1], : image.shape[2]] = False
    return batch, mask
