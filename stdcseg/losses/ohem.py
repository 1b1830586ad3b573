"""Cross-entropy on the hard pixels: online hard example mining (paper section 4.1; fact sheet 5.1)."""

import numpy as np
import paddle
from paddle import nn

IGNORE = 255


def pixel_cross_entropy(logits, labels):
    """Cross-entropy of every pixel, 0 where the label is 255.

    logits: float [N, K, H, W]; labels: int64 [N, H, W], each in [0, K) or 255, else ValueError. Returns [N, H, W].
    """
    valid = labels != IGNORE
    index = paddle.where(valid, labels, paddle.zeros_like(labels))
    if int(index.min()) < 0 or int(index.max()) >= logits.shape[1]:
        raise ValueError(f"labels must be train ids below {logits.shape[1]}, or {IGNORE} for ignore")
    # F.cross_entropy cuts log p off at -64 on the CPU; torch does not. The largest logit goes first, as in torch: where
    # the network is sure, x - logsumexp(x) would lose half the digits of the small loss that is left. Its expansion is
    # written out because Paddle broadcasts slowly on a CPU: it would take a third of a training step.
    peak = logits.detach().max(axis=1, keepdim=True)
    shifted = logits - peak.expand_as(logits)
    picked = paddle.take_along_axis(shifted, index.unsqueeze(1), axis=1).squeeze(1)
    losses = shifted.exp().sum(axis=1).log() - picked
    return paddle.where(valid, losses, paddle.zeros_like(losses))


class OhemCrossEntropy(nn.Layer):
    """Mean cross-entropy over the pixels whose loss exceeds -ln(thresh), or over the `n_min` hardest if that is more.

    Ignored pixels count as 0, and can be among the n_min. `n_min` None: a sixteenth of the labels' pixels, which is the
    reference's number for the batches that it trains on. IndexError when n_min is not below the number of pixels.

    forward(logits float [N, K, H, W], labels int64 [N, H, W]) -> scalar.
    """

    def __init__(self, thresh: float = 0.7, n_min: int | None = None):
        super().__init__()
        self.thresh = float(-np.log(np.float32(thresh)))  # the reference computes it in float32
        self.n_min = n_min

    def forward(self, logits, labels):
        losses = pixel_cross_entropy(logits, labels).flatten()
        n_min = losses.shape[0] // 16 if self.n_min is None else self.n_min
        if n_min >= losses.shape[0]:
            raise IndexError(f"OHEM keeps at least {n_min} pixels, but the batch has {losses.shape[0]}; lower --n_min")
        hard = losses > self.thresh
        count = int(hard.sum())
        if count > n_min:
            return paddle.where(hard, losses, paddle.zeros_like(losses)).sum() / count
        if not n_min:
            return losses.sum() * float("nan")  # the mean of no pixels, as in the reference
        return paddle.topk(losses, n_min)[0].mean()
