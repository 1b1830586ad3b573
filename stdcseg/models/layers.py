"""Layers whose torch meaning differs from Paddle's own, and resizing (fact sheet sections 4.4 and 8)."""

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

    Paddle normalises as torch does but stores the biased variance. With `synchronise` set, statistics are those of all
    processes' pictures together. One value per channel cannot be normalised in training: ValueError, as in torch.

    Input and output: [N, C, H, W], float32 or float64.
    """

    synchronise = False

    def scale(self):
        """The factor of each channel, [C]."""
        return self.weight

    def forward(self, x):
        if not self.training:
            return F.batch_norm(x, self._mean, self._variance, self.scale(), self.bias, epsilon=self._epsilon)
        together = self.synchronise and dist.is_initialized() and dist.get_world_size() > 1
        count = x.shape[0] * x.shape[2] * x.shape[3]
        if count == 1 and not together:
            raise ValueError(
                f"batch norm in training needs more than one value per channel, got input {x.shape}: behind a global "
                "average that means at least two pictures a step"
            )
        if together:
            return self._forward_synchronised(x, count)
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

    def _forward_synchronised(self, x, count: int):
        """The same from primitive operations, each sum taken over all processes."""
        x = x.astype(self._mean.dtype)  # half precision under --amp
        total = _SumOverProcesses.apply(paddle.concat([x.sum([0, 2, 3]), paddle.full([1], count, x.dtype)]))
        n = total[-1].detach()
        mean = (total[:-1] / n).reshape([1, -1, 1, 1])
        centred = x - mean
        variance = _SumOverProcesses.apply((centred * centred).sum([0, 2, 3])) / n
        out = centred * paddle.rsqrt(variance + self._epsilon).reshape([1, -1, 1, 1])
        self._update_statistics(mean.flatten(), variance * (n / (n - 1)))
        return out * self.scale().reshape([1, -1, 1, 1]) + self.bias.reshape([1, -1, 1, 1])


class ABN(BatchNorm2D):
    """The norm of everything outside the backbone: InPlaceABNSync without an activation (fact sheet 4.4).

    Its factor is |weight| + epsilon, where a batch norm's is the weight. torch keeps no num_batches_tracked for it.
    """

    synchronise = True
    counts_batches = False

    def scale(self):
        return self.weight.abs() + self._epsilon


def use_synchronised_batch_norm(model: nn.Layer) -> None:
    """Let every batch norm of `model`, the backbone's included, take its statistics over all processes."""
    for layer in model.sublayers():
        if isinstance(layer, BatchNorm2D):
            layer.synchronise = True


def fold_norms(model: nn.Layer) -> None:
    """Turn every ABN of `model` into a plain batch norm with weight |weight| + epsilon: the same function in eval mode.

    For export, where engines join a plain batch norm with the convolution before it. Not for training on.
    """
    for parent in model.sublayers(include_self=True):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, ABN):
                plain = BatchNorm2D(layer.weight.shape[0], epsilon=layer._epsilon)
                plain.to(dtype=str(layer.weight.dtype).removeprefix("paddle."))
                plain.set_state_dict(layer.state_dict() | {"weight": layer.scale()})
                plain.training = layer.training
                setattr(parent, name, plain)


def _interpolation_matrix(out, size, dtype):
    """[out, size]: row j holds the shares of the two inputs between which output j lies (align_corners=True)."""
    # 1 // out keeps a single output from a division by 0; in an exported graph the sizes are tensors
    places = paddle.arange(out, dtype=dtype) * ((size - 1) / (out - 1 + 1 // out))
    inputs = paddle.arange(size, dtype=dtype)
    return F.relu(1 - (places.unsqueeze(1) - inputs.unsqueeze(0)).abs())


def resize_bilinear(x, size):
    """[N, C, h, w] -> [N, C, *size], bilinear with align_corners=True.

    Paddle's operator computes coordinates in float32 whatever the input is, which costs up to 5e-5 (fact sheet 8), and
    oneDNN in Paddle Inference 3.3 cannot run it. So float64 input, the proof, and an exported graph go through two
    interpolation matrices instead.
    """
    if paddle.in_dynamic_mode() and x.dtype != paddle.float64:
        return F.interpolate(x, size=size, mode="bilinear", align_corners=True)
    rows = _interpolation_matrix(size[0], x.shape[2], x.dtype)
    columns = _interpolation_matrix(size[1], x.shape[3], x.dtype)
    n, channels, height, width = x.shape
    # flat, because oneDNN's matmul in Paddle Inference 3.3 misreads what a convolution leaves it in four dimensions
    x = paddle.matmul(x.reshape([-1, width]), columns, transpose_y=True).reshape([n, channels, height, -1])
    return paddle.matmul(rows, x)


def resize_nearest(x, size):
    """[N, C, h, w] -> [N, C, *size]: output j takes input floor(j * h / H); by two gathers in an exported graph."""
    if paddle.in_dynamic_mode():
        return F.interpolate(x, size=size, mode="nearest")
    for axis, side in ((2, size[0]), (3, size[1])):
        index = paddle.arange(side, dtype="int64") * x.shape[axis] // side
        x = paddle.index_select(x, index, axis=axis)
    return x
