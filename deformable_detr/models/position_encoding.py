"""Position encodings of a feature map, from its padding mask (NOTES 3.7 to 3.9)."""

import math

import paddle
from paddle import nn

from shared import InputError

TEMPERATURE = 10000
LEARNED_CELLS = 50


def sine_embedding(positions, channels: int):
    """[...] in radians -> [..., channels]: sine and cosine in turn, of wavelengths from 2 pi to 10000 times that."""
    wavelengths = TEMPERATURE ** (paddle.arange(channels, dtype="float32") // 2 * 2 / channels)
    angles = positions.unsqueeze(-1) / wavelengths.astype(positions.dtype)
    return paddle.stack([angles[..., 0::2].sin(), angles[..., 1::2].cos()], -1).flatten(-2)


class PositionEmbeddingSine(nn.Layer):
    """forward(padding bool [N, h, w]) -> float32 [N, h, w, channels], always computed in float32.

    Rows and columns are counted over the valid part only and normalised to it.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.channels = channels

    def forward(self, padding):
        valid = (~padding).astype("float32")
        encodings = []
        for axis in (1, 2):
            position = valid.cumsum(axis)
            last = position[:, -1:] if axis == 1 else position[:, :, -1:]
            position = (position - 0.5) / (last + 1e-6) * (2 * math.pi)
            encodings.append(sine_embedding(position, self.channels // 2))
        return paddle.concat(encodings, -1)


class PositionEmbeddingLearned(nn.Layer):
    """One learned vector for each row and each column, of at most 50; the same forward.

    InputError for a larger feature map.
    """

    def __init__(self, channels: int):
        super().__init__()
        start = nn.initializer.Uniform(0.0, 1.0)
        self.row_embed = nn.Embedding(LEARNED_CELLS, channels // 2, weight_attr=start)
        self.col_embed = nn.Embedding(LEARNED_CELLS, channels // 2, weight_attr=start)

    def forward(self, padding):
        n, h, w = padding.shape
        if max(h, w) > LEARNED_CELLS:
            raise InputError(
                f"a feature map of {h}x{w} cells: --position_embedding learned knows {LEARNED_CELLS} rows and columns; "
                "make the images smaller"
            )
        columns = self.col_embed(paddle.arange(w)).reshape([1, 1, w, -1]).expand([n, h, w, -1])
        rows = self.row_embed(paddle.arange(h)).reshape([1, h, 1, -1]).expand([n, h, w, -1])
        return paddle.concat([columns, rows], -1)


def build_position_encoding(kind: str, channels: int) -> nn.Layer:
    """kind: sine or learned."""
    return {"sine": PositionEmbeddingSine, "learned": PositionEmbeddingLearned}[kind](channels)
