"""Deformable DETR: backbone, projections, transformer and heads (fact sheet section 4)."""

import argparse
import math

import paddle
from paddle import nn

from .backbone import Backbone
from .layers import MLP, linear
from .position_encoding import build_position_encoding
from .transformer import DeformableTransformer, refine

#: the share of queries that each class is given at the start
PRIOR = 0.01
#: bias of the width's and height's logits at the start
SMALL = -2.0


class DeformableDETR(nn.Layer):
    """model(images, mask) -> dict (the official names; boxes as centre, width and height in 0 to 1 of each picture).

    images: float [N, 3, H, W], normalised, zeros where padded; mask: bool [N, H, W], True where padded.
    `pred_logits` [N, Q, classes] and `pred_boxes` [N, Q, 4] of the last decoder layer; with options.aux_loss
    `aux_outputs`, a list of the same two of each earlier layer; with two stages `enc_outputs`, the same two of all S
    tokens. Training and evaluation differ in dropout alone.
    """

    def __init__(self, options: argparse.Namespace):
        super().__init__()
        width, levels = options.hidden_dim, options.num_feature_levels
        self.aux_loss = options.aux_loss
        self.transformer = DeformableTransformer(options)
        self._build_heads(options)
        if not options.two_stage:
            start = nn.initializer.Normal(0.0, 1.0)
            self.query_embed = nn.Embedding(options.num_queries, 2 * width, weight_attr=start)
        backbone = Backbone(
            options.backbone, options.backbone_norm, options.dilation, levels > 1, options.lr_backbone > 0
        )
        channels, projections = backbone.channels[:levels], []
        for inputs in channels:
            projections.append(_projection(inputs, width, 1, 1))
        inputs = channels[-1]
        for _ in range(levels - len(channels)):
            projections.append(_projection(inputs, width, 3, 2))
            inputs = width
        self.input_proj = nn.LayerList(projections)
        self.backbone = nn.LayerList([backbone, build_position_encoding(options.position_embedding, width)])

    def _build_heads(self, options: argparse.Namespace) -> None:
        """One head of each kind for all layers; with refinement one for each, and one for the proposals.

        The heads of the layers start as copies of one another.
        """
        width = options.hidden_dim
        count = options.dec_layers + options.two_stage
        different = count if options.with_box_refine else 1
        classes = [linear(width, options.num_classes) for _ in range(different)]
        boxes = [MLP(width, width, 4, 3) for _ in range(different)]
        for head in classes:
            head.weight.set_value(classes[0].weight)
            head.bias.set_value(paddle.full([options.num_classes], -math.log((1 - PRIOR) / PRIOR)))
        for head in boxes[1:]:
            head.set_state_dict(boxes[0].state_dict())
        if not options.two_stage:
            boxes[0].layers[-1].bias.set_value(paddle.to_tensor([0.0, 0.0, SMALL, SMALL]))
        self.class_embed = nn.LayerList(classes if options.with_box_refine else classes * count)
        self.bbox_embed = nn.LayerList(boxes if options.with_box_refine else boxes * count)
        if options.with_box_refine:
            self.transformer.decoder.bbox_embed = self.bbox_embed
        if options.two_stage:
            self.transformer.decoder.class_embed = self.class_embed

    def forward(self, images, mask) -> dict:
        features = self.backbone[0](images)
        sources, paddings, positions = [], [], []
        for level, projection in enumerate(self.input_proj):
            # the first level beyond the backbone's halves the backbone's last map, not its projection
            given = (
                features[level] if level < len(features) else features[-1] if level == len(features) else sources[-1]
            )
            source = projection(given)
            padding = resize_mask(mask, source.shape[2:])
            sources.append(source)
            paddings.append(padding)
            positions.append(self.backbone[1](padding).astype(source.dtype))
        queries = None if self.transformer.two_stage else self.query_embed.weight
        found = self.transformer(sources, paddings, positions, queries)
        references = [found["initial_reference"], *found["references"][:-1]]
        layers = []
        for index, state in enumerate(found["states"]):
            boxes = refine(self.bbox_embed[index](state), references[index])
            layers.append({"pred_logits": self.class_embed[index](state), "pred_boxes": boxes})
        outputs = dict(layers[-1])
        if self.aux_loss:
            outputs["aux_outputs"] = layers[:-1]
        if self.transformer.two_stage:
            boxes = found["proposal_boxes"].sigmoid()
            outputs["enc_outputs"] = {"pred_logits": found["proposal_logits"], "pred_boxes": boxes}
        return outputs


def _projection(inputs: int, width: int, kernel: int, stride: int) -> nn.Sequential:
    start, zero = nn.initializer.XavierUniform(), nn.initializer.Constant(0.0)
    convolution = nn.Conv2D(inputs, width, kernel, stride, kernel // 2, weight_attr=start, bias_attr=zero)
    return nn.Sequential(convolution, nn.GroupNorm(32, width))


def resize_mask(mask, size):
    """bool [N, H, W] -> bool [N, h, w]: the top left pixel of each cell."""
    for axis, cells in zip((1, 2), size):  # noqa: B905 (a static graph is made of this, without zip's `strict`)
        mask = mask.index_select(paddle.arange(cells) * mask.shape[axis] // cells, axis)
    return mask


def build_model(options: argparse.Namespace) -> DeformableDETR:
    """The network of `options` as a training starts it (section 4.12), in training mode.

    The backbone's first weights are drawn; ImageNet's come from a file (convert.load_backbone).
    """
    return DeformableDETR(options)
