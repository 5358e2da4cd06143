"""Compute with a network and leave it as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from .prunable import PrunableSet

__all__ = ["differentiable", "eval_mode", "undisturbed"]


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
def differentiable(model: nn.Module, prunable: PrunableSet) -> Iterator[None]:
    """Gradients on for the prunable weights alone, whatever the caller has frozen; the flags come back afterwards."""
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    for parameter, _ in flags:
        parameter.requires_grad_(False)
    for parameter in prunable.parameters:
        parameter.requires_grad_(True)
    try:
        with torch.enable_grad():
            yield
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


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
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    gradients = torch.no_grad() if differentiate is None else differentiable(model, differentiate)
    try:
        with eval_mode(model, training), gradients:
            yield
    finally:
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)
