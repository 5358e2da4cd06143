"""A pretended CUDA device: tensors that say they are there, compute on the CPU, and refuse to meet others.

PyTorch's fake tensors know no values and cannot run backward on a device that is not there; these can.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map_only

__all__ = ["CUDA", "pretended_cuda"]

CUDA = torch.device("cuda", 0)

_aten = torch.ops.aten
# Operations whose second argument, indices, may lie on the CPU beside tensors of a device.
_INDEXED = {
    _aten.index.Tensor, _aten.index_put_.default, _aten.index_put.default, _aten._index_put_impl_.default,
}  # fmt: skip


class OnCuda(Tensor):
    """A tensor that says it is on the device.

    Attributes:
        inner: its values.
        operations: how many have been done on such tensors.
    """

    inner: Tensor
    operations = 0

    @staticmethod
    def __new__(cls, inner: Tensor) -> OnCuda:
        made = Tensor._make_wrapper_subclass(
            cls, inner.shape, strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype,
            device="cpu",
        )  # fmt: skip
        made.inner = inner
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    @property
    def device(self) -> torch.device:
        return CUDA

    @property
    def is_cuda(self) -> bool:
        return True

    def numpy(self, *_: Any, **__: Any) -> None:
        raise TypeError("can't convert cuda:0 device type tensor to numpy")

    __array__ = numpy

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        OnCuda.operations += 1
        bound = (args[0], *args[2:]) if func in _INDEXED and isinstance(args[0], OnCuda) else (args, kwargs)
        met = [leaf for leaf in tree_leaves(bound) if isinstance(leaf, Tensor)]
        if func is not _aten.copy_.default and any(not isinstance(leaf, OnCuda) and leaf.dim() > 0 for leaf in met):
            raise RuntimeError(f"{func}: Expected all tensors to be on the same device, but found cuda:0 and cpu")
        inside = tree_map_only(OnCuda, lambda tensor: tensor.inner, (args, kwargs))
        result = tree_map_only(Tensor, OnCuda, func(*inside[0], **inside[1]))
        if func is _aten.copy_.default and not isinstance(args[0], OnCuda):
            return args[0]
        return return_and_correct_aliasing(func, args, kwargs, result)


class _Moved(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, there: bool) -> Tensor:
        ctx.there = there
        return OnCuda(tensor.detach().clone()) if there else tensor.inner.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _move(gradient, not ctx.there), None


def _move(tensor: Tensor, there: bool) -> Tensor:
    return tensor if isinstance(tensor, OnCuda) == there else _Moved.apply(tensor, there)


def _is_cuda(value: Any) -> bool:
    return isinstance(value, str | torch.device) and torch.device(value).type == "cuda"


class _Pretend(TorchFunctionMode):
    """Moves tensors, and makes new ones, on the pretended device."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func is Tensor.cpu:
            return _move(args[0], False)
        if func is Tensor.cuda:
            return _move(args[0], True)
        place = kwargs.get("device")
        if func is Tensor.to:
            words = [*args[1:], place, kwargs.get("dtype"), kwargs.get("other")]
            for word in words:
                if isinstance(word, Tensor):
                    words += [word.device, word.dtype]
            dtype = next((word for word in words if isinstance(word, torch.dtype)), args[0].dtype)
            places = [word for word in words if isinstance(word, str | torch.device)]
            return func(_move(args[0], _is_cuda(places[0])) if places else args[0], dtype)
        if place is None:
            return func(*args, **kwargs)
        kwargs["device"] = "cpu"
        args = tree_map_only(OnCuda, lambda tensor: tensor.inner, args)
        made = func(*args, **kwargs)
        return OnCuda(made) if _is_cuda(place) else made


def _exchange(module: nn.Module, moved: Callable[[Tensor], Tensor]) -> nn.Module:
    """Other parameters and buffers for a module: PyTorch exchanges their data in C++."""
    for part in module.modules():
        for name, value in list(part._parameters.items()):
            if value is not None:
                part._parameters[name] = nn.Parameter(moved(value.detach()), value.requires_grad)
        for name, value in list(part._buffers.items()):
            if value is not None:
                part._buffers[name] = moved(value)
    return module


def _module_to(module: nn.Module, device: Any) -> nn.Module:
    return _exchange(module, lambda value: _move(value, _is_cuda(device)))


def _module_double(module: nn.Module) -> nn.Module:
    return _exchange(module, lambda value: value.to(torch.float64) if value.is_floating_point() else value)


@contextmanager
def pretended_cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[torch.device]:
    """Within, ``cuda`` is a device of this machine."""
    monkeypatch.setattr(nn.Module, "to", _module_to)
    monkeypatch.setattr(nn.Module, "double", _module_double)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda *_: None)
    with _Pretend():
        yield CUDA
