"""Small layers with the reference's initial values (fact sheet 4.12)."""

import math

import paddle
from paddle import nn
from paddle.nn import functional as F

EPSILON = 1e-5


def linear(inputs: int, outputs: int, weight: str = "torch", bias: str = "torch") -> nn.Linear:
    """A Linear layer. weight: torch (U(+-1/sqrt(inputs)), as its own default), xavier or zero; bias: torch or zero."""
    bound = 1 / math.sqrt(inputs)
    starts = {
        "torch": nn.initializer.Uniform(-bound, bound),
        "xavier": nn.initializer.XavierUniform(),
        "zero": nn.initializer.Constant(0.0),
    }
    return nn.Linear(inputs, outputs, weight_attr=starts[weight], bias_attr=starts[bias])


class MLP(nn.Layer):
    """Linear layers with ReLU between them; the last one starts at zero."""

    def __init__(self, inputs: int, hidden: int, outputs: int, num_layers: int):
        super().__init__()
        widths = [inputs] + [hidden] * (num_layers - 1)
        layers = [linear(a, b) for a, b in zip(widths, widths[1:], strict=False)]
        self.layers = nn.LayerList([*layers, linear(widths[-1], outputs, "zero", "zero")])

    def forward(self, x):
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        return self.layers[-1](x)


class FeedForward:
    """The FFN of a transformer layer, for layers that hold its Linear layers under the official names."""

    def build_feed_forward(self, width: int, inner: int) -> None:
        self.linear1 = linear(width, inner, "xavier")
        self.linear2 = linear(inner, width, "xavier")

    def feed_forward(self, x, dropout: nn.Dropout):
        return self.linear2(dropout(F.relu(self.linear1(x))))


def share_first_biases(layers: nn.LayerList) -> None:
    """All layers start with the FFN biases of the first: the reference copies one layer and draws its matrices anew."""
    for layer in layers[1:]:
        for name in ("linear1", "linear2"):
            getattr(layer, name).bias.set_value(getattr(layers[0], name).bias)


def inverse_sigmoid(x):
    """The logit of x clamped to [0, 1], finite at both ends (fact sheet 4.9)."""
    x = paddle.clip(x, 0, 1)
    return paddle.log(paddle.clip(x, min=EPSILON) / paddle.clip(1 - x, min=EPSILON))
