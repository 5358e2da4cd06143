"""Gem-Miner: the mask search of rare gems, one epoch at a time."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from ..network.modes import undisturbed
from ..network.prunable import PrunableSet
from ..streams import stream
from .rankings import keep_highest, removed_count
from .subject import Subject

__all__ = ["GemSearch", "gem_epoch", "start_gem_search"]


@dataclass(frozen=True)
class GemSearch:
    """Where a search stands between two epochs; all that is needed to go on.

    Attributes:
        popups: score of each weight (D,), in [0, 1]; the network is evaluated with the weights above 1/2.
        kept: boolean (D,), False at the weights that are frozen out for good. After the last epoch: the mask.
        velocity: momentum of the scores (D,).
        epoch: how many epochs are done.
    """

    popups: Tensor
    kept: Tensor
    velocity: Tensor
    epoch: int = 0


def start_gem_search(prunable: PrunableSet, seed: int) -> GemSearch:
    """All weights kept, scores uniform on [0, 1]."""
    weight = prunable.parameters[0]
    popups = torch.rand(prunable.dimension, generator=stream(seed, "first scores of a search"))
    popups = popups.to(weight.device, weight.dtype)
    return GemSearch(popups, torch.ones_like(popups, dtype=torch.bool), torch.zeros_like(popups))


def gem_epoch(
    search: GemSearch,
    subject: Subject,
    batches: Iterable[tuple[Any, Any]],
    *,
    sparsity: float,
    epochs: int,
    period: int = 1,
    lr: float = 0.1,
    momentum: float = 0.9,
) -> GemSearch:
    """One epoch of the search for a subnetwork that is good at its initial weights; the caller trains it afterwards.

    Sreenivasan et al., Rare gems: finding lottery tickets at initialization (arXiv 2202.12002), algorithm 1. The
    weights w stay as they are; the scores p follow the gradient of the loss at ``w * (p > 1/2) * kept`` straight
    through the rounding, ``dL/dp = dL/dw_effective * w * kept``, by SGD with momentum, clipped to [0, 1]. After every
    ``period`` epochs the lowest scores are frozen out, down to the fraction ``(1 - sparsity)^(epoch / epochs)``; after
    the last epoch exactly ``ceil(sparsity D)`` are. Their optional penalty on p is left out. The network is in
    training mode meanwhile (batch statistics) and as before afterwards.

    Args:
        search: from :func:`start_gem_search`, or from the epoch before.
        subject: with ``model``; its ``loss_fn`` is the loss.
        batches: the epoch's (inputs, labels) on the network's device.
        sparsity: to be reached after ``epochs`` epochs in all.

    Raises:
        ValueError: when the search is over, the sparsity is outside [0, 1] or ``period`` is below 1.
        FloatingPointError: when a score is not finite.
    """
    model, prunable = subject.model, subject.prunable
    if search.epoch >= epochs:
        raise ValueError(f"the search of {epochs} epochs is over")
    if period < 1:
        raise ValueError(f"period must be at least 1, got {period}")
    target = removed_count(sparsity, prunable.dimension)
    weights = prunable.flatten()
    popups, velocity, kept = search.popups.clone(), search.velocity.clone(), search.kept
    with undisturbed(model, training=True), torch.enable_grad():
        for inputs, labels in batches:
            effective = weights * ((popups > 0.5) & kept)
            parts = [part.requires_grad_() for part in prunable.unflatten(effective)]
            arguments = inputs if isinstance(inputs, tuple) else (inputs,)
            output = functional_call(model, dict(zip(prunable.names, parts, strict=True)), arguments)
            gradient = torch.autograd.grad(subject.loss_fn(output, labels), parts, materialize_grads=True)
            velocity.mul_(momentum).add_(prunable.flatten(gradient) * weights * kept)
            popups.sub_(velocity, alpha=lr).clamp_(0, 1)
    epoch = search.epoch + 1
    if epoch == epochs:
        kept = keep_highest(popups, target, within=kept)
    elif epoch % period == 0:
        removed = int(prunable.dimension * (1 - (1 - sparsity) ** (epoch / epochs)))
        kept = keep_highest(popups, min(removed, target), within=kept)
    return GemSearch(popups, kept, velocity, epoch)
