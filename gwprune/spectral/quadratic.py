"""The plain baseline: where does the local quadratic model of the loss reach the tolerance?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .lanczos import as_product
from .width import first_rise

__all__ = ["QuadraticThreshold", "quadratic_threshold"]


@dataclass(frozen=True)
class QuadraticThreshold:
    """Bracket of the sparsity at which the model's rise reaches epsilon, its middle, and the products it took."""

    value: float
    lower: float
    upper: float
    products: int


def quadratic_threshold(
    operator: Any, gradient: Tensor, weights: Tensor, ranks: Tensor, epsilon: float, resolution: float = 1e-4
) -> QuadraticThreshold:
    """First sparsity at which ``-g^T Delta + 1/2 Delta^T H Delta`` reaches ``epsilon``.

    The gradient g of the data loss is not zero at an l1-trained optimum: it balances the l1 term, so the linear part
    is about ``l1 * ||Delta||_1``.

    Args:
        operator: H, ``shape`` (D, D) and ``@``.  gradient, weights: (D,).  ranks: (D,), the order of removal.
        epsilon: loss tolerance, nats.  resolution: width of the final bracket, in sparsity.

    Raises:
        ValueError: for an ``epsilon`` that is not positive.
    """
    if not epsilon > 0:
        raise ValueError(f"epsilon must be positive, got {epsilon}")
    product = as_product(operator)
    zero = torch.zeros((), dtype=weights.dtype, device=weights.device)

    def rise(count: int) -> float:
        removed = torch.where(ranks < count, weights, zero)
        linear = torch.dot(gradient.double(), removed.double())
        curved = torch.dot(removed.double(), product(removed).double())
        return float(curved / 2 - linear)

    lower, upper, products = first_rise(rise, len(weights), epsilon, resolution)
    return QuadraticThreshold((lower + upper) / 2, lower, upper, products)
