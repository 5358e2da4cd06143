"""Methods that ask the loss: first and second derivatives at the weights. Scores are (D,), low ones go first."""

from __future__ import annotations

import torch
from torch import Tensor

from ..curvature.operator import curvature_operator
from ..network.losses import BatchLoss, mean_gradient
from ..network.modes import undisturbed
from ..network.samples import count_samples
from ..spectral.lanczos import rademacher
from .subject import Subject

__all__ = ["grasp", "obd", "snip", "taylor"]

_PROBES_AT_ONCE = 8


def taylor(subject: Subject) -> Tensor:
    """|g w|: the first-order change of the loss when the weight is set to zero.

    Molchanov et al., Importance estimation for neural network pruning (arXiv 1906.10771), the first-order importance
    (g w)^2 per weight, in the same order; g is the gradient of the mean loss over all samples.
    """
    prunable = subject.prunable
    with undisturbed(subject.model):
        shares = ((batch, count_samples(batch) / subject.samples) for batch in subject.batches())
        gradient = mean_gradient(subject.model, BatchLoss(subject.loss_fn), shares, prunable, torch.float64)
    return (gradient * prunable.flatten()).abs()


def snip(subject: Subject) -> Tensor:
    """|g w| at initialisation: connection sensitivity.

    Lee et al., SNIP: single-shot network pruning based on connection sensitivity (arXiv 1810.02340): the derivative of
    the loss by a multiplier of each weight, in size. Their normalisation by the sum does not change the order.
    """
    return taylor(subject)


def obd(subject: Subject, probes: int = 100, operator: str = "hessian") -> Tensor:
    """``1/2 |h_ii| w_i^2``: the second-order change of the loss at a minimum, with the diagonal of the Hessian.

    LeCun, Denker and Solla, Optimal brain damage (NeurIPS 1989): the saliency ``h_kk u_k^2 / 2``. The diagonal is the
    mean of ``z * (H z)`` over random signs z (Bekas, Kokiopoulou and Saad 2007), whose error in entry i is
    ``sqrt(sum_{j != i} h_ij^2 / probes)``. At a minimum h_ii is not negative; a negative estimate is mostly that error,
    and its size counts, so that such weights are not all removed first.

    Args:
        probes: number of Hessian products.
        operator: ``"hessian"`` or ``"ggn"``, see `gwprune.curvature_operator`.
    """
    weights = subject.prunable.flatten().double()
    diagonal = torch.zeros_like(weights)
    with undisturbed(subject.model):
        matrix = curvature_operator(
            subject.model, subject.loss_fn, subject.data, operator=operator, batch_size=subject.batch_size
        )
        for start in range(0, probes, _PROBES_AT_ONCE):
            indices = range(start, min(start + _PROBES_AT_ONCE, probes))
            signs = torch.stack([rademacher(len(weights), subject.seed, index) for index in indices], dim=1)
            signs = signs.to(matrix.device, matrix.dtype)
            diagonal += (signs * (matrix @ signs)).sum(dim=1, dtype=torch.float64)
    return 0.5 * (diagonal / probes).abs() * weights.square()


def grasp(subject: Subject, temperature: float = 200.0) -> Tensor:
    """``w * (H g)`` at initialisation: what keeps the gradient flow.

    Wang, Zhang and Grosse, Picking winning tickets before training by preserving gradient flow (arXiv 2002.07376),
    algorithm 1: removing weight i changes ``|g|^2 / 2`` by their score ``-w_i (H g)_i`` to first order, and the weights
    of highest score go first; the score here is its negative. All samples serve for both g and H g.

    Args:
        temperature: the outputs are divided by it before the loss; 200 in the authors' program.
    """
    with undisturbed(subject.model):
        matrix = curvature_operator(
            subject.model,
            lambda output, labels: subject.loss_fn(output / temperature, labels),
            subject.data,
            batch_size=subject.batch_size,
        )
        return subject.prunable.flatten() * (matrix @ matrix.gradient())
