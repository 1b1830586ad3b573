"""Mixup and cutmix of a batch (Zhang et al. 2018, Yun et al. 2019; NOTES 3.18, 3.19). Numpy in, numpy out.

The partner of each image is the one before it: the batch rolled by one.
"""

import argparse
import math
from dataclasses import dataclass

import numpy as np

# last number of the seed: without it, step 7 would draw the same numbers as sample 7 of that epoch
_STREAM = 0x6D6978


def mixup(images: np.ndarray, targets: np.ndarray, lam: float) -> tuple[np.ndarray, np.ndarray]:
    """lam x + (1 - lam) x_partner of images and targets: float32 [N, C, H, W] and [N, K]."""

    def blend(x: np.ndarray) -> np.ndarray:
        return x * np.float32(lam) + np.roll(x, 1, axis=0) * np.float32(1 - lam)

    return blend(images), blend(targets)


def cutmix(
    images: np.ndarray, targets: np.ndarray, lam: float, centre: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """A box of about 1 - `lam` of the area, around `centre` (x, y), is the partner's: float32 [N, C, H, W] and [N, K].

    The box is clipped at the border; targets are mixed by its area after that.
    """
    height, width = images.shape[2:]
    side = 0.5 * math.sqrt(1 - lam)
    half_width, half_height = int(side * width), int(side * height)
    x, y = centre
    left, right = max(x - half_width, 0), min(x + half_width, width)
    top, bottom = max(y - half_height, 0), min(y + half_height, height)

    mixed = images.copy()
    mixed[:, :, top:bottom, left:right] = np.roll(images, 1, axis=0)[:, :, top:bottom, left:right]
    lam = 1 - (right - left) * (bottom - top) / (width * height)
    return mixed, targets * np.float32(lam) + np.roll(targets, 1, axis=0) * np.float32(1 - lam)


@dataclass(frozen=True)
class Mixing:
    """Mixup, cutmix, or one of the two per batch with equal probability; an alpha of 0 turns that one off."""

    num_classes: int
    mixup_alpha: float
    cutmix_alpha: float
    seed: int

    def __call__(self, images: np.ndarray, labels: np.ndarray, epoch: int, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Images float32 [N, C, H, W] and labels int64 [N] -> mixed images and soft targets float32 [N, num_classes].

        What is drawn depends on (seed, epoch, step) only; `step` counts the batches of the epoch.
        """
        generator = np.random.default_rng([self.seed, epoch, step, _STREAM])
        use_cutmix = self.cutmix_alpha > 0
        if use_cutmix and self.mixup_alpha > 0:
            use_cutmix = generator.random() < 0.5
        alpha = self.cutmix_alpha if use_cutmix else self.mixup_alpha
        lam = float(np.float32(generator.beta(alpha, alpha)))  # the first of a Dirichlet pair
        targets = np.eye(self.num_classes, dtype=np.float32)[labels]  # one-hot
        if not use_cutmix:
            return mixup(images, targets, lam)
        height, width = images.shape[2:]
        centre = int(generator.integers(width)), int(generator.integers(height))
        return cutmix(images, targets, lam, centre)


def build_mixing(options: argparse.Namespace) -> Mixing | None:
    """The mixing of --mixup_alpha, --cutmix_alpha, --num_classes and --seed; None if both alphas are 0."""
    if not options.mixup_alpha and not options.cutmix_alpha:
        return None
    return Mixing(options.num_classes, options.mixup_alpha, options.cutmix_alpha, options.seed)
