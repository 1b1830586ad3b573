"""Encoder, decoder and proposals in torch (NOTES 3.11 and 3.14 to 3.24)."""

import argparse
import math

import torch
from torch import nn

from .attention import MSDeformAttn
from .backbone import sine_embedding


def inverse_sigmoid(x: torch.Tensor) -> torch.Tensor:
    """The logit of x clipped to [0, 1], finite at both ends (NOTES 3.19)."""
    x = x.clamp(0, 1)
    return (x.clamp(min=1e-5) / (1 - x).clamp(min=1e-5)).log()


def refine(delta: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """The box (cx, cy, w, h) that delta [..., 4] makes of a reference of 2 or 4 numbers (NOTES 3.18)."""
    known = inverse_sigmoid(reference)
    return torch.cat([delta[..., : known.shape[-1]] + known, delta[..., known.shape[-1] :]], -1).sigmoid()


def get_valid_ratio(mask: torch.Tensor) -> torch.Tensor:
    """[N, h, w], True = padding -> float32 [N, 2]: the valid fraction of (width, height) (NOTES 3.11)."""
    counts = torch.stack([(~mask[:, 0, :]).sum(1), (~mask[:, :, 0]).sum(1)], -1)
    return counts.float() / torch.tensor([mask.shape[2], mask.shape[1]], device=mask.device)


def centres(h: int, w: int) -> tuple[torch.Tensor, torch.Tensor]:
    """float32 (x, y) [h*w] of every cell's centre, in cells."""
    y, x = torch.meshgrid(torch.arange(h) + 0.5, torch.arange(w) + 0.5, indexing="ij")
    return x.flatten(), y.flatten()


def get_reference_points(sizes: list[tuple[int, int]], ratios: torch.Tensor) -> torch.Tensor:
    """float32 [N, S, L, 2]: every token's own position (x, y) over every padded level (NOTES 3.14)."""
    points = []
    for level, (h, w) in enumerate(sizes):
        x, y = centres(h, w)
        points.append(torch.stack([x / (ratios[:, level, :1] * w), y / (ratios[:, level, 1:] * h)], -1))
    return torch.cat(points, 1)[:, :, None] * ratios[:, None]


class DeformableTransformerEncoderLayer(nn.Module):
    def __init__(self, options: argparse.Namespace):
        super().__init__()
        width, inner = options.hidden_dim, options.dim_feedforward
        self.self_attn = MSDeformAttn(width, options.num_feature_levels, options.nheads, options.enc_n_points)
        self.norm1 = nn.LayerNorm(width)
        self.linear1, self.linear2 = nn.Linear(width, inner), nn.Linear(inner, width)
        self.norm2 = nn.LayerNorm(width)
        self.drop = nn.Dropout(options.dropout)

    def forward(self, x, position, points, spatial_shapes, padding):
        attended = self.self_attn(x + position, points, x, spatial_shapes, padding)
        x = self.norm1(x + self.drop(attended))
        return self.norm2(x + self.drop(self.linear2(self.drop(self.linear1(x).relu()))))


class DeformableTransformerDecoderLayer(nn.Module):
    """The norms are not numbered in order of use: norm2 comes first, then norm1, then norm3 (NOTES 3.16)."""

    def __init__(self, options: argparse.Namespace):
        super().__init__()
        width, inner = options.hidden_dim, options.dim_feedforward
        self.cross_attn = MSDeformAttn(width, options.num_feature_levels, options.nheads, options.dec_n_points)
        self.norm1 = nn.LayerNorm(width)
        self.self_attn = nn.MultiheadAttention(width, options.nheads, dropout=options.dropout, batch_first=True)
        self.norm2 = nn.LayerNorm(width)
        self.linear1, self.linear2 = nn.Linear(width, inner), nn.Linear(inner, width)
        self.norm3 = nn.LayerNorm(width)
        self.drop = nn.Dropout(options.dropout)

    def forward(self, x, position, points, memory, spatial_shapes, padding):
        query = x + position
        x = self.norm2(x + self.drop(self.self_attn(query, query, x, need_weights=False)[0]))
        attended = self.cross_attn(x + position, points, memory, spatial_shapes, padding)
        x = self.norm1(x + self.drop(attended))
        return self.norm3(x + self.drop(self.linear2(self.drop(self.linear1(x).relu()))))


class Layers(nn.Module):
    """A list of layers under the official name `layers`; the network adds its heads beside it (NOTES 3.1)."""

    def __init__(self, layer: type[nn.Module], options: argparse.Namespace, count: int):
        super().__init__()
        self.layers = nn.ModuleList(layer(options) for _ in range(count))


class DeformableTransformer(nn.Module):
    """Tokens of all levels in, states and references of all decoder layers out."""

    def __init__(self, options: argparse.Namespace):
        super().__init__()
        width = options.hidden_dim
        self.level_embed = nn.Parameter(torch.empty(options.num_feature_levels, width))
        self.encoder = Layers(DeformableTransformerEncoderLayer, options, options.enc_layers)
        self.decoder = Layers(DeformableTransformerDecoderLayer, options, options.dec_layers)
        self.two_stage, self.refines, self.queries = options.two_stage, options.with_box_refine, options.num_queries
        if options.two_stage:
            self.enc_output, self.enc_output_norm = nn.Linear(width, width), nn.LayerNorm(width)
            self.pos_trans, self.pos_trans_norm = nn.Linear(2 * width, 2 * width), nn.LayerNorm(2 * width)
        else:
            self.reference_points = nn.Linear(width, 2)
        self._reset()

    def _reset(self) -> None:
        """Start values (NOTES 3.25, 3.28): Xavier; the layers of one kind start with the same biases, as copies do."""
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
        for module in self.modules():
            if isinstance(module, MSDeformAttn):
                module.reset_parameters()
        with torch.no_grad():
            for stack in (self.encoder, self.decoder):
                for layer in stack.layers[1:]:
                    layer.linear1.bias.copy_(stack.layers[0].linear1.bias)
                    layer.linear2.bias.copy_(stack.layers[0].linear2.bias)
        nn.init.normal_(self.level_embed)
        if not self.two_stage:
            nn.init.zeros_(self.reference_points.bias)

    def forward(self, maps: list, masks: list, encodings: list, query_embed: torch.Tensor | None) -> dict:
        """maps [N, C, h, w], masks [N, h, w] and encodings [N, C, h, w] of every level; query_embed [Q, 2C] or None.

        Returns what the network's heads need and what tests compare: `hs` [layers, N, Q, C], `init_reference`
        [N, Q, 2 or 4], `inter_references` [layers, N, Q, 2 or 4], `memory` [N, S, C]; with two stages `enc_logits`,
        `enc_boxes` (before the sigmoid), `topk_index` [N, Q], `invalid` [N, S].
        """
        sizes = [(mask.shape[1], mask.shape[2]) for mask in masks]
        shapes = torch.tensor(sizes, device=maps[0].device)
        ratios = torch.stack([get_valid_ratio(mask) for mask in masks], 1)
        tokens, padding = (torch.cat([level.flatten(-2) for level in levels], -1) for levels in (maps, masks))
        memory = tokens.transpose(1, 2)
        position = torch.cat(
            [level.flatten(2).transpose(1, 2) + own for level, own in zip(encodings, self.level_embed, strict=True)], 1
        )
        parts = {"spatial_shapes": shapes, "valid_ratios": ratios}
        points = get_reference_points(sizes, ratios)
        for layer in self.encoder.layers:
            memory = layer(memory, position, points, shapes, padding)
            parts.setdefault("encoder0", memory)
        if self.two_stage:
            parts |= self._proposals(memory, padding, sizes)
            best = parts["enc_logits"][..., 0].topk(self.queries, dim=1).indices
            boxes = parts["enc_boxes"].gather(1, best[..., None].expand(-1, -1, 4)).detach()
            reference = boxes.sigmoid()
            embedding = sine_embedding(reference * (2 * math.pi), memory.shape[-1] // 2).flatten(-2)
            query_position, x = self.pos_trans_norm(self.pos_trans(embedding)).chunk(2, -1)
            parts["topk_index"] = best
        else:
            query_position, x = (part.expand(len(memory), -1, -1) for part in query_embed.chunk(2, -1))
            reference = self.reference_points(query_position).sigmoid()
        parts |= {"memory": memory, "init_reference": reference}
        states, references = [], []
        for index, layer in enumerate(self.decoder.layers):
            scale = ratios if reference.shape[-1] == 2 else torch.cat([ratios, ratios], -1)
            x = layer(x, query_position, reference[:, :, None] * scale[:, None], memory, shapes, padding)
            if self.refines:
                reference = refine(self.decoder.bbox_embed[index](x), reference).detach()
            states.append(x)
            references.append(reference)
        return parts | {"hs": torch.stack(states), "inter_references": torch.stack(references)}

    def _proposals(self, memory: torch.Tensor, padding: torch.Tensor, sizes: list) -> dict:
        """The first stage: a box of every token (NOTES 3.22)."""
        known = gen_encoder_output_proposals(padding, sizes)
        invalid = known.isinf().all(-1)
        output = self.enc_output_norm(self.enc_output(memory.masked_fill(invalid[..., None], 0)))
        boxes = self.decoder.bbox_embed[-1](output) + known
        return {"enc_logits": self.decoder.class_embed[-1](output), "enc_boxes": boxes, "invalid": invalid}


def gen_encoder_output_proposals(padding: torch.Tensor, sizes: list[tuple[int, int]]) -> torch.Tensor:
    """padding bool [N, S] -> float32 [N, S, 4]: a box around every cell before the sigmoid, infinite where the token is
    padded or the box reaches the border (NOTES 3.21)."""
    boxes = []
    for level, mask in enumerate(padding.split([h * w for h, w in sizes], 1)):
        h, w = sizes[level]
        mask = mask.unflatten(1, (h, w))
        x, y = centres(h, w)
        x, y = x / (~mask[:, 0, :]).sum(1, keepdim=True), y / (~mask[:, :, 0]).sum(1, keepdim=True)
        side = torch.full_like(x, 0.05) * 2.0**level
        boxes.append(torch.stack([x, y, side, side], -1))
    boxes = torch.cat(boxes, 1)
    valid = ((boxes > 0.01) & (boxes < 0.99)).all(-1, keepdim=True) & ~padding[..., None]
    return (boxes / (1 - boxes)).log().masked_fill(~valid, float("inf"))
