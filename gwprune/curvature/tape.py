"""Prunable layers seen from the curvature: what one linear or convolution layer adds to a product, done fast.

A layer ``z = W x + b`` enters the derivative of the loss along v only through ``<delta, V x>``, where delta is the
loss's derivative in z and V is v's part for this layer. A tape keeps x and delta of every use of every prunable
weight, so that the gradient itself (as large as the product wanted) is never formed, and convolutions are
differentiated twice by the three kernels that training uses: PyTorch's own second derivative of a convolution
swaps samples and channels instead, which is several times slower on a CPU.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from ..network.modes import without_autocast

__all__ = ["Tape"]


class _Geometry(NamedTuple):
    """How a convolution slides, in the order of ``aten::convolution``."""

    stride: list[int]
    padding: list[int]
    dilation: list[int]
    transposed: bool
    output_padding: list[int]
    groups: int


def _apply(x: Tensor, weight: Tensor, bias: Tensor | None, geometry: _Geometry | None) -> Tensor:
    if geometry is None:
        return functional.linear(x, weight, bias)
    return torch.convolution(x, weight, bias, *geometry)


def _data_gradient(delta: Tensor, x: Tensor, weight: Tensor, geometry: _Geometry | None) -> Tensor:
    if geometry is None:
        return delta @ weight
    return torch.ops.aten.convolution_backward(delta, x, weight, None, *geometry, [True, False, False])[0]


def _weight_gradient(delta: Tensor, x: Tensor, weight: Tensor, geometry: _Geometry | None) -> Tensor:
    if geometry is None:
        return delta.flatten(0, -2).t() @ x.flatten(0, -2)
    return torch.ops.aten.convolution_backward(delta, x, weight, None, *geometry, [False, True, False])[1]


class _DataGradient(torch.autograd.Function):
    """``W^T delta``, linear in delta and in W: its derivatives are a layer's output and a weight gradient."""

    @staticmethod
    def forward(ctx, delta: Tensor, x: Tensor, weight: Tensor, geometry: _Geometry | None) -> Tensor:
        ctx.save_for_backward(delta, x, weight)
        ctx.geometry = geometry
        return _data_gradient(delta, x, weight, geometry)

    @staticmethod
    def backward(ctx, tangent: Tensor):
        delta, x, weight = ctx.saved_tensors
        need_delta, _, need_weight, _ = ctx.needs_input_grad
        return (
            _apply(tangent, weight, None, ctx.geometry) if need_delta else None,
            None,  # x is here for its shape alone
            _weight_gradient(delta, tangent, weight, ctx.geometry) if need_weight else None,
            None,
        )


class _Layer(torch.autograd.Function):
    """``W x + b``; while its tape records, the backward pass hands (x, delta) to the tape, and nothing to W."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None, geometry: _Geometry | None, number: int, tape):
        ctx.save_for_backward(x, weight)
        ctx.geometry, ctx.number, ctx.tape = geometry, number, tape
        return _apply(x, weight, bias, geometry)

    @staticmethod
    def backward(ctx, delta: Tensor):
        x, weight = ctx.saved_tensors
        need_x, need_weight, need_bias, *_ = ctx.needs_input_grad
        grad_weight = None
        if ctx.tape.recording:
            ctx.tape.uses.append(Use(ctx.number, x, delta, ctx.geometry))
        elif need_weight:
            grad_weight = _weight_gradient(delta, x, weight, ctx.geometry)
        features = 1 if ctx.geometry else delta.ndim - 1
        grad_bias = delta.sum([d for d in range(delta.ndim) if d != features]) if need_bias else None
        grad_x = _DataGradient.apply(delta, x, weight, ctx.geometry) if need_x else None
        return grad_x, grad_weight, grad_bias, None, None, None


class _Scaled(torch.autograd.Function):
    """``delta f'(x)``, the gradient of a function of single numbers; ``first`` and ``second`` are f' and f'' of x."""

    @staticmethod
    def forward(ctx, delta: Tensor, x: Tensor, first: Tensor, second: Tensor) -> Tensor:
        ctx.save_for_backward(delta, first, second)
        return delta * first

    @staticmethod
    def backward(ctx, tangent: Tensor):
        delta, first, second = ctx.saved_tensors
        return tangent * first, (tangent * delta).mul_(second), None, None


class _Gelu(torch.autograd.Function):
    """GELU that keeps both derivatives, so that no product computes an exponential."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        density = torch.exp(x.square().mul_(-0.5)).mul_(1 / math.sqrt(2 * math.pi))
        below = torch.erf(x * math.sqrt(0.5)).add_(1).mul_(0.5)
        ctx.save_for_backward(x, torch.addcmul(below, x, density), density.mul_(2 - x.square()))
        return below.mul_(x)

    @staticmethod
    def backward(ctx, delta: Tensor):
        return _Scaled.apply(delta, *ctx.saved_tensors)


@dataclass
class Use:
    """One use of a prunable weight.

    Attributes:
        number: of the weight.
        x: the layer's input.
        delta: derivative of the loss in the layer's output.
        geometry: of a convolution; None for a linear layer.
    """

    number: int
    x: Tensor
    delta: Tensor
    geometry: _Geometry | None

    def output_tangent(self, vector: Tensor) -> Tensor:
        """``V x``, the derivative of ``<delta, V x>`` in delta."""
        return _apply(self.x, vector, None, self.geometry)

    def input_tangent(self, vector: Tensor) -> Tensor:
        """``V^T delta``, its derivative in x."""
        return _data_gradient(self.delta, self.x, vector, self.geometry)


