"""torch's batch norm in Paddle against torch's own."""

import numpy as np
import paddle
import pytest
import torch

from shared.norms import BatchNorm2D, use_synchronised_batch_norm


@pytest.mark.parametrize(
    ("dtype", "limit"), [("float32", 1e-5), ("float64", 1e-7)]
)  # epsilon and momentum are float32 in Paddle
@pytest.mark.parametrize("shape", [(3, 4, 5, 6), (2, 4, 1, 1)])
def test_outputs_gradients_and_statistics_are_torchs(dtype, limit, shape):
    rng = np.random.default_rng(0)
    ours, theirs = BatchNorm2D(4, momentum=0.9), torch.nn.BatchNorm2d(4, momentum=0.1)
    ours.to(dtype=dtype), theirs.to(getattr(torch, dtype))
    weight, bias = rng.standard_normal((2, 4)).astype(dtype)
    ours.weight.set_value(weight), ours.bias.set_value(bias)
    with torch.no_grad():
        theirs.weight.copy_(torch.from_numpy(weight)), theirs.bias.copy_(torch.from_numpy(bias))
    for training in (True, True, False):
        ours.train() if training else ours.eval()
        theirs.train(training)
        x, gradient = rng.standard_normal((2, *shape)).astype(dtype)
        a, b = paddle.to_tensor(x, stop_gradient=False), torch.from_numpy(x).requires_grad_()
        out, expected = ours(a), theirs(b)
        out.backward(paddle.to_tensor(gradient)), expected.backward(torch.from_numpy(gradient))
        pairs = [
            (out.numpy(), expected.detach()),
            (a.grad.numpy(), b.grad),
            (ours.weight.grad.numpy(), theirs.weight.grad),
        ]
        pairs += [(ours._mean.numpy(), theirs.running_mean), (ours._variance.numpy(), theirs.running_var)]
        for found, wanted in pairs:
            np.testing.assert_allclose(found, wanted.numpy(), rtol=limit, atol=limit)


def test_one_value_a_channel_is_refused():
    with pytest.raises(ValueError, match="at least two pictures"):
        BatchNorm2D(4)(paddle.ones([1, 4, 1, 1]))


def test_every_norm_of_a_network_is_synchronised():
    network = paddle.nn.Sequential(BatchNorm2D(2), paddle.nn.Sequential(BatchNorm2D(2)), paddle.nn.BatchNorm2D(2))
    use_synchronised_batch_norm(network)
    assert [getattr(norm, "synchronise", None) for norm in (network[0], network[1][0], network[2])] == [
        True,
        True,
        None,
    ]
