"""The arithmetic limit of one Hessian-vector product: the FLOPs that it needs at the peak rate measured here.

With R the derivative along the vector v (Pearlmutter's R-operator; W weights of a layer, V its part of v, x its
input, delta the gradient at its output) a linear or convolutional layer takes these passes, each of as many
multiply-adds as its forward pass:

    primal, forward        W x
    primal, backward data  W^T delta                             not in the first layer
    R, forward             V x,  W Rx                            W Rx not in the first layer, where Rx = 0
    R, backward data       V^T delta,  W^T Rdelta                neither in the first layer
    R, backward weights    Rdelta^T x,  delta^T Rx               delta^T Rx not in the first layer

From scratch these are 8 passes (3 in the first layer). Products that share the primal passes need 6 (2). Everything
that is no multiplication by a weight (activations, normalisation, pooling, sums) counts as free.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.conv import _ConvNd

from .reporting import timed

# Passes over a layer for one forward pass, one product from scratch, and one that shares the primal passes.
_OTHER = {"forward": 1, "scratch": 8, "shared": 6}
_FIRST = {"forward": 1, "scratch": 3, "shared": 2}


@dataclass(frozen=True)
class Layer:
    """One call of a linear or convolutional layer.

    Attributes:
        multiply_adds: of one forward pass of one sample.
        first: its input depends on no prunable weight.
        input_shape, output_shape: of one sample.
        convolution: stride, padding, dilation, groups; None for a linear layer.
    """

    name: str
    multiply_adds: int
    first: bool
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    weight_shape: tuple[int, ...]
    convolution: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], int] | None

    @property
    def shapes(self) -> tuple:
        """What its speed depends on; equal layers are measured once."""
        return self.input_shape, self.weight_shape, self.convolution


def layers_of(model: nn.Module, inputs: Tensor) -> list[Layer]:
    """The linear and convolutional layers in the order of the forward pass of ``inputs``.

    The prunable weights must require gradients.

    Raises:
        TypeError: for a transposed convolution or a padding by name.
    """
    layers: list[Layer] = []

    def hook(name: str, module: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> None:
        convolution = None
        if isinstance(module, _ConvNd):
            if module.transposed or isinstance(module.padding, str):
                raise TypeError(f"{name}: transposed convolutions and paddings by name are not counted")
            convolution = (module.stride, module.padding, module.dilation, module.groups)
        weight = module.weight
        layers.append(
            Layer(
                name,
                output[0].numel() * weight[0].numel(),
                not arguments[0].requires_grad,
                tuple(arguments[0].shape[1:]),
                tuple(output.shape[1:]),
                tuple(weight.shape),
                convolution,
            )
        )

    handles = [
        module.register_forward_hook(partial(hook, name))
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | _ConvNd)
    ]
    try:
        model(inputs[:1])
    finally:
        for handle in handles:
            handle.remove()
    return layers


def passes(layer: Layer, kind: str) -> int:
    """How many passes a layer takes, of as many multiply-adds as its forward pass each.

    Args:
        layer: of a network.
        kind: ``"forward"`` for a forward pass, ``"scratch"`` or ``"shared"`` for a product.
    """
    return (_FIRST if layer.first else _OTHER)[kind]


def multiply_adds(layers: Sequence[Layer], kind: str) -> int:
    """Multiply-adds of one product (or forward pass) for one sample; ``kind`` as in :func:`passes`."""
    return sum(passes(layer, kind) * layer.multiply_adds for layer in layers)


def _calls(layer: Layer, batch: int, memory_format: torch.memory_format) -> list[Any]:
    """Forward pass, gradient of the input and gradient of the weights of a layer on random data, ready to be called."""

    def normal(*shape: int) -> Tensor:
        tensor = torch.randn(shape)
        return tensor.contiguous(memory_format=memory_format) if tensor.ndim == 4 else tensor

    x, weight = normal(batch, *layer.input_shape), normal(*layer.weight_shape)
    delta = normal(batch, *layer.output_shape)
    if layer.convolution is None:
        rows, outer = x.reshape(-1, weight.shape[1]), delta.reshape(-1, weight.shape[0])
        return [lambda: F.linear(rows, weight), lambda: outer @ weight, lambda: outer.t() @ rows]
    stride, padding, dilation, groups = layer.convolution
    zeros = [0] * len(stride)

    def backward(mask: list[bool]) -> Any:
        return torch.ops.aten.convolution_backward(
            delta, x, weight, None, stride, padding, dilation, False, zeros, groups, mask
        )

    return [
        lambda: torch.ops.aten.convolution(x, weight, None, stride, padding, dilation, False, zeros, groups),
        lambda: backward([True, False, False]),
        lambda: backward([False, True, False]),
    ]


class Peaks:
    """Best rates (FLOP/s) seen for each layer, over its three passes, batch sizes, memory formats and measurements."""

    def __init__(self, layers: Sequence[Layer], batch_sizes: Sequence[int], repeats: int = 2):
        self.layers, self.batch_sizes, self.repeats = list(layers), list(batch_sizes), repeats
        self._rates = {layer.shapes: 0.0 for layer in layers}

    @torch.no_grad()
    def measure(self) -> None:
        """Measure everything once more and keep what is faster than before."""
        layers = {layer.shapes: layer for layer in self.layers}
        for shapes, layer in layers.items():
            flat = layer.convolution is None or len(layer.input_shape) != 3
            for memory_format in (torch.contiguous_format,) if flat else (torch.contiguous_format, torch.channels_last):
                for batch in self.batch_sizes:
                    for call in _calls(layer, batch, memory_format):
                        call()
                        seconds = min(timed(call)[0] for _ in range(self.repeats))
                        self._rates[shapes] = max(self._rates[shapes], 2 * layer.multiply_adds * batch / seconds)

    def rate(self, layer: Layer) -> float:
        """The best rate of a layer."""
        return self._rates[layer.shapes]


def limits(peaks: Peaks, samples: int) -> dict[str, float]:
    """The limits in seconds, and how many multiplications they stand for.

    Args:
        peaks: after at least one measurement.
        samples: how many a product is over.

    Returns:
        Seconds under ``forward`` (the unit in which products are compared: the multiplications of one forward pass),
        ``scratch`` and ``shared``; the same as multiples of a forward pass under ``*_forward_units``.
    """
    layers, result = peaks.layers, {}
    total = multiply_adds(layers, "forward")
    for kind in _OTHER:
        result[kind] = sum(2 * samples * multiply_adds([layer], kind) / peaks.rate(layer) for layer in layers)
        result[f"{kind}_forward_units"] = multiply_adds(layers, kind) / total
    return {**result, "multiply_adds_per_sample": total}
