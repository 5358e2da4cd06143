"""Fully connected networks (LeCun et al. 1998; Zhang et al., arXiv 2306.05857, for FC5 and FC12)."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import nn

from .checks import Shape
from .initialisation import he_normal

__all__ = ["fc", "fc5", "fc12"]

FC5_HIDDEN = (1000, 600, 300, 100)
FC12_HIDDEN = (1000, 900, 800, 750, 700, 650, 600, 500, 400, 200, 100)


def fc(input_shape: Shape, classes: int, hidden: Sequence[int] = (300, 100), batch_norm: bool = False) -> nn.Module:
    """Flatten, then linear layers with ReLU between them: (N, C, H, W) -> (N, classes).

    The default is LeNet-300-100 (LeCun et al., Gradient-based learning applied to document recognition,
    1998); ``hidden=[]`` is multinomial logistic regression.

    Hidden layers have He normal weights and zero biases (He et al. 2015, arXiv 1502.01852); the last layer
    keeps PyTorch's default. With that default everywhere the signal of FC12 dies out and training stalls.

    Args:
        hidden: units of the hidden layers.
        batch_norm: put BatchNorm1d between each hidden linear layer and its ReLU.
    """
    return _perceptron(input_shape, classes, hidden, batch_norm)


def fc5(input_shape: Shape, classes: int, batch_norm: bool = False) -> nn.Module:
    """FC5: hidden layers 1000-600-300-100; see `fc`. D = 1,595,000 for 784 inputs and 10 classes."""
    return _perceptron(input_shape, classes, FC5_HIDDEN, batch_norm)


def fc12(input_shape: Shape, classes: int, batch_norm: bool = False) -> nn.Module:
    """FC12: hidden layers 1000-900-800-750-700-650-600-500-400-200-100; see `fc`."""
    return _perceptron(input_shape, classes, FC12_HIDDEN, batch_norm)


def _perceptron(input_shape: Shape, classes: int, hidden: Sequence[int], batch_norm: bool) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Flatten()]
    inputs = math.prod(input_shape)
    for units in hidden:
        linear = nn.Linear(inputs, units)
        he_normal(linear)
        layers.append(linear)
        if batch_norm:
            layers.append(nn.BatchNorm1d(units))
        layers.append(nn.ReLU(inplace=False))
        inputs = units
    layers.append(nn.Linear(inputs, classes))
    return nn.Sequential(*layers)
