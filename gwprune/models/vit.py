"""A small vision transformer."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .checks import Shape, require_size

__all__ = ["vit"]


class _Attention(nn.Module):
    """Multi-head self-attention: (N, T, width) -> (N, T, width), all its matrices in linear layers."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.in_proj = nn.Linear(width, 3 * width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        query, key, value = self.in_proj(tokens).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        # Written out: fused kernels have no second derivative.
        attention = torch.softmax(query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5, dim=-1)
        return self.out_proj((attention @ value).transpose(1, 2).flatten(2))


class _Block(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width), _Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.attention(self.norm1(tokens))
        return tokens + self.mlp(self.norm2(tokens))


class _VisionTransformer(nn.Module):
    def __init__(self, input_shape: Shape, classes: int, patch: int, width: int, depth: int, heads: int):
        super().__init__()
        channels, rows, columns = input_shape[0], input_shape[1] // patch, input_shape[2] // patch
        self.embedding = nn.Conv2d(channels, width, kernel_size=patch, stride=patch)
        self.positions = nn.Parameter(0.02 * torch.randn(rows * columns, width))
        self.blocks = nn.Sequential(*(_Block(width, heads) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, classes)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.embedding(images).flatten(2).transpose(1, 2) + self.positions
        return self.head(self.norm(self.blocks(tokens)).mean(dim=1))


def vit(input_shape: Shape, classes: int, patch: int = 4, width: int = 48, depth: int = 4, heads: int = 3) -> nn.Module:
    """A small vision transformer: (N, C, H, W) -> (N, classes).

    As ViT (Dosovitskiy et al. 2021, arXiv 2010.11929) with norms before the blocks, GELU and a hidden layer of four
    times the width, but with the mean of all tokens instead of a class token (Beyer et al. 2022, arXiv 2205.01580).
    Rows and columns of pixels beyond the last whole patch are not seen. PyTorch's default initialisation.

    Args:
        patch: pixels on a side of the squares that become tokens.
        width: numbers in a token.
        depth: blocks.
        heads: of the attention; a divisor of the width.

    Raises:
        ValueError: if the input is smaller than a patch, or ``heads`` does not divide ``width``.
    """
    require_size("vit", input_shape, patch)
    if width % heads:
        raise ValueError(f"network 'vit': heads must divide width, got heads {heads} and width {width}")
    return _VisionTransformer(input_shape, classes, patch, width, depth, heads)
