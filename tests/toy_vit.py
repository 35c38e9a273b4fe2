"""A plain ViT in small with attention rollout, untrained: proof that the model interface fits its family."""

import torch
from torch import Tensor, nn

from train.models.explained import ExplainedClassifier


class ToyViT(ExplainedClassifier):
    """Two layers, two heads.

    Its map is the class token's row of the rollout (Abnar & Zuidema 2020, heads fused by maximum), scaled to mean 1
    over the patches, times the logit.

    Args:
        tile_px: side of a tile; a multiple of `patch_px`.
    """

    method = "rollout-max"

    def __init__(self, tile_px: int = 64, patch_px: int = 16, width: int = 16, layers: int = 2) -> None:
        super().__init__(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
        self.map_hw = (tile_px // patch_px, tile_px // patch_px)
        self.patches = nn.Conv2d(3, width, patch_px, patch_px)
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        self.position = nn.Parameter(torch.randn(1, 1 + self.map_hw[0] * self.map_hw[1], width) * 0.02)
        self.layers = nn.ModuleList(_Layer(width) for _ in range(layers))
        self.head = nn.Linear(width, 1)

    def evidence(self, images: Tensor) -> Tensor:
        patches = self.patches(images).flatten(2).transpose(1, 2)  # (N, patches, width)
        tokens = torch.cat([self.class_token.expand(patches.shape[0], -1, -1), patches], dim=1) + self.position
        attentions = []
        for layer in self.layers:
            tokens, attention = layer(tokens)
            attentions.append(attention)
        logits = self.head(tokens[:, 0].float())  # (N, 1)
        row = rollout_of_class_token(attentions).detach()[:, 1:]  # it explains the logit and does not teach it
        scaled = row / row.mean(dim=1, keepdim=True)
        return (scaled * logits).unflatten(1, self.map_hw)


def rollout_of_class_token(attentions: list[Tensor]) -> Tensor:
    """Row of the class token [N, tokens] in the product of all layers' attention [N, heads, tokens, tokens]."""
    tokens = attentions[0].shape[-1]
    identity = torch.eye(tokens)
    row = identity[:1].expand(attentions[0].shape[0], 1, tokens)
    for attention in reversed(attentions):
        mixed = attention.float().amax(dim=1) + identity
        row = row @ (mixed / mixed.sum(dim=-1, keepdim=True))
    return row[:, 0]


class _Layer(nn.Module):
    def __init__(self, width: int, heads: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        qkv = self.qkv(self.norms[0](tokens)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        query, key, value = qkv.unbind(0)  # each (N, heads, tokens, width / heads)
        attention = (query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5).softmax(dim=-1)
        tokens = tokens + self.out((attention @ value).transpose(1, 2).flatten(2))
        return tokens + self.mlp(self.norms[1](tokens)), attention
