"""Photometric error and smoothness (paper equations 1 to 3; NOTES 5.3, 5.6). Images are [N, C, h, w]."""

import paddle
from paddle.nn import functional as F

C1, C2 = 0.01**2, 0.03**2
SSIM_WEIGHT = 0.85


def local_mean(x):
    """Mean of each 3x3 neighbourhood; the border is mirrored by one pixel."""
    return F.avg_pool2d(F.pad(x, [1, 1, 1, 1], mode="reflect"), 3, stride=1)


def ssim_loss(x, y, mean_y, mean_yy):
    """clip((1 - SSIM) / 2, 0, 1) of each pixel and channel, given the local means of y and of y squared."""
    mean_x, mean_xx, mean_xy = local_mean(x), local_mean(x * x), local_mean(x * y)
    product, squares = mean_x * mean_y, mean_x * mean_x + mean_y * mean_y
    # mean_xx + mean_yy - squares is the sum of both variances, mean_xy - product the covariance
    numerator = (2 * product + C1) * (2 * (mean_xy - product) + C2)
    denominator = (squares + C1) * (mean_xx + mean_yy - squares + C2)
    return paddle.clip((1 - numerator / denominator) / 2, 0, 1)


class ReprojectionLoss:
    """The photometric error of images against one target: loss(images [N, 3, h, w]) -> [N, 1, h, w].

    0.85 of the dissimilarity plus 0.15 of the absolute difference, each the mean over channels; without SSIM the
    absolute difference alone. The target's local means are computed once.
    """

    def __init__(self, target, use_ssim: bool = True):
        self.target, self.use_ssim = target, use_ssim
        if use_ssim:
            self.mean, self.mean_of_squares = local_mean(target), local_mean(target * target)

    def __call__(self, images):
        difference = (self.target - images).abs().mean(axis=1, keepdim=True)
        if not self.use_ssim:
            return difference
        ssim = ssim_loss(images, self.target, self.mean, self.mean_of_squares).mean(axis=1, keepdim=True)
        return SSIM_WEIGHT * ssim + (1 - SSIM_WEIGHT) * difference


def get_smooth_loss(disp, image):
    """Mean of |gradient of disp [N, 1, h, w]| * exp(-|gradient of image|), both directions added; a scalar."""

    def along(axis: int):
        before, after = [slice(None)] * 4, [slice(None)] * 4
        before[axis], after[axis] = slice(None, -1), slice(1, None)
        before, after = tuple(before), tuple(after)
        edges = (image[before] - image[after]).abs().mean(axis=1, keepdim=True)
        return ((disp[before] - disp[after]).abs() * paddle.exp(-edges)).mean()

    return along(3) + along(2)
