"""GUPNet's losses in torch, from NOTES 5."""

import argparse
from collections.abc import Mapping

import torch
from torch import nn
from torch.nn import functional as F

from .network import at_cells, probabilities

TERMS = ("seg_loss", "offset2d_loss", "size2d_loss", "depth_loss", "offset3d_loss", "size3d_loss", "heading_loss")
BINS = 12


def focal(p: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Penalty-reduced focal loss of probabilities p under targets y in [0, 1], both [B, C, h, w] -> scalar."""
    positive = y == 1
    gains = p.log() * (1 - p) ** 2 * positive
    losses = (1 - p).log() * p**2 * (1 - y) ** 4 * (y < 1)
    count = positive.sum()
    return -(gains.sum() + losses.sum()) / count if count else -losses.sum()


def laplace(value: torch.Tensor, target: torch.Tensor, log_variance: torch.Tensor) -> torch.Tensor:
    """Laplacian negative log-likelihood (paper, equation 2) with the official code's constant -> scalar."""
    return (1.4142 * (-0.5 * log_variance).exp() * (value - target).abs() + 0.5 * log_variance).mean()


def heading_terms(heading: torch.Tensor, bins: torch.Tensor, residuals: torch.Tensor) -> torch.Tensor:
    """heading [M, 24], bins [M] int64, residuals [M] -> scalar."""
    at_bin = heading[:, BINS:].gather(1, bins[:, None])[:, 0]
    return F.cross_entropy(heading[:, :BINS], bins) + F.l1_loss(at_bin, residuals)


class ReferenceCriterion(nn.Module):
    """(outputs of the network, targets of NOTES 3.14, weights by term) -> {each of TERMS, "loss"}: scalars.

    `loss` is the sum of weight times term, without weights the plain sum. Without an object all terms but `seg_loss`
    are NaN.
    """

    def forward(self, outputs: Mapping, targets: Mapping, weights: Mapping[str, float] | None = None) -> dict:
        mask, rows = targets["mask_2d"].bool(), outputs["train_tag"]
        dtype = outputs["heatmap"].dtype

        def wanted(name: str) -> torch.Tensor:
            return targets[name][mask].to(dtype)

        def at_targets(name: str) -> torch.Tensor:
            return at_cells(outputs[name], targets["indices"])[mask]

        depth, size = outputs["depth"][rows], outputs["size_3d"][rows]
        size_target = wanted("size_3d")
        height = laplace(size[:, :1], size_target[:, :1], outputs["h3d_log_variance"][rows])
        values = (
            focal(probabilities(outputs["heatmap"]), targets["heatmap"].to(dtype)),
            F.l1_loss(at_targets("offset_2d"), wanted("offset_2d")),
            F.l1_loss(at_targets("size_2d"), wanted("size_2d")),
            laplace(depth[:, :1], wanted("depth"), depth[:, 1:]),
            F.l1_loss(outputs["offset_3d"][rows], wanted("offset_3d")),
            F.l1_loss(size[:, 1:], size_target[:, 1:]) * 2 / 3 + height / 3,
            heading_terms(outputs["heading"][rows], targets["heading_bin"][mask][:, 0], wanted("heading_res")[:, 0]),
        )
        terms = dict(zip(TERMS, values, strict=True))
        total = sum(term if weights is None else weights[name] * term for name, term in terms.items())
        return terms | {"loss": total}


def build_criterion(options: argparse.Namespace) -> ReferenceCriterion:
    return ReferenceCriterion()
