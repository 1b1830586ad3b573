"""Deformable DETR: backbone, projections, transformer and heads (NOTES 3), and what its outputs mean (NOTES 7.1)."""

import argparse
import math

import numpy as np
import paddle
from paddle import nn

import ops
from .backbone import Backbone
from .box_ops import box_cxcywh_to_xyxy
from .layers import MLP, linear
from .position_encoding import build_position_encoding
from .transformer import DeformableTransformer, refine

PRIOR = 0.01  # probability of each class at the start
SIZE_BIAS = -2.0  # bias of the width's and height's logits at the start
DETECTIONS = 100  # of each image


class DeformableDETR(nn.Layer):
    """model(images, mask) -> dict; boxes are (centre, width, height) in 0 to 1 of each image.

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
        """One head of each kind for all layers; with refinement one a layer, and one for the proposals (NOTES 3.27)."""
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
            boxes[0].layers[-1].bias.set_value(paddle.to_tensor([0.0, 0.0, SIZE_BIAS, SIZE_BIAS]))
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
            # the first level beyond the backbone's halves the backbone's last map, not its projection (NOTES 3.10)
            inputs = (
                features[level] if level < len(features) else features[-1] if level == len(features) else sources[-1]
            )
            source = projection(inputs)
            padding = resize_mask(mask, source.shape[2:])
            sources.append(source)
            paddings.append(padding)
            positions.append(self.backbone[1](padding).astype(source.dtype))
        queries = None if self.transformer.two_stage else self.query_embed.weight
        parts = self.transformer(sources, paddings, positions, queries)
        references = [parts["init_reference"], *parts["references"][:-1]]
        layers = []
        for index, state in enumerate(parts["states"]):
            boxes = refine(self.bbox_embed[index](state), references[index])
            layers.append({"pred_logits": self.class_embed[index](state), "pred_boxes": boxes})
        outputs = dict(layers[-1])
        if self.aux_loss:
            outputs["aux_outputs"] = layers[:-1]
        if self.transformer.two_stage:
            boxes = parts["enc_boxes"].sigmoid()
            outputs["enc_outputs"] = {"pred_logits": parts["enc_logits"], "pred_boxes": boxes}
        return outputs


def _projection(inputs: int, width: int, kernel: int, stride: int) -> nn.Sequential:
    start, zero = nn.initializer.XavierUniform(), nn.initializer.Constant(0.0)
    convolution = nn.Conv2D(inputs, width, kernel, stride, kernel // 2, weight_attr=start, bias_attr=zero)
    return nn.Sequential(convolution, nn.GroupNorm(32, width))


def resize_mask(mask, size):
    """bool [N, H, W] -> bool [N, h, w]: the top left pixel of each cell (NOTES 3.6)."""
    for axis, cells in zip((1, 2), size):  # noqa: B905 (a static graph is made of this, without zip's `strict`)
        mask = mask.index_select(paddle.arange(cells) * mask.shape[axis] // cells, axis)
    return mask


def build_model(options: argparse.Namespace) -> DeformableDETR:
    """The network of `options` as a training starts it, in training mode.

    The backbone's first weights are drawn; ImageNet's come from a file (convert.load_backbone). InputError for a wrong
    $DEFORMABLE_DETR_OP.
    """
    ops.check_choice()
    return DeformableDETR(options)


class PostProcess:
    """PostProcess()(outputs, orig_sizes) -> the best 100 (query, class) pairs of each image, as numpy arrays.

    outputs: `pred_logits` [N, Q, classes], `pred_boxes` [N, Q, 4]; orig_sizes: int [N, 2], height and width of each
    image. Of each image a dict with `scores` [100], descending, `labels` int64 [100] and `boxes` [100, 4], corners in
    pixels of that size. Fewer where the network has no 100 logits.
    """

    @paddle.no_grad()
    def __call__(self, outputs: dict, orig_sizes) -> list[dict[str, np.ndarray]]:
        logits, boxes = outputs["pred_logits"], outputs["pred_boxes"]
        n, queries, classes = logits.shape
        scores, indices = paddle.topk(logits.sigmoid().reshape([n, -1]), min(DETECTIONS, queries * classes), axis=1)
        sizes = paddle.to_tensor(orig_sizes).astype(boxes.dtype).flip(1)
        corners = box_cxcywh_to_xyxy(boxes) * paddle.concat([sizes, sizes], 1).unsqueeze(1)
        corners = paddle.take_along_axis(corners, (indices // classes).unsqueeze(-1), 1, broadcast=True)
        arrays = {"scores": scores.numpy(), "labels": (indices % classes).numpy(), "boxes": corners.numpy()}
        return [{name: array[image] for name, array in arrays.items()} for image in range(n)]
