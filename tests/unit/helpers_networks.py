"""Small networks and seeded data."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from gwprune import models


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed), dtype=dtype)


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


def labels(samples: int, classes: int, seed: int = 7) -> Tensor:
    return torch.randint(classes, (samples,), generator=seeded(seed))


def initialised(model: nn.Module, seed: int = 5) -> nn.Module:
    """Float64, in eval mode, every parameter and running statistic random but the same in each run."""
    model = model.double().eval()
    generator = seeded(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.6 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.copy_(torch.randn(buffer.shape, generator=generator))
            elif name.endswith("running_var"):
                buffer.copy_(0.5 + torch.rand(buffer.shape, generator=generator))
    return model


def tanh_mlp() -> tuple[nn.Module, list[str]]:
    model = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 3))
    return initialised(model), ["0.weight", "2.weight", "4.weight"]


def conv_net() -> tuple[nn.Module, list[str]]:
    model = nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1),
        nn.BatchNorm2d(3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.ConvTranspose2d(3, 2, 2),
        nn.BatchNorm2d(2),
        nn.Softplus(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(8, 3),
    )
    return initialised(model), ["0.weight", "4.weight", "10.weight"]


def problem(name: str, samples: int = 20) -> tuple[nn.Module, list[str], Tensor, Tensor]:
    if name == "tanh_mlp":
        return *tanh_mlp(), normal(samples, 5), labels(samples, 3)
    return *conv_net(), normal(samples, 2, 6, 6), labels(samples, 3)


PROBLEMS = ("tanh_mlp", "conv_net")


def matrix_of(operator) -> Tensor:
    return operator @ torch.eye(operator.shape[0], dtype=operator.dtype)


def flags(model: nn.Module) -> list[bool]:
    return [parameter.requires_grad for parameter in model.parameters()]
