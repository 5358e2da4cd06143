"""Compute with a network and leave it as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from .prunable import PrunableSet

__all__ = ["undisturbed"]


@contextmanager
def undisturbed(model: nn.Module, differentiate: PrunableSet | None = None, training: bool = False) -> Iterator[None]:
    """The network in eval mode; modes, gradient flags and buffers come back afterwards, also after an error.

    Eval mode makes a sample's gradient independent of its batch: batch normalisation takes its running statistics,
    which at initialisation are those of the identity (as in Tanaka et al. 2020), and dropout is off.

    Args:
        training: take training mode instead.
        differentiate: switch gradients on for these weights and off for all other parameters.
    """
    modes = [(module, module.training) for module in model.modules()]
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    model.train(training)
    try:
        if differentiate is not None:
            for parameter, _ in flags:
                parameter.requires_grad_(False)
            for parameter in differentiate.parameters:
                parameter.requires_grad_(True)
        with torch.set_grad_enabled(differentiate is not None):
            yield
    finally:
        for module, training in modes:
            module.training = training
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)
