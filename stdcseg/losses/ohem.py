"""Cross-entropy of the hard pixels: online hard example mining (paper section 4.1; NOTES 5.2 to 5.4)."""

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
    # Not F.cross_entropy, which cuts log p off at -64 on the CPU (NOTES 8.8). The largest logit is subtracted first, as
    # in torch: where the network is sure, x - logsumexp(x) would lose half the digits of the small loss that is left.
    # It is expanded because Paddle broadcasts slowly on a CPU: broadcasting would take a third of a training step.
    peak = logits.detach().max(axis=1, keepdim=True)
    shifted = logits - peak.expand_as(logits)
    picked = paddle.take_along_axis(shifted, index.unsqueeze(1), axis=1).squeeze(1)
    losses = shifted.exp().sum(axis=1).log() - picked
    return paddle.where(valid, losses, paddle.zeros_like(losses))


class OhemCELoss(nn.Layer):
    """Mean cross-entropy of the pixels whose loss exceeds -ln(thresh), or of the `n_min` hardest if those are more.

    Ignored pixels count as 0 and can be among the n_min. `n_min` None: a sixteenth of the pixels of the batch, which is
    the reference's number in training. IndexError when n_min is not below the number of pixels.

    forward(logits float [N, K, H, W], labels int64 [N, H, W]) -> scalar.
    """

    def __init__(self, thresh: float = 0.7, n_min: int | None = None):
        super().__init__()
        self.thresh = float(-np.log(np.float32(thresh)))  # in float32, as in the reference
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
