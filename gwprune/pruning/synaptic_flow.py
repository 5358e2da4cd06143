"""SynFlow: iterative pruning at initialisation without data."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.func import functional_call

from ..network.modes import undisturbed
from .rankings import keep_highest, removed_count
from .subject import Subject

__all__ = ["synaptic_flow", "synflow"]


def synaptic_flow(subject: Subject, kept: Tensor) -> Tensor:
    """Synaptic saliency ``|w| * dR/d|w|`` (D,) float64 of the network under the mask ``kept`` (D,).

    ``R = 1^T (prod_l |W_l|) 1``: the sum of the outputs for an input of ones with each weight replaced by its size and
    each bias and running mean by zero, so that ReLU does nothing. In double precision: R overflows single precision
    in deep networks. In a plain stack each layer's scores add up to R (the conservation law of the paper).
    """
    model, prunable = subject.model, subject.prunable
    sizes = prunable.flatten().double().abs() * kept
    weights = [part.requires_grad_() for part in prunable.unflatten(sizes)]
    replaced = {id(parameter): weight for parameter, weight in zip(prunable.parameters, weights, strict=True)}
    tensors = {}
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if id(tensor) in replaced:
            tensors[name] = replaced[id(tensor)]
        elif name.endswith(("bias", "running_mean")):
            tensors[name] = torch.zeros_like(tensor, dtype=torch.float64)
        elif tensor.is_floating_point():
            tensors[name] = tensor.detach().double().abs()
    ones = torch.ones((1, *subject.input_shape), dtype=torch.float64, device=subject.device)
    with undisturbed(model), torch.enable_grad():
        flow = functional_call(model, tensors, (ones,)).sum()
        gradients = torch.autograd.grad(flow, weights, materialize_grads=True)
    return sizes.detach() * prunable.flatten(gradients)


def synflow(subject: Subject, sparsity: float, rounds: int = 100) -> Tensor:
    """Keep mask (D,) by iterative synaptic flow pruning.

    Tanaka et al., Pruning neural networks without any data by iteratively conserving synaptic flow (arXiv 2006.05467),
    algorithm 1: round k of n keeps the fraction ``(1 - s)^(k / n)`` of highest saliency, computed anew under the mask
    so far; the last round leaves exactly ``ceil(s D)`` zeros.

    Args:
        rounds: n, 100 in the paper.

    Raises:
        FloatingPointError: for a saliency that is not finite.
    """
    dimension = subject.prunable.dimension
    target = removed_count(sparsity, dimension)
    kept = torch.ones(dimension, dtype=torch.bool, device=subject.device)
    for step in range(1, rounds + 1):
        removed = target if step == rounds else int(dimension * (1 - (1 - sparsity) ** (step / rounds)))
        kept = keep_highest(synaptic_flow(subject, kept), min(removed, target), within=kept)
    return kept
