"""The mean loss of a network over its samples: its gradient, and how much it varies between mini-batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from .modes import buffers_kept, differentiable, eval_mode
from .prunable import PrunableSet
from .samples import Batch, call, count_samples

__all__ = ["batch_deviation", "mean_gradient"]


def mean_gradient(
    model: nn.Module,
    loss_fn: Callable[[Any, Any], Tensor],
    batches: Iterable[Batch],
    samples: int,
    prunable: PrunableSet,
    dtype: torch.dtype,
) -> Tensor:
    """Gradient of the mean loss over all samples with respect to the prunable weights.

    Args:
        model: the network, in the mode in which it shall be differentiated.
        loss_fn: ``loss_fn(output, target)``, the mean over the samples it is given.
        batches: (input, target), each batch once; batches may be of unequal size.
        samples: number of samples in all batches together.
        prunable: the weights, D in all.
        dtype: of the sum over batches.

    Returns:
        Vector (D,) in units of the loss per unit of weight.
    """
    total = torch.zeros(prunable.dimension, dtype=dtype, device=prunable.parameters[0].device)
    with differentiable(model, prunable):
        for inputs, targets in batches:
            loss = loss_fn(call(model, inputs), targets)
            gradient = torch.autograd.grad(loss, prunable.parameters, materialize_grads=True)
            total.add_(prunable.flatten(gradient), alpha=count_samples(targets) / samples)
    return total


@torch.no_grad()
def batch_deviation(
    model: nn.Module, loss_fn: Callable[[Any, Any], Tensor], batches: Iterable[Batch], batch_size: int
) -> tuple[float, int]:
    """Deviation of the loss between mini-batches: the tolerance of epsilon rule ``batch_std``.

    This is the standard deviation (with n - 1) of the mean losses of consecutive mini-batches of ``batch_size`` samples
    in stored order, with the network in eval mode. A last batch that is shorter is left out, since its mean varies
    more. Zhang et al. 2024 (arXiv 2306.05857) take the deviation at the training batch size.

    Args:
        model: the network; its modes are restored.
        loss_fn: ``loss_fn(output, target)``, the mean over the samples it is given.
        batches: (input, target) of ``batch_size`` samples each, the last of at most as many.
        batch_size: samples of a whole batch.

    Returns:
        The deviation in units of the loss, and the number of whole batches. Fewer than two have no deviation: 0.
    """
    losses = []
    with eval_mode(model), buffers_kept(model):
        for inputs, targets in batches:
            if count_samples(targets) == batch_size:
                losses.append(loss_fn(call(model, inputs), targets).double())
    return float(torch.stack(losses).cpu().std()) if len(losses) > 1 else 0.0, len(losses)
