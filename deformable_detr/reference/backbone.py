"""The backbone and the position encodings in torch (NOTES 3.3 to 3.9)."""

import argparse
import math

import torch
from torch import nn

from .resnet import RESNETS

TEMPERATURE = 10000
LEARNED_CELLS = 50


class FrozenBatchNorm2d(nn.Module):
    """Batch norm by stored statistics, in train mode too; all four tensors are buffers."""

    def __init__(self, channels: int):
        super().__init__()
        for name, value in (("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0)):
            self.register_buffer(name, torch.full((channels,), value))

    def _load_from_state_dict(self, state_dict, prefix, *rest):
        state_dict.pop(f"{prefix}num_batches_tracked", None)  # files of an ordinary batch norm have it
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scale = self.weight / (self.running_var + 1e-5).sqrt()
        shift = self.bias - self.running_mean * scale
        return x * scale[:, None, None] + shift[:, None, None]


def level_mask(mask: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """The padding mask [N, H, W] at a level's size: the top left pixel of every cell (NOTES 3.6)."""
    rows, columns = (
        torch.arange(small, device=mask.device) * large // small
        for small, large in zip(size, mask.shape[1:], strict=True)
    )
    return mask[:, rows][:, :, columns]


def sine_embedding(positions: torch.Tensor, channels: int) -> torch.Tensor:
    """[...] in radians -> [..., channels]: sine and cosine in turn, of wavelengths that grow up to 10000-fold."""
    pairs = torch.arange(channels, dtype=torch.float32, device=positions.device) // 2
    angles = positions[..., None] / TEMPERATURE ** (2 * pairs / channels)
    return torch.stack([angles[..., 0::2].sin(), angles[..., 1::2].cos()], dim=-1).flatten(-2)


class PositionEmbeddingSine(nn.Module):
    """mask [N, h, w], True = padding -> float32 [N, channels, h, w], the first half by rows, the second by columns."""

    def __init__(self, channels: int):
        super().__init__()
        self.channels = channels

    def forward(self, mask: torch.Tensor) -> torch.Tensor:
        parts = []
        for axis in (1, 2):
            position = (~mask).cumsum(axis, dtype=torch.float32)
            angle = (position - 0.5) / (position.narrow(axis, position.shape[axis] - 1, 1) + 1e-6) * (2 * math.pi)
            parts.append(sine_embedding(angle, self.channels // 2))
        return torch.cat(parts, -1).permute(0, 3, 1, 2)


class PositionEmbeddingLearned(nn.Module):
    """As PositionEmbeddingSine, by tables of 50 rows and columns; here the columns come first."""

    def __init__(self, channels: int):
        super().__init__()
        self.row_embed = nn.Embedding(LEARNED_CELLS, channels // 2)
        self.col_embed = nn.Embedding(LEARNED_CELLS, channels // 2)
        nn.init.uniform_(self.row_embed.weight)
        nn.init.uniform_(self.col_embed.weight)

    def forward(self, mask: torch.Tensor) -> torch.Tensor:
        batch, h, w = mask.shape
        columns = self.col_embed.weight[:w].expand(h, w, -1)
        rows = self.row_embed.weight[:h, None].expand(h, w, -1)
        return torch.cat([columns, rows], -1).permute(2, 0, 1).expand(batch, -1, -1, -1)


class Backbone(nn.Module):
    """images [N, 3, H, W] -> the outputs of the ResNet's used layers, as a list."""

    def __init__(self, options: argparse.Namespace):
        super().__init__()
        frozen = options.backbone_norm == "frozen"
        norm = FrozenBatchNorm2d if frozen else nn.BatchNorm2d
        self.body = RESNETS[options.backbone](
            replace_stride_with_dilation=(False, False, options.dilation), norm_layer=norm
        )
        del self.body.avgpool, self.body.fc
        trained = ("layer2", "layer3", "layer4") if frozen else ("",)
        for name, parameter in self.body.named_parameters():
            parameter.requires_grad_(options.lr_backbone > 0 and name.startswith(trained))
        self.used = (2, 3, 4) if options.num_feature_levels > 1 else (4,)
        width = 4 if isinstance(self.body.layer1[0].downsample, nn.Module) else 1
        self.channels = [width * (32 << layer) for layer in self.used]

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        body, features = self.body, []
        x = body.maxpool(body.relu(body.bn1(body.conv1(images))))
        for index in (1, 2, 3, 4):
            x = getattr(body, f"layer{index}")(x)
            if index in self.used:
                features.append(x)
        return features


def build_backbone(options: argparse.Namespace) -> nn.Sequential:
    """The features (`backbone.0`) and the position encoding (`backbone.1`)."""
    encoding = PositionEmbeddingSine if options.position_embedding == "sine" else PositionEmbeddingLearned
    return nn.Sequential(Backbone(options), encoding(options.hidden_dim))
