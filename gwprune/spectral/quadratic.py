"""The plain baseline: where does the local quadratic model of the loss reach the tolerance?"""

from __future__ import annotations

import torch

from .crossings import first_rise
from .lanczos import as_product
from .problem import Problem
from .spectrum import Estimate

__all__ = ["quadratic_threshold"]

_RESOLUTION = 1e-4  # of the bracket, in sparsity, when no tolerance is asked for


def quadratic_threshold(problem: Problem, epsilon: float) -> Estimate:
    """Predictor ``quadratic``: first sparsity at which ``-g^T Delta + 1/2 Delta^T H Delta`` reaches ``epsilon``.

    The gradient g of the data loss is not zero at an l1-trained optimum: it balances the l1 term, so the linear part
    is about ``l1 * ||Delta||_1``.

    Args:
        problem: with its operator and gradient. Its tolerance is the width of the final bracket.
        epsilon: loss tolerance, nats.

    Returns:
        The bracket and its middle. There is no randomness, so the standard error is 0.

    Raises:
        ValueError: for an ``epsilon`` that is not positive.
    """
    if not epsilon > 0:
        raise ValueError(f"epsilon must be positive, got {epsilon}")
    product, gradient = as_product(problem.operator), problem.gradient.double()

    def rise(count: int) -> float:
        removed = problem.removed(count)
        linear = torch.dot(gradient, removed.double())
        curved = torch.dot(removed.double(), product(removed).double())
        return float(curved / 2 - linear)

    lower, upper, products = first_rise(rise, problem.dimension, epsilon, problem.tolerance or _RESOLUTION)
    return Estimate((lower + upper) / 2, lower, upper, products=products)
