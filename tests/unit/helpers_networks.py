"""Small networks and seeded data."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from gwprune import models


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


class Net(nn.Module):
    """``function(self, *inputs)`` with the given layers."""

    def __init__(self, function: Callable, **layers: nn.Module):
        super().__init__()
        self.function = function
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.function(self, *inputs)


def prunable(network: nn.Module) -> int:
    layers = (nn.Linear, nn.Conv2d)
    return sum(m.weight.numel() for m in network.modules() if isinstance(m, layers))


def meta(name: str, input_shape: tuple[int, int, int], classes: int, **options) -> nn.Module:
    """Build without memory or time for the weights."""
    with torch.device("meta"):
        return models.build(name, input_shape, classes, **options)
