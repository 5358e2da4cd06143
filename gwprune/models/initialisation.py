"""The initialisation of He et al. 2015 (arXiv 1502.01852), for deep ReLU networks."""

from __future__ import annotations

from typing import Literal

from torch import nn

__all__ = ["he_normal"]


def he_normal(layer: nn.Conv2d | nn.Linear, mode: Literal["fan_in", "fan_out"] = "fan_in") -> None:
    """Fill a layer in place: weights normal(0, sqrt(2 / fan)), biases zero.

    Args:
        mode: ``"fan_in"`` preserves the variance of the activations, ``"fan_out"`` that of the gradients
            (torchvision's choice for convolutions).
    """
    nn.init.kaiming_normal_(layer.weight, mode=mode, nonlinearity="relu")
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
