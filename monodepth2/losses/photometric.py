"""Photometric error and smoothness (paper section 3.1; fact sheet 5.1 and 5.3). Images are [N, C, h, w]."""

import paddle
from paddle.nn import functional as F

C1, C2 = 0.01**2, 0.03**2
SSIM_SHARE = 0.85


def _local_mean(x):
    """Mean over each 3x3 neighbourhood, the image mirrored at its border by one pixel."""
    return F.avg_pool2d(F.pad(x, [1, 1, 1, 1], mode="reflect"), 3, stride=1)


def _ssim_term(x, y, mean_y, mean_yy):
    """clip((1 - SSIM) / 2, 0, 1), given y's local means and those of its squares."""
    mean_x, mean_xx, mean_xy = _local_mean(x), _local_mean(x * x), _local_mean(x * y)
    product, squares = mean_x * mean_y, mean_x * mean_x + mean_y * mean_y
    # the variances' sum and the covariance
    numerator = (2 * product + C1) * (2 * (mean_xy - product) + C2)
    denominator = (squares + C1) * (mean_xx + mean_yy - squares + C2)
    return paddle.clip((1 - numerator / denominator) / 2, 0, 1)


def ssim_loss(x, y):
    """The structural dissimilarity of every pixel and channel, in [0, 1]; the shape of x and y."""
    return _ssim_term(x, y, _local_mean(y), _local_mean(y * y))


class Photometric:
    """Errors of pictures against one target: photometric(pictures [N, 3, h, w]) -> [N, 1, h, w].

    0.85 of the dissimilarity and 0.15 of the absolute difference, each the mean over channels; without SSIM the latter
    alone. What SSIM needs of the target is computed once.
    """

    def __init__(self, target, use_ssim: bool = True):
        self.target, self.use_ssim = target, use_ssim
        if use_ssim:
            self.mean, self.mean_of_squares = _local_mean(target), _local_mean(target * target)

    def __call__(self, pictures):
        difference = (self.target - pictures).abs().mean(axis=1, keepdim=True)
        if not self.use_ssim:
            return difference
        ssim = _ssim_term(pictures, self.target, self.mean, self.mean_of_squares).mean(axis=1, keepdim=True)
        return SSIM_SHARE * ssim + (1 - SSIM_SHARE) * difference


def smoothness(disp, image):
    """Mean |gradient of disp [N, 1, h, w]|, where the image changes less than elsewhere counting more; a scalar."""

    def along(axis: int):
        before, after = [slice(None)] * 4, [slice(None)] * 4
        before[axis], after[axis] = slice(None, -1), slice(1, None)
        before, after = tuple(before), tuple(after)
        edges = (image[before] - image[after]).abs().mean(axis=1, keepdim=True)
        return ((disp[before] - disp[after]).abs() * paddle.exp(-edges)).mean()

    return along(3) + along(2)
