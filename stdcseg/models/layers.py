"""Layers whose torch meaning differs from Paddle's own, and resizing (fact sheet sections 4.4 and 8)."""

import paddle
from paddle import nn
from paddle.nn import functional as F

from shared.running.norms import BatchNorm2D


class ABN(BatchNorm2D):
    """The norm of everything outside the backbone: InPlaceABNSync without an activation (fact sheet 4.4).

    Its factor is |weight| + epsilon, where a batch norm's is the weight. torch keeps no num_batches_tracked for it.
    """

    synchronise = True
    counts_batches = False

    def scale(self):
        return self.weight.abs() + self._epsilon


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
