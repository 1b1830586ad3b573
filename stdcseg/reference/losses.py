"""The losses of STDC-Seg in torch: OHEM cross-entropy and detail aggregation loss (NOTES 5)."""

import argparse

import torch
from torch import nn
from torch.nn import functional as F

from .network import resize

IGNORE = 255
_EDGE = torch.tensor([[-1.0, -1.0, -1.0], [-1.0, 8.0, -1.0], [-1.0, -1.0, -1.0]])
_FUSE_KERNEL = (0.6, 0.3, 0.1)


def ohem_cross_entropy(logits: torch.Tensor, labels: torch.Tensor, thresh: float, n_min: int) -> torch.Tensor:
    """Mean cross-entropy of the hard pixels, or of the n_min hardest where too few are hard (NOTES 5.2).

    logits [N, C, H, W], labels [N, H, W] int64 -> scalar. Hard: the right class has a probability below `thresh`.
    Ignored pixels count as loss 0. IndexError unless there are more pixels than n_min.
    """
    losses = F.cross_entropy(logits, labels, ignore_index=IGNORE, reduction="none").flatten()
    if n_min >= losses.numel():
        raise IndexError(f"n_min {n_min} of {losses.numel()} pixels")
    hard = losses[losses > -torch.log(torch.tensor(thresh))]  # in float32 for float64 logits too
    return hard.mean() if hard.numel() > n_min else losses.topk(n_min).values.mean()


def boundary_maps(labels: torch.Tensor) -> torch.Tensor:
    """Boundaries at strides 1, 2 and 4: labels [N, H, W] int64 -> [N, 3, H, W] float32 of 0 and 1 (NOTES 5.5)."""
    response = F.conv2d(labels[:, None].float(), _EDGE.to(labels.device)[None, None], padding=1)
    size = labels.shape[1:]
    maps = [F.interpolate(response[:, :, ::stride, ::stride], size, mode="nearest") for stride in (1, 2, 4)]
    return (torch.cat(maps, dim=1) > 0.1).float()


def detail_target(labels: torch.Tensor, fuse_kernel: torch.Tensor) -> torch.Tensor:
    """Where the weighted boundary maps exceed 0.1: labels [N, H, W] -> [N, 1, H, W] float32 of 0 and 1 (NOTES 5.6).

    In float32, where 0.1 > 0.1 is false. `fuse_kernel` [1, 3, 1, 1] gets a gradient of zeros, so that the optimiser
    applies weight decay to it (NOTES 5.8).
    """
    fused = F.conv2d(boundary_maps(labels), fuse_kernel.float())
    return (fused > 0.1).float() + 0 * fused


def dice_loss(p: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """1 - dice coefficient (1 added above and below), mean over images: p, t [N, ...] from 0 to 1 -> scalar."""
    p, t = p.flatten(1), t.flatten(1)
    return (1 - (2 * (p * t).sum(1) + 1) / (p.sum(1) + t.sum(1) + 1)).mean()


def detail_loss(
    logits: torch.Tensor, labels: torch.Tensor, fuse_kernel: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy and dice loss of one detail head: logits [N, 1, h, w], labels [N, H, W] -> two scalars."""
    target = detail_target(labels, fuse_kernel).to(logits.dtype)
    if logits.shape[-1] != labels.shape[-1]:
        logits = resize(logits, labels.shape[1:])
    return F.binary_cross_entropy_with_logits(logits, target), dice_loss(logits.sigmoid(), target)


class ReferenceCriterion(nn.Module):
    """(outputs of the network, labels [N, H, W] int64) -> {term: scalar} with the sum of all terms under "loss".

    Terms: loss_p, loss_16, loss_32 of out, out16, out32; bce_detailS and dice_detailS of each detail output.
    """

    def __init__(self, options: argparse.Namespace):
        super().__init__()
        width, height = options.crop_size
        batch = options.n_img_per_gpu * width * height
        self.n_min = batch // 16 if options.n_min is None else options.n_min
        self.thresh = options.ohem_thresh
        kernel = torch.tensor(_FUSE_KERNEL).view(1, 3, 1, 1)
        self.fuse_kernel = nn.Parameter(kernel, requires_grad=options.fuse_kernel == "decayed")

    def ohem(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """`ohem_cross_entropy` with the options' threshold and n_min."""
        return ohem_cross_entropy(logits, labels, self.thresh, self.n_min)

    def detail(self, logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """`detail_loss` with this criterion's fuse_kernel."""
        return detail_loss(logits, labels, self.fuse_kernel)

    def forward(self, outputs, labels):
        names = {"loss_p": "out", "loss_16": "out16", "loss_32": "out32"}
        terms = {term: self.ohem(outputs[name], labels) for term, name in names.items()}
        for name in outputs:
            if name.startswith("detail"):
                terms[f"bce_{name}"], terms[f"dice_{name}"] = self.detail(outputs[name], labels)
        return terms | {"loss": sum(terms.values())}


def build_criterion(options: argparse.Namespace) -> ReferenceCriterion:
    """The torch twin of `losses.build_criterion(options)`."""
    return ReferenceCriterion(options)
