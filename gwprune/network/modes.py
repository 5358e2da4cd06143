"""Compute with a network and leave it as it was."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from .prunable import PrunableSet

_TF32 = {"torch.backends.cuda.matmul": torch.backends.cuda.matmul, "torch.backends.cudnn": torch.backends.cudnn}
_SWITCH, _ON, _OFF = "allow_tf32", True, False
if hasattr(torch.backends.cudnn, "conv"):  # PyTorch 2.9 or later, where reading the older switch may fail
    _TF32 = {
        "torch.backends.cuda.matmul": torch.backends.cuda.matmul,
        "torch.backends.cudnn.conv": torch.backends.cudnn.conv,
        "torch.backends.cudnn.rnn": torch.backends.cudnn.rnn,
    }
    _SWITCH, _ON, _OFF = "fp32_precision", "tf32", "ieee"

# What products say when they switch it off; and the devices where it may be on.
_AUTOCAST = (
    "autocast is on in the forward pass or around it; curvature products switch it off and compute in the dtype of the"
    " weights"
)
_AUTOCAST_DEVICES = ("cpu", "cuda", "mps", "xpu")

__all__ = [
    "buffers_kept",
    "check_network",
    "differentiable",
    "eval_mode",
    "frozen",
    "moved",
    "undisturbed",
    "weights_kept",
    "without_autocast",
]


def check_network(model: Any) -> None:
    """Refuse what is no network, before anything is done with it.

    Raises:
        TypeError: with the order of the arguments of those who take network, loss and data.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"model must be a torch.nn.Module, got {type(model).__name__}; the order is model, loss_fn, data"
        )


def moved(model: nn.Module, device: torch.device | str | None) -> None:
    """Move the network to ``device``, unless it is None.

    Raises:
        ValueError: naming a device that does not exist or has no driver.
    """
    if device is None:
        return
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, TypeError) as error:
        raise ValueError(f"device={device!r} cannot be used here: {str(error).splitlines()[0]}") from error
    model.to(device)


@contextmanager
def eval_mode(model: nn.Module, training: bool = False) -> Iterator[None]:
    """The network in eval mode; every module's own mode comes back afterwards.

    Args:
        model: the network.
        training: take training mode instead.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.train(training)
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def buffers_kept(model: nn.Module) -> Iterator[None]:
    """Buffers that the passes change, such as one that counts them, come back afterwards, also after an error.

    One that did not change is not written to: a kept graph may hold it.
    """
    buffers = [
        (module, name, buffer, buffer.clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    try:
        yield
    finally:
        with torch.no_grad():
            for module, name, buffer, value in buffers:
                if not torch.equal(buffer, value):
                    buffer.copy_(value)
                module._buffers[name] = buffer


def _eager():
    """Whatever torch.compile has made is run as plain PyTorch: what it compiles is not differentiated twice."""
    # Who has compiled something has imported the compiler, which takes a second.
    return torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()


@contextmanager
def _full_precision(weight: Tensor) -> Iterator[None]:
    """Without TF32, which would round the factors of products to 10 bits; a warning says where it was on."""
    single = weight.device.type == "cuda" and weight.dtype == torch.float32
    rounding = {name: place for name, place in _TF32.items() if single and getattr(place, _SWITCH) == _ON}
    if rounding:
        warnings.warn(
            f"TF32 is on in {', '.join(rounding)}; curvature products switch it off and compute in float32",
            stacklevel=4,
        )
    try:
        for place in rounding.values():
            setattr(place, _SWITCH, _OFF)
        yield
    finally:
        for place in rounding.values():
            setattr(place, _SWITCH, _ON)


@contextmanager
def without_autocast() -> Iterator[None]:
    """Without autocast, which would round second derivatives to 8 bits; a warning says where it was on, once."""
    with ExitStack() as stack:
        for device in _AUTOCAST_DEVICES:
            if torch.is_autocast_enabled(device):
                warnings.warn(_AUTOCAST, stacklevel=1)  # of one place, so that it is shown once
                stack.enter_context(torch.autocast(device, enabled=False))
        yield


@contextmanager
def _hooks_off(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """Without the hooks by which a caller changes the gradients of the weights; those are not the loss's."""
    hooks = [each for each in (getattr(parameter, "_backward_hooks", None) for parameter in parameters) if each]
    kept = [dict(each) for each in hooks]
    for each in hooks:
        each.clear()
    try:
        yield
    finally:
        for each, own in zip(hooks, kept, strict=True):
            each.update(own)


@contextmanager
def _recurrence_differentiable(model: nn.Module) -> Iterator[None]:
    """Recurrent layers without cuDNN, whose kernels have no second derivative and no first one in eval mode."""
    if not (torch.backends.cudnn.enabled and any(isinstance(module, nn.RNNBase) for module in model.modules())):
        yield
        return
    torch.backends.cudnn.enabled = False
    try:
        yield
    finally:
        torch.backends.cudnn.enabled = True


@contextmanager
def frozen(model: nn.Module, but: Sequence[nn.Parameter] = ()) -> Iterator[None]:
    """No gradients for the parameters; a forward pass may still differentiate in its inputs. Compiled parts run
    uncompiled. Flags and buffers come back afterwards.

    Args:
        model: the network.
        but: gradients on for these, whatever the caller has frozen.
    """
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    for parameter, _ in flags:
        parameter.requires_grad_(False)
    for parameter in but:
        parameter.requires_grad_(True)
    try:
        with torch.enable_grad(), buffers_kept(model), _eager():
            yield
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


@contextmanager
def differentiable(model: nn.Module, prunable: PrunableSet) -> Iterator[None]:
    """Gradients on for the prunable weights alone; see :func:`frozen`. Autocast around it and hooks on them are off.

    On CUDA products are in full precision, and recurrent layers by kernels with a second derivative.
    """
    precise, recurrent = _full_precision(prunable.parameters[0]), _recurrence_differentiable(model)
    plain = _hooks_off(prunable.parameters)
    with frozen(model, prunable.parameters), precise, recurrent, plain, without_autocast():
        yield


@contextmanager
def undisturbed(model: nn.Module, differentiate: PrunableSet | None = None, training: bool = False) -> Iterator[None]:
    """The network in eval mode; modes, gradient flags and buffers come back afterwards, also after an error.

    Eval mode makes a sample's gradient independent of its batch: batch normalisation takes its running statistics,
    which at initialisation are those of the identity (as in Tanaka et al. 2020), and dropout is off.

    Args:
        model: the network.
        differentiate: switch gradients on for these weights and off for all other parameters.
        training: take training mode instead.
    """
    gradients = torch.no_grad() if differentiate is None else differentiable(model, differentiate)
    with eval_mode(model, training), buffers_kept(model), gradients:
        yield


@contextmanager
def weights_kept(prunable: PrunableSet) -> Iterator[Tensor]:
    """The block may change the prunable weights: they come back afterwards, bit for bit, also after an error.

    Yields:
        A copy of the weights, (D,).
    """
    weights = prunable.flatten()
    try:
        yield weights
    finally:
        prunable.assign(weights)
