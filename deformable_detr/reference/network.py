"""The whole network in torch, with the official code's tensor names (NOTES 3)."""

import argparse
import copy
import math

import torch
from torch import nn

from .backbone import build_backbone, level_mask
from .transformer import DeformableTransformer, refine


class MLP(nn.Module):
    """Three linear layers, ReLU between them: [..., C] -> [..., 4]; the last one starts at 0."""

    def __init__(self, channels: int):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(channels, outputs) for outputs in (channels, channels, 4))
        nn.init.zeros_(self.layers[-1].weight)
        nn.init.zeros_(self.layers[-1].bias)

    def forward(self, x):
        first, second, third = self.layers
        return third(second(first(x).relu()).relu())


def _projection(c_in: int, c_out: int, kernel: int) -> nn.Sequential:
    conv = nn.Conv2d(c_in, c_out, kernel, stride=2 if kernel == 3 else 1, padding=kernel // 2)
    nn.init.xavier_uniform_(conv.weight)
    nn.init.zeros_(conv.bias)
    return nn.Sequential(conv, nn.GroupNorm(32, c_out))


class DeformableDETR(nn.Module):
    """images [N, 3, H, W] and mask bool [N, H, W], True = padding -> dict.

    `pred_logits` [N, Q, classes] and `pred_boxes` [N, Q, 4] of the last decoder layer; `aux_outputs`, those of the
    earlier layers, where options.aux_loss; `enc_outputs`, those of all tokens, where options.two_stage.
    """

    def __init__(self, options: argparse.Namespace):
        super().__init__()
        width, layers = options.hidden_dim, options.dec_layers
        self.aux_loss, self.two_stage = options.aux_loss, options.two_stage
        self.transformer = DeformableTransformer(options)
        class_head, box_head = nn.Linear(width, options.num_classes), MLP(width)
        nn.init.constant_(class_head.bias, -math.log(99))
        heads = layers + options.two_stage
        if options.with_box_refine:
            self.class_embed, self.bbox_embed = (
                nn.ModuleList(copy.deepcopy(head) for _ in range(heads)) for head in (class_head, box_head)
            )
            self.transformer.decoder.bbox_embed = self.bbox_embed
        else:
            self.class_embed, self.bbox_embed = (nn.ModuleList([head] * heads) for head in (class_head, box_head))
        if options.two_stage:
            self.transformer.decoder.class_embed = self.class_embed
        else:
            nn.init.constant_(self.bbox_embed[0].layers[-1].bias[2:], -2.0)
            self.query_embed = nn.Embedding(options.num_queries, 2 * width)
        backbone = build_backbone(options)
        channels = backbone[0].channels
        projections = [_projection(c_in, width, 1) for c_in in channels]
        for level in range(len(channels), options.num_feature_levels):
            projections.append(_projection(channels[-1] if level == len(channels) else width, width, 3))
        self.input_proj = nn.ModuleList(projections)
        self.backbone = backbone

    def forward(self, images: torch.Tensor, mask: torch.Tensor) -> dict:
        return self.parts(images, mask)["outputs"]

    def parts(self, images: torch.Tensor, mask: torch.Tensor) -> dict:
        """The outputs and what they are computed from: see DeformableTransformer.forward; backbone, masks, proj and pos
        are lists with one entry a level."""
        features = self.backbone[0](images)
        maps = [projection(feature) for projection, feature in zip(self.input_proj, features, strict=False)]
        for projection in self.input_proj[len(features) :]:
            maps.append(projection(features[-1] if len(maps) == len(features) else maps[-1]))
        masks = [level_mask(mask, level.shape[2:]) for level in maps]
        encodings = [self.backbone[1](level).to(images.dtype) for level in masks]
        query_embed = None if self.two_stage else self.query_embed.weight
        parts = self.transformer(maps, masks, encodings, query_embed)
        references = [parts["init_reference"], *parts["inter_references"][:-1]]
        layers = [
            {"pred_logits": classes(state), "pred_boxes": refine(boxes(state), reference)}
            for state, reference, classes, boxes in zip(
                parts["hs"], references, self.class_embed, self.bbox_embed, strict=False
            )
        ]
        outputs = dict(layers[-1])
        if self.aux_loss:
            outputs["aux_outputs"] = layers[:-1]
        if self.two_stage:
            logits, boxes = parts["enc_logits"], parts["enc_boxes"].sigmoid()
            outputs["enc_outputs"] = {"pred_logits": logits, "pred_boxes": boxes}
        return parts | {"outputs": outputs, "backbone": features, "masks": masks, "proj": maps, "pos": encodings}


def build_reference(options: argparse.Namespace) -> DeformableDETR:
    """The torch twin for these options, freshly initialised, in train mode."""
    return DeformableDETR(options)
