"""The losses of the paper and their sum."""

import argparse

from paddle import nn

from .detail import DetailAggregateLoss
from .ohem import OhemCELoss

__all__ = ["Criterion", "DetailAggregateLoss", "OhemCELoss", "build_criterion"]

_SEGMENTATION = {"out": "loss_p", "out16": "loss_16", "out32": "loss_32"}


class Criterion(nn.Layer):
    """criterion(outputs of the network, integer labels [N, H, W] with 255) -> {term: scalar}, the sum under "loss".

    Terms: `loss_p`, `loss_16`, `loss_32`, OHEM of the three segmentations, and `bce_detailS`, `dice_detailS` of every
    detail output of the network (NOTES 5.1).
    """

    def __init__(self, thresh: float = 0.7, n_min: int | None = None, fuse_kernel: str = "decayed"):
        super().__init__()
        self.ohem = OhemCELoss(thresh, n_min)
        self.detail = DetailAggregateLoss(fuse_kernel)

    def forward(self, outputs, targets) -> dict:
        targets = targets.astype("int64")
        terms = {term: self.ohem(outputs[name], targets) for name, term in _SEGMENTATION.items()}
        total = sum(terms.values())
        details = [name for name in outputs if name.startswith("detail")]
        for name in details:
            bce, dice = self.detail(outputs[name], targets)
            terms |= {f"bce_{name}": bce, f"dice_{name}": dice}
            total = total + bce + dice
        if details:
            total = total + self.detail.zero(total.dtype)
        return terms | {"loss": total}


def build_criterion(options: argparse.Namespace) -> Criterion:
    """The losses of `options`."""
    return Criterion(options.ohem_thresh, options.n_min, options.fuse_kernel)
