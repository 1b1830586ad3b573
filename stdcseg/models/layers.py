"""Layers that mean something else in torch than in Paddle, and resizing (NOTES 4.11, 8.3, 8.11)."""

import paddle
from paddle import nn
from paddle.nn import functional as F

from shared.norms import BatchNorm2D


class InPlaceABNSync(BatchNorm2D):
    """The norm of everything outside the backbone, without an activation and not in place (NOTES 4.11).

    Its factor is |weight| + epsilon, where a batch norm's is the weight. torch keeps no num_batches_tracked for it.
    """

    synchronise = True
    counts_batches = False

    def scale(self):
        return self.weight.abs() + self._epsilon


def fold_norms(model: nn.Layer) -> None:
    """Replace every InPlaceABNSync of `model` by a plain batch norm with weight |weight| + epsilon (NOTES 4.12).

    The same function in eval mode. For export, where engines join a plain batch norm with the convolution before it;
    not for training on.
    """
    for parent in model.sublayers(include_self=True):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, InPlaceABNSync):
                plain = BatchNorm2D(layer.weight.shape[0], epsilon=layer._epsilon)
                plain.to(dtype=str(layer.weight.dtype).removeprefix("paddle."))
                plain.set_state_dict(layer.state_dict() | {"weight": layer.scale()})
                plain.training = layer.training
                setattr(parent, name, plain)


def _interpolation_matrix(out, size, dtype):
    """[out, size]: row j holds the weights of the two inputs between which output j lies (align_corners=True)."""
    # 1 // out keeps a single output from a division by 0; in an exported graph the sizes are tensors
    positions = paddle.arange(out, dtype=dtype) * ((size - 1) / (out - 1 + 1 // out))
    inputs = paddle.arange(size, dtype=dtype)
    return F.relu(1 - (positions.unsqueeze(1) - inputs.unsqueeze(0)).abs())


def resize_bilinear(x, size):
    """[N, C, h, w] -> [N, C, *size], bilinear with align_corners=True.

    Paddle's operator computes coordinates in float32 whatever the input is (NOTES 8.3), and oneDNN cannot run it in an
    exported graph (NOTES 8.11). So float64 input and an exported graph go through two interpolation matrices instead.
    """
    if paddle.in_dynamic_mode() and x.dtype != paddle.float64:
        return F.interpolate(x, size=size, mode="bilinear", align_corners=True)
    rows = _interpolation_matrix(size[0], x.shape[2], x.dtype)
    columns = _interpolation_matrix(size[1], x.shape[3], x.dtype)
    n, channels, height, width = x.shape
    # flat, because oneDNN's matmul misreads what a convolution leaves in four dimensions
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
