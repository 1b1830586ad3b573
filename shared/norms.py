"""torch's batch norm in Paddle: what a converted network keeps training with."""

import paddle
import paddle.distributed as dist
from paddle import nn
from paddle.autograd import PyLayer
from paddle.nn import functional as F


class _SumOverProcesses(PyLayer):
    """All-reduce of a tensor; the gradient of a sum over processes is the sum of their gradients."""

    @staticmethod
    def forward(ctx, x):
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx, gradient):
        total = gradient.clone()
        dist.all_reduce(total)
        return total


class BatchNorm2D(nn.BatchNorm2D):
    """Batch norm with torch's running variance: the unbiased one, n / (n - 1) of the batch's (n = N*H*W).

    Paddle normalises as torch does but stores the biased variance. `momentum` is Paddle's: the share of the old value
    (torch's 0.01 is 0.99 here). With `synchronise` set, statistics are those of all processes' pictures together. One
    value per channel cannot be normalised in training: ValueError, as in torch.

    Input and output: [N, C, H, W], float32 or float64.
    """

    synchronise = False

    def scale(self):
        """The factor of each channel, [C]."""
        return self.weight

    def forward(self, x, share: float | None = None):
        """Normalise x. `share` 0: its rows stand for nothing and stay out of the statistics of all processes.

        None and 1 mean the same; a layer that ever gets 0 is always given a number, so that the processes' graphs are
        alike and their sums meet in the same order.
        """
        if not self.training:
            return F.batch_norm(x, self._mean, self._variance, self.scale(), self.bias, epsilon=self._epsilon)
        count = x.shape[0] * x.shape[2] * x.shape[3]
        if self.synchronise and dist.is_initialized() and dist.get_world_size() > 1:
            return self._forward_synchronised(x, count, share)
        if count == 1:
            raise ValueError(
                f"batch norm in training needs more than one value per channel, got input {x.shape}: behind a global "
                "average that means at least two pictures a step"
            )
        # with momentum 0 the operator leaves the batch's own statistics in the two tensors that it is given
        mean, variance = paddle.zeros_like(self._mean), paddle.zeros_like(self._variance)
        out = F.batch_norm(x, mean, variance, self.scale(), self.bias, True, momentum=0.0, epsilon=self._epsilon)
        self._update_statistics(mean, variance * (count / (count - 1)))
        return out

    @paddle.no_grad()
    def _update_statistics(self, mean, unbiased_variance) -> None:
        # in Python's double precision; the operator's own momentum is a float32
        keep, take = self._momentum, 1 - self._momentum
        paddle.assign(keep * self._mean + take * mean, self._mean)
        paddle.assign(keep * self._variance + take * unbiased_variance, self._variance)

    def _forward_synchronised(self, x, count: int, share: float | None):
        """The same from primitive operations, each sum taken over all processes."""
        x = x.astype(self._mean.dtype)  # half precision under --amp

        def own_sum(values):
            total = values.sum([0, 2, 3])
            return total if share is None else total * share

        count = count if share is None else count * share
        total = _SumOverProcesses.apply(paddle.concat([own_sum(x), paddle.full([1], count, x.dtype)]))
        n = total[-1].detach().clip(min=2)  # no row in any process: nothing of this comes to use
        mean = (total[:-1] / n).reshape([1, -1, 1, 1])
        centred = x - mean
        variance = _SumOverProcesses.apply(own_sum(centred * centred)) / n
        out = centred * paddle.rsqrt(variance + self._epsilon).reshape([1, -1, 1, 1])
        if share is None or float(total[-1]) > 1:
            self._update_statistics(mean.flatten(), variance * (n / (n - 1)))
        return out * self.scale().reshape([1, -1, 1, 1]) + self.bias.reshape([1, -1, 1, 1])


def use_synchronised_batch_norm(model: nn.Layer) -> None:
    """Let every batch norm of `model` take its statistics over all processes."""
    for layer in model.sublayers():
        if isinstance(layer, BatchNorm2D):
            layer.synchronise = True
