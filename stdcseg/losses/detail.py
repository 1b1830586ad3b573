"""Detail aggregation: boundaries of the labels are the target of the detail heads (paper section 3.3; NOTES 5.5)."""

import numpy as np
import paddle
from paddle import nn
from paddle.nn import functional as F

from models.layers import resize_bilinear

STRIDES = (1, 2, 4)
FUSE_KERNEL = (0.6, 0.3, 0.1)
BOUNDARY = 0.1  # threshold of a response, and of the weighted sum of boundary maps


def boundary_maps(labels):
    """Laplacian boundaries of the labels at strides 1, 2 and 4: int [N, H, W] -> 0 or 1, float32 [N, 3, H, W].

    Only the side with the higher label is boundary, since negative responses do not count. Ignored regions (255) and,
    because of the zero padding, the border of the image have boundaries too (NOTES 5.5).
    """
    x = labels.astype("float32").unsqueeze(1)
    laplacian = np.full((1, 1, 3, 3), -1, np.float32)
    laplacian[0, 0, 1, 1] = 8
    response = F.conv2d(x, paddle.to_tensor(laplacian), padding=1)
    maps = []
    for stride in STRIDES:
        # a strided convolution equals the dense one at every stride-th row and column
        strided = response[:, :, ::stride, ::stride]
        if stride > 1:
            strided = F.interpolate(strided, size=x.shape[2:], mode="nearest")
        maps.append((strided > BOUNDARY).astype("float32"))
    return paddle.concat(maps, axis=1)


def detail_target(labels, fuse_kernel):
    """Labels int [N, H, W] and the weights of the three maps (3 numbers) -> 0 or 1, float32 [N, 1, H, W].

    Computed in float32 whatever the network's dtype: there 0.1 > 0.1 is false, so the third map alone makes no boundary
    (NOTES 5.6). No gradient reaches the weights.
    """
    weights = fuse_kernel.detach().astype("float32").reshape([1, 3, 1, 1])
    fused = (boundary_maps(labels) * weights).sum(1, keepdim=True)
    return (fused > BOUNDARY).astype("float32")


def dice_loss_func(p, target):
    """1 - (2 sum(p t) + 1) / (sum(p) + sum(t) + 1) of each image, then the mean. Both [N, ...], from 0 to 1."""
    p, target = p.flatten(1), target.flatten(1)
    return (1 - (2 * (p * target).sum(1) + 1) / (p.sum(1) + target.sum(1) + 1)).mean()


class DetailAggregateLoss(nn.Layer):
    """BCE and dice loss of detail logits against the boundaries of the labels (NOTES 5.7).

    forward(logits float [N, 1, h, w], labels int64 [N, H, W] with 255) -> (bce, dice), ignored pixels included. Logits
    of another width are resized to the size of the labels.

    `fuse_kernel` is the weights of the three boundary maps. "decayed" is the reference's behaviour: the kernel is a
    parameter whose gradient is always exactly 0, so only weight decay changes it, until one map after the other no
    longer reaches the threshold (NOTES 5.8). "fixed" keeps the initial weights.
    """

    def __init__(self, fuse_kernel: str = "decayed"):
        super().__init__()
        self.fuse_kernel = self.create_parameter([1, 3, 1, 1], dtype="float32")
        paddle.assign(paddle.to_tensor(FUSE_KERNEL, "float32").reshape([1, 3, 1, 1]), self.fuse_kernel)
        self.fuse_kernel.stop_gradient = fuse_kernel == "fixed"

    def forward(self, logits, labels):
        target = detail_target(labels, self.fuse_kernel)
        if logits.shape[-1] != target.shape[-1]:
            logits = resize_bilinear(logits, target.shape[2:])
        target = target.astype(logits.dtype)
        bce = F.binary_cross_entropy_with_logits(logits, target)
        return bce, dice_loss_func(F.sigmoid(logits), target)

    def zero(self, dtype):
        """A 0 that gives the fuse kernel its gradient of zeros: without a gradient it would not decay (NOTES 8.7)."""
        return 0.0 * self.fuse_kernel.sum().astype(dtype)
