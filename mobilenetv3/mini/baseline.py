"""What a linear model on the pixels of the mini data set reaches."""

import os
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from scipy.optimize import minimize
from scipy.special import logsumexp

from .shapes import CLASSES

PENALTIES = (10.0, 3.0, 1.0, 0.3, 0.1)


def pixels(root: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """All pictures of a split at 32 x 32 pixels, float32 [N, 3072], and their classes, int64 [N]."""
    files = [(label, file) for label, name in enumerate(CLASSES) for file in sorted((root / split / name).iterdir())]
    small = [cv2.resize(np.asarray(Image.open(file)), (32, 32), interpolation=cv2.INTER_AREA) for _, file in files]
    return np.stack(small).reshape(len(files), -1).astype(np.float32), np.array([label for label, _ in files])


def logistic_regression(x: np.ndarray, labels: np.ndarray, penalty: float) -> np.ndarray:
    """Weights [features + 1, classes], the last row the bias: least cross-entropy + penalty / 2 * squared weights."""
    x = np.concatenate([x, np.ones((len(x), 1), np.float32)], 1)
    chosen = np.eye(len(CLASSES), dtype=np.float32)[labels]
    decay = np.full((x.shape[1], 1), penalty, np.float32)
    decay[-1] = 0

    def loss_and_gradient(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weights = flat.reshape(-1, len(CLASSES)).astype(np.float32)
        logits = x @ weights
        log_p = logits - logsumexp(logits, axis=1, keepdims=True)
        loss = (decay * weights * weights).sum() / 2 - (log_p * chosen).sum() / len(x)
        gradient = x.T @ (np.exp(log_p) - chosen) / len(x) + decay * weights
        return float(loss), gradient.ravel().astype(np.float64)

    start = np.zeros(x.shape[1] * len(CLASSES))
    found = minimize(loss_and_gradient, start, jac=True, method="L-BFGS-B", options={"maxiter": 60})
    return found.x.reshape(-1, len(CLASSES)).astype(np.float32)


def accuracy(weights: np.ndarray, x: np.ndarray, labels: np.ndarray) -> float:
    """Share of rows of x [N, features] that a linear model [features + 1, classes] puts in their class."""
    return float(((x @ weights[:-1] + weights[-1]).argmax(1) == labels).mean())


def linear_baseline(root: str | os.PathLike, seed: int = 0) -> float:
    """Top-1, 0..1, on the val half, of a multinomial logistic regression on the standardised pixels of the train half.

    Its penalty is the one that does best on a fifth of the train half, chosen by `seed` and kept out of that fit.
    """
    root = Path(root)
    (x, labels), (val_x, val_labels) = pixels(root, "train"), pixels(root, "val")
    mean, deviation = x.mean(0), x.std(0) + 1e-3
    x, val_x = (x - mean) / deviation, (val_x - mean) / deviation
    check, fit = np.split(np.random.default_rng(seed).permutation(len(x)), [len(x) // 5])

    def checked(penalty: float) -> float:
        return accuracy(logistic_regression(x[fit], labels[fit], penalty), x[check], labels[check])

    return accuracy(logistic_regression(x, labels, max(PENALTIES, key=checked)), val_x, val_labels)
