"""The first of the two stages: every token of the encoder proposes one box (fact sheet 4.11)."""

import math

import paddle

from .position_encoding import waves

#: width and height of a proposal on the finest level; each level doubles them
SIDE = 0.05
#: proposals that reach nearer to the picture's border than this do not count
BORDER = 0.01


def proposal_boxes(padding: list) -> tuple:
    """(boxes before the sigmoid float32 [N, S, 4], invalid bool [N, S]) of the levels' paddings bool [N, h, w].

    Invalid are tokens of padding and of boxes that reach the border of the picture's valid part; their boxes are inf.
    """
    boxes = []
    for level, mask in enumerate(padding):
        n, h, w = mask.shape
        valid = (~mask).astype("float32")
        width, height = valid[:, 0, :].sum(1).reshape([n, 1, 1]), valid[:, :, 0].sum(1).reshape([n, 1, 1])
        x = ((paddle.arange(w, dtype="float32") + 0.5).reshape([1, 1, w]) / width).expand([n, h, w])
        y = ((paddle.arange(h, dtype="float32") + 0.5).reshape([1, h, 1]) / height).expand([n, h, w])
        side = paddle.full([n, h, w], SIDE * 2.0**level)
        boxes.append(paddle.stack([x, y, side, side], -1).reshape([n, h * w, 4]))
    boxes = paddle.concat(boxes, 1)
    inside = ((boxes > BORDER) & (boxes < 1 - BORDER)).all(-1)
    invalid = paddle.concat([mask.flatten(1) for mask in padding], 1) | ~inside
    logits = paddle.log(boxes / (1 - boxes))
    # overwritten, not multiplied: outside 0 to 1 the logarithm is no number
    return logits.masked_fill(invalid.unsqueeze(-1), math.inf), invalid


def proposal_embedding(boxes, channels: int):
    """Proposals [N, Q, 4] before the sigmoid -> [N, Q, 4 * channels]: waves of each of the four numbers in turn."""
    return waves(boxes.sigmoid() * (2 * math.pi), channels).flatten(2)