def _each(value: Any, dimensions: int) -> list[int]:
    """One number for all dimensions, or one for each."""
    values = list(value) if isinstance(value, Sequence) else [value]
    return values * dimensions if len(values) == 1 else values


_Arguments = tuple[Tensor, Tensor, Tensor | None, _Geometry | None]

# The readers' arguments have torch's own names: they may come as keywords.


def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> _Arguments | None:
    return (input, weight, bias, None) if input.ndim > 1 else None


def _convolution(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> _Arguments | None:
    dimensions = weight.ndim - 2
    if padding == "valid":
        padding = 0
    elif padding == "same":
        totals = [d * (size - 1) for d, size in zip(_each(dilation, dimensions), weight.shape[2:], strict=True)]
        if any(total % 2 for total in totals):
            return None
        padding = [total // 2 for total in totals]
    if input.ndim != dimensions + 2:  # a single sample without a batch axis
        return None
    stride, padding, dilation = (_each(value, dimensions) for value in (stride, padding, dilation))
    return input, weight, bias, _Geometry(stride, padding, dilation, False, [0] * dimensions, groups)


def _transposed(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> _Arguments | None:
    arguments = _convolution(input, weight, bias, stride, padding, dilation, groups)
    if arguments is None:
        return None
    geometry = arguments[3]._replace(transposed=True, output_padding=_each(output_padding, weight.ndim - 2))
    return *arguments[:3], geometry


_READERS = {
    functional.linear: _linear,
    functional.conv1d: _convolution,
    functional.conv2d: _convolution,
    functional.conv3d: _convolution,
    functional.conv_transpose1d: _transposed,
    functional.conv_transpose2d: _transposed,
    functional.conv_transpose3d: _transposed,
}


def _normalised(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor | None:
    """Batch normalisation in eval mode as what it is, one factor and one shift per channel: cheap to differentiate."""
    if training or running_mean is None or running_var is None or input.dtype != running_var.dtype:
        return None
    scale = torch.rsqrt(running_var + eps) if weight is None else weight * torch.rsqrt(running_var + eps)
    shift = -running_mean * scale if bias is None else bias - running_mean * scale
    shape = (1, -1) + (1,) * (input.ndim - 2)
    return torch.addcmul(shift.view(shape), input, scale.view(shape))


def _gelu(input: Tensor, approximate: str = "none") -> Tensor | None:
    exact = approximate == "none" and input.dtype in (torch.float32, torch.float64)
    return _Gelu.apply(input) if exact else None


# Functions that are replaced by what is cheaper to differentiate; None: not with these arguments.
_CHEAPER = {functional.batch_norm: _normalised, functional.gelu: _gelu}


def _saved_tensor_hooks() -> Any:
    return torch._C._autograd._top_saved_tensors_default_hooks(True)


class Tape(TorchFunctionMode):
    """Sees every use of some weights in a forward pass, through modules or functions alike.

    Run the forward pass inside ``with tape:``, then :meth:`record` the backward pass. A use that the tape does not
    know (an attention kernel, a script module) keeps PyTorch's own derivative; :meth:`record` returns it.

    Args:
        parameters: the weights.
    """

    def __init__(self, parameters: Sequence[Tensor]):
        super().__init__()
        self.numbers = {id(parameter): number for number, parameter in enumerate(parameters)}
        self.recording = False
        self.uses: list[Use] = []
        self._outer_hooks: Any = None
        self._attention: Any = None

    def __enter__(self):
        self._outer_hooks = _saved_tensor_hooks()
        self._attention = sdpa_kernel(SDPBackend.MATH)  # fused attention kernels have no second derivative
        self._attention.__enter__()
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        self._attention.__exit__(*error)

    def _foreign(self) -> bool:
        """Whether the network computes in a way of its own that the tape's functions would not follow.

        That is inside ``torch.func`` or forward-mode derivatives, or with its own hooks on saved
        tensors: a checkpoint runs its part again in the backward pass, where no tape is.
        """
        return (
            torch._C._are_functorch_transforms_active()
            or forward_ad._current_level >= 0
            or _saved_tensor_hooks() != self._outer_hooks
        )

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if torch._C._is_any_autocast_enabled():
            with without_autocast():  # in the forward pass
                return self.__torch_function__(function, types, args, kwargs)
        reader = _READERS.get(function)
        cheaper = _CHEAPER.get(function)
        if (reader or cheaper) and self._foreign():
            return function(*args, **kwargs)
        if reader is not None:
            arguments = reader(*args, **kwargs)
            if arguments is not None and id(arguments[1]) in self.numbers:
                return _Layer.apply(*arguments, self.numbers[id(arguments[1])], self)
        elif cheaper is not None:
            output = cheaper(*args, **kwargs)
            if output is not None:
                return output
        return function(*args, **kwargs)

    def record(
        self, output: Tensor, parameters: Sequence[Tensor], grad_output: Tensor | None = None
    ) -> tuple[list[Use], list[tuple[int, Tensor]]]:
        """Backward pass that can be differentiated again.

        Args:
            output: what to differentiate.
            parameters: the weights.
            grad_output: derivative in ``output``; not needed for a number.

        Returns:
            The uses of the weights, and (number, gradient) of what the tape missed.
        """
        self.recording = True
        try:
            missed = torch.autograd.grad(output, parameters, grad_output, create_graph=True, allow_unused=True)
        finally:
            # The graph holds the tape; the uses hold the graph: keep no circle.
            uses, self.uses, self.recording = self.uses, [], False
        return uses, [(number, gradient) for number, gradient in enumerate(missed) if gradient is not None]
