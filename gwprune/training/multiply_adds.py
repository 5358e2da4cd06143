"""Theoretical cost of a network: the multiply-adds of its prunable weights for one input."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from ..network.matrices import is_conv1d_of_transformers
from ..network.modes import eval_mode, frozen
from ..network.prunable import PrunableSet
from ..network.samples import call, count_samples

__all__ = ["layer_nonzeros", "multiply_adds", "uses_for", "weight_uses"]


def weight_uses(model: nn.Module, prunable: PrunableSet, input_shape: Sequence[int]) -> list[int]:
    """:func:`uses_for` an input of zeros.

    Args:
        model: the network.
        prunable: its prunable weights.
        input_shape: shape of one input without the batch axis.
    """
    weight = prunable.parameters[0]
    return uses_for(model, prunable, torch.zeros((1, *input_shape), device=weight.device, dtype=weight.dtype))


def uses_for(model: nn.Module, prunable: PrunableSet, inputs: Any) -> list[int]:
    """How often each weight of every prunable tensor is multiplied with something for one input.

    A linear weight is used once for every vector that passes its layer (once per image behind a flatten), a
    convolution's once per output pixel, padding included, a transposed convolution's once per input pixel. Layers that
    share a weight add up.

    Args:
        model: the network.
        prunable: its prunable weights.
        inputs: some inputs, as the network takes them; a tuple is spread over its arguments.

    Returns:
        One number for each prunable tensor: the mean over the inputs. 0 where no linear or convolution layer uses it.
    """
    index = {id(weight): number for number, weight in enumerate(prunable.parameters)}
    uses = [0] * len(prunable.parameters)

    def count(module: Any, arguments: tuple, output: Tensor) -> None:
        # Every element is the sum over one row of the weight, or spread by one row, so each row is used for its own.
        rows = arguments[0] if getattr(module, "transposed", False) else output
        outputs = module.weight.shape[1 if is_conv1d_of_transformers(module) else 0]
        uses[index[id(module.weight)]] += rows.numel() // outputs

    layers = [
        module
        for module in model.modules()
        if (isinstance(module, nn.Linear | _ConvNd) or is_conv1d_of_transformers(module))
        and id(getattr(module, "weight", None)) in index
    ]
    handles = [layer.register_forward_hook(count) for layer in layers]
    try:
        with eval_mode(model), frozen(model):
            call(model, inputs)
    finally:
        for handle in handles:
            handle.remove()
    samples = count_samples(inputs)
    return [use // samples for use in uses]


def layer_nonzeros(prunable: PrunableSet, kept: Tensor) -> list[int]:
    """Number of kept weights of every prunable tensor under the boolean mask ``kept`` (D,)."""
    return [int(part.sum()) for part in kept.split(prunable.sizes)]


def multiply_adds(uses: Sequence[int], nonzeros: Sequence[int]) -> int:
    """Multiply-adds for one input when only weights that are not zero count: ``sum_l uses_l * nonzeros_l``.

    With the sizes of the layers as ``nonzeros``: those of the dense network. Biases, normalisation, activations and
    pooling do not count (Blalock et al. 2020, "theoretical speed-up").
    """
    return sum(use * count for use, count in zip(uses, nonzeros, strict=True))
