"""Small layers with the reference's start values (NOTES 3.25 and 8.3)."""

import math

import paddle
from paddle import nn
from paddle.nn import functional as F

EPSILON = 1e-5


def linear(inputs: int, outputs: int, weight: str = "torch", bias: str = "torch") -> nn.Linear:
    """A Linear layer. weight: torch (U(+-1/sqrt(inputs)), torch's default), xavier or zero; bias: torch or zero."""
    bound = 1 / math.sqrt(inputs)
    starts = {
        "torch": nn.initializer.Uniform(-bound, bound),
        "xavier": nn.initializer.XavierUniform(),
        "zero": nn.initializer.Constant(0.0),
    }
    return nn.Linear(inputs, outputs, weight_attr=starts[weight], bias_attr=starts[bias])


class MLP(nn.Layer):
    """Linear layers with ReLU between them, [..., inputs] -> [..., outputs]; the last one starts at zero."""

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
    """The FFN of a transformer layer: a mixin, since its Linear layers stand in the layer itself by name."""

    def build_ffn(self, width: int, inner: int) -> None:
        self.linear1 = linear(width, inner, "xavier")
        self.linear2 = linear(inner, width, "xavier")

    def forward_ffn(self, x, dropout: nn.Dropout):
        return self.linear2(dropout(F.relu(self.linear1(x))))


def share_first_biases(layers: nn.LayerList) -> None:
    """All layers start with the FFN biases of the first (NOTES 3.28)."""
    for layer in layers[1:]:
        for name in ("linear1", "linear2"):
            getattr(layer, name).bias.set_value(getattr(layers[0], name).bias)


def inverse_sigmoid(x):
    """The logit of x clipped to [0, 1], finite at both ends (NOTES 3.19)."""
    x = paddle.clip(x, 0, 1)
    return paddle.log(paddle.clip(x, min=EPSILON) / paddle.clip(1 - x, min=EPSILON))
